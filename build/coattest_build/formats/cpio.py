"""Ramdisks: uncompressed cpio archives in the "newc" format, read strictly and written deterministically.

The kernel's format (``Documentation/driver-api/early-userspace/buffer-format.rst``) allows far more than this
reader: hard links, devices, archives one after another and names in any order. The rules are in ADR 11.
Reading holds one header and the names in memory, never a file's content. ``extract`` unpacks.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from coattest.errors import FoundFalse, UsageError
from coattest.files import atomic_file

MAGIC = b"070701"
HEADER_SIZE = 110
TRAILER = "TRAILER!!!"
ALIGNMENT = 512
"""Archives are padded with zeros to this, as nitro-cli's are."""
BLOCK = 1 << 20

MAX_ENTRIES = 32768
"""The auction's root file system has some 2,000; the reader remembers every name."""
MAX_NAME = 1024
MAX_ALL_NAMES = 4 << 20
"""Bytes of all names together; it bounds the reader's memory."""
MAX_COMPONENT = 255
"""``NAME_MAX`` of Linux."""
MAX_LINK_TARGET = 4095
"""``PATH_MAX`` of Linux without the final zero."""
MAX_CONTENT = 4 << 30
"""Bytes of all files together; the size field of one file has the same limit."""

_FIELDS = 13
_TYPES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


class RamdiskError(FoundFalse):
    """The strict reader refuses the ramdisk; ``code`` names the rule that was broken."""

    default_code = "cpio-malformed"


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry to write: a relative ``name``, the full ``st_mode``, and the content.

    ``content`` is a path or bytes for a file, the target's bytes for a symlink, None for a directory.
    """

    name: str
    mode: int
    content: Path | bytes | None


@dataclass(frozen=True, slots=True)
class RamdiskEntry:
    """An entry that was read: ``size`` bytes of content begin at ``data_offset`` of the image file."""

    name: str
    mode: int
    size: int
    data_offset: int
    uid: int
    gid: int
    mtime: int

    @property
    def kind(self) -> str:
        """``file``, ``directory`` or ``symlink``."""
        return {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}[
            stat.S_IFMT(self.mode)
        ]


# -------------------------------------------------------------------------------- the shared rules


class _Rules:
    """The rules for a sequence of entries, whether it is read or written."""

    def __init__(self, error: type[RamdiskError] | type[UsageError], where: str | None) -> None:
        self._error = error
        self._where = where
        self._is_directory: dict[str, bool] = {}
        self._name_bytes = 0
        self._content = 0

    def fail(self, what: str, code: str) -> RamdiskError | UsageError:
        """The error to raise: RamdiskError for an archive that was read, UsageError for one to write."""
        return self._error(what, where=self._where, code=code)

    def accept(self, name: str, mode: int, size: int) -> None:
        """Check the next entry against the ones before it; raise when it breaks a rule."""
        self._check_name(name)
        self._check_mode(name, mode, size)
        if name in self._is_directory:
            raise self.fail(f"{name!r} appears twice", "cpio-duplicate")
        parent = name.rpartition("/")[0]
        if parent and not self._is_directory.get(parent, False):
            fault = "is not a directory" if parent in self._is_directory else "does not come before it"
            raise self.fail(f"{name!r}: its parent {fault}", "cpio-parent")
        self._is_directory[name] = stat.S_ISDIR(mode)
        self._name_bytes += len(name)
        self._content += size
        if len(self._is_directory) > MAX_ENTRIES or self._name_bytes > MAX_ALL_NAMES:
            raise self.fail(
                f"more than {MAX_ENTRIES} entries or {MAX_ALL_NAMES} bytes of names", "cpio-limit"
            )
        if self._content > MAX_CONTENT:
            raise self.fail(f"more than {MAX_CONTENT} bytes of content", "cpio-limit")

    def _check_name(self, name: str) -> None:
        if not name or "\0" in name or len(name.encode()) > MAX_NAME:
            raise self.fail(f"a name is empty, has a zero byte or over {MAX_NAME} bytes", "cpio-name")
        if name.startswith("/"):
            raise self.fail(f"{name!r} is an absolute name", "cpio-absolute-name")
        parts = name.split("/")
        if ".." in parts:
            raise self.fail(f"{name!r} leads out of the ramdisk", "cpio-traversal")
        if "" in parts or "." in parts or any(len(part.encode()) > MAX_COMPONENT for part in parts):
            raise self.fail(f"{name!r} is not a plain relative name", "cpio-name")
        if name == TRAILER:
            raise self.fail(f"an entry is named {name!r}", "cpio-name")

    def _check_mode(self, name: str, mode: int, size: int) -> None:
        kind = stat.S_IFMT(mode)
        if kind not in _TYPES or mode >> 16:
            raise self.fail(f"{name!r} is not a file, directory or symlink (mode {mode:o})", "cpio-type")
        special = mode & 0o7000
        if special & ~(stat.S_ISVTX if kind == stat.S_IFDIR else 0):
            raise self.fail(f"{name!r} has special mode bits (mode {mode:o})", "cpio-mode")
        if kind == stat.S_IFDIR and size:
            raise self.fail(f"{name!r} is a directory with content", "cpio-size")
        if kind == stat.S_IFLNK and not 0 < size <= MAX_LINK_TARGET:
            raise self.fail(f"{name!r} is a symlink with a target of {size} bytes", "cpio-size")


# -------------------------------------------------------------------------------- the reader


def read_entries(file: BinaryIO, offset: int, size: int) -> Iterator[RamdiskEntry]:
    """Yield the entries of the archive in ``file[offset:offset+size]``, in its order, checking as it goes.

    The caller may seek in the file between entries. Raises RamdiskError at the first rule that is broken, so
    trust no entry before the last one was read.
    """
    where = file.name if isinstance(getattr(file, "name", None), str) else None
    rules = _Rules(RamdiskError, where)
    position, end = offset, offset + size
    while True:
        name, fields, data = _read_header(file, position, end, rules)
        _, mode, uid, gid, links, mtime, length, _, _, *device, _, check = fields
        if check or any(device):
            raise rules.fail(f"{name!r} has a checksum or a device number", "cpio-field")
        if name == TRAILER:
            if length or mode:
                raise rules.fail("the trailer has a mode or content", "cpio-trailer")
            _check_rest(file, data, end, rules)
            return
        rules.accept(name, mode, length)
        if links != 1 and not stat.S_ISDIR(mode):
            raise rules.fail(f"{name!r} has {links} links", "cpio-hard-link")
        position = data + length + -length % 4
        if position > end:
            raise rules.fail(f"{name!r} ends beyond the ramdisk", "cpio-truncated")
        if any(_read(file, data + length, -length % 4)):
            raise rules.fail(f"{name!r} is not padded with zeros", "cpio-padding")
        entry = RamdiskEntry(name, mode, length, data, uid, gid, mtime)
        if stat.S_ISLNK(mode):
            _target(file, entry, rules)
        yield entry


def _read_header(file: BinaryIO, position: int, end: int, rules: _Rules) -> tuple[str, list[int], int]:
    """Return the name, the 13 fields, and where the data begins."""
    raw = _read(file, position, min(HEADER_SIZE, end - position))
    if len(raw) < HEADER_SIZE:
        raise rules.fail("it ends without a trailer", "cpio-truncated")
    if raw[:6] != MAGIC:
        raise rules.fail(f"there is no newc header at offset {position}", "cpio-magic")
    digits = raw[6:]
    if digits.translate(None, b"0123456789abcdefABCDEF"):
        raise rules.fail(f"a field is not hexadecimal in the header at offset {position}", "cpio-field")
    fields = [int(digits[index * 8 : index * 8 + 8], 16) for index in range(_FIELDS)]
    name_size = fields[11]
    if not 1 < name_size <= MAX_NAME + 1:
        raise rules.fail(f"a name of {name_size} bytes at offset {position}", "cpio-name")
    padded = HEADER_SIZE + name_size + -(HEADER_SIZE + name_size) % 4
    rest = _read(file, position + HEADER_SIZE, min(padded - HEADER_SIZE, end - position - HEADER_SIZE))
    if len(rest) < padded - HEADER_SIZE:
        raise rules.fail("it ends inside a name", "cpio-truncated")
    if any(rest[name_size - 1 :]):
        raise rules.fail(f"the name at offset {position} does not end with zeros", "cpio-padding")
    try:
        name = rest[: name_size - 1].decode()
    except UnicodeDecodeError:
        raise rules.fail(f"the name at offset {position} is not UTF-8", "cpio-name") from None
    return name, fields, position + padded


def _check_rest(file: BinaryIO, position: int, end: int, rules: _Rules) -> None:
    if end - position >= ALIGNMENT or any(_read(file, position, end - position)):
        raise rules.fail("data after the trailer", "cpio-trailing")


def _target(file: BinaryIO, entry: RamdiskEntry, rules: _Rules) -> bytes:
    target = _read(file, entry.data_offset, entry.size)
    if b"\0" in target or len(target) < entry.size:
        raise rules.fail(f"{entry.name!r} is a symlink with a zero byte in its target", "cpio-name")
    return target


def link_target(file: BinaryIO, entry: RamdiskEntry) -> bytes:
    """The target of a symlink that read_entries yielded."""
    return _target(file, entry, _Rules(RamdiskError, None))


def content_blocks(file: BinaryIO, entry: RamdiskEntry) -> Iterator[bytes]:
    """An entry's content in blocks of at most 1 MiB; seeks before each read. Raises RamdiskError."""
    position, end = entry.data_offset, entry.data_offset + entry.size
    while position < end:
        block = _read(file, position, min(BLOCK, end - position))
        if not block:
            raise RamdiskError("the file became shorter while it was read", code="cpio-truncated")
        position += len(block)
        yield block


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    if size <= 0:
        return b""
    file.seek(position)
    return file.read(size)


# -------------------------------------------------------------------------------- the writer


def write_ramdisk(destination: Path, entries: Iterable[NewEntry], *, mtime: int) -> None:
    """Write an archive whose bytes depend on names, modes, contents and ``mtime`` (Unix seconds) only.

    Entries are sorted by the bytes of their names; inodes count from 1, uid and gid are 0, files and symlinks
    have one link and directories two. Raises UsageError when the reader would refuse the result.
    """
    rules = _Rules(UsageError, str(destination))
    if not 0 <= mtime < 1 << 32:
        raise rules.fail(f"mtime {mtime} does not fit into 32 bits", "cpio-field")
    with atomic_file(destination) as temporary, temporary.open("wb") as file:
        for inode, entry in enumerate(sorted(entries, key=lambda item: _encoded(item, rules)), start=1):
            size = _content_size(entry, rules)
            rules.accept(entry.name, entry.mode, size)
            links = 2 if stat.S_ISDIR(entry.mode) else 1
            file.write(_header(entry.name, inode=inode, mode=entry.mode, links=links, mtime=mtime, size=size))
            start = file.tell()
            if isinstance(entry.content, Path):
                with entry.content.open("rb") as source:
                    shutil.copyfileobj(source, file, BLOCK)
            else:
                file.write(entry.content or b"")
            if file.tell() - start != size:
                raise rules.fail(f"{entry.name!r} changed while it was read", "cpio-source-changed")
            file.write(bytes(-size % 4))
        file.write(_header(TRAILER, inode=0, mode=0, links=1, mtime=0, size=0))
        file.write(bytes(-file.tell() % ALIGNMENT))


def _encoded(entry: NewEntry, rules: _Rules) -> bytes:
    try:
        return entry.name.encode()
    except UnicodeEncodeError:
        raise rules.fail(f"{entry.name!r} is not UTF-8", "cpio-name") from None


def _content_size(entry: NewEntry, rules: _Rules) -> int:
    has_content = not stat.S_ISDIR(entry.mode)
    if (entry.content is not None) != has_content or (
        stat.S_ISLNK(entry.mode) and not isinstance(entry.content, bytes)
    ):
        raise rules.fail(f"{entry.name!r}: the content does not fit the mode {entry.mode:o}", "cpio-type")
    if isinstance(entry.content, Path):
        size = entry.content.stat().st_size
    else:
        size = len(entry.content or b"")
        if stat.S_ISLNK(entry.mode) and b"\0" in (entry.content or b""):
            raise rules.fail(f"{entry.name!r} is a symlink with a zero byte in its target", "cpio-name")
    if size >> 32:
        raise rules.fail(f"{entry.name!r} has {size} bytes; the limit of newc is 4 GiB", "cpio-size")
    return size


def _header(name: str, *, inode: int, mode: int, links: int, mtime: int, size: int) -> bytes:
    encoded = name.encode() + b"\0"
    values = (inode, mode, 0, 0, links, mtime, size, 0, 0, 0, 0, len(encoded), 0)
    raw = MAGIC + b"".join(b"%08X" % value for value in values) + encoded
    return raw + bytes(-len(raw) % 4)
