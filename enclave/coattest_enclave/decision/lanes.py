"""Many amounts in one big integer, a lane of 64 bits each, so that one operation works on all of them.

What an operation costs depends on the sizes of its operands only, and sizes must not depend on amounts.
CPython drops an integer's leading zeros, so every number here has one more lane on top, with bits that
never vanish. Its subtraction first looks for the highest digit in which the operands differ, so the
minuend's top lane is always the greater one. tests/enclave/test_enclave_time.py checks both for every
operation of a decision.

Amounts have at most 53 bits, so a lane has room for a flag above them, at bit 53. Integers cannot be
overwritten after use. That is why they are small: the memory of one is soon another's.
"""

from __future__ import annotations

LANES = 1024
"""Amounts in one integer; the last ones of a column may be unused."""

WIDTH = 8
"""Bytes of a lane."""

SIZE = WIDTH * LANES

AMOUNT_BITS = 53
"""Bits of AMOUNT_MAX (protocol/fields.py)."""

_TOP = 1 << 8 * SIZE


def _all(number: int) -> int:
    """This number in every lane, and none on top."""
    return int.from_bytes(number.to_bytes(WIDTH, "big") * LANES, "big")


# What is on top: bit 60 of a number, bit 61 of flags, bits 8 to 60 of a mask.
_FLAGS = _all(1 << AMOUNT_BITS) | _TOP << 61
_AMOUNTS = _all((1 << AMOUNT_BITS) - 1)
_BEYOND = _all((1 << 64) - (1 << AMOUNT_BITS)) | _TOP << 60

ZEROS = _TOP << 60
"""A zero in every lane."""

ONES = _all(1) | ZEROS
"""A one in every lane."""

EVERY = _AMOUNTS | ((1 << 61) - (1 << 8)) * _TOP
"""The mask that keeps every lane; NONE keeps none."""

NONE = EVERY ^ _AMOUNTS


class ColumnReader:
    """Reads columns of big-endian amounts piece by piece, through one buffer that ``close`` overwrites."""

    def __init__(self) -> None:
        self._buffer = bytearray(WIDTH + SIZE)
        self._buffer[0] = 1 << 60 - 56

    def read(self, column: memoryview, start: int) -> int:
        """The LANES numbers from byte ``start`` of ``column`` on; what is beyond its end is 0."""
        piece = column[start : start + SIZE]
        self._buffer[WIDTH : WIDTH + len(piece)] = piece
        self._buffer[WIDTH + len(piece) :] = bytes(SIZE - len(piece))
        return int.from_bytes(self._buffer, "big")

    def close(self) -> None:
        """Overwrite the buffer."""
        self._buffer[:] = bytes(len(self._buffer))


def write(numbers: int) -> bytes:
    """The lanes as a column, big-endian; what is on top is left out."""
    return numbers.to_bytes(SIZE + 2 * WIDTH, "big")[2 * WIDTH :]


def is_amounts(numbers: int) -> bool:
    """Whether every lane is at most AMOUNT_MAX."""
    return numbers & _BEYOND == ZEROS


def at_least(left: int, right: int) -> int:
    """A flag in each lane where ``left`` is at least ``right``; both are amounts."""
    return (left | _FLAGS) - right & _FLAGS


def inverse(flags: int) -> int:
    """The flags of the other lanes."""
    return flags ^ (_FLAGS ^ _TOP << 61)


def mask(flags: int) -> int:
    """All bits of an amount in each lane with a flag."""
    return flags - (flags >> AMOUNT_BITS)


def kept(numbers: int, by: int) -> int:
    """The amounts where the mask is, 0 elsewhere."""
    return numbers & by


def sort(left: int, right: int) -> tuple[int, int]:
    """The greater and the smaller of both amounts, in each lane."""
    by = mask(at_least(left, right))
    other = by ^ _AMOUNTS
    return left & by | right & other, right & by | left & other


def bits(flags: int, index: int) -> int:
    """Bit ``index`` (0 to 63) in each lane with a flag."""
    return flags >> AMOUNT_BITS - index if index <= AMOUNT_BITS else flags << index - AMOUNT_BITS
