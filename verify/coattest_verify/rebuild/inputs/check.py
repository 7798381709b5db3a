"""The verdict on a lock: every pin against what the signed indexes say. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from coattest_build.inputs.debian import Package
from coattest_build.inputs.lock import Lock, LockedPackage, LockedWheel
from coattest_verify.rebuild.inputs.problems import (
    NotAsked,
    NotInIndex,
    OtherArchitecture,
    OtherHash,
    OtherPath,
    OtherSize,
    OtherVersion,
    Problem,
)
from coattest_verify.rebuild.inputs.release import Release


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite as it was read. ``packages`` is None when its index is not to be believed or was not got."""

    name: str
    release_sha256: str | None = None
    release: Release | None = None
    signers: tuple[str, ...] = ()
    packages: Mapping[str, tuple[Package, ...]] | None = field(default=None, repr=False)
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Pin:
    """One pin and its problems; ``suite`` is where it was confirmed, None for wheels and what was not."""

    kind: str
    name: str
    version: str
    sha256: str
    suite: str | None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Everything that was found. ``time`` is when; ``lock_sha256`` is of image.lock's bytes (hex)."""

    lock_sha256: str
    time: datetime
    suites: tuple[Suite, ...]
    pins: tuple[Pin, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Of the suites, then of the pins."""
        of_suites = tuple(problem for suite in self.suites for problem in suite.problems)
        return of_suites + tuple(problem for pin in self.pins for problem in pin.problems)

    @property
    def confirmed(self) -> bool:
        """Whether there are suites, and nothing is wrong with them or any pin."""
        return bool(self.suites) and not self.problems

    @property
    def contradicted(self) -> bool:
        """Whether something was found false, beside what could not be asked."""
        return any(problem.contradicts for problem in self.problems)

    @property
    def exit_code(self) -> int:
        """0 confirmed, 1 contradicted, 3 when it could not all be asked."""
        if self.confirmed:
            return 0
        return 1 if self.contradicted else 3


def judge(
    lock: Lock,
    lock_sha256: str,
    suites: Sequence[Suite],
    wheels: Mapping[str, tuple[Problem, ...]],
    *,
    now: datetime,
) -> Verdict:
    """The verdict on every pin of ``lock``. ``wheels`` has the problems of each wheel by name."""
    packages = [judge_package(pin, suites) for pin in lock.packages]
    return Verdict(
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
    for suite, problems in attempts:
        if not problems:
            return Pin("deb", pin.name, pin.version, pin.sha256, suite)
    if attempts:
        found = min((problems for _, problems in attempts), key=len)
    elif any(suite.packages is None for suite in suites):
        found = (NotAsked(pin.name, "in none of the indexes that could be read"),)
    elif named:
        versions = ", ".join(f"{package.version} ({suite})" for suite, package in named[:4])
        found = (OtherVersion(pin.name, f"pinned {pin.version}, the signed indexes have {versions}"),)
    else:
        found = (NotInIndex(pin.name, f"{pin.version} is in no signed index"),)
    return Pin("deb", pin.name, pin.version, pin.sha256, None, found)


def _differences(pin: LockedPackage, package: Package) -> tuple[Problem, ...]:
    kinds: tuple[tuple[type[Problem], object, object], ...] = (
        (OtherArchitecture, pin.architecture, package.architecture),
        (OtherSize, pin.size, package.size),
        (OtherHash, pin.sha256, package.sha256),
        (OtherPath, pin.path, package.path),
    )
    return tuple(
        kind(pin.name, f"pinned {mine}, signed {theirs}") for kind, mine, theirs in kinds if mine != theirs
    )


def _wheel(pin: LockedWheel, found: Mapping[str, tuple[Problem, ...]]) -> Pin:
    missing = (NotAsked(pin.name, "the package index was not asked"),)
    return Pin("wheel", pin.name, pin.version, pin.sha256, None, found.get(pin.name, missing))
