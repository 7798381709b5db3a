"""Just enough ELF to name the section at an offset of a 64-bit little-endian file."""

from __future__ import annotations

import struct
from collections.abc import Callable

MAX_SECTIONS = 4096
MAX_NAMES = 1 << 20
_NOBITS = 8

ReadAt = Callable[[int, int], bytes]
"""Reads ``size`` bytes at ``offset`` of the file; returns fewer at its end."""


def section_at(read: ReadAt, offset: int) -> str | None:
    """The name of the section at ``offset``; None when there is none, or the file is not such an ELF file.

    Never raises, whatever is in the file.
    """
    try:
        return _section_at(read, offset)
    except (struct.error, UnicodeDecodeError, ValueError, IndexError):
        return None


def _section_at(read: ReadAt, offset: int) -> str | None:
    header = read(0, 64)
    if header[:6] != b"\x7fELF\x02\x01":
        return None
    table, size, count, names_index = struct.unpack_from("<Q10xHHH", header, 40)
    if size != 64 or count > MAX_SECTIONS:
        return None
    raw = read(table, size * count)
    sections = [struct.unpack_from("<II16xQQ", raw, index * size) for index in range(count)]
    names_offset, names_size = sections[names_index][2:]
    names = read(names_offset, min(names_size, MAX_NAMES))
    for name, kind, start, length in sections:
        if kind and kind != _NOBITS and start <= offset < start + length:
            return names[name : names.index(b"\0", name)].decode("ascii")
    return None
