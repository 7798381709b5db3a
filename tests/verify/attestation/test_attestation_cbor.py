"""The CBOR reader: what it reads, what it refuses, and that cbor2 never disagrees with what it reads."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coattest_verify.attestation.encoding.cbor import CborError, decode_cbor, read_head
from coattest_verify.attestation.limits import DEPTH_MAX
from support.verify.nitro_ca import Pairs, Stream, cbor, head

REFUSED = {
    "nothing at all": "",
    "a byte after the end": "0000",
    "a second value after the end": "a0a0",
    "a truncated head": "19ff",
    "a truncated byte string": "4401",
    "a truncated text": "6461",
    "a truncated array": "8201",
    "a truncated map": "a101",
    "an indefinite array without its end": "9f01",
    "an indefinite map without its end": "bf6161",
    "an indefinite map that ends after a key": "bf6161ff",
    "23 in one extra byte": "1817",
    "255 in two bytes": "1900ff",
    "65535 in four bytes": "1a0000ffff",
    "2**32-1 in eight bytes": "1b00000000ffffffff",
    "-24 in one extra byte": "3817",
    "-36 in two bytes, as {1: -35} would say it": "390022",
    "a byte string's length in one extra byte": "580161",
    "a text's length in two bytes": "79000161",
    "an array's count in one extra byte": "980100",
    "a map's count in one extra byte": "b8010101",
    "additional information 28": "1c",
    "additional information 29": "5d",
    "additional information 30": "9e",
    "a byte string in chunks": "5f42010243030405ff",
    "a text in chunks": "7f61616162ff",
    "an unsigned integer of indefinite length": "1f",
    "a negative integer of indefinite length": "3f",
    "a tag": "c000",
    "tag 18 inside": "d200",
    "a tag of indefinite length": "df00",
    "a big number": "c24101",
    "a shared reference": "d81c80",
    "undefined": "f7",
    "an unassigned simple value": "e0",
    "a simple value in one extra byte": "f820",
    "false in one extra byte": "f814",
    "a break on its own": "ff",
    "a break in a definite array": "81ff",
    "a break in a definite map": "a1ff00",
    "a break in a definite map inside": "82a1ff00",
    "a break in a definite array inside": "8281ff00",
    "a reserved float": "fc",
    "a truncated float": "fb00000000000000",
    "the same text key twice": "a2616101616102",
    "the same integer key twice": "a201010102",
    "the same key twice in an indefinite map": "bf616101616102ff",
    "True, which collides with 1": "a20101f502",
    "1.0, which collides with 1": "a20101fb3ff000000000000002",
    "a boolean key": "a1f501",
    "a float key": "a1f93c0001",
    "a null key": "a1f601",
    "a byte string key": "a1416101",
    "an array key": "a18001",
    "a map key": "a1a001",
    "text that is not UTF-8": "61ff",
    "a lone surrogate": "63eda080",
    "an array of 2**64-1": "9bffffffffffffffff",
    "a map of 2**64-1": "bbffffffffffffffff",
    "a map of more entries than bytes": "a20101",
    "a byte string of 2**64-1": "5bffffffffffffffff",
    "nesting beyond the limit": "81" * (DEPTH_MAX + 1) + "00",
    "indefinite nesting beyond the limit": "9f" * (DEPTH_MAX + 1) + "00" + "ff" * (DEPTH_MAX + 1),
    "maps beyond the limit": "a100" * (DEPTH_MAX + 1) + "00",
    "ten thousand open arrays": "9f" * 10_000,
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_refuses(data: str) -> None:
    """What has a second spelling, another meaning elsewhere, or no end, is refused."""
    with pytest.raises(CborError):
        decode_cbor(bytes.fromhex(data))


READ = {
    "the smallest heads": (
        "88001718181901001a000100001b00000001000000002037",
        [0, 23, 24, 256, 2**16, 2**32, -1, -24],
    ),
    "an indefinite array": ("9f0102ff", [1, 2]),
    "an indefinite map": ("bf616101ff", {"a": 1}),
    "an empty indefinite map": ("bfff", {}),
    "keys out of order": ("a2616202616101", {"b": 2, "a": 1}),
    "1 and -1 and '1' as keys": ("a30101200261310a", {1: 1, -1: 2, "1": 10}),
    "constants": ("83f4f5f6", [False, True, None]),
    "floats of every width": ("83f93e00fa3fc00000fb3ff8000000000000", [1.5, 1.5, 1.5]),
    "nesting at the limit": ("81" * DEPTH_MAX + "00", None),
    "text beyond ASCII": ("62c3bc", "ü"),
    "the largest unsigned integer": ("1bffffffffffffffff", 2**64 - 1),
    "the smallest negative integer": ("3bffffffffffffffff", -(2**64)),
}


@pytest.mark.parametrize(("data", "value"), READ.values(), ids=READ)
def test_reads(data: str, value: object) -> None:
    """Minimal CBOR is read, collections of indefinite length included, to what cbor2 reads."""
    raw = bytes.fromhex(data)
    assert decode_cbor(raw) == cbor2.loads(raw)
    if value is not None:
        assert decode_cbor(raw) == value


def test_booleans_stay_booleans() -> None:
    """A boolean is not read as the integer that it equals in Python."""
    assert decode_cbor(b"\xf5") is True
    assert decode_cbor(b"\xf4") is False
    assert type(decode_cbor(b"\x01")) is int


SAID = {
    "8301021903": (3, "a head of 3 bytes", "the end"),
    "8201": (1, "2 items", "1 bytes"),
    "a20101": (1, "4 items", "2 bytes"),
    "8100ff": (2, "the end", "1 more bytes"),
    "8101c100": (2, "the end", "2 more bytes"),
    "81c100": (1, "no tag", "tag 1"),
    "81d81c80": (2, "no tag", "tag 28"),
    "81f7": (1, "false, true or null", "simple value 23"),
    "815f": (1, "a definite length", "indefinite length"),
    "815c": (1, "a definite length", "additional information 28"),
    "814401": (2, "4 bytes", "1"),
    "82ff00": (1, "a value", "a break"),
    "82fc00": (1, "a value", "a simple value"),
    "81": (1, "1 items", "0 bytes"),
    "9f": (1, "a value", "the end"),
    "81" * 9 + "00": (9, "at most 8 nested collections", "more"),
    "bf616101616102ff": (4, "each key once", "'a' again"),
    "a1f500": (1, "a key that is text or an integer", "bool"),
    "a26161810041ff00": (5, "a key that is text or an integer", "bytes"),
    "8161ff": (2, "UTF-8", "other bytes"),
}


@pytest.mark.parametrize("data", SAID)
def test_says_where_and_what(data: str) -> None:
    """An error names the offset, what was expected and what was found."""
    with pytest.raises(CborError) as caught:
        decode_cbor(bytes.fromhex(data))
    offset, expected, found = SAID[data]
    assert (caught.value.offset, caught.value.expected, caught.value.found) == (offset, expected, found)
    assert str(caught.value) == f"at byte {offset}: expected {expected}, found {found}"


ENVELOPE = {
    "": (0, "a name", "the end"),
    "00": (0, "a name", "byte 0x00"),
    "60": (0, "a name", "byte 0x60"),
    "5f": (0, "a name", "byte 0x5f"),
    "58": (0, "a head of 2 bytes", "the end"),
    "5817": (0, "the shortest form", "23 in 1 bytes"),
    "5c": (0, "a definite length", "additional information 28"),
}


@pytest.mark.parametrize("data", ENVELOPE)
def test_a_head_of_the_envelope_is_the_expected_one(data: str) -> None:
    """Another type, an indefinite length, a longer form than needed: said with the name of the part."""
    with pytest.raises(CborError) as caught:
        read_head(bytes.fromhex(data), 0, 2, "a name")
    assert (caught.value.offset, caught.value.expected, caught.value.found) == ENVELOPE[data]


def test_heads_of_the_envelope_are_read() -> None:
    """The length and the offset after the head, from the empty string to one of two bytes' length."""
    for size, after in ((0, 1), (23, 1), (24, 2), (255, 2), (256, 3)):
        assert read_head(b"\xff" + head(2, size), 1, 2, "a name") == (size, 1 + after)


@pytest.mark.parametrize("major", [2, 3])
@pytest.mark.parametrize("size", range(30))
def test_a_string_has_one_spelling_and_no_prefix(major: int, size: int) -> None:
    """Every short length is read in its shortest head only, cut off nowhere, alone and inside."""
    content = b"a" * size
    whole = head(major, size) + content
    assert decode_cbor(whole) == (content if major == 2 else content.decode())
    assert decode_cbor(b"\x82" + whole + b"\x00") == [decode_cbor(whole), 0]
    for end in range(len(whole)):
        with pytest.raises(CborError):
            decode_cbor(whole[:end])
    for width in (1, 2, 4, 8):
        if size < 24 or width > 1:
            with pytest.raises(CborError, match="shortest form"):
                decode_cbor(head(major, size, width) + content)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_wider_head_than_needed_is_refused_at_every_boundary(width: int) -> None:
    """The largest argument that a narrower head could carry is refused in the wider one; the next is read."""
    smallest = {1: 24, 2: 2**8, 4: 2**16, 8: 2**32}[width]
    with pytest.raises(CborError, match="shortest form"):
        decode_cbor(head(0, smallest - 1, width))
    assert decode_cbor(head(0, smallest, width)) == smallest


scalars = (
    st.integers(-(2**64), 2**64 - 1)
    | st.binary(max_size=300)
    | st.text(max_size=300)
    | st.booleans()
    | st.none()
)
keys = st.integers(-(2**64), 2**64 - 1) | st.text(max_size=30)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


@given(values.filter(lambda value: _depth(value) <= DEPTH_MAX))
def test_round_trip(value: object) -> None:
    """Whatever is written minimally is read back, equal and of the same type, as cbor2 reads it."""
    data = cbor(value)
    assert repr(decode_cbor(data)) == repr(value) == repr(cbor2.loads(data))


@given(st.dictionaries(keys, values, max_size=5), st.lists(values, max_size=5))
def test_indefinite_collections_read_like_definite_ones(
    entries: dict[int | str, object], items: list[object]
) -> None:
    """The end mark in place of the count changes nothing in what is read."""
    pairs = Pairs(tuple(entries.items()), indefinite=True)
    if max(_depth(entries), _depth(items)) <= DEPTH_MAX:
        assert decode_cbor(cbor(pairs)) == entries
        assert decode_cbor(cbor(Stream(items))) == items


@given(st.binary(max_size=200))
@example(bytes.fromhex("9f" * 50))
@example(bytes.fromhex("d9d9f700"))
def test_arbitrary_bytes_are_refused_or_read_as_cbor2_reads_them(data: bytes) -> None:
    """Only CborError escapes, and the reader accepts nothing that cbor2 refuses or reads otherwise."""
    try:
        value = decode_cbor(data)
    except CborError:
        return
    assert repr(value) == repr(cbor2.loads(data))


@given(values.map(cbor), st.data())
def test_damaged_cbor_is_refused_or_read_as_cbor2_reads_it(data: bytes, draw: st.DataObject) -> None:
    """The same for bytes that were CBOR before one of them was changed."""
    position = draw.draw(st.integers(0, len(data) - 1))
    damaged = data[:position] + bytes([draw.draw(st.integers(0, 255))]) + data[position + 1 :]
    try:
        value = decode_cbor(damaged)
    except CborError:
        return
    assert repr(value) == repr(cbor2.loads(damaged))
