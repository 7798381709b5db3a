"""Sparse files of pax, forms 0.0, 0.1 and 1.0: where their pieces are.

Source: GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from coattest_build.containers.errors import ContainerError, beyond_limit, not_read

BLOCK = 512
MAX_EXTENTS = 65_536
"""Pieces of one sparse file."""
MAX_PIECES = 500_000
"""Pieces of all sparse files of an archive, and of an image; each takes about 100 bytes of memory."""
_INTEGER = re.compile(rb"0*[0-9]{1,18}")

Extent = tuple[int, int]
"""A place in the layer and a number of bytes; a place of -1 means zeros."""


def integer(text: bytes) -> int:
    """A decimal number of a pax header. Raises ContainerError."""
    if len(text) > 64 or not _INTEGER.fullmatch(text):
        raise ContainerError("a number of a pax header is not one")
    return int(text)


def _damaged() -> ContainerError:
    return ContainerError("a sparse file's map is damaged")


def sparse_content(
    pax: Mapping[bytes, bytes],
    records: Sequence[tuple[bytes, bytes]],
    read: Callable[[int, int], bytes],
    start: int,
    stored: int,
) -> tuple[int, tuple[Extent, ...]]:
    """The size and pieces of a sparse file whose ``stored`` bytes begin at ``start``.

    Raises ContainerError.
    """
    used = 0
    if b"GNU.sparse.major" in pax:
        if (pax[b"GNU.sparse.major"], pax.get(b"GNU.sparse.minor")) != (b"1", b"0"):
            raise not_read("a sparse file of an unknown form")
        size = integer(pax.get(b"GNU.sparse.realsize", b""))
        numbers, used = _leading_map(read, start, stored)
    else:
        size = integer(pax.get(b"GNU.sparse.size", b""))
        numbers = _header_map(pax, records)
    if len(numbers) % 2 or len(numbers) > 2 * MAX_EXTENTS:
        raise _damaged()
    return size, _pieces(numbers, size, start + used, start + stored)


def _header_map(pax: Mapping[bytes, bytes], records: Sequence[tuple[bytes, bytes]]) -> list[int]:
    if b"GNU.sparse.map" in pax:
        return [integer(text) for text in pax[b"GNU.sparse.map"].split(b",") if text]
    names = [key for key, _ in records]
    if names != [b"GNU.sparse.offset", b"GNU.sparse.numbytes"] * (len(names) // 2):
        raise _damaged()
    return [integer(value) for _, value in records]


def _leading_map(read: Callable[[int, int], bytes], start: int, stored: int) -> tuple[list[int], int]:
    """The numbers of a map of form 1.0, which begins the file's data, and the bytes that it takes."""
    numbers: list[int] = []
    used, rest = 0, b""
    wanted: int | None = None
    while wanted is None or len(numbers) < wanted:
        if used + BLOCK > stored or len(rest) > 32:
            raise _damaged()
        *lines, rest = (rest + read(start + used, BLOCK)).split(b"\n")
        used += BLOCK
        for line in lines:
            if wanted is None:
                wanted = 2 * integer(line)
                if wanted > 2 * MAX_EXTENTS:
                    raise beyond_limit(f"a sparse file of more than {MAX_EXTENTS} pieces")
            elif len(numbers) < wanted:
                numbers.append(integer(line))
    return numbers, used


def _pieces(numbers: Sequence[int], size: int, place: int, end: int) -> tuple[Extent, ...]:
    pieces: list[Extent] = []
    logical = 0
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        if offset < logical or offset + length > size or place + length > end:
            raise _damaged()
        if offset > logical:
            pieces.append((-1, offset - logical))
        if length:
            pieces.append((place, length))
        place += length
        logical = offset + length
    if place != end:
        raise _damaged()
    if logical < size:
        pieces.append((-1, size - logical))
    return tuple(pieces)
