"""A strict reader of tar streams: ustar with GNU long names and pax headers, nothing else.

Python's tarfile would read a pax header of any size into memory and knows far more than a package needs.
Sources: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from coattest.errors import CoattestError, FoundFalse

BLOCK = 512
"""Bytes of a header; contents are padded to this."""
MAX_LONG_NAME = 4096
"""Bytes of a GNU long name: ``PATH_MAX`` of Linux."""
MAX_PAX = 64 * 1024
"""Bytes of a pax header; those of packages have a few hundred."""
SIZE = re.compile(r"[0-9]{1,15}")
"""A pax record's size. str.isdigit takes digits that int() refuses, and int() takes other scripts' digits."""
CHUNK = 256 * 1024
"""Bytes per read."""

REGULAR, HARD_LINK, SYMLINK, DIRECTORY = "file", "hard link", "symlink", "directory"
TYPES = {b"0": REGULAR, b"\0": REGULAR, b"1": HARD_LINK, b"2": SYMLINK, b"5": DIRECTORY}
REFUSED = {b"3": "character device", b"4": "block device", b"6": "FIFO", b"7": "contiguous file"}
PAX_KNOWN = ("path", "linkpath", "size")
PAX_IGNORED = ("mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment")


def damaged(what: str, *, where: str | None = None) -> FoundFalse:
    """The error for an archive that is damaged or not in a format that packages use: ``bad-archive``."""
    return FoundFalse(what, where=where, code="bad-archive")


def hostile(what: str, *, where: str | None = None) -> FoundFalse:
    """The error for an archive that would do harm where it is unpacked: ``hostile-package``."""
    return FoundFalse(what, where=where, code="hostile-package")


class Reader(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        ...


@dataclass(frozen=True, slots=True)
class TarMember:
    """One entry: ``kind`` is a value of TYPES or REFUSED, ``mode`` the permission bits, ``size`` in bytes."""

    name: str
    kind: str
    mode: int
    size: int
    target: str


def _number(field: bytes) -> int:
    text = field.strip(b"\0 ")
    if not text:
        return 0
    if field[0] & 0x80 or not all(c in b"01234567" for c in text):
        raise damaged("a number in a tar header is not octal")
    return int(text, 8)


def _text(field: bytes) -> str:
    try:
        return field.split(b"\0", 1)[0].decode()
    except UnicodeDecodeError as error:
        raise hostile("a name is not UTF-8") from error


def parse_header(block: bytes) -> tuple[bytes, TarMember]:
    """The type byte and the member of one 512-byte header. Raises FoundFalse (``bad-archive``)."""
    total = sum(block) - sum(block[148:156]) + 8 * 0x20
    if _number(block[148:156]) != total:
        raise damaged("a tar header's checksum is wrong")
    name = _text(block[0:100])
    if block[257:263] == b"ustar\0" and block[345] != 0:
        name = f"{_text(block[345:500])}/{name}"
    kind = block[156:157]
    member = TarMember(
        name=name,
        kind=TYPES.get(kind, REFUSED.get(kind, "")),
        mode=_number(block[100:108]),
        size=_number(block[124:136]) if kind in (b"0", b"\0", b"L", b"K", b"x", b"g") else 0,
        target=_text(block[157:257]),
    )
    return kind, member


def pax_records(data: bytes, malformed: Callable[[str], CoattestError]) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a pax header, in its order; raises what ``malformed`` makes of a fault."""
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at : max(space, at)]
        if not digits.isdigit() or not at + len(digits) + 3 <= at + int(digits) <= len(data):
            raise malformed("a pax record's length is wrong")
        record, at = data[space + 1 : at + int(digits)], at + int(digits)
        key, equals, value = record.partition(b"=")
        if not equals or not key or not value.endswith(b"\n"):
            raise malformed("a pax record is malformed")
        yield key, value[:-1]


def parse_pax(data: bytes) -> dict[str, str]:
    """The records of a pax header that matter here.

    Raises FoundFalse: ``bad-archive`` for a malformed header, ``hostile-package`` for extended attributes.
    """
    records: dict[str, str] = {}
    for key, value in pax_records(data, damaged):
        name = _text(key)
        if name in PAX_KNOWN:
            records[name] = _text(value)
            if b"\0" in value:
                raise hostile("a name has a NUL byte")
        elif name not in PAX_IGNORED:
            what = "an extended attribute" if "xattr" in name or "acl" in name.lower() else "a pax record"
            raise hostile(f"{what}: {name[:80]}")
    return records


class TarStream:
    """Iterates over the members of a stream; ``content`` gives the current member's bytes.

    Raises FoundFalse: ``bad-archive`` or ``hostile-package``.
    """

    def __init__(self, source: Reader, *, max_members: int, max_bytes: int) -> None:
        self._source = source
        self._members_left, self._bytes_left = max_members, max_bytes
        self._limits = f"{max_members} members or {max_bytes} bytes"
        self._unread = self._padding = 0

    def _read(self, size: int) -> bytes:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise hostile(f"unpacks to more than {self._limits}")
        pieces = []
        while size:
            piece = self._source.read(size)
            if not piece:
                raise damaged("ends in the middle of a member")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._read(min(size, CHUNK)))

    def _long(self, size: int, limit: int) -> bytes:
        if size > limit:
            raise hostile(f"a header of {size} bytes")
        data = self._read(size)
        self._skip(-size % BLOCK)
        return data

    def content(self) -> Iterator[bytes]:
        """The current member's bytes, in pieces."""
        while self._unread:
            piece = self._read(min(self._unread, CHUNK))
            self._unread -= len(piece)
            yield piece

    def _finish(self) -> None:
        """Read on after the last member, so that the compressor checks its checksum too."""
        while data := self._source.read(CHUNK):
            self._bytes_left -= len(data)
            if self._bytes_left < 0 or any(data):
                raise hostile("more than zeros after the last member")

    def __iter__(self) -> Iterator[TarMember]:
        name = target = ""
        pax: dict[str, str] = {}
        while True:
            self._skip(self._unread + self._padding)
            self._unread = self._padding = 0
            block = self._read(BLOCK)
            if not any(block):
                self._finish()
                return
            self._members_left -= 1
            if self._members_left < 0:
                raise hostile(f"unpacks to more than {self._limits}")
            kind, member = parse_header(block)
            if kind == b"L":
                name = _text(self._long(member.size, MAX_LONG_NAME))
            elif kind == b"K":
                target = _text(self._long(member.size, MAX_LONG_NAME))
            elif kind == b"x":
                pax = parse_pax(self._long(member.size, MAX_PAX))
            elif kind == b"g":
                if set(parse_pax(self._long(member.size, MAX_PAX))) & set(PAX_KNOWN):
                    raise hostile("a global header that renames members")
            else:
                if kind not in TYPES:
                    raise hostile(
                        f"a {REFUSED[kind]}" if kind in REFUSED else f"a member of type {kind!r}",
                        where=name or member.name,
                    )
                if "size" in pax and not SIZE.fullmatch(pax["size"]):
                    raise damaged("a pax record's size is not a number")
                member = replace(
                    member,
                    name=pax.get("path") or name or member.name,
                    target=pax.get("linkpath") or target or member.target,
                    size=int(pax.get("size", member.size)) if member.kind == REGULAR else 0,
                )
                name = target = ""
                pax = {}
                self._unread, self._padding = member.size, -member.size % BLOCK
                yield member
