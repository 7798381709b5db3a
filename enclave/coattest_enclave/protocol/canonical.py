"""Deterministic CBOR (RFC 8949, 4.2.1), strict in both directions.

Allowed are integers, byte strings, text, arrays, maps with text or integer keys, false, true and null.
``loads`` first walks the heads, which bounds size, depth and counts before the decoder sees a byte and
refuses tags, floats and indefinite lengths. Then it decodes, encodes again and compares: that catches
duplicate keys, a wrong key order, integers longer than needed and everything else that has two encodings.

cbor2 sorts keys by length first (RFC 7049), RFC 8949 by bytes. The two agree for text keys, because the
length is in the head, and for the three COSE header maps used here.
"""

from __future__ import annotations

from typing import Any

import cbor2

from coattest_enclave.protocol.errors import MessageError

DEPTH_MAX = 8
"""Levels of nested containers; the deepest message, a result, has 4."""

SIZE_MAX = 64 * 1024 * 1024
"""Bytes of any message; a manifest of 1,000,000 lots is about 20 MB."""

ITEMS_MAX = 4096
"""Items of any message, containers included; a manifest of 64 buyers, which has the most, stays under 1000.
Each costs tens of bytes of memory, so without this limit 64 MiB of empty arrays would take gigabytes.
"""

_FALSE_TRUE_NULL = (0xF4, 0xF5, 0xF6)
_INDEFINITE_OR_RESERVED = 28
_KEY_MAJORS = (0, 1, 3)


def dumps(value: Any) -> bytes:
    """The one encoding of ``value``; raises MessageError for floats, tags and other types."""
    try:
        data: bytes = cbor2.dumps(value, canonical=True)
    except (cbor2.CBOREncodeError, ValueError, TypeError, RecursionError) as error:
        raise MessageError("the value cannot be encoded") from error
    _walk(data)
    return data


def loads(data: bytes, limit: int = SIZE_MAX) -> Any:
    """The value whose one encoding is ``data``; raises MessageError, ``too-large`` for more than ``limit``
    bytes.
    """
    if len(data) > limit:
        raise MessageError(f"over {limit} bytes", "too-large")
    _walk(data)
    try:
        value = cbor2.loads(data)
        again: bytes = cbor2.dumps(value, canonical=True)
    except (cbor2.CBORDecodeError, cbor2.CBOREncodeError, ValueError, TypeError, RecursionError) as error:
        raise MessageError("not CBOR") from error
    if again != data:
        raise MessageError("not encoded deterministically")
    return value


def _walk(data: bytes) -> None:
    """Check head by head: one item of the allowed kinds, not too deep, with nothing after it."""
    position, end, items = 0, len(data), 0
    remaining, maps = [1], [False]
    while remaining:
        if remaining[-1] == 0:
            remaining.pop()
            maps.pop()
            continue
        remaining[-1] -= 1
        items += 1
        if position >= end or items > ITEMS_MAX:
            raise MessageError("truncated, or too many items")
        initial = data[position]
        major, argument = initial >> 5, initial & 31
        position += 1
        if argument >= _INDEFINITE_OR_RESERVED:
            raise MessageError("indefinite length")
        if maps[-1] and remaining[-1] & 1 and major not in _KEY_MAJORS:
            raise MessageError("a map key is neither text nor an integer")
        if argument >= 24:
            width = 1 << (argument - 24)
            argument = int.from_bytes(data[position : position + width], "big")
            position += width
        if major in (2, 3):
            position += argument
        elif major in (4, 5):
            if argument > end - position or len(remaining) > DEPTH_MAX:
                raise MessageError("too deep, or truncated")
            remaining.append(argument * (major - 3))
            maps.append(major == 5)
        elif major == 6 or (major == 7 and initial not in _FALSE_TRUE_NULL):
            raise MessageError("a tag, a float or a simple value")
        if position > end:
            raise MessageError("truncated")
    if position != end:
        raise MessageError("trailing bytes")
