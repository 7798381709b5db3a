"""A reader of the tar dialects that layers are written in, as Go's archive/tar reads them.

ustar, star, GNU (long names, numbers in base 256) and pax (times, ids, names, sizes, sparse files). What
Docker's reader refuses is refused, and so is what two readers would see differently. Sources: POSIX.1-2017
pax; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files"; Go's archive/tar/reader.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from coattest_build.containers.errors import ContainerError, beyond_limit, not_read, path_text, two_readings
from coattest_build.containers.sources import BLOCK as PIECE
from coattest_build.containers.sources import Positioned
from coattest_build.containers.sparse import MAX_PIECES, Extent, integer, sparse_content
from coattest_build.formats.tar import pax_records

BLOCK = 512
MAX_HEADER = 1 << 20
"""Bytes of a pax header or a long name (``maxSpecialFileSize`` of Go)."""
MAX_NAME = 4096
"""Bytes of a name or target (``PATH_MAX`` of Linux)."""
MAX_REST = 64 << 20
"""Bytes after the end: writers fill a record, of 10,240 bytes by default (GNU tar manual, "Blocking")."""

FILE, HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = (
    "file", "hard link", "symlink", "char", "block", "directory", "fifo"
)  # fmt: skip
_KINDS = {
    b"0": FILE, b"\0": FILE, b"1": HARD_LINK, b"2": SYMLINK, b"3": CHAR, b"4": BLOCK_DEVICE, b"5": DIRECTORY,
    b"6": FIFO,
}  # fmt: skip
_REFUSED = {
    b"7": "a contiguous file",
    b"S": "a sparse file in GNU's old form",
    b"D": "a GNU dump folder",
    b"M": "a part of a file of another volume",
    b"V": "a volume's name",
    b"N": "a GNU long name in the old form",
}
_TIME = re.compile(rb"(-?)0*([0-9]{1,18})(?:\.[0-9]*)?")


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """One entry: ``mode`` is the twelve permission bits, ``mtime`` whole seconds rounded down.

    ``content`` are the pieces of a file's ``size`` bytes; ``attributes`` the names of extended attributes.
    Of an image's export ``place`` is the number of the layer with the content, and ``clock`` says who decides
    the time.
    """

    name: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    target: bytes
    device: tuple[int, int]
    content: tuple[Extent, ...]
    attributes: tuple[str, ...] = ()
    place: int = 0
    clock: int | None = None


@dataclass(slots=True)
class _Extra:
    """What headers before an entry say about it."""

    name: bytes = b""
    target: bytes = b""
    pax: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[tuple[bytes, bytes]] = field(default_factory=list)


def read_layer(source: Positioned, *, most: int) -> Iterator[LayerEntry]:
    """Yield the entries of an archive, at most ``most`` headers of them. Raises ContainerError."""
    return _Archive(source, most).entries()


class _Archive:
    def __init__(self, source: Positioned, most: int) -> None:
        self._source, self._left, self._most = source, most, most
        self._position = self._pieces = 0
        self._window, self._at = b"", 0

    def _read(self, offset: int, size: int) -> bytes:
        inside = offset - self._at
        if inside >= 0 and inside + size <= len(self._window):
            return self._window[inside : inside + size]
        if size <= PIECE // 16:
            # Headers lie close together in layers of small files: one read for many of them.
            self._window, self._at = self._source.read(offset, PIECE // 16), offset
            found = self._window[:size]
        else:
            found = self._source.read(offset, size)
        if len(found) != size:
            short = "ends in the middle of an entry" if offset else "is too short for an archive"
            raise ContainerError(short)
        return found

    def entries(self) -> Iterator[LayerEntry]:
        extra = _Extra()
        while self._position < self._source.size:
            block = self._read(self._position, BLOCK)
            self._position += BLOCK
            if not any(block):
                self._check_rest()
                break
            self._left -= 1
            if self._left < 0:
                raise beyond_limit(f"more than {self._most} entries")
            kind = block[156:157]
            _check_sum(block)
            if kind in (b"L", b"K", b"x", b"g"):
                data = self._special(_number(block[124:136]))
                if kind == b"L":
                    extra.name = data.split(b"\0", 1)[0]
                elif kind == b"K":
                    extra.target = data.split(b"\0", 1)[0]
                elif kind == b"x":
                    extra.pax, extra.sparse = _records(data)
                continue  # Docker ignores global headers
            if (extra.name and b"path" in extra.pax) or (extra.target and b"linkpath" in extra.pax):
                raise two_readings("an entry has a long name in two dialects")
            yield self._entry(block, kind, extra)
            extra = _Extra()
        if extra != _Extra():
            raise ContainerError("ends after a header that belongs to an entry")

    def _special(self, size: int) -> bytes:
        if size > MAX_HEADER:
            raise beyond_limit(f"a header of {size} bytes")
        data = self._read(self._position, size)
        self._position += size + -size % BLOCK
        return data

    def _check_rest(self) -> None:
        """After the end there may be zeros only: readers that go on would see other entries."""
        if self._source.size - self._position > MAX_REST:
            raise beyond_limit(f"more than {MAX_REST} bytes after its end")
        while self._position < self._source.size:
            block = self._source.read(self._position, PIECE)
            if not block or any(block.lstrip(b"\0")[:1]):
                raise two_readings("has data after its end")
            self._position += len(block)

    def _entry(self, block: bytes, kind: bytes, extra: _Extra) -> LayerEntry:
        pax = extra.pax
        name = pax.get(b"path") or extra.name or _name(block)
        target = pax.get(b"linkpath") or extra.target or block[157:257].split(b"\0", 1)[0]
        what = _KINDS.get(kind)
        if what is None:
            raise not_read(_REFUSED.get(kind, f"an entry of type {kind!r}"), where=path_text(name))
        if kind == b"\0" and name.endswith(b"/"):
            what = DIRECTORY
        stored = _whole(pax, b"size", _number(block[124:136])) if what == FILE else 0
        start, self._position = self._position, self._position + stored + -stored % BLOCK
        if start + stored > self._source.size:
            raise ContainerError("ends in the middle of an entry", where=path_text(name))
        content: tuple[Extent, ...] = ((start, stored),) if stored else ()
        size = stored
        if what == FILE and (extra.sparse or b"GNU.sparse.major" in pax or b"GNU.sparse.map" in pax):
            name = pax.get(b"GNU.sparse.name") or name
            size, content = sparse_content(pax, extra.sparse, self._read, start, stored)
            self._pieces += len(content)
            if self._pieces > MAX_PIECES:
                raise beyond_limit(f"sparse files of more than {MAX_PIECES} pieces", where=path_text(name))
        if len(name) > MAX_NAME or len(target) > MAX_NAME:
            raise beyond_limit(f"a name or target of more than {MAX_NAME} bytes", where=path_text(name))
        device = (
            (_number(block[329:337]), _number(block[337:345])) if what in (CHAR, BLOCK_DEVICE) else (0, 0)
        )
        return LayerEntry(
            name=name,
            kind=what,
            mode=_number(block[100:108]) & 0o7777,
            uid=_whole(pax, b"uid", _number(block[108:116])),
            gid=_whole(pax, b"gid", _number(block[116:124])),
            mtime=_time(pax.get(b"mtime"), _number(block[136:148])),
            size=size,
            target=target if what in (SYMLINK, HARD_LINK) else b"",
            device=device,
            content=content,
            attributes=tuple(
                sorted(
                    key.removeprefix(b"SCHILY.xattr.").decode("utf-8", "backslashreplace")
                    for key in pax
                    if key.startswith(b"SCHILY.xattr.")
                )
            ),
        )


def _check_sum(block: bytes) -> None:
    said = _number(block[148:156])
    total = sum(block) - sum(block[148:156]) + 8 * 0x20
    if said != total:
        other = block[:148] + block[156:]
        if said != total - 256 * sum(byte > 127 for byte in other):  # old writers add signed bytes
            raise ContainerError("is not a tar archive, or a header's checksum is wrong")


def _number(field: bytes) -> int:
    """An octal number, or one in base 256 of GNU's (``parseNumeric`` of Go)."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        if not -(1 << 63) <= value < 1 << 63:
            raise ContainerError("a number in a tar header is too large")
        return value
    text = field.strip(b"\0 ").split(b"\0", 1)[0]
    if not all(byte in b"01234567" for byte in text):
        raise ContainerError("a number in a tar header is not octal")
    return int(text or b"0", 8)


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] != b"ustar\0":
        return name
    star = block[508:512] == b"tar\0"
    prefix = block[345 : 476 if star else 500].split(b"\0", 1)[0]
    return prefix + b"/" + name if prefix else name


def _whole(pax: dict[bytes, bytes], key: bytes, otherwise: int) -> int:
    value = integer(pax[key]) if pax.get(key) else otherwise
    if value < 0:
        raise ContainerError(f"a tar header's {key.decode()} is negative")
    return value


def _time(text: bytes | None, otherwise: int) -> int:
    """Whole seconds, rounded down: of decimal text, since a float has not enough digits for nanoseconds."""
    if not text:
        return otherwise
    match = _TIME.fullmatch(text)
    if match is None:
        raise ContainerError("a time of a pax header is not one")
    return -1 if match[1] else int(match[2])


def _records(data: bytes) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """The records of a pax header, and those of a sparse map in their order (they repeat)."""
    records: dict[bytes, bytes] = {}
    sparse: list[tuple[bytes, bytes]] = []
    for key, value in pax_records(data, ContainerError):
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            sparse.append((key, value))
            continue
        if b"\0" in key or (b"\0" in value and not key.startswith(b"SCHILY.xattr.")):
            raise ContainerError("a pax record has a NUL byte")
        records[key] = value
    return records, sparse
