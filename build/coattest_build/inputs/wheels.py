"""Wheels: the requirements file that pins them, downloading them with pip, and unpacking them.

pip only downloads (``package_index``), and the files are hashed here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO, cast

from coattest.errors import EnvironmentFailure, FoundFalse, Rejected, UsageError
from coattest.files import Folder, open_plain
from coattest.programs.start import EndedProgram
from coattest.progress import Reporter
from coattest_build.image import IMAGE_FILE, LOCK_FILE, Wheels
from coattest_build.inputs.cache import Cache, sha256_file
from coattest_build.inputs.lock import REFRESH, BadLock, Lock, LockedWheel
from coattest_build.inputs.names import PYTHON_NAME, PYTHON_VERSION, WHEEL_FILE
from coattest_build.inputs.package_index import WantedWheel, download_wheels
from coattest_build.inputs.unpack import Tree, check_name

REQUIREMENT = re.compile(r"(\S{1,128})==(\S{1,128})((?:[ \t]+--hash=sha256:[0-9a-f]{64}){1,64})")
COMMENT = re.compile(r"(?m)(?:^|(?<=\s))#.*$")
"""A comment (pip, "Requirements File Format"). Blanks before it stay: searching them takes their square."""
PIP_HINT = "check that pip can reach its index (`pip download`), and that this Python has pip"
MAX_MEMBERS = 20_000
"""Members of a wheel."""
MAX_DIRECTORY = 4 * 1024 * 1024
"""Bytes of a wheel's table of contents, which the library reads whole before anything can be counted."""
MAX_UNPACKED = 256 * 1024 * 1024
"""Bytes that a wheel unpacks to: the auction's wheels have a few megabytes."""
DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError),
    *(NotImplementedError, RuntimeError, IndexError),
)
"""What the library and its readers raise for a damaged archive."""


def _unavailable(what: str, *, where: str | None = None) -> EnvironmentFailure:
    return EnvironmentFailure(what, where=where, hint=PIP_HINT, code="wheel-unavailable")


def _hostile(what: str, label: str) -> FoundFalse:
    return FoundFalse(what, where=label, code="hostile-wheel")


def parse_requirements(text: str, where: str) -> tuple[WantedWheel, ...]:
    """The wheel of every line ``name==version --hash=sha256:..``. Raises UsageError."""
    joined = COMMENT.sub("", text).replace("\\\n", " ")
    requirements = []
    for line in filter(None, (line.strip() for line in joined.splitlines())):
        match = REQUIREMENT.fullmatch(line)
        if match is None or not PYTHON_NAME.fullmatch(match[1]) or not PYTHON_VERSION.fullmatch(match[2]):
            raise UsageError(f"not name==version --hash=sha256:..: {line[:80]!r}", where=where)
        hashes = tuple(re.findall(r"sha256:([0-9a-f]{64})", match[3]))
        requirements.append(WantedWheel(match[1], match[2], hashes))
    return tuple(requirements)


def download(wanted: Sequence[WantedWheel], folder: Path) -> None:
    """Let pip put the wheels into the new ``folder``.

    Raises EnvironmentFailure (``wheel-unavailable``), and as ``package_index.download_wheels``.
    """
    folder.mkdir()
    with tempfile.TemporaryDirectory(prefix="coattest-pip-") as scratch:
        ended = download_wheels(wanted, folder, Path(scratch))
    check_ended(ended, [f"{wheel.name} {wheel.version}" for wheel in wanted])


def check_ended(ended: EndedProgram, wanted: Sequence[str]) -> None:
    """Raise EnvironmentFailure (``wheel-unavailable``) with pip's first reason, unless pip had all."""
    if ended.code:
        starts = ("ERROR", "PermissionError")
        lines = [line for line in ended.said.splitlines() if line.startswith(starts)]
        lines = [line for line in lines if line.strip() != "ERROR: Exception:"]
        said = lines[0] if lines else ended.said.strip()[-200:] or "it gave no reason"
        raise _unavailable(f"pip could not download {', '.join(wanted)}: {said}")


def read_requirements(source: Path, spec: Wheels) -> str:
    """The text of the requirements file of a source tree. Raises UsageError."""
    hint = REFRESH if spec.wanted else "an image without wheels leaves [wheels] out of image.toml"
    return _read(source, spec.requirements, hint)


def read_wanted(source: Path, wanted: str) -> str:
    """The text of the file of wanted names of a source tree. Raises UsageError."""
    return _read(source, wanted, "it has the name of a Python package a line, and may be empty")


def _read(source: Path, name: str, hint: str) -> str:
    try:
        with Folder(source) as folder:
            return folder.read(name).decode()
    except UnicodeDecodeError:
        what = "not UTF-8"
    except Rejected as error:
        what = "the file is missing" if error.code == "absent" else error.what
    raise UsageError(what, where=name, hint=hint)


def pin_wheels(source: Path, spec: Wheels) -> tuple[LockedWheel, ...]:
    """Pins for every wheel of a requirements file, found by its hash.

    Raises UsageError for the file, EnvironmentFailure (``wheel-unavailable``) when pip cannot download one.
    """
    requirements = parse_requirements(read_requirements(source, spec), spec.requirements)
    if not requirements:
        return ()
    wheels = []
    with tempfile.TemporaryDirectory(prefix="coattest-wheels-") as name:
        folder = Path(name) / "arrived"
        download(requirements, folder)
        files = {sha256_file(path): path for path in folder.glob("*.whl")}
        for wanted in requirements:
            found = [digest for digest in wanted.hashes if digest in files]
            if not found or not WHEEL_FILE.fullmatch(files[found[0]].name):
                raise _unavailable(f"no wheel of {wanted.name} {wanted.version} has a pinned hash")
            path = files[found[0]]
            wheels.append(LockedWheel(wanted.name, wanted.version, path.name, path.stat().st_size, found[0]))
    return tuple(sorted(wheels, key=lambda wheel: wheel.name))


def check_pins(lock: Lock, source: Path, spec: Wheels | None) -> None:
    """Raise BadLock unless the lock pins exactly the wheels of the requirements file, or none without one."""
    where = spec.requirements if spec else IMAGE_FILE
    requirements = parse_requirements(read_requirements(source, spec), where) if spec else ()
    wanted = {(wheel.name, wheel.version): wheel.hashes for wheel in requirements}
    locked = {(wheel.name, wheel.version): wheel.sha256 for wheel in lock.wheels}
    for pin in sorted({*wanted, *locked}):
        if locked.get(pin) not in wanted.get(pin, ()):
            raise BadLock(f"does not agree with {where} on {' '.join(pin)}", where=LOCK_FILE, hint=REFRESH)
    if spec and spec.wanted:
        head = made_from(spec.wanted, read_wanted(source, spec.wanted))
        if not read_requirements(source, spec).startswith(head):
            raise BadLock(f"was not made from the {spec.wanted} of today", where=where, hint=REFRESH)


def made_from(wanted: str, text: str) -> str:
    """The first line of a requirements file that was made from the file ``wanted`` with this content."""
    return f"# Written by `eif lock` from {wanted}, SHA-256 {hashlib.sha256(text.encode()).hexdigest()}\n"


def fetch_wheels(wheels: Sequence[LockedWheel], cache: Cache, reporter: Reporter) -> dict[str, Path]:
    """The checked path of every wheel, by name; what is missing is downloaded.

    Raises EnvironmentFailure (``wheel-unavailable``).
    """
    found = {wheel.name: path for wheel in wheels if (path := cache.take(wheel.sha256, wheel.size))}
    missing = [wheel for wheel in wheels if wheel.name not in found]
    if not missing:
        return found
    arriving = tempfile.TemporaryDirectory(prefix="wheels-", dir=cache.folder / "partial")
    with reporter.step(f"Downloading {len(missing)} wheels"), arriving as name:
        folder = Path(name) / "arrived"
        download([WantedWheel(wheel.name, wheel.version, (wheel.sha256,)) for wheel in missing], folder)
        for wheel in missing:
            path = folder / wheel.file
            if not path.is_file() or sha256_file(path) != wheel.sha256:
                raise _unavailable("pip downloaded a different file", where=wheel.file)
            path.replace(cache.path(wheel.sha256))
            found[wheel.name] = cache.path(wheel.sha256)
    return found


def unpack_wheel(
    wheel: Path, tree: Tree, target: str, *, label: str, wanted: Callable[[str], bool] | None = None
) -> None:
    """Unpack a wheel's packages below ``target`` of a tree, without dist-info; every file gets mode 644.

    Only members for whose path in the tree ``wanted`` is true are written; all of them by default. Raises
    FoundFalse: ``hostile-wheel`` for a member that is absolute, has ``..``, is a link or a device or would be
    installed elsewhere, and for too many or too large ones; ``hostile-package`` when a path is written twice;
    ``bad-wheel`` for a damaged archive.
    """
    total = 0
    with open_wheel(wheel, label) as archive:
        members = archive.infolist()
        for member in sorted(members, key=lambda item: item.filename):
            name = _checked_name(member, label)
            top, *below = name.split("/")
            script = top.endswith(".data") and below[:1] == ["scripts"]
            if member.is_dir() or top.endswith(".dist-info") or script:
                continue
            if top.endswith(".data"):
                raise _hostile(f"{member.filename}: would be installed elsewhere", label)
            total += member.file_size
            if total > MAX_UNPACKED:
                raise _hostile(f"unpacks to more than {MAX_UNPACKED} bytes", label)
            path = f"{target}/{name}"
            if wanted and not wanted(path):
                continue
            # zipfile stops at the declared size and checks the CRC, so the sum above limits what is
            # written.
            with archive.open(member) as content:
                tree.add_file(path, iter(lambda: content.read(1024 * 1024), b""))


@contextlib.contextmanager
def open_wheel(wheel: Path, label: str) -> Iterator[zipfile.ZipFile]:
    """A wheel with a bounded table of contents.

    Raises FoundFalse: ``hostile-wheel``, and ``bad-wheel`` for what the block finds damaged.
    """
    try:
        with open_plain(wheel) as file, zipfile.ZipFile(cast("IO[bytes]", _Bounded(file, label))) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise _hostile(f"more than {MAX_MEMBERS} members", label)
            if sum(member.compress_size for member in members) > os.fstat(file.fileno()).st_size:
                raise _hostile("members overlap", label)
            yield archive
    except DAMAGED as error:
        raise FoundFalse(f"not a valid wheel: {error}", where=label, code="bad-wheel") from error


class _Bounded:
    """A file of which no more than MAX_DIRECTORY bytes are read at a time."""

    def __init__(self, file: BinaryIO, label: str) -> None:
        self._file, self._label = file, label
        self.tell, self.close = file.tell, file.close

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = 0) -> int:
        try:
            return self._file.seek(place, whence)
        except OSError:
            raise zipfile.BadZipFile("a member starts before the file") from None

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY:
            raise _hostile(f"a central directory of more than {MAX_DIRECTORY} bytes", self._label)
        return self._file.read(size if size >= 0 else MAX_DIRECTORY)


def _checked_name(member: zipfile.ZipInfo, label: str) -> str:
    try:
        name = check_name(member.filename)
    except FoundFalse as error:
        raise _hostile(f"{member.filename[:200]!r}: {error.what}", label) from None
    kind = stat.S_IFMT(member.external_attr >> 16)
    if not name or name != member.filename.rstrip("/") or "\\" in name:
        raise _hostile(f"{member.filename[:200]!r}: not a plain relative path", label)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _hostile(f"{member.filename[:200]!r}: neither stored nor deflated", label)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _hostile(f"{member.filename[:200]!r}: neither a file nor a directory", label)
    return name
