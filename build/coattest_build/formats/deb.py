"""The contents of a .deb: an ar archive whose data.tar is unpacked and whose control part is ignored.

Source: deb(5). Maintainer scripts are never looked at, let alone run.
"""

from __future__ import annotations

import contextlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

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

    def read(self, size: int, /) -> bytes:
        data = self._file.read(min(size, self._left))
        if not data and size and self._left:
            raise damaged("the file is cut short")
        self._left -= len(data)
        return data


_ENGINES: dict[str, Callable[[], Any]] = {
    ".xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY),
    ".gz": lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16),
}


class _Decompressed:
    """One xz stream or gzip member, as Debian's builders write it: thousands of empty ones take only time."""

    def __init__(self, source: Reader, engine: Any) -> None:
        self._source, self._engine, self._held = source, engine, b""

    def read(self, size: int, /) -> bytes:
        while size and not self._engine.eof:
            if not self._held and getattr(self._engine, "needs_input", True):
                self._held = self._source.read(256 * 1024)
                if not self._held:
                    raise damaged("the compressed data is cut short")
            data: bytes = self._engine.decompress(self._held, size)
            self._held = getattr(self._engine, "unconsumed_tail", b"")  # lzma keeps it by itself
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
            if compression and compression not in _ENGINES:
                raise damaged(f"{name}: this compression is not supported, only xz, gz and none")
            yield _Decompressed(part, _ENGINES[compression]()) if compression else part
    except (lzma.LZMAError, zlib.error) as error:
        raise damaged(f"damaged: {error}", where=label) from error
    except CoattestError as error:
        if error.where is None or not error.where.startswith(label):
            error.where = f"{label}: {error.where}" if error.where else label
        raise
