"""Deterministic CBOR: one encoding per value, and nothing else decodes."""

from __future__ import annotations

import contextlib

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest_enclave.protocol import canonical
from coattest_enclave.protocol.errors import MessageError

scalars = (
    st.integers(-(2**64), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=40)
    | st.booleans()
    | st.none()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=30), inner, max_size=5),
    max_leaves=20,
)


def nesting(value: object) -> int:
    """Depth of containers in a value."""
    if isinstance(value, dict):
        return 1 + max(map(nesting, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(nesting, value), default=0)
    return 0


shallow = values.filter(lambda value: nesting(value) <= canonical.DEPTH_MAX)


@given(shallow)
def test_a_value_survives_the_round_trip(value: object) -> None:
    """What is encoded decodes to the same value, and to the same bytes again."""
    data = canonical.dumps(value)
    assert canonical.loads(data) == value
    assert canonical.dumps(canonical.loads(data)) == data


@given(shallow)
def test_the_encoding_is_what_a_general_decoder_reads(value: object) -> None:
    """cbor2 without our checks reads the same value: the subset is plain CBOR."""
    assert cbor2.loads(canonical.dumps(value)) == value


@given(st.dictionaries(st.text(max_size=70), st.integers(0, 3), max_size=12))
def test_map_keys_are_in_the_bytewise_order_of_rfc_8949(mapping: dict[str, int]) -> None:
    """Text keys are sorted by their encoded bytes (RFC 8949, 4.2.1), which cbor2 does by another rule."""
    keys = [cbor2.dumps(key) for key in canonical.loads(canonical.dumps(mapping))]
    assert keys == sorted(keys)


@given(st.binary(max_size=200))
def test_any_bytes_decode_to_their_own_encoding_or_are_refused(data: bytes) -> None:
    """Nothing but MessageError escapes, and what decodes encodes to the same bytes."""
    try:
        value = canonical.loads(data)
    except MessageError:
        return
    assert canonical.dumps(value) == data


@given(shallow, st.data())
def test_a_changed_byte_never_decodes_to_the_same_value(value: object, data: st.DataObject) -> None:
    """There is no second encoding one byte away."""
    encoded = bytearray(canonical.dumps(value))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(MessageError):
        assert repr(canonical.loads(bytes(encoded))) != repr(value)


HOSTILE = {
    "empty": "",
    "duplicate key": "a2616101616102",
    "keys out of order": "a2616201616101",
    "integer one byte too long": "1817",
    "integer in eight bytes": "1b0000000000000001",
    "length of text in two bytes": "78016161",
    "indefinite array": "9f01ff",
    "indefinite map": "bf616101ff",
    "chunked byte string": "5f4101ff",
    "chunked text": "7f6161ff",
    "break alone": "ff",
    "trailing byte": "0000",
    "truncated text": "6261",
    "truncated array": "8201",
    "missing length": "19",
    "invalid UTF-8": "62c328",
    "surrogate": "63eda080",
    "tag": "c001",
    "date tag": "c11a00000000",
    "bignum that is an integer": "c24101",
    "bignum": "c249010000000000000000",
    "shared reference": "d81c8101",
    "float 1.0 in half precision": "f93c00",
    "double": "fb3ff0000000000000",
    "NaN": "f97e00",
    "undefined": "f7",
    "unassigned simple value": "e0",
    "simple value 255": "f8ff",
    "reserved length": "1c",
    "boolean key beside the integer it equals": "a20101f502",
    "boolean key": "a1f501",
    "float key": "a1f93c0001",
    "null key": "a1f601",
    "byte string key": "a1416101",
    "array key": "a18001",
    "array that claims 2**64-1 items": "9bffffffffffffffff",
    "map that claims 2**63 pairs": "bb8000000000000000",
    "byte string that claims 2**64-1 bytes": "5bffffffffffffffff00",
    "text that claims 4 GiB": "7affffffff61",
    "nested arrays": "81" * 100 + "01",
    "nested 100,000 deep": "81" * 100_000 + "01",
    "nested maps": "a16161" * 9 + "01",
    "nested tags": "c1" * 100_000 + "01",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_encodings_are_refused(name: str) -> None:
    """Everything that has another encoding, or costs more than its size, is refused."""
    with pytest.raises(MessageError):
        canonical.loads(bytes.fromhex(HOSTILE[name]))


def test_the_deepest_allowed_nesting_is_let_through() -> None:
    """The depth limit is exactly DEPTH_MAX containers, in both directions."""
    deep: list[object] = []
    for _ in range(canonical.DEPTH_MAX - 1):
        deep = [deep]
    assert canonical.loads(canonical.dumps(deep)) == deep
    with pytest.raises(MessageError):
        canonical.dumps([deep])


def test_a_message_has_a_bounded_number_of_items() -> None:
    """The limit is exactly ITEMS_MAX, in both directions: small items cost more memory than bytes."""
    full = [0] * (canonical.ITEMS_MAX - 1)
    assert canonical.loads(canonical.dumps(full)) == full
    with pytest.raises(MessageError, match="too many items"):
        canonical.dumps([*full, 0])
    with pytest.raises(MessageError, match="too many items"):
        canonical.loads(bytes.fromhex("9a00200000") + b"\x80" * 0x200000)


def test_size_is_checked_before_anything_else() -> None:
    """A message over the caller's limit is too large, however well-formed."""
    data = canonical.dumps(b"x" * 100)
    assert canonical.loads(data, len(data)) == b"x" * 100
    with pytest.raises(MessageError) as caught:
        canonical.loads(data, len(data) - 1)
    assert caught.value.code == "too-large"


@pytest.mark.parametrize("value", [1.5, {1, 2}, object(), {b"k": 1}, {True: 1}, 2**64, "\ud800", [1.0]])
def test_what_has_no_encoding_here_is_refused(value: object) -> None:
    """Floats, sets, bignums and odd keys are refused by the encoder too."""
    with pytest.raises(MessageError):
        canonical.dumps(value)
