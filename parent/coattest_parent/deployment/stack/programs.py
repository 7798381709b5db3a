"""What is installed on the instance, as one object: coattest's wheel and its dependencies, pinned by hash.

The instance fetches the object by its digest and installs from it alone, so that no package index decides
what runs there. It affects availability only: the enclave's own document tells which code runs.
"""

from __future__ import annotations

import email
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from coattest.errors import UsageError
from coattest.files import read_whole
from coattest_parent.deployment.stack.configuration import tar_of

if TYPE_CHECKING:
    from packaging.tags import Tag

NAME = "parent.tar"
EXTRA = "aws"
"""The extra of coattest that the instance's programs need."""

REQUIREMENTS, WHEELS = "requirements.txt", "wheels"
PROGRAMS_MAX = 512 * 1024 * 1024
"""Bytes of all wheels; today's are about 40 MB."""

METADATA_MAX = 1024 * 1024
"""Bytes of a wheel's METADATA; coattest's has some thousand."""

PYTHON = 11
"""The instance's Python is 3.11, a package of Amazon Linux 2023 beside its own 3.9."""

GLIBC = 34
"""And its C library glibc 2.34 ("Comparing AL2023 with Amazon Linux 2", glibc)."""

_OLD = ("manylinux2014", "manylinux2010", "manylinux1")
"""The tags' names for glibc 2.17, 2.12 and 2.5 (PEP 600)."""


def pack_programs(wheel: Path, wheelhouse: Path, architecture: str) -> bytes:
    """A tar archive of the wheel, the wheels of ``wheelhouse`` and their requirements file; equal wheels give
    equal bytes.

    Raises UsageError (bad-wheelhouse) when two wheels have one name, a dependency is missing that has no
    marker or is one of the extra, or a wheel is not for the instance: its Python, its glibc, its
    architecture.
    """
    paths = {path.name: path for path in (*sorted(wheelhouse.glob("*.whl")), wheel)}
    if sum(path.stat().st_size for path in paths.values()) > PROGRAMS_MAX:
        raise _bad_wheelhouse(f"more than {PROGRAMS_MAX} bytes", str(wheelhouse))
    wheels = {name: read_whole(path, PROGRAMS_MAX) for name, path in sorted(paths.items())}
    files = {REQUIREMENTS: requirements(wheels)}
    hint = (
        f"pip download --only-binary :all: --python-version 3.{PYTHON} "
        f"--platform manylinux_2_{GLIBC}_{architecture} --platform manylinux_2_28_{architecture} "
        f"--platform manylinux2014_{architecture} --dest {wheelhouse} '{wheel.name}[{EXTRA}]'"
    )
    if foreign := sorted(name for name in wheels if not runs_there(name, architecture)):
        what = f"not for Python 3.{PYTHON} with glibc 2.{GLIBC} on {architecture}: {', '.join(foreign)}"
        raise _bad_wheelhouse(what, str(wheelhouse), hint)
    if missing := sorted(set(_needs(wheels[wheel.name], wheel)) - {_parsed(name)[0] for name in wheels}):
        raise _bad_wheelhouse(f"no wheel of {', '.join(missing)}", str(wheelhouse), hint)
    return tar_of({**files, **{f"{WHEELS}/{name}": content for name, content in wheels.items()}})


def requirements(wheels: Mapping[str, bytes]) -> bytes:
    """pip's requirements file for wheels by file name: versions and SHA-256. Raises UsageError."""
    lines: dict[str, str] = {}
    for file, content in wheels.items():
        name, version, _ = _parsed(file)
        if name in lines:
            raise _bad_wheelhouse(f"two wheels of {name}", file)
        lines[name] = f"{name}=={version} --hash=sha256:{hashlib.sha256(content).hexdigest()}"
    return "".join(f"{line}\n" for _, line in sorted(lines.items())).encode()


def runs_there(file: str, architecture: str) -> bool:
    """Whether the instance's Python takes a wheel, by the tags of its name (PyPA, "Platform compatibility
    tags"). Raises UsageError for a name that no wheel has.
    """
    from packaging.tags import compatible_tags, cpython_tags  # noqa: PLC0415 - of an extra

    version = (3, PYTHON)
    linux = (*(f"manylinux_2_{minor}" for minor in range(GLIBC, 4, -1)), *_OLD)
    platforms = [f"{name}_{architecture}" for name in linux]
    fits = {
        *cpython_tags(version, [f"cp3{PYTHON}"], platforms),
        *compatible_tags(version, f"cp3{PYTHON}", platforms),
    }
    return not fits.isdisjoint(_parsed(file)[2])


def _bad_wheelhouse(what: str, where: str, hint: str | None = None) -> UsageError:
    """The error for wheels that are not one set that can be installed."""
    return UsageError(what, where=where, hint=hint, code="bad-wheelhouse")


def _parsed(file: str) -> tuple[str, str, frozenset[Tag]]:
    """Name (normalized), version and tags of a wheel's file name (PyPA, "Binary distribution format")."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename  # noqa: PLC0415 - of an extra

    try:
        name, version, _, tags = parse_wheel_filename(file)
    except InvalidWheelFilename:
        raise _bad_wheelhouse("not the file name of a wheel", file[:200]) from None
    return name, str(version), tags


def _needs(content: bytes, where: Path) -> Iterator[str]:
    """The dependencies without a marker, and those of the extra; pip decides on other markers, on the
    instance.
    """
    from packaging.requirements import Requirement  # noqa: PLC0415 - of an extra
    from packaging.utils import canonicalize_name  # noqa: PLC0415

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            (name,) = filter(re.compile(r"[^/]+\.dist-info/METADATA").fullmatch, archive.namelist())
            with archive.open(name) as file:
                metadata = file.read(METADATA_MAX + 1)
        if len(metadata) > METADATA_MAX:
            raise ValueError(f"METADATA is over {METADATA_MAX} bytes")
        headers = email.message_from_bytes(metadata)
        for need in map(Requirement, headers.get_all("Requires-Dist", [])):
            if str(need.marker or "") in ("", f'extra == "{EXTRA}"'):
                yield canonicalize_name(need.name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        # InvalidRequirement too; RuntimeError is of what is encrypted, or packed in an unknown way.
        raise _bad_wheelhouse(f"not a wheel: {error}", str(where)) from None
