"""No change of a valid document is ever accepted, and only the one error type escapes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from coattest_verify.attestation import (
    ChainCache,
    Malformed,
    UnsafeAllowDebug,
    UnsafeAnyMeasurement,
    parse_unverified,
    verify_document,
)
from support.verify.nitro_ca import (
    IMAGE,
    NOW,
    NOW_MS,
    PCRS,
    Pairs,
    cbor,
    check,
    document,
    fields,
    usual_chain,
)

ANY = (UnsafeAnyMeasurement(), UnsafeAllowDebug())
VALID = document(public_key=b"key", user_data=b"data")
CACHE = ChainCache()
VECTORS = sorted((Path(__file__).resolve().parents[4] / "shared" / "vectors" / "attestation").glob("*.bin"))
slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def accepted(data: bytes) -> bool:
    """Whether the bytes pass with everything unsafe allowed, over a warm cache."""
    return check(data, *ANY, cache=CACHE).ok


def test_the_document_itself_is_accepted() -> None:
    """The properties below start from a document that passes."""
    assert accepted(VALID)


def test_a_changed_bit_is_refused_all_over() -> None:
    """One bit, another one at each run, of every fifth byte, beginning with another one at each run."""
    for position in range(random.randrange(5), len(VALID), 5):
        byte = VALID[position]
        changed = byte ^ (1 << random.randrange(8))
        damaged = VALID[:position] + bytes([changed]) + VALID[position + 1 :]
        assert not accepted(damaged), (position, changed)


@slow
@given(st.integers(0, len(VALID) - 1), st.integers(1, 255))
@example(0, 0x84 ^ 0x9F)
@example(len(VALID) - 1, 0xFF)
def test_a_changed_byte_is_refused(position: int, change: int) -> None:
    """Any byte, to any other value."""
    assert not accepted(VALID[:position] + bytes([VALID[position] ^ change]) + VALID[position + 1 :])


@slow
@given(st.integers(0, len(VALID)), st.binary(min_size=1, max_size=3))
@example(0, b"\xd1")
@example(len(VALID), b"\x00")
def test_inserted_bytes_are_refused(position: int, extra: bytes) -> None:
    """Anything, anywhere; but tag 18 before the document, which is its other spelling."""
    if (position, extra) != (0, b"\xd2"):
        assert not accepted(VALID[:position] + extra + VALID[position:])


@slow
@given(st.integers(0, len(VALID) - 1), st.integers(1, 100))
def test_removed_bytes_are_refused(position: int, size: int) -> None:
    """Any stretch, anywhere."""
    assert not accepted(VALID[:position] + VALID[position + size :])


@pytest.mark.skipif(not VECTORS, reason="../shared/vectors is not there")
@slow
@given(st.data())
def test_a_changed_byte_of_a_real_document_is_refused(data: st.DataObject) -> None:
    """The same for documents that AWS signed."""
    real = data.draw(st.sampled_from(VECTORS)).read_bytes()
    now = parse_unverified(real).timestamp
    position = data.draw(st.integers(0, len(real) - 1))
    changed = real[position] ^ data.draw(st.integers(1, 255))
    damaged = real[:position] + bytes([changed]) + real[position + 1 :]
    assert verify_document(real, ANY, now=now, cache=CACHE).ok
    assert not verify_document(damaged, ANY, now=now, cache=CACHE).ok


@slow
@given(st.binary(max_size=300))
@example(b"\x84" * 300)
def test_arbitrary_bytes_give_a_verdict(data: bytes) -> None:
    """No bytes make verification raise, and parse_unverified raises Malformed only."""
    assert not accepted(data)
    with pytest.raises(Malformed):
        parse_unverified(data)


anything = st.recursive(
    st.integers(-(2**64), 2**64 - 1)
    | st.binary(max_size=60)
    | st.text(max_size=20)
    | st.booleans()
    | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 40) | st.text(max_size=8), inner)
    ),
    max_leaves=8,
)


@slow
@given(st.dictionaries(st.sampled_from([*fields(), "nitrotpm_pcrs", "more"]), anything, max_size=4))
def test_fields_of_any_kind_give_a_verdict(changes: dict[str, Any]) -> None:
    """A genuine signature over fields of any kind gives a verdict; what passes is within every bound."""
    verdict = check(document(**changes), *ANY, cache=CACHE)
    if verdict.ok:
        found = verdict.document
        assert found.module_id
        assert 0 < found.timestamp_ms <= NOW_MS
        assert 1 <= len(found.pcrs) <= 32
        assert all(0 <= index < 32 and len(value) in (32, 48, 64) for index, value in found.pcrs.items())
        for value in (found.public_key, found.user_data, found.nonce):
            assert value is None or len(value) <= 1024


@slow
@given(anything)
def test_payloads_of_any_kind_give_a_verdict(payload: Any) -> None:
    """A genuine signature over any CBOR at all gives a verdict, and no pass."""
    assert not accepted(document(payload=cbor(payload)))


@slow
@given(st.lists(st.binary(max_size=80), min_size=1, max_size=8), st.binary(min_size=1, max_size=80))
def test_certificates_of_any_bytes_give_a_verdict(bundle: list[bytes], leaf: bytes) -> None:
    """Whatever stands where certificates belong, it is refused and nothing raises."""
    assert not accepted(document(cabundle=bundle, certificate=leaf))


LEAF = usual_chain().certificate


@slow
@given(st.integers(0, len(LEAF) - 1), st.integers(1, 255), st.integers(0, 4))
def test_a_changed_byte_of_a_certificate_is_refused_under_a_right_signature(
    position: int, change: int, place: int
) -> None:
    """A signer who damages one certificate of the chain and signs the result gains nothing."""
    ders = list(usual_chain().ders)
    at = position % len(ders[place])
    ders[place] = ders[place][:at] + bytes([ders[place][at] ^ change]) + ders[place][at + 1 :]
    assert not accepted(document(cabundle=ders[:-1], certificate=ders[-1]))


@given(st.permutations(list(fields().items())), st.permutations(list(PCRS.items())), st.booleans())
@settings(deadline=None, max_examples=30)
def test_the_order_of_keys_does_not_matter(
    pairs: list[tuple[str, Any]], pcrs: list[tuple[int, bytes]], indefinite: bool
) -> None:
    """Fields and registers in any order give the same document."""
    turned = Pairs(
        tuple((k, Pairs(tuple(pcrs)) if k == "pcrs" else v) for k, v in pairs), indefinite=indefinite
    )
    verdict = check(document(payload=cbor(turned)), IMAGE, now=NOW)
    assert verdict.document == check(document()).document
