"""The bytes that Linux unpacks: all ramdisks one after another, and what is compressed in them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import BinaryIO

from coattest_build.formats.eif import EifSection, ImageError, name_of
from coattest_build.formats.hashing import sha256_of
from coattest_build.formats.lenient.decompress import MAX_UNPACKED, Unpacked
from coattest_build.formats.lenient.tree import Body

WINDOW = 1 << 14
"""Bytes read at a time where headers are; small files lie between them."""
BLOCK = 1 << 20


class Concatenation:
    """The data of several sections as one stream: a hypervisor puts ramdisks one after another."""

    def __init__(self, file: BinaryIO, sections: Iterable[EifSection]) -> None:
        self.file = file
        self._sections = tuple(sections)
        *self._starts, self.size = accumulate((section.size for section in self._sections), initial=0)
        self._window = b""
        self._window_at = 0

    def ramdisk_at(self, position: int) -> int:
        """The number of the ramdisk that has the byte at ``position``."""
        return max(0, bisect_right(self._starts, position) - 1)

    def file_offset(self, position: int) -> int:
        """Where the byte at ``position`` is in the image file."""
        index = self.ramdisk_at(position)
        return self._sections[index].offset + position - self._starts[index]

    def read(self, position: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``position``, fewer at the end only. Raises ImageError when it shrank."""
        size = min(size, self.size - position)
        if size <= 0:
            return b""
        before = position - self._window_at
        if before >= 0 and before + size <= len(self._window):
            return self._window[before : before + size]
        found = self._read(position, max(size, min(WINDOW, self.size - position)))
        if len(found) <= WINDOW:
            self._window, self._window_at = found, position
        return found[:size]

    def _read(self, position: int, size: int) -> bytes:
        pieces = []
        while size:
            index = self.ramdisk_at(position)
            inside = position - self._starts[index]
            section = self._sections[index]
            self.file.seek(section.offset + inside)
            piece = self.file.read(min(size, section.size - inside))
            if not piece:
                raise ImageError(
                    "the file became shorter while it was read",
                    where=name_of(self.file),
                    code="eif-truncated",
                )
            pieces.append(piece)
            position += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def next_set(self, position: int) -> int:
        """The position of the first byte from ``position`` on that is not zero; the end when all are."""
        while block := self.read(position, WINDOW):
            rest = block.lstrip(b"\0")
            if rest:
                return position + len(block) - len(rest)
            position += len(block)
        return position


class Streams:
    """Content by Body: of the concatenation, or of a compressed archive, which is then unpacked again."""

    def __init__(self, raw: Concatenation) -> None:
        self.raw = raw
        self.packed: list[tuple[str, int]] = []
        """Each compressed archive: its method, and where it begins. Stream n is the one at n - 1."""

    def unpacked(self, stream: int, limit: int = MAX_UNPACKED) -> Unpacked:
        """A compressed archive from its beginning."""
        method, start = self.packed[stream - 1]
        return Unpacked(method, lambda offset, size: self.raw.read(start + offset, size), limit)

    def blocks(self, body: Body) -> Iterator[bytes]:
        """A body's content in blocks of at most 1 MiB."""
        yield from self._stored(body)
        left = body.zeros
        while left:
            yield bytes(min(left, BLOCK))
            left -= min(left, BLOCK)

    def sha256(self, body: Body) -> str:
        """The SHA-256 of a body's content, in hex."""
        return body.sha256 or sha256_of(self.blocks(body))

    def _stored(self, body: Body) -> Iterator[bytes]:
        position, left = body.offset, body.size
        if not body.stream:
            while left:
                block = self.raw.read(position, min(BLOCK, left))
                if not block:
                    return
                yield block
                position += len(block)
                left -= len(block)
            return
        at = 0
        for block in self.unpacked(body.stream):
            begin, end = max(position - at, 0), min(position + left - at, len(block))
            if begin < end:
                yield block[begin:end]
            at += len(block)
            if at >= position + left:
                return
