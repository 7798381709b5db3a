"""One number per lot, as a column: 8 bytes big-endian each on the wire, an ``array`` in memory.

Bids, reserves, winners and prices are columns. A million lots are 8 MB in one object, and a column can be
overwritten when it has been used.
"""

from __future__ import annotations

import sys
from array import array

from coattest_enclave.protocol.buffers import wipe
from coattest_enclave.protocol.errors import MessageError

WIDTH = 8
"""Bytes of one number."""


def pack_column(numbers: array[int]) -> bytes:
    """A column's bytes."""
    return _big_endian(array("Q", numbers)).tobytes()


def unpack_column(data: bytes | bytearray | memoryview, count: int, most: int, what: str) -> array[int]:
    """The ``count`` numbers in ``data``, each at most ``most``; raises MessageError, without the number."""
    if not count or len(data) != WIDTH * count:
        raise MessageError(f"{what}: not {WIDTH} bytes per lot")
    numbers = array("Q")
    numbers.frombytes(data)
    if max(_big_endian(numbers)) > most:
        wipe(numbers)
        raise MessageError(f"{what}: a number is out of range")
    return numbers


def _big_endian(numbers: array[int]) -> array[int]:
    if numbers.itemsize != WIDTH:
        raise MessageError("this platform has no 8-byte array type")
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
