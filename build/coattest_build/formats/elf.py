"""Just enough ELF of 64-bit little-endian files: the section at an offset, and what a program is linked to.

Source: System V ABI, "Object Files", "Program Loading and Dynamic Linking".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

MAX_SECTIONS = 4096
MAX_NAMES = 1 << 20
MAX_SEGMENTS = 256
MAX_DYNAMIC = 1 << 16
"""Bytes of a dynamic section; the largest in Debian's Python has some hundred."""
_NOBITS = 8
_LOAD, _DYNAMIC, _INTERP = 1, 2, 3
_NEEDED, _STRTAB, _RPATH, _RUNPATH = 1, 5, 15, 29

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
    sections = _table(read, "<40xQ10xHH", "<II16xQQ24x", MAX_SECTIONS)
    (names_index,) = struct.unpack("<H", read(62, 2))
    names_offset, names_size = sections[names_index][2:]
    names = read(names_offset, min(names_size, MAX_NAMES))
    for name, kind, start, length in sections:
        if kind and kind != _NOBITS and start <= offset < start + length:
            return names[name : names.index(b"\0", name)].decode("ascii")
    return None


def _table(read: ReadAt, where: str, entry: str, most: int) -> list[tuple[int, ...]]:
    """The entries of a table; ``where`` in the header are its place, their size and number."""
    header = read(0, 64)
    table, size, count = struct.unpack_from(where, header)
    if header[:6] != b"\x7fELF\x02\x01" or size != struct.calcsize(entry) or count > most:
        raise ValueError("not such an ELF file")
    raw = read(table, size * count)
    return [struct.unpack_from(entry, raw, index * size) for index in range(count)]


@dataclass(frozen=True, slots=True)
class Linking:
    """What the dynamic linker needs to start or load a file.

    ``interpreter`` is its loader's path, None for a library or a static program. ``needed`` are names of
    libraries; ``search`` the folders of DT_RUNPATH or DT_RPATH, as they stand there.
    """

    interpreter: str | None
    needed: tuple[str, ...]
    search: tuple[str, ...]


def linking(read: ReadAt) -> Linking | None:
    """What a file is linked to; None when it is not such an ELF file, or damaged.

    Never raises, whatever is in the file.
    """
    try:
        return _linking(read)
    except (struct.error, UnicodeDecodeError, ValueError, IndexError, OverflowError, StopIteration):
        return None


def _linking(read: ReadAt) -> Linking:
    # Type, offset, address, bytes in the file.
    segments = _table(read, "<32xQ14xHH", "<I4xQQ8xQ16x", MAX_SEGMENTS)
    interpreter, entries = None, []
    for kind, offset, _, length in segments:
        if kind == _INTERP:
            interpreter = _text(read(offset, min(length, MAX_NAMES)), 0)
        elif kind == _DYNAMIC:
            entries = list(struct.iter_unpack("<QQ", _whole(read(offset, min(length, MAX_DYNAMIC)), 16)))
    strings = b""
    for tag, value in entries:
        if tag == _STRTAB:
            start = next(
                value - address + offset
                for kind, offset, address, length in segments
                if kind == _LOAD and address <= value < address + length
            )
            strings = read(start, MAX_NAMES)
    names = {tag: [_text(strings, value) for found, value in entries if found == tag] for tag in _NAMES}
    search = ":".join(names[_RUNPATH] or names[_RPATH])
    return Linking(interpreter, tuple(names[_NEEDED]), tuple(part for part in search.split(":") if part))


_NAMES = (_NEEDED, _RPATH, _RUNPATH)


def _whole(raw: bytes, size: int) -> bytes:
    return raw[: len(raw) // size * size]


def _text(raw: bytes, start: int) -> str:
    return raw[start : raw.index(b"\0", start)].decode()
