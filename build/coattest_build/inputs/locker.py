"""Makes a lock: reads the suites' indexes from a mirror, adds dependencies, pins wheels."""

from __future__ import annotations

import email.utils
import hashlib
import lzma
import re
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

from coattest.errors import UsageError
from coattest.progress import Reporter
from coattest_build.formats.deb import XZ_MEMORY
from coattest_build.image import IMAGE_FILE, ImageSpec, Wheels, parse_spec
from coattest_build.inputs import wheels
from coattest_build.inputs.debian import Archive, IndexMalformed, Package, parse_packages
from coattest_build.inputs.fetch import fetch_index
from coattest_build.inputs.lock import Lock, LockedContainer, LockedPackage, LockedWheel

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


CONTAINER_MOVE = "container image"
"""Its name among the moves; the version is the configuration's digest, which has the layers'."""


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


def read_archive(spec: ImageSpec, mirror: str, reporter: Reporter) -> tuple[Archive, int]:
    """What the suites of ``spec`` have on a mirror, and the date of the newest (seconds)."""
    suites, dates = [], []
    for suite in spec.suites:
        with reporter.step(f"Reading the index of {suite}"):
            packages, date = fetch_suite(mirror, suite, spec.component, spec.debian_architecture)
        suites.append(packages)
        dates.append(date)
    return Archive(suites), max(dates)


def make_lock(
    spec: ImageSpec,
    source: Path,
    dated: tuple[Archive, int],
    previous: Lock | None,
    reporter: Reporter,
    *,
    keep: bool = False,
    container: LockedContainer | None = None,
) -> Lock:
    """Pins for everything ``spec`` names, from an archive as ``read_archive`` gives it and from pip's index.

    With ``keep`` a package or wheel that ``previous`` pins stays at that version, whatever there is now.
    ``container`` is the pin of a container image, which no index has.
    source_date_epoch is the archive's date; it stays with ``keep``, and when no pin moved.
    """
    archive, date = dated
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
            wheel_pins = _pin_wheels(source, spec.wheels, previous if keep else None)
    lock = Lock(
        architecture=spec.architecture,
        source_date_epoch=date,
        packages=tuple(pinned[name] for name in sorted(pinned)),
        wheels=wheel_pins,
        container=container,
    )
    if previous and (keep or not moves_between(previous, lock)):
        lock = replace(lock, source_date_epoch=previous.source_date_epoch)
    return lock


def with_dependencies(text: str, spec: ImageSpec, archive: Archive) -> str:
    """The text of an image.toml whose runtime packages have what they depend on beside them, sorted.

    Raises UsageError when the list is not written as an array of its own lines below [runtime].
    """
    names = tuple(package.name for package in archive.closure(spec.runtime))
    if set(names) == set(spec.runtime):
        return text
    words = textwrap.wrap(" ".join(f'"{name}",' for name in names), 112, break_on_hyphens=False)
    listed = "\n".join(f"    {line}" for line in words)
    pattern = r"(?m)^(\[runtime\]\n(?:(?!\[)[^\n]*\n)*?packages = )\[[^]]*\]"
    changed = re.sub(pattern, lambda found: f"{found[1]}[\n{listed}\n]", text, count=1)
    try:
        as_meant = parse_spec(changed) == replace(spec, runtime=names)
    except UsageError:
        as_meant = False
    if not as_meant:
        missing = ", ".join(sorted(set(names) - set(spec.runtime)))
        raise UsageError(
            f"packages is not an array that can be replaced; add to it: {missing}",
            where=f"{IMAGE_FILE} [runtime]",
        )
    return changed


def _pin_wheels(source: Path, spec: Wheels, previous: Lock | None) -> tuple[LockedWheel, ...]:
    if spec.wanted is None:
        return wheels.pin_wheels(source, spec)
    from coattest_build.inputs import resolve  # noqa: PLC0415 - packaging is in an extra

    wanted = resolve.parse_wanted(wheels.read_wanted(source, spec.wanted), spec.wanted)
    return resolve.choose_pins(
        wanted, {wheel.name: wheel.version for wheel in previous.wheels} if previous else {}
    )


def requirements_text(source: Path, spec: Wheels, lock: Lock) -> str:
    """The requirements file that pins the lock's wheels, made from the wanted names."""
    assert spec.wanted is not None
    head = wheels.made_from(spec.wanted, wheels.read_wanted(source, spec.wanted))
    return head + "".join(f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n" for pin in lock.wheels)


def moves_between(before: Lock | None, after: Lock) -> tuple[Move, ...]:
    """The pins that moved between two locks, by name; other bytes under the same version count."""

    def described(lock: Lock | None) -> dict[str, tuple[str, str]]:
        pins: list[LockedPackage | LockedWheel] = [*lock.packages, *lock.wheels] if lock else []
        image = lock.container if lock else None
        return {
            f"wheel {pin.name}" if isinstance(pin, LockedWheel) else pin.name: (pin.version, repr(pin))
            for pin in pins
        } | ({CONTAINER_MOVE: (f"sha256:{image.config}", image.config)} if image else {})

    old, new = described(before), described(after)
    absent = (None, "")
    return tuple(
        Move(name, old.get(name, absent)[0], new.get(name, absent)[0])
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )
