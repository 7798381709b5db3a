"""Compressed ramdisks as streams of blocks: gzip, xz and zstd, bounded in what they may become.

Linux finds the method by the first bytes (``lib/decompress.c``) and takes one member at a time.
"""

from __future__ import annotations

import importlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from coattest.errors import EnvironmentFailure
from coattest_build.formats.eif import ImageError

MAX_UNPACKED = 4 << 30
"""Bytes that all compressed archives of an image may become; an enclave's memory has to hold them."""

MAX_WINDOW = 128 << 20
"""Bytes of history that a stream may refer to (``ZSTD_WINDOWLOG_MAX`` of Linux); it bounds our memory."""

BLOCK = 1 << 18

MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\x1f\x9e": "gzip",
    b"BZh": "bzip2",
    b"\x5d\x00\x00": "lzma",
    b"\xfd7zXZ\x00": "xz",
    b"\x89LZO": "lzo",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""First bytes and methods (``compressed_formats`` of Linux); of these gzip, xz and zstd are read here."""

READ = ("gzip", "xz", "zstd")


class StreamEndedError(Exception):
    """The compressed stream is damaged or ends early; the text says how."""


def method_of(first: bytes) -> str | None:
    """The compression that data with these first bytes has; None for none that Linux knows."""
    return next((name for magic, name in MAGICS.items() if first.startswith(magic)), None)


class Unpacked:
    """One compressed member: iterate for its blocks; ``consumed`` is then how many bytes it took.

    ``read(offset, size)`` gives compressed bytes. Iterating raises StreamEndedError, ImageError for more than
    ``limit`` bytes, EnvironmentFailure where there is no zstd.
    """

    def __init__(self, method: str, read: Callable[[int, int], bytes], limit: int = MAX_UNPACKED) -> None:
        self._method = method
        self._read = read
        self._limit = limit
        self.consumed = 0
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        if self._method == "gzip":
            return self._gzip()
        if self._method == "xz":
            return self._blocks(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_WINDOW))
        return self._zstd()

    def _gzip(self) -> Iterator[bytes]:
        state = zlib.decompressobj(31)
        waiting = b""
        while not state.eof:
            data = waiting or self._more()
            try:
                block = state.decompress(data, BLOCK)
            except zlib.error as error:
                raise StreamEndedError(f"gzip: {error}") from None
            waiting = state.unconsumed_tail
            self._count(block)
            if block:
                yield block
        self.consumed -= len(state.unused_data) + len(waiting)

    def _blocks(self, state: Any) -> Iterator[bytes]:
        while not state.eof:
            data = self._more() if state.needs_input else b""
            try:
                block = state.decompress(data, BLOCK)
            except (lzma.LZMAError, EOFError) as error:
                raise StreamEndedError(f"xz: {error}") from None
            except Exception as error:  # zstd's error types differ between libraries
                raise StreamEndedError(f"{self._method}: {error}") from None
            self._count(block)
            if block:
                yield block
        self.consumed -= len(state.unused_data)

    def _zstd(self) -> Iterator[bytes]:
        for name in ("compression.zstd", "backports.zstd"):
            try:
                module = importlib.import_module(name)
            except ModuleNotFoundError:
                continue
            options = {module.DecompressionParameter.window_log_max: MAX_WINDOW.bit_length() - 1}
            return self._blocks(module.ZstdDecompressor(options=options))
        raise EnvironmentFailure(
            "a ramdisk is compressed with zstd, which this Python cannot read",
            hint="use Python 3.14, or install the extra `build`",
            code="missing-extra",
        )

    def _more(self) -> bytes:
        data = self._read(self.consumed, 1 << 16)
        if not data:
            raise StreamEndedError(f"{self._method}: it ends early")
        self.consumed += len(data)
        return data

    def _count(self, block: bytes) -> None:
        self.size += len(block)
        if self.size > self._limit:
            raise ImageError(
                f"its compressed ramdisks become more than {MAX_UNPACKED} bytes", code="cpio-limit"
            )
