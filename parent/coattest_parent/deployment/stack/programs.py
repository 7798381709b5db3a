"""What is installed on the instance, as one object: coattest's wheel and its dependencies, pinned by hash.

The instance fetches the object by its digest and installs from it alone, so that no package index decides
what runs there. It affects availability only: the enclave's own document tells which code runs.
"""

from __future__ import annotations

import email.parser
import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from coattest.errors import UsageError
from coattest.files import read_whole

NAME = "parent.tar"
EXTRA = "aws"
"""The extra of coattest that the instance's programs need."""

REQUIREMENTS, WHEELS = "requirements.txt", "wheels"
PROGRAMS_MAX = 512 * 1024 * 1024
"""Bytes of all wheels; today's are about 40 MB."""

_WHEEL = re.compile(
    r"(?P<name>[A-Za-z0-9_.]+)-(?P<version>[A-Za-z0-9_.!+]+)(-[A-Za-z0-9_.]+){3,4}\.whl", re.ASCII
)


def pack_programs(wheel: Path, wheelhouse: Path) -> bytes:
    """A tar archive of the wheel, the wheels of ``wheelhouse`` and their requirements file; equal wheels give
    equal bytes.

    Raises UsageError (bad-wheelhouse) when two wheels have one name, or a dependency is missing that has no
    marker or is one of the extra.
    """
    paths = {path.name: path for path in (*sorted(wheelhouse.glob("*.whl")), wheel)}
    if sum(path.stat().st_size for path in paths.values()) > PROGRAMS_MAX:
        raise _bad_wheelhouse(f"more than {PROGRAMS_MAX} bytes", str(wheelhouse))
    wheels = {name: read_whole(path, PROGRAMS_MAX) for name, path in sorted(paths.items())}
    files = {REQUIREMENTS: requirements(wheels)}
    missing = sorted(set(_needs(wheels[wheel.name], wheel)) - {_parsed(name)[0] for name in wheels})
    if missing:
        raise _bad_wheelhouse(
            f"no wheel of {', '.join(missing)}",
            str(wheelhouse),
            hint=f"pip download --dest {wheelhouse} '{wheel.name}[{EXTRA}]'",
        )
    return _tar({**files, **{f"{WHEELS}/{name}": content for name, content in wheels.items()}})


def requirements(wheels: Mapping[str, bytes]) -> bytes:
    """pip's requirements file for wheels by file name: versions and SHA-256. Raises UsageError."""
    lines: dict[str, str] = {}
    for file, content in wheels.items():
        name, version = _parsed(file)
        if name in lines:
            raise _bad_wheelhouse(f"two wheels of {name}", file)
        lines[name] = f"{name}=={version} --hash=sha256:{hashlib.sha256(content).hexdigest()}"
    return "".join(f"{line}\n" for _, line in sorted(lines.items())).encode()


def archive_digest(archive: bytes) -> str:
    """SHA-256 of the archive, in hex: its name in the bucket."""
    return hashlib.sha256(archive).hexdigest()


def _bad_wheelhouse(what: str, where: str, hint: str | None = None) -> UsageError:
    """The error for wheels that are not one set that can be installed."""
    return UsageError(what, where=where, hint=hint, code="bad-wheelhouse")


def _parsed(file: str) -> tuple[str, str]:
    """Name (normalized) and version of a wheel's file name (PyPA, "Binary distribution format")."""
    found = _WHEEL.fullmatch(file)
    if found is None:
        raise _bad_wheelhouse("not the file name of a wheel", file[:200])
    return _normal(found["name"]), found["version"]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _needs(content: bytes, where: Path) -> Iterator[str]:
    """The dependencies without a marker, and those of the extra; pip decides on other markers, on the
    instance.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            (name,) = [
                item for item in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", item)
            ]
            headers = email.parser.BytesParser().parsebytes(archive.read(name), headersonly=True)
    except (zipfile.BadZipFile, ValueError) as error:
        raise _bad_wheelhouse(f"not a wheel: {error}", str(where)) from None
    for line in headers.get_all("Requires-Dist", []):
        named = re.match(r"[A-Za-z0-9._-]+", line)
        marker = line.partition(";")[2].replace(" ", "").replace('"', "'")
        if named and marker in ("", f"extra=='{EXTRA}'"):
            yield _normal(named[0])


def _tar(files: Mapping[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            item = tarfile.TarInfo(name)
            item.size, item.mode = len(content), 0o644
            archive.addfile(item, io.BytesIO(content))
    return target.getvalue()
