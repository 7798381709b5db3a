"""The contents of a .deb: an ar archive whose data.tar is unpacked and whose control part is ignored.

Source: deb(5). Maintainer scripts are never looked at, let alone run.
"""

from __future__ import annotations

import contextlib
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from coattest.errors import CoattestError
from coattest_build.formats.tar import Reader, damaged

MAGIC = b"!<arch>\n"
HEADER = 60
"""Bytes of an ar header (deb(5))."""
MAX_AR_MEMBERS = 16
XZ_MEMORY = 192 * 1024 * 1024
"""Bytes that decompressing may take; ``xz -9e``, the most that Debian's builders use, needs 65 MiB."""


class _Slice:
    """The next ``size`` bytes of an open file as a stream."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        if not data and size and self._left:
            raise damaged("the file is cut short")
        self._left -= len(data)
        return data


class _Xz:
    """One xz stream, decompressed with a memory limit."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)

    def read(self, size: int, /) -> bytes:
        while not self._decompressor.eof:
            packed = self._source.read(256 * 1024) if self._decompressor.needs_input else b""
            if not packed and self._decompressor.needs_input:
                raise damaged("the compressed data is cut short")
            data = self._decompressor.decompress(packed, size)
            if data:
                return data
        return b""


class _Gzip:
    """One gzip member, as Debian's builders write it: thousands of empty ones would only take time."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._engine = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    def read(self, size: int, /) -> bytes:
        while size and not self._engine.eof:
            packed = self._engine.unconsumed_tail or self._source.read(256 * 1024)
            if not packed:
                raise damaged("the compressed data is cut short")
            data = self._engine.decompress(packed, size)
            if data:
                return data
        return b""


def _find_data(file: BinaryIO) -> tuple[str, int]:
    """The name and the size of the data.tar member, with ``file`` positioned at its first byte."""
    if file.read(8) != MAGIC:
        raise damaged("not a Debian package (no ar header)")
    for index in range(MAX_AR_MEMBERS):
        header = file.read(HEADER)
        if len(header) != HEADER or header[58:] != b"`\n":
            raise damaged("the file is cut short, or an ar header is damaged")
        name = header[:16].decode("latin-1").strip().rstrip("/")
        digits = header[48:58].strip()
        if not digits.isdigit():  # of bytes: ASCII digits only
            raise damaged("an ar member has no size")
        size = int(digits)
        if index == 0 and (name != "debian-binary" or size > 16 or file.read(size)[:2] != b"2."):
            raise damaged("not a Debian package of format 2")
        if name.startswith("data.tar"):
            return name, size
        if index:
            file.seek(size, 1)
        file.seek(size % 2, 1)
    raise damaged("there is no data.tar in it")


@contextlib.contextmanager
def open_data(path: Path, label: str) -> Iterator[Reader]:
    """The decompressed data.tar of a .deb as a stream.

    Whatever is wrong with the file is FoundFalse (``bad-archive``) whose ``where`` begins with ``label``.
    """
    try:
        with path.open("rb") as file:
            name, size = _find_data(file)
            part = _Slice(file, size)
            compression = name.removeprefix("data.tar")
            if compression == ".xz":
                yield _Xz(part)
            elif compression == ".gz":
                yield _Gzip(part)
            elif not compression:
                yield part
            else:
                raise damaged(f"{name}: this compression is not supported, only xz, gz and none")
    except (lzma.LZMAError, zlib.error) as error:
        raise damaged(f"damaged: {error}", where=label) from error
    except CoattestError as error:
        if error.where is None or not error.where.startswith(label):
            error.where = f"{label}: {error.where}" if error.where else label
        raise
