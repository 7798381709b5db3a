"""Makes a lock: reads the suites' indexes from a mirror, adds dependencies, pins wheels."""

from __future__ import annotations

import email.utils
import hashlib
import lzma
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coattest.progress import Reporter
from coattest_build.formats.deb import XZ_MEMORY
from coattest_build.image import ImageSpec
from coattest_build.inputs import wheels
from coattest_build.inputs.debian import Archive, IndexMalformed, Package, parse_packages
from coattest_build.inputs.fetch import fetch_index
from coattest_build.inputs.lock import Lock, LockedPackage, LockedWheel

MAX_INDEX = 128 * 1024 * 1024
"""Bytes of an unpacked index; bookworm's main has 50 MB."""
MAX_RELEASE = 4 * 1024 * 1024
"""Bytes of an InRelease file; bookworm's has 150 kB."""


@dataclass(frozen=True, slots=True)
class Move:
    """One pin that differs between two locks: its versions, None where it is absent."""

    name: str
    before: str | None
    after: str | None


def fetch_suite(mirror: str, suite: str, component: str, architecture: str) -> tuple[list[Package], int]:
    """A suite's packages and the time of its Release file (seconds); the index is checked against that file.

    The file's signature is not checked here: a lock says what is used, and ``verify inputs`` checks every pin
    against the signed index. Raises IndexMalformed, InputGone, and EnvironmentFailure when the mirror does
    not answer.
    """
    release = fetch_index(f"{mirror}/dists/{suite}/InRelease", MAX_RELEASE).decode("utf-8", errors="replace")
    name = f"{component}/binary-{architecture}/Packages.xz"
    listed = re.search(rf"^ ([0-9a-f]{{64}}) +([0-9]+) {re.escape(name)}$", release, re.MULTILINE)
    dated = re.search(r"^Date: (.{1,64})$", release, re.MULTILINE)
    if not listed or not dated:
        raise IndexMalformed(f"{name} or the date is missing", where=f"{suite}/InRelease")
    packed = fetch_index(f"{mirror}/dists/{suite}/{name}")
    if hashlib.sha256(packed).hexdigest() != listed[1]:
        raise IndexMalformed(
            "the SHA-256 is not the one in InRelease",
            where=f"{suite}/{name}",
            hint="the mirror may be updating: try again, or use another mirror",
        )
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    try:
        data = decompressor.decompress(packed, MAX_INDEX)
        date = email.utils.parsedate_to_datetime(dated[1].replace("UTC", "GMT")).timestamp()
        text = data.decode()
    except (lzma.LZMAError, ValueError, OverflowError) as error:
        raise IndexMalformed(f"is damaged, or has a bad date: {error}", where=f"{suite}/{name}") from error
    if not decompressor.eof:
        raise IndexMalformed(f"unpacks to more than {MAX_INDEX} bytes", where=f"{suite}/{name}")
    return list(parse_packages(text)), int(date)


def make_lock(
    spec: ImageSpec,
    source: Path,
    mirrors: Sequence[str],
    previous: Lock | None,
    reporter: Reporter,
    *,
    keep: bool = False,
) -> Lock:
    """Pins for everything ``spec`` names, from the first mirror and from pip's index.

    With ``keep`` a package that ``previous`` pins stays at that version, whatever the mirror has now.
    source_date_epoch is the date of the newest suite; it does not change when no pin moved.
    """
    suites, dates = [], []
    for suite in spec.suites:
        with reporter.step(f"Reading the index of {suite}"):
            packages, date = fetch_suite(mirrors[0], suite, spec.component, spec.debian_architecture)
        suites.append(packages)
        dates.append(date)
    archive = Archive(suites)
    uses = {
        "kernel": archive.closure([spec.kernel.package], dependencies=False),
        "runtime": archive.closure(spec.runtime, dependencies=False),
        "toolchain": archive.closure(spec.toolchain),
    }
    pinned: dict[str, LockedPackage] = {}
    for use, chosen in sorted(uses.items()):
        for p in chosen:
            known = pinned.get(p.name)
            used = (*known.use, use) if known else (use,)
            pinned[p.name] = LockedPackage(p.name, p.version, p.architecture, p.size, p.sha256, p.path, used)
    if keep and previous:
        pinned |= {p.name: replace(p, use=pinned[p.name].use) for p in previous.packages if p.name in pinned}
    wheel_pins: tuple[LockedWheel, ...] = ()
    if spec.wheels:
        with reporter.step("Pinning the wheels"):
            wheel_pins = wheels.pin_wheels(source, spec.wheels)
    lock = Lock(
        architecture=spec.architecture,
        source_date_epoch=max(dates),
        packages=tuple(pinned[name] for name in sorted(pinned)),
        wheels=wheel_pins,
    )
    if previous and not moves_between(previous, lock):
        lock = replace(lock, source_date_epoch=previous.source_date_epoch)
    return lock


def moves_between(before: Lock | None, after: Lock) -> tuple[Move, ...]:
    """The pins that moved between two locks, by name; other bytes under the same version count."""

    def described(lock: Lock | None) -> dict[str, tuple[str, str]]:
        pins: list[LockedPackage | LockedWheel] = [*lock.packages, *lock.wheels] if lock else []
        return {
            f"wheel {pin.name}" if isinstance(pin, LockedWheel) else pin.name: (pin.version, repr(pin))
            for pin in pins
        }

    old, new = described(before), described(after)
    moves = []
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            moves.append(
                Move(name, old[name][0] if name in old else None, new[name][0] if name in new else None)
            )
    return tuple(moves)
