"""The plaintext of a bid: one amount per lot, as a column."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from coattest_enclave.protocol import columns
from coattest_enclave.protocol.errors import MessageError
from coattest_enclave.protocol.fields import AMOUNT_MAX, LOTS_MAX, uint

AMOUNT_SIZE = columns.WIDTH
"""Bytes of one amount in a bid."""


def column(numbers: Iterable[int], what: str) -> array[int]:
    """A column of these numbers, each 0 to AMOUNT_MAX; raises MessageError."""
    return array("Q", [uint(number, what) for number in numbers])


def pack_bids(amounts: Sequence[int]) -> bytes:
    """The plaintext of a bid, amounts in the manifest order, 0 for no bid; raises MessageError."""
    if not 1 <= len(amounts) <= LOTS_MAX:
        raise MessageError("number of amounts out of range")
    return columns.pack_column(column(amounts, "amount"))


def unpack_bids(plaintext: bytes | bytearray, lots: int) -> array[int]:
    """The amounts of a bid on ``lots`` lots; raises MessageError, which never says what was in it."""
    return columns.unpack_column(plaintext, lots, AMOUNT_MAX, "bid")
