"""Packs of a git repository and their index, by descriptors: what is in them, as far as it is asked for.

Formats: gitformat-pack(5). Nothing here trusts a pack: the caller counts what is read, and hashes objects.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable

from coattest.errors import EnvironmentFailure

KINDS = {1: b"commit", 2: b"tree", 3: b"blob", 4: b"tag"}
_OFFSET_DELTA, _REF_DELTA = 6, 7
_INDEX_MAGIC = b"\xfftOc\x00\x00\x00\x02"


class Inflater:
    """Unpacks a zlib stream, never more than is asked for; ``spend`` is told of every packed byte.

    A stream may go on for ever without a byte of output: empty blocks are allowed.
    """

    def __init__(self, read: Callable[[], bytes], spend: Callable[[int], None]) -> None:
        self._read, self._spend, self._engine, self._held = read, spend, zlib.decompressobj(), b""

    def take(self, count: int) -> bytes:
        """At most ``count`` bytes; fewer when the stream ends."""
        pieces = []
        while count > 0 and not self._engine.eof:
            packed = self._held
            if not packed:
                packed = self._read()
                self._spend(len(packed))
            if not packed:
                break
            piece = self._engine.decompress(packed, count)
            self._held = self._engine.unconsumed_tail
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)


class Pack:
    """A pack and its index (version 2), by descriptors."""

    def __init__(self, index: int, pack: int) -> None:
        self._index, self._pack = index, pack
        table = os.pread(index, 8 + 4 * 256, 0)
        if len(table) != 8 + 4 * 256 or table[:8] != _INDEX_MAGIC:
            raise unreadable_repository("a pack's index is not of version 2")
        self._fanout = struct.unpack(">256I", table[8:])
        self._count = self._fanout[255]

    def find(self, identifier: bytes) -> int | None:
        """The offset of an object in the pack."""
        first = identifier[0]
        low, high = (self._fanout[first - 1] if first else 0), self._fanout[first]
        while low < high:
            middle = (low + high) // 2
            found = self._at(8 + 1024 + 20 * middle, 20)
            if found == identifier:
                return self._offset(middle)
            low, high = (middle + 1, high) if found < identifier else (low, middle)
        return None

    def _at(self, place: int, size: int) -> bytes:
        data = os.pread(self._index, size, place)
        if len(data) != size:
            raise unreadable_repository("a pack's index is cut short")
        return data

    def _offset(self, number: int) -> int:
        offsets = 8 + 1024 + 24 * self._count
        (offset,) = struct.unpack(">I", self._at(offsets + 4 * number, 4))
        if offset < 1 << 31:
            return int(offset)
        return int.from_bytes(self._at(offsets + 4 * self._count + 8 * (offset - (1 << 31)), 8), "big")

    def entry(self, offset: int) -> tuple[int, int, int, int | bytes]:
        """Kind, size, where the zlib stream begins, and a delta's base: an offset or an id."""
        if offset >= 1 << 62:
            raise unreadable_repository("an object's offset in a pack is out of range")
        header = os.pread(self._pack, 64, offset)
        try:
            kind, size, at = (header[0] >> 4) & 7, header[0] & 15, 1
            if header[0] & 128:
                more, at = _number(header, at)
                size |= more << 4
        except IndexError:
            raise unreadable_repository("an object's header in a pack does not parse") from None
        base: int | bytes = 0
        if kind == _REF_DELTA:
            base = header[at : at + 20]
            at += 20
        elif kind == _OFFSET_DELTA:
            back = 0
            for number in range(10):
                last = (header[at : at + 1] or b"\xff")[0]
                back = ((back + 1) << 7 if number else 0) | (last & 127)
                at += 1
                if not last & 128:
                    break
            base = offset - back
            if not 0 < base < offset:
                raise unreadable_repository("a delta's base does not come before it")
        elif kind not in KINDS:
            raise unreadable_repository("an object in a pack has an unknown kind")
        return kind, size, offset + at, base

    def reader(self, place: int) -> Callable[[], bytes]:
        """Reads on from a place in the pack."""

        def read() -> bytes:
            nonlocal place
            data = os.pread(self._pack, 1 << 12, place)
            place += len(data)
            return data

        return read


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends. Raises IndexError."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if not byte & 128 or shift > 63:
            return value, at


def patched(base: bytes, delta: bytes, spend: Callable[[int], None]) -> bytes:
    """What a delta makes of its base."""
    try:
        before, at = _number(delta, 0)
        after, at = _number(delta, at)
        spend(after)
        pieces, made = [], 0
        while at < len(delta):
            word = delta[at]
            at += 1
            if word & 128:
                fields = [0] * 7
                for bit in range(7):
                    if word >> bit & 1:
                        fields[bit] = delta[at]
                        at += 1
                start = int.from_bytes(bytes(fields[:4]), "little")
                size = int.from_bytes(bytes(fields[4:]), "little") or 0x10000
                piece = base[start : start + size]
            else:
                size = word
                piece = delta[at : at + size]
                at += size
            made += size
            if not word or len(piece) != size or made > after:
                raise unreadable_repository("a delta does not match its base")
            pieces.append(piece)
    except IndexError:
        raise unreadable_repository("a delta is cut short") from None
    if before != len(base) or made != after:
        raise unreadable_repository("a delta does not match its base")
    return b"".join(pieces)


def unreadable_repository(what: str) -> EnvironmentFailure:
    """The error for a repository that cannot be read; the caller adds which one."""
    return EnvironmentFailure(what, code="bad-repository")
