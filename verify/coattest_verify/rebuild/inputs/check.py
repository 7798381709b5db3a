"""The verdict on a lock: every pin against what the signed indexes say. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from coattest.findings import Finding
from coattest_build.inputs.debian import Package
from coattest_build.inputs.lock import Lock, LockedPackage, LockedWheel
from coattest_verify.rebuild.inputs.release import Release

UNANSWERED = frozenset({"index-unreachable", "not-asked"})
"""The codes of what could not be checked; every other finding contradicts the lock."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite as it was read. ``packages`` is None when its index was not fetched or is not believed."""

    name: str
    release_sha256: str | None = None
    release: Release | None = None
    signers: tuple[str, ...] = ()
    packages: Mapping[str, tuple[Package, ...]] | None = field(default=None, repr=False)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Pin:
    """One pin and what is wrong with it; ``suite`` confirmed it, None for wheels and unconfirmed pins."""

    kind: str
    name: str
    version: str
    sha256: str
    suite: str | None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class LockVerdict:
    """Everything that was found, and when. ``lock_sha256`` is the digest of image.lock's bytes (hex)."""

    lock_sha256: str
    time: datetime
    suites: tuple[Suite, ...]
    pins: tuple[Pin, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Those of the suites, then those of the pins."""
        parts: tuple[Suite | Pin, ...] = (*self.suites, *self.pins)
        return tuple(finding for part in parts for finding in part.findings)

    @property
    def confirmed(self) -> bool:
        """Whether there are suites, and nothing is wrong with them or any pin."""
        return bool(self.suites) and not self.findings

    def __bool__(self) -> bool:
        return self.confirmed

    @property
    def exit_code(self) -> int:
        """0 confirmed, 1 contradicted, 3 when not everything could be asked."""
        if self.confirmed:
            return 0
        return 1 if any(finding.code not in UNANSWERED for finding in self.findings) else 3


def judge_lock(
    lock: Lock,
    lock_sha256: str,
    suites: Sequence[Suite],
    wheels: Mapping[str, tuple[Finding, ...]],
    *,
    now: datetime,
) -> LockVerdict:
    """The verdict on every pin of ``lock``. ``wheels`` has the findings on each wheel by name."""
    packages = [judge_package(pin, suites) for pin in lock.packages]
    return LockVerdict(
        lock_sha256=lock_sha256,
        time=now,
        suites=tuple(suites),
        pins=(*packages, *(_wheel(pin, wheels) for pin in lock.wheels)),
    )


def judge_package(pin: LockedPackage, suites: Sequence[Suite]) -> Pin:
    """A pin against every suite: confirmed by the first that agrees on every field, else the closest."""
    named = [
        (suite.name, package)
        for suite in suites
        for package in (suite.packages or {}).get(pin.name, ())
        if package.name == pin.name
    ]
    same = [(suite, package) for suite, package in named if package.version == pin.version]
    attempts = [(suite, _differences(pin, package)) for suite, package in same]
    for suite, findings in attempts:
        if not findings:
            return Pin("deb", pin.name, pin.version, pin.sha256, suite)
    if attempts:
        found = min((findings for _, findings in attempts), key=len)
    elif any(suite.packages is None for suite in suites):
        found = (Finding("not-asked", pin.name, "in none of the indexes that could be read"),)
    elif named:
        versions = ", ".join(f"{package.version} ({suite})" for suite, package in named[:4])
        text = f"pinned {pin.version}, the signed indexes have {versions}"
        found = (Finding("wrong-version", pin.name, text, expected=pin.version, found=versions),)
    else:
        found = (Finding("not-in-index", pin.name, f"{pin.version} is in no signed index"),)
    return Pin("deb", pin.name, pin.version, pin.sha256, None, found)


def _differences(pin: LockedPackage, package: Package) -> tuple[Finding, ...]:
    return tuple(
        Finding(code, pin.name, f"pinned {mine}, signed {theirs}", expected=str(mine), found=str(theirs))
        for code, mine, theirs in (
            ("wrong-architecture", pin.architecture, package.architecture),
            ("wrong-size", pin.size, package.size),
            ("wrong-hash", pin.sha256, package.sha256),
            ("wrong-path", pin.path, package.path),
        )
        if mine != theirs
    )


def _wheel(pin: LockedWheel, found: Mapping[str, tuple[Finding, ...]]) -> Pin:
    missing = (Finding("not-asked", pin.name, "the package index was not asked"),)
    return Pin("wheel", pin.name, pin.version, pin.sha256, None, found.get(pin.name, missing))
