"""Checks of single fields: each returns the value, or raises MessageError naming the field.

The details never repeat a value, so that they can leave the enclave in an error frame.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from coattest_enclave.protocol.errors import MessageError

DIGEST = 48
"""Bytes of a SHA-384."""

AMOUNT_MAX = 2**53 - 1
"""Largest amount in minor units, and largest time: what every JSON reader holds exactly (RFC 8259, 6)."""

LOTS_MAX = 2**20
"""Lots of an auction."""

IDS_MAX = 40 * 1024 * 1024
"""Characters of all lot ids together, so that manifest and result with their columns stay under 64 MiB."""

BUYERS_MAX = 64
"""A lot's winners fit 8 bytes, one bit each; the seals of all buyers fit one frame."""

FIRST_PRICE, SECOND_PRICE = "first-price", "second-price"

# ASCII only: two names that look alike must not be two buyers.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
CURRENCY = re.compile(r"[A-Z]{3}")
RULE = re.compile(f"{FIRST_PRICE}|{SECOND_PRICE}")


def sha384(data: bytes | bytearray) -> bytes:
    """SHA-384, 48 bytes."""
    return hashlib.sha384(data).digest()


def exact_map(value: Any, purpose: str | None, names: Sequence[str]) -> dict[str, Any]:
    wanted = {*names, "purpose"} if purpose else set(names)
    if not isinstance(value, dict) or set(value) != wanted:
        raise MessageError("not a map with exactly the expected fields")
    if purpose and value["purpose"] != purpose:
        raise MessageError(f"purpose is not {purpose}")
    return {name: value[name] for name in names}


def array_of(value: Any, what: str, size: int | None = None) -> list[Any]:
    if not isinstance(value, list) or (size is not None and len(value) != size):
        raise MessageError(f"{what}: not an array of the expected size")
    return value


def byte_string(value: Any, least: int, most: int, what: str) -> bytes:
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        raise MessageError(f"{what}: not a byte string of {least} to {most} bytes")
    return value


def text(value: Any, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise MessageError(f"{what}: not of the form {pattern.pattern}")
    return value


def uint(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= AMOUNT_MAX:
        raise MessageError(f"{what}: not an integer from 0 to {AMOUNT_MAX}")
    return value


def unique(values: Sequence[str] | Sequence[bytes], what: str) -> None:
    if len(set(values)) != len(values):
        raise MessageError(f"{what} appears twice")
