"""Small files that unpack to gigabytes, made without compressing gigabytes."""

from __future__ import annotations

import zlib

BLOCK = 1 << 24


def zlib_bomb(begins: bytes, blocks: int) -> bytes:
    """A zlib stream of ``begins`` and then ``blocks`` times 16 MiB of zeros."""
    stream = zlib.compressobj(9, wbits=-15)
    first = stream.compress(begins) + stream.flush(zlib.Z_FULL_FLUSH)
    # After a full flush the same bytes compress to the same bytes.
    block = stream.compress(bytes(BLOCK)) + stream.flush(zlib.Z_FULL_FLUSH)
    checksum = zlib.adler32(begins)
    low, high = checksum & 0xFFFF, checksum >> 16
    checksum = (high + low * BLOCK * blocks) % 65521 << 16 | low  # a zero adds nothing to the low half
    return b"\x78\xda" + first + block * blocks + b"\x03\x00" + checksum.to_bytes(4, "big")
