"""Wheels: the requirements file that pins them, fetching them through pip, and unpacking them.

pip is only a downloader here: its own configuration says where the index is. What it brings is hashed by us.
"""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest.progress import Reporter
from coattest_build.image import IMAGE_FILE, LOCK_FILE, Wheels
from coattest_build.inputs.cache import Cache, sha256_file
from coattest_build.inputs.lock import REFRESH, WHEEL_FILE, BadLock, Lock, LockedWheel
from coattest_build.inputs.unpack import Tree

REQUIREMENT = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+]+)((?:\s+--hash=sha256:[0-9a-f]{64})+)"
)
# The interpreter in the image and the C library it has (Debian bookworm: glibc 2.36).
TARGET = (
    "--implementation=cp",
    "--python-version=3.11",
    "--abi=cp311",
    "--abi=abi3",
    "--abi=none",
    *(f"--platform=manylinux_2_{minor}_x86_64" for minor in (36, 35, 34, 31, 28, 24, 17, 12, 5)),
    "--platform=manylinux2014_x86_64",
)
PIP_HINT = "check that pip can reach its index (`pip download`), and that this Python has pip"
# A wheel of ours is at most a few megabytes; the limits stop a bomb, not a package.
MAX_MEMBERS = 20_000
MAX_UNPACKED = 256 * 1024 * 1024


class WheelUnavailable(EnvironmentFailure):
    """pip could not bring a wheel, or brought another."""

    default_code = "wheel-unavailable"


class HostileWheel(FoundFalse):
    """A wheel's members would be written where they must not, or are too many or too large."""

    default_code = "hostile-wheel"


def parse_requirements(text: str, where: str) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """(name, version, hashes) of every line ``name==version --hash=sha256:..``. Raises UsageError."""
    joined = re.sub(r"(?m)^\s*#.*$|\s+#.*$", "", text).replace("\\\n", " ")
    requirements = []
    for line in filter(None, (line.strip() for line in joined.splitlines())):
        match = REQUIREMENT.fullmatch(line)
        if match is None:
            raise UsageError(f"not name==version --hash=sha256:..: {line[:80]!r}", where=where)
        requirements.append((match[1], match[2], tuple(re.findall(r"[0-9a-f]{64}", match[3]))))
    return tuple(requirements)


def download(requirements: Sequence[tuple[str, str, Sequence[str]]], folder: Path) -> None:
    """Let pip put one wheel per (name, version, hashes) into ``folder``. Raises WheelUnavailable."""
    listing = folder / "requirements.txt"
    lines = (
        " ".join([f"{name}=={version}", *(f"--hash=sha256:{digest}" for digest in hashes)])
        for name, version, hashes in requirements
    )
    listing.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--disable-pip-version-check", "--no-input", *TARGET]
    command += ["--dest", str(folder), "--requirement", str(listing)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    listing.unlink()
    if result.returncode:
        lines_said = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        said = lines_said[0] if lines_said else result.stderr.strip()[-200:] or "it gave no reason"
        names = ", ".join(f"{name} {version}" for name, version, _ in requirements)
        raise WheelUnavailable(f"pip could not download {names}: {said}", hint=PIP_HINT)


def read_requirements(source: Path, spec: Wheels) -> str:
    """The text of the requirements file of a source tree. Raises UsageError."""
    try:
        return (source / spec.requirements).read_text()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise UsageError(
            "is not there, or not text",
            where=spec.requirements,
            hint="an image without wheels leaves [wheels] out of image.toml",
        ) from error


def pin(source: Path, spec: Wheels) -> tuple[LockedWheel, ...]:
    """Pins for every wheel of a requirements file, found by its hash. Raises UsageError, WheelUnavailable."""
    requirements = parse_requirements(read_requirements(source, spec), spec.requirements)
    if not requirements:
        return ()
    wheels = []
    with tempfile.TemporaryDirectory(prefix="coattest-wheels-") as name:
        folder = Path(name)
        download(requirements, folder)
        files = {sha256_file(path): path for path in folder.glob("*.whl")}
        for package, version, hashes in requirements:
            found = [digest for digest in hashes if digest in files]
            if not found or not WHEEL_FILE.fullmatch(files[found[0]].name):
                raise WheelUnavailable(f"no wheel of {package} {version} has a pinned hash", hint=PIP_HINT)
            path = files[found[0]]
            wheels.append(LockedWheel(package, version, path.name, path.stat().st_size, found[0]))
    return tuple(sorted(wheels, key=lambda wheel: wheel.name))


def check_pins(lock: Lock, source: Path, spec: Wheels | None) -> None:
    """Raise BadLock when the lock's wheels are not those of the requirements file, none without one."""
    where = spec.requirements if spec else IMAGE_FILE
    requirements = parse_requirements(read_requirements(source, spec), where) if spec else ()
    wanted = {(name, version): hashes for name, version, hashes in requirements}
    locked = {(wheel.name, wheel.version): wheel.sha256 for wheel in lock.wheels}
    for pin in sorted({*wanted, *locked}):
        if locked.get(pin) not in wanted.get(pin, ()):
            raise BadLock(f"does not agree with {where} on {' '.join(pin)}", where=LOCK_FILE, hint=REFRESH)


def fetch_wheels(wheels: Sequence[LockedWheel], cache: Cache, reporter: Reporter) -> dict[str, Path]:
    """The checked path of every wheel, by name; what is missing is downloaded. Raises WheelUnavailable."""
    found = {wheel.name: path for wheel in wheels if (path := cache.take(wheel.sha256, wheel.size))}
    missing = [wheel for wheel in wheels if wheel.name not in found]
    if not missing:
        return found
    arriving = tempfile.TemporaryDirectory(prefix="wheels-", dir=cache.folder / "partial")
    with reporter.step(f"Downloading {len(missing)} wheels"), arriving as name:
        folder = Path(name)
        download([(wheel.name, wheel.version, (wheel.sha256,)) for wheel in missing], folder)
        for wheel in missing:
            path = folder / wheel.file
            if not path.is_file() or sha256_file(path) != wheel.sha256:
                raise WheelUnavailable("pip brought another file", where=wheel.file, hint=PIP_HINT)
            path.replace(cache.path(wheel.sha256))
            found[wheel.name] = cache.path(wheel.sha256)
    return found


def unpack(
    wheel: Path, tree: Tree, target: str, *, label: str, keep: Callable[[str], bool] | None = None
) -> None:
    """Unpack a wheel's packages below ``target`` of a tree, without dist-info; every file gets mode 644.

    ``keep`` is given the path in the tree and decides whether it is written; the default is all of them.
    Raises HostileWheel for a member that is absolute, has ``..``, is a link or a device, would be installed
    elsewhere, and for too many or too large ones; HostileArchive when something is written twice;
    FoundFalse for a damaged archive.
    """
    total = 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise HostileWheel(f"more than {MAX_MEMBERS} members", where=label)
            for member in sorted(members, key=lambda item: item.filename):
                name = _checked_name(member, label)
                top = name.parts[0]
                if member.is_dir() or top.endswith(".dist-info") or _is_script(name):
                    continue
                if top.endswith(".data"):
                    raise HostileWheel(f"{member.filename}: would be installed elsewhere", where=label)
                total += member.file_size
                if total > MAX_UNPACKED:
                    raise HostileWheel(f"unpacks to more than {MAX_UNPACKED} bytes", where=label)
                path = f"{target}/{name}"
                if keep and not keep(path):
                    continue
                # zipfile stops at the declared size and checks the CRC, so the sum above is a true limit.
                with archive.open(member) as content:
                    tree.add_file(path, iter(lambda: content.read(1024 * 1024), b""))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise FoundFalse(f"not a sound wheel: {error}", where=label, code="bad-wheel") from error


def _is_script(name: PurePosixPath) -> bool:
    return name.parts[0].endswith(".data") and name.parts[1:2] == ("scripts",)


def _checked_name(member: zipfile.ZipInfo, label: str) -> PurePosixPath:
    name = PurePosixPath(member.filename)
    kind = stat.S_IFMT(member.external_attr >> 16)
    plain = member.filename.rstrip("/") == str(name) and not name.is_absolute() and ".." not in name.parts
    if not plain or "\\" in member.filename or "\0" in member.filename or str(name) == ".":
        raise HostileWheel(f"{member.filename[:200]!r}: not a plain relative path", where=label)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise HostileWheel(f"{member.filename[:200]!r}: neither a file nor a directory", where=label)
    return name
