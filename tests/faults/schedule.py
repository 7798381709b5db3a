"""Schedules of faults, each made from its seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

PASSING = ("500", "503", "expire", "cut", "slow", "half", "throttled", "")
"""What may pass is chosen more often: the refusals end an opening at once."""

S3 = ("500", "503", "missing", "denied", "skewed", "expire", "cut", "slow", "garbage", "half")
KMS = ("throttled", "denied", "skewed", "500", "503", "garbage", "slow", "cut", "expire")
STS = ("denied", "500")
LINK = ("cut-up", "cut-down", "garbage-up", "garbage-down", "flip-up", "slow")
PLACES = ("kill-parent", "stop-parent", "kill-enclave", "enclave-away", "kill-proxy", "proxy-away")
OTHER = ("disk", "cloud-down", "clock", "nsm", "flood", "nothing")

STEPS = {
    "frame": 11,
    "request": 10,
    "answer": 10,
    "file": 5,
}
"""Kinds of steps of an opening by three buyers, and how many of each there are at least: frames between
parent and enclave, requests that S3, STS or KMS got, those that they have carried out and not yet answered,
and what the parent is about to do to a file.
"""

VICTIMS = {
    "parent": ("frame", "request", "answer", "file"),
    "enclave": ("frame", "request", "answer"),
    "host": ("frame", "request", "answer"),
    "proxy": ("frame", "request", "answer"),
    "cloud": ("frame", "request", "answer"),
}
"""What is killed on the software host, and at which kinds of steps. ``enclave`` is the program in its
sandbox, ``host`` the software host with its NSM, ``cloud`` the process of S3, STS and KMS.
"""

HOST_OTHER = ("disk", "skew", "throttled")


@dataclass(frozen=True)
class Schedule:
    """What goes wrong in a run: services' faults in the order of requests, and one or two things beside
    them. ``throttled``: how many of the first Decrypts KMS refuses per buyer's key.
    """

    seed: int
    lots: int
    rule: str
    s3: tuple[str, ...]
    kms: tuple[str, ...]
    sts: tuple[str, ...]
    link: str
    offset: int
    place: str
    at: int
    other: str
    seconds: float
    publish: bool
    throttled: tuple[int, int]

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """The schedule of a seed: always the same."""
        dice = random.Random(f"coattest faults {seed}")

        def some(names: tuple[str, ...], chance: float, most: int) -> tuple[str, ...]:
            if dice.random() > chance:
                return ()
            often = [name for name in PASSING if name in (*names, "")]
            return tuple(dice.choice((*names, *often, *often)) for _ in range(dice.randint(1, most)))

        return cls(
            seed=seed,
            lots=dice.choice((1, 2, 7, 40, 300, 300, 70_000 if dice.random() < 0.15 else 1000)),
            rule=dice.choice(("first-price", "second-price")),
            s3=some(S3, 0.4, 6),
            kms=some(KMS, 0.4, 6),
            sts=some(STS, 0.1, 2),
            link=dice.choice(LINK) if dice.random() < 0.3 else "",
            offset=dice.choice((0, 1, 3, 4, 5, 100, 1000, 5000, dice.randint(0, 30_000))),
            place=dice.choice(PLACES) if dice.random() < 0.4 else "",
            at=dice.randint(1, 16),
            other=dice.choice(OTHER) if dice.random() < 0.3 else "nothing",
            seconds=dice.choice((0.0, 0.3, 1.0, 1.0)),
            publish=dice.random() < 0.8,
            throttled=(dice.randint(1, 3), dice.randint(1, 3)) if dice.random() < 0.1 else (0, 0),
        )


@dataclass(frozen=True)
class Kill:
    """SIGKILL to ``victim`` at step ``at`` of a kind, counted from the kill before it."""

    victim: str
    kind: str
    at: int


@dataclass(frozen=True)
class HostSchedule:
    """What goes wrong in a run on the software host, and how the parent is run.

    ``at_once``: what was killed is started again there and then, not after the opening has ended.
    ``throttled``: how many of the first Decrypts KMS refuses per buyer's key. ``limit``: bytes that the
    parent can write to a file when its disk is full. ``skew``: seconds by which the services' clock is ahead,
    or KMS's alone. Of ``other`` and these, those count that ``other`` names. ``seconds``: ``--retry-for``.
    """

    seed: int
    lots: int
    rule: str
    command: str
    publish: bool
    kills: tuple[Kill, ...]
    at_once: bool
    own_proxy: bool
    other: str
    limit: int
    skew: float
    skew_of_kms: bool
    throttled: tuple[int, ...]
    seconds: float

    @classmethod
    def of(cls, seed: int) -> HostSchedule:
        """The schedule of a seed: always the same. Five seeds in a row have every victim."""
        dice = random.Random(f"coattest host faults {seed}")
        names = list(VICTIMS)

        def kill(victim: str) -> Kill:
            kind = dice.choice(VICTIMS[victim])
            return Kill(victim, kind, dice.randint(1, STEPS[kind]))

        other = dice.choice(HOST_OTHER) if dice.random() < 0.3 else ""
        kills = (kill(names[seed % len(names)]),) if not other or dice.random() < 0.5 else ()
        if kills and dice.random() < 0.3:
            kills += (kill(dice.choice(names)),)
        served = dice.random() < 0.3
        at_once = served or dice.random() < 0.5
        return cls(
            seed=seed,
            lots=dice.choice((1, 3, 40, 1000, 70_000 if dice.random() < 0.3 else 300)),
            rule=dice.choice(("first-price", "second-price")),
            command="serve" if served else "open",
            publish=dice.random() < 0.8,
            kills=kills,
            at_once=at_once,
            own_proxy=dice.random() < 0.4 and not any(each.victim == "proxy" for each in kills),
            other=other,
            limit=dice.choice((64, 400, 1200)),
            skew=dice.choice((-400.0, 400.0)),
            skew_of_kms=dice.random() < 0.5,
            throttled=tuple(dice.randint(1, 2) for _ in range(3)) if other == "throttled" else (0, 0, 0),
            seconds=dice.choice((0.0, 2.0, 20.0) if at_once else (0.0, 2.0)),
        )


SPOOL_S3 = ("500", "503", "missing", "denied", "expire", "cut", "lost", "slow", "garbage", "half")
"""Of puts, ``cut`` is carried out and ``lost`` is not, and neither is answered."""


@dataclass(frozen=True)
class SpoolSchedule:
    """What goes wrong with several couriers on one spool in S3.

    ``kills``: for each courier what is killed (itself, its enclave, nothing) and at which of its places.
    ``jumps``: requests to S3 before which its clock goes on by more than a lease. ``attempts``: botocore's
    for each call. ``seconds``: until couriers end by themselves. ``results``: of the puts that publish, which
    hardly ever meet one of ``s3``, as the requests before have taken those. ``clocks``: seconds by which each
    courier's is ahead.
    """

    seed: int
    couriers: int
    auctions: int
    lots: int
    rule: str
    s3: tuple[str, ...]
    kms: tuple[str, ...]
    sts: tuple[str, ...]
    kills: tuple[tuple[str, int], ...]
    jumps: tuple[int, ...]
    attempts: int
    seconds: float
    publish: bool
    results: tuple[str, ...]
    clocks: tuple[int, ...]

    @classmethod
    def of(cls, seed: int) -> SpoolSchedule:
        """The schedule of a seed: always the same."""
        dice = random.Random(f"coattest spool faults {seed}")

        def some(names: tuple[str, ...], chance: float, most: int) -> tuple[str, ...]:
            if dice.random() > chance:
                return ()
            return tuple(dice.choice((*names, "", "", "", "")) for _ in range(dice.randint(1, most)))

        couriers = dice.randint(2, 4)
        auctions = dice.randint(1, 4)
        kinds = ("courier", "courier", "enclave", "")
        kills = tuple((dice.choice(kinds), dice.randint(1, 40 * auctions)) for _ in range(couriers))
        jumps = tuple(sorted(dice.sample(range(1, 40 * auctions), dice.randint(0, 3))))
        return cls(
            seed=seed,
            couriers=couriers,
            auctions=auctions,
            lots=dice.choice((1, 3, 3, 40, 1000)),
            rule=dice.choice(("first-price", "second-price")),
            s3=some(SPOOL_S3, 0.7, 20 * auctions),
            kms=some(KMS, 0.3, 6),
            sts=some(STS, 0.2, 2),
            kills=kills,
            jumps=jumps,
            attempts=dice.choice((1, 2)),
            seconds=dice.choice((0.5, 1.0, 2.0)),
            publish=dice.random() < 0.7,
            results=some(SPOOL_S3, 0.5, 2 * auctions),
            clocks=tuple(dice.choice((0, 0, 0, 0, 20, 7200, -7200)) for _ in range(couriers)),
        )
