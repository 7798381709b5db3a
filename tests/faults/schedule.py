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


@dataclass(frozen=True)
class Schedule:
    """What goes wrong in a run: services' faults in the order of requests, and one or two things beside
    them.
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
        )
