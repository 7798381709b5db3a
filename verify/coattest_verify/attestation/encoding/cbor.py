"""A strict CBOR reader for what attestation documents are made of.

It reads values and refuses, in the same pass, what ordinary decoders let through:

* heads that are not minimal (RFC 8949 section 4.2.1), reserved additional information;
* tags, and with them big numbers and shared references; undefined and unassigned simple values;
* byte and text strings in chunks; text that is not UTF-8;
* duplicate keys, and keys that are neither text nor integers (True and 1.0 would collide with 1);
* nesting deeper than DEPTH_MAX, lengths and counts beyond the bytes that are there.

Collections of indefinite length are read where the caller allows them: since 2025 the payload is one.
Bytes in, values out: dict, list, bytes, str, int, float, bool, None. Only CborError escapes.
"""

from __future__ import annotations

import itertools
import struct
from typing import Final, TypeAlias

from coattest_verify.attestation.limits import DEPTH_MAX

Value: TypeAlias = (
    "int | float | bool | bytes | str | list[Value] | dict[int | str, Value] | None"  # recursive, so quoted
)

_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_BREAK: Final = 0xFF
_INDEFINITE: Final = 31
_INLINE_MAX: Final = 23
_WIDTH: Final = {24: 1, 25: 2, 26: 4, 27: 8}
# RFC 8949 section 3: the smallest argument that needs each width.
_SMALLEST: Final = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
_FLOATS: Final = {25: ">e", 26: ">f", 27: ">d"}
_REGISTER: Final = struct.Struct(">BH48s")  # an integer up to 23, the head of 48 bytes, and these
_REGISTER_HEAD: Final = 0x5830
_CONSTANTS: Final[dict[int, bool | None]] = {20: False, 21: True, 22: None}


class CborError(Exception):
    """The bytes are not in the subset. ``offset`` is where, ``expected`` and ``found`` say what."""

    def __init__(self, offset: int, expected: str, found: str) -> None:
        super().__init__(f"at byte {offset}: expected {expected}, found {found}")
        self.offset = offset
        self.expected = expected
        self.found = found


def decode_cbor(data: bytes) -> Value:
    """Decode ``data``, which must be exactly one value. Raises CborError."""
    (value,), end = _items(data, 0, 1, 0)
    if end != len(data):
        raise CborError(end, "the end", f"{len(data) - end} more bytes")
    return value


def _items(data: bytes, offset: int, count: int, depth: int) -> tuple[list[Value], int]:
    """``count`` values at ``offset`` (-1: until the break), and the offset after them.

    ``depth`` counts the collections around them.
    """
    items: list[Value] = []
    limit = len(data)
    for _ in range(count) if count >= 0 else itertools.count():
        try:
            initial = data[offset]
        except IndexError:
            raise CborError(offset, "a value", "the end") from None
        # Three kinds of head make up most of a document; the rest goes the long way. Same rules, less time.
        if 0x60 <= initial <= 0x77:  # text of up to 23 bytes
            end = offset + initial - 0x5F
            text = data[offset + 1 : end]
            if end <= limit and text.isascii():
                items.append(text.decode())
                offset = end
                continue
        elif initial == 0x59 and offset + 2 < limit and data[offset + 1]:  # bytes, length in two bytes
            end = offset + 3 + (data[offset + 1] << 8 | data[offset + 2])
            if end <= limit:
                items.append(data[offset + 3 : end])
                offset = end
                continue
        elif initial == 0xF6:
            items.append(None)
            offset += 1
            continue
        elif initial == _BREAK and count < 0:
            return items, offset + 1
        item, offset = _read_any(data, offset, depth, initial)
        items.append(item)
    return items, offset


def _read_any(data: bytes, offset: int, depth: int, initial: int) -> tuple[Value, int]:  # noqa: PLR0911
    """The value at ``offset``, of any kind; one branch per major type."""
    major, information = initial >> 5, initial & 31
    if information <= _INLINE_MAX:
        argument, offset = information, offset + 1
    elif major == _SIMPLE:
        return _float(data, offset, information)
    elif information == _INDEFINITE and major in (_ARRAY, _MAP):
        argument, offset = -1, offset + 1
    else:
        argument, offset = _argument(data, offset, information)
    if major == _TEXT:
        return _text(data, offset, argument), offset + argument
    if major == _BYTES:
        return _slice(data, offset, argument), offset + argument
    if major == _MAP:
        return _map(data, offset, argument, depth + 1)
    if major == _ARRAY:
        return _array(data, offset, argument, depth + 1)
    if major in (_UINT, _NINT):
        return argument if major == _UINT else -1 - argument, offset
    if major == _TAG:
        raise CborError(offset - 1, "no tag", f"tag {argument}")
    if argument not in _CONSTANTS:
        raise CborError(offset - 1, "false, true or null", f"simple value {argument}")
    return _CONSTANTS[argument], offset


def read_head(data: bytes, offset: int, major: int, name: str) -> tuple[int, int]:
    """The argument of a definite head of type ``major`` at ``offset``, and the offset after the head.

    For the envelope, whose every head is known. ``name`` is what a finding calls it. Raises CborError.
    """
    try:
        initial = data[offset]
    except IndexError:
        raise CborError(offset, name, "the end") from None
    if initial >> 5 != major or initial & 31 == _INDEFINITE:
        raise CborError(offset, name, f"byte 0x{initial:02x}")
    if initial & 31 <= _INLINE_MAX:
        return initial & 31, offset + 1
    return _argument(data, offset, initial & 31)


def _argument(data: bytes, offset: int, information: int) -> tuple[int, int]:
    """The argument in the bytes after the initial one; it must need that many."""
    width = _WIDTH.get(information)
    if width is None:
        what = "indefinite length" if information == _INDEFINITE else f"additional information {information}"
        raise CborError(offset, "a definite length", what)
    end = offset + 1 + width
    if end > len(data):
        raise CborError(offset, f"a head of {width + 1} bytes", "the end")
    argument = int.from_bytes(data[offset + 1 : end], "big")
    if argument < _SMALLEST[information]:
        raise CborError(offset, "the shortest form", f"{argument} in {width} bytes")
    return argument, end


def _slice(data: bytes, offset: int, size: int) -> bytes:
    """``size`` bytes at ``offset``, all of which must be there."""
    end = offset + size
    if end > len(data):
        raise CborError(offset, f"{size} bytes", f"{len(data) - offset}")
    return data[offset:end]


def _text(data: bytes, offset: int, size: int) -> str:
    try:
        return _slice(data, offset, size).decode("utf-8")
    except UnicodeDecodeError:
        raise CborError(offset, "UTF-8", "other bytes") from None


def _array(data: bytes, offset: int, count: int, depth: int) -> tuple[list[Value], int]:
    """An array's items; ``count`` -1 means until the break."""
    _check_depth(offset, depth)
    _check_count(data, offset, count)
    return _items(data, offset, count, depth)


def _map(data: bytes, offset: int, count: int, depth: int) -> tuple[dict[int | str, Value], int]:
    """A map's entries; ``count`` -1 means until the break. Keys are text or integers, each once."""
    _check_depth(offset, depth)
    _check_count(data, offset, 2 * count)
    end = offset + count * _REGISTER.size
    if offset < end <= len(data):  # a short cut for registers, if these are all there is
        registers: dict[int | str, Value] = {
            index: register
            for index, head, register in _REGISTER.iter_unpack(data[offset:end])
            if head == _REGISTER_HEAD and index <= _INLINE_MAX
        }
        if len(registers) == count:
            return registers, end
    items, end = _items(data, offset, max(-1, 2 * count), depth)
    if len(items) % 2:
        raise CborError(end - 1, "a value", "a break")
    entries: dict[int | str, Value] = {}
    for index in range(0, len(items), 2):
        key = items[index]
        # Not isinstance: a bool is an int to Python, and True would be found under 1.
        if type(key) is not str and type(key) is not int:
            _, start = _items(data, offset, index, depth)
            raise CborError(start, "a key that is text or an integer", type(key).__name__)
        if key in entries:
            _, start = _items(data, offset, index, depth)
            raise CborError(start, "each key once", f"{key!r:.60} again")
        entries[key] = items[index + 1]
    return entries, end


def _check_depth(offset: int, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise CborError(offset, f"at most {DEPTH_MAX} nested collections", "more")


def _check_count(data: bytes, offset: int, count: int) -> None:
    """Refuse a count beyond the bytes that are there: an item takes at least one."""
    if count > len(data) - offset:
        raise CborError(offset, f"{count} items", f"{len(data) - offset} bytes")


def _float(data: bytes, offset: int, information: int) -> tuple[float, int]:
    """A floating point value: no known field has one, but one that AWS adds might."""
    layout = _FLOATS.get(information)
    if layout is None:
        raise CborError(offset, "a value", "a break" if information == _INDEFINITE else "a simple value")
    size = _WIDTH[information]
    (number,) = struct.unpack(layout, _slice(data, offset + 1, size))
    return float(number), offset + 1 + size
