"""From the names of Python packages that a person wants to wheels with versions and hashes.

pip chooses the versions. It evaluates a requirement's marker for the Python that it runs with (its option
``--python-version`` does not change that), so the markers are evaluated here for the image's Python, and pip
is asked again for what it left out. Sources: PEP 508 (requirements, markers), PEP 566 (METADATA).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from email.parser import BytesHeaderParser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from coattest.errors import FoundFalse, UsageError
from coattest_build.inputs.cache import sha256_file
from coattest_build.inputs.lock import LockedWheel
from coattest_build.inputs.names import WHEEL_FILE, normal_name
from coattest_build.inputs.package_index import choose_wheels
from coattest_build.inputs.wheels import check_ended, open_wheel

IMAGE_PYTHON: Mapping[str, str] = {
    "implementation_name": "cpython",
    "implementation_version": "3.11.2",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_release": "",
    "platform_system": "Linux",
    "platform_version": "",
    "python_full_version": "3.11.2",
    "python_version": "3.11",
    "sys_platform": "linux",
}
"""The variables of markers for bookworm's Python (PEP 508)."""

LINE = re.compile(r"[A-Za-z0-9._,<>=!~*+\[\]-]{1,1000}")
"""A requirement as pip is told it: no option, address, variable or path can be written so."""
MAX_LINE = 4096
"""Characters of a requirement; the longest of the 100 packages that are asked for most has about 300."""
MAX_METADATA = 4 * 1024 * 1024
MAX_REQUIREMENTS = 2000
MAX_ROUNDS = 8
"""How often pip is asked again for what it left out."""


def parse_wanted(text: str, where: str) -> tuple[Requirement, ...]:
    """The requirements of a file with one a line and # comments. Raises UsageError (``bad-requirement``)."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return tuple(_requirement(line, where) for line in lines if line)


def choose_pins(wanted: Sequence[Requirement], pinned: Mapping[str, str]) -> tuple[LockedWheel, ...]:
    """The wheels for the image's Python of everything that is wanted or needed by it, sorted by name.

    ``pinned`` are versions by name that stay, where the requirements allow it at all. Raises
    EnvironmentFailure (``wheel-unavailable``), UsageError and, for a wheel that is none, FoundFalse.
    """
    asked, lacking = list(wanted), list[Requirement]()
    for _ in range(MAX_ROUNDS):
        with tempfile.TemporaryDirectory(prefix="coattest-wheels-") as name:
            folder = Path(name) / "arrived"
            folder.mkdir()
            lines = [_line(each) for each in asked if _applies(each, "")]
            constraints = [f"{each}=={version}" for each, version in sorted(pinned.items())]
            check_ended(choose_wheels(lines, constraints, folder, Path(name)), lines)
            found = {normal_name(_parts(path)[0]): path for path in sorted(folder.glob("*.whl"))}
            needed = {each: _requires(path) for each, path in found.items()}
            versions = {each: _parts(path)[1] for each, path in found.items()}
            reached, lacking = _reach(wanted, needed, versions)
            if not lacking:
                return tuple(_locked(found[each]) for each in sorted(reached))
        asked += lacking
    raise UsageError(f"pip leaves out {lacking[0]} every time", code="bad-requirement")


def _requirement(text: str, where: str) -> Requirement:
    try:
        requirement = Requirement(text[: MAX_LINE + 1])
    except (InvalidRequirement, RecursionError):
        raise UsageError(
            f"not the name of a Python package with a version at most: {text[:80]!r}",
            where=where,
            hint="a line is a name such as numpy or numpy>=2",
            code="bad-requirement",
        ) from None
    if len(text) > MAX_LINE or requirement.url or not LINE.fullmatch(_line(requirement)):
        raise UsageError(f"not supported: {text[:80]!r}", where=where, code="bad-requirement")
    return requirement


def _line(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def _applies(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement's marker holds. Raises UsageError: ``~=`` of texts, for one, has no meaning."""
    try:
        return requirement.marker is None or requirement.marker.evaluate({**IMAGE_PYTHON, "extra": extra})
    except (ValueError, LookupError, RecursionError):
        raise UsageError(
            f"its marker cannot be evaluated: {str(requirement)[:80]!r}", code="bad-requirement"
        ) from None


def _reach(
    wanted: Sequence[Requirement], needed: Mapping[str, Sequence[Requirement]], versions: Mapping[str, str]
) -> tuple[set[str], list[Requirement]]:
    """The wheels that the wanted ones lead to, and the requirements on the way that no wheel there meets."""
    pending = [each for each in wanted if _applies(each, "")]
    seen: set[tuple[str, str]] = set()
    lacking: list[Requirement] = []
    while pending:
        requirement = pending.pop()
        name = normal_name(requirement.name)
        if name not in needed or not requirement.specifier.contains(versions[name], prereleases=True):
            lacking.append(requirement)
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            if name in needed:
                pending += [each for each in needed[name] if _applies(each, extra)]
    for requirement in lacking:
        requirement.marker = None
    return {name for name, _ in seen if name in needed}, lacking


def _requires(wheel: Path) -> tuple[Requirement, ...]:
    """What a wheel's METADATA says that it needs. Raises FoundFalse (``bad-wheel``)."""
    with open_wheel(wheel, wheel.name) as archive:
        names = [
            member.filename
            for member in archive.infolist()
            if re.fullmatch(r"[^/]+\.dist-info/METADATA", member.filename)
            and member.file_size <= MAX_METADATA
        ]
        headers = BytesHeaderParser().parsebytes(archive.read(names[0]))
    listed = headers.get_all("Requires-Dist", [])
    if len(listed) > MAX_REQUIREMENTS:
        raise FoundFalse(f"needs more than {MAX_REQUIREMENTS} things", where=wheel.name, code="bad-wheel")
    return tuple(_requirement(str(each), wheel.name) for each in listed)


def _parts(wheel: Path) -> tuple[str, str]:
    match = WHEEL_FILE.fullmatch(wheel.name)
    if match is None:
        raise FoundFalse("not the name of a wheel", where=wheel.name[:200], code="bad-wheel")
    return match["name"], match["version"]


def _locked(wheel: Path) -> LockedWheel:
    name, version = _parts(wheel)
    return LockedWheel(normal_name(name), version, wheel.name, wheel.stat().st_size, sha256_file(wheel))
