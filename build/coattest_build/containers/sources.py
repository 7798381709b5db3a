"""Bytes that can be read at any place: parts of an open file, or a private file that nobody else can change.

Layers are copied to one unnamed temporary file while their digest is computed, and read from there only:
what was checked is what is used, and nothing of an image is ever unpacked to a folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO, Protocol, cast

from coattest.errors import EnvironmentFailure
from coattest_build.containers.errors import ContainerError, beyond_limit, not_read
from coattest_build.formats.eif import ImageError
from coattest_build.formats.lenient.decompress import READ, StreamEndedError, Unpacked, method_of

BLOCK = 1 << 20
MAX_MEMBERS = 400_000
"""Gzip members or zstd frames of one layer; eStargz has one for each file."""
_SKIPPABLE = {bytes([0x50 + low]) + b"\x2a\x4d\x18" for low in range(16)}
"""First bytes of zstd's skippable frames (RFC 8878, section 3.1.2)."""


class Positioned(Protocol):
    """Bytes of a known size."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        ...

    def read(self, offset: int, size: int, /) -> bytes:
        """The bytes there, fewer at the end only."""
        ...


class HeldBytes:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def read(self, offset: int, size: int, /) -> bytes:
        """The bytes there."""
        return self._data[offset : offset + size]


@dataclass(frozen=True, slots=True)
class FilePart:
    """``size`` bytes of an open file from ``start`` on."""

    file: IO[bytes]
    start: int
    size: int

    def read(self, offset: int, size: int, /) -> bytes:
        """The bytes there."""
        size = min(size, self.size - offset)
        return os.pread(self.file.fileno(), size, self.start + offset) if size > 0 else b""

    def part(self, offset: int, size: int) -> FilePart:
        """A part of this part."""
        return FilePart(self.file, self.start + offset, min(size, max(self.size - offset, 0)))


class Spool:
    """A private ``file`` without a name, of at most ``limit`` bytes; it is gone when it is closed."""

    def __init__(self, limit: int) -> None:
        self.file = cast("BinaryIO", tempfile.TemporaryFile(prefix="coattest-container-"))  # noqa: SIM115
        self._limit = limit
        self._size = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, blocks: Iterator[bytes], where: str) -> tuple[FilePart, str]:
        """Append, and return the part that was written and its SHA-256 in hex. Raises ContainerError."""
        start, digest = self._size, hashlib.sha256()
        self.file.seek(start)
        for block in blocks:
            self._size += len(block)
            if self._size > self._limit:
                raise beyond_limit(
                    f"unpacks to more than {self._limit} bytes", where=where, hint="--max-size allows more"
                )
            digest.update(block)
            self.file.write(block)
        self.file.flush()
        return FilePart(self.file, start, self._size - start), digest.hexdigest()

    def left(self) -> int:
        """Bytes that still fit."""
        return self._limit - self._size


def plain_blocks(source: Positioned) -> Iterator[bytes]:
    """All bytes in blocks. Raises ContainerError when there are fewer than there were."""
    position = 0
    while position < source.size:
        block = source.read(position, min(BLOCK, source.size - position))
        if not block:
            raise ContainerError("became shorter while it was read")
        yield block
        position += len(block)


def compression_of(source: Positioned) -> str | None:
    """How the bytes are compressed, by their first bytes as Docker tells; None for not at all."""
    first = source.read(0, 6)
    return "zstd" if first[:4] in _SKIPPABLE else method_of(first)


def unpacked_blocks(source: Positioned, limit: int, where: str) -> Iterator[bytes]:
    """The decompressed bytes, of all members of a gzip or zstd file, at most ``limit`` of them.

    Raises ContainerError; EnvironmentFailure (``missing-extra``) where this Python has no zstd.
    """
    method = compression_of(source)
    if method is None:
        yield from plain_blocks(source)
        return
    if method not in READ:
        raise not_read(f"is compressed with {method}, which is not read here", where=where)
    position = members = produced = 0
    while position < source.size:
        first = source.read(position, 8)
        if method == "zstd" and first[:4] in _SKIPPABLE and len(first) == 8:
            position += 8 + int.from_bytes(first[4:], "little")
            if position > source.size:
                raise ContainerError("a skippable frame ends early", where=where)
        elif method_of(first) != method:
            raise ContainerError(f"has other data after its {method} data", where=where)
        else:
            member = Unpacked(method, _from(source, position), limit - produced)
            yield from _checked(member, limit, where)
            produced += member.size
            position += member.consumed
        members += 1
        if members > MAX_MEMBERS:
            raise beyond_limit(f"more than {MAX_MEMBERS} {method} members", where=where)


def _from(source: Positioned, start: int) -> Callable[[int, int], bytes]:
    return lambda offset, size: source.read(start + offset, size)


def _checked(member: Unpacked, limit: int, where: str) -> Iterator[bytes]:
    try:
        yield from member
    except StreamEndedError as error:
        raise ContainerError(f"is damaged: {error}", where=where) from None
    except ImageError:
        raise beyond_limit(
            f"unpacks to more than {limit} bytes", where=where, hint="--max-size allows more"
        ) from None
    except EnvironmentFailure as error:
        raise EnvironmentFailure(
            "is compressed with zstd, which this Python cannot read",
            where=where,
            hint=error.hint,
            code="missing-extra",
        ) from None
