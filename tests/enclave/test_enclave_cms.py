"""CiphertextForRecipient: KMS's own envelopes, asn1crypto as the other parser, and hostile ones."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from coattest_enclave.payload import cms
from coattest_enclave.protocol.errors import MessageError
from support.enclave.fake_kms import ber, der, make_envelope
from support.verify.cms_oracle import by_asn1crypto

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "kms"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
DATA_KEY = bytes(range(32))
ENVELOPE = make_envelope(DATA_KEY, KEY.public_key(), SPKI)

needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason="KMS's envelopes are not beside the checkout")


def envelope(plaintext: bytes = DATA_KEY, **options: object) -> bytes:
    """An envelope for KEY."""
    return make_envelope(plaintext, KEY.public_key(), SPKI, **options)  # type: ignore[arg-type]


@needs_vectors
@pytest.mark.parametrize("suffix", ["", "_w_ctx"])
def test_kms_envelopes_parse_to_the_parts_that_awss_sdk_found(suffix: str) -> None:
    """Wrapped key, IV and ciphertext equal what AWS's C SDK extracts from the same envelope."""
    parsed = cms.parse_enveloped((VECTORS / f"aws-sdk-c-input_ber{suffix}.ber").read_bytes())
    assert parsed.wrapped_key == (VECTORS / f"aws-sdk-c-encrypted_key_out{suffix}.bin").read_bytes()
    assert parsed.iv == (VECTORS / f"aws-sdk-c-iv_out{suffix}.bin").read_bytes()
    assert parsed.ciphertext == (VECTORS / f"aws-sdk-c-ciphertext_out{suffix}.bin").read_bytes()


@needs_vectors
def test_asn1crypto_finds_the_same_in_kms_envelopes() -> None:
    """Two parsers agree on every envelope that KMS made."""
    files = sorted(VECTORS.glob("*.ber"))
    assert len(files) == 3
    for file in files:
        assert cms.parse_enveloped(file.read_bytes()) == by_asn1crypto(file.read_bytes())


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=4096), st.booleans(), st.integers(1, 1200))
def test_an_envelope_decrypts_in_every_shape(plaintext: bytes, primitive: bool, chunk: int) -> None:
    """Content in one piece or in chunks of any size: asn1crypto agrees, and it decrypts."""
    data = envelope(plaintext, primitive=primitive, chunk=chunk)
    if len(data) <= cms.ENVELOPE_MAX:
        assert cms.parse_enveloped(data) == by_asn1crypto(data)
        assert cms.decrypt(data, KEY) == plaintext


@given(st.integers(0, len(ENVELOPE) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_the_content(position: int, flip: int) -> None:
    """A mutated envelope raises MessageError only, or gives another key: CBC is malleable."""
    changed = bytearray(ENVELOPE)
    changed[position] ^= flip
    with contextlib.suppress(MessageError):
        assert cms.decrypt(bytes(changed), KEY) != DATA_KEY


@given(st.binary(max_size=300))
def test_junk_raises_nothing_but_message_error(junk: bytes) -> None:
    """No other exception escapes the parser."""
    with pytest.raises(MessageError):
        cms.parse_enveloped(junk)


@given(st.integers(0, len(ENVELOPE) - 1), st.binary(max_size=20), st.integers(0, 20))
def test_spliced_envelopes_raise_nothing_but_message_error(at: int, junk: bytes, cut: int) -> None:
    """Bytes put in or taken out anywhere never raise anything else and never give the key."""
    changed = ENVELOPE[:at] + junk + ENVELOPE[at + cut :]
    if changed == ENVELOPE:
        return
    with contextlib.suppress(MessageError):
        assert cms.decrypt(changed, KEY) != DATA_KEY


def test_what_fails_after_parsing_is_one_error() -> None:
    """Wrong OAEP, wrong content key length and wrong padding cannot be told apart."""
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    cases = {
        "wrapped for another key": make_envelope(DATA_KEY, stranger.public_key(), SPKI),
        "a content key of 16 bytes": envelope(content_key=os.urandom(16)),
        "padding of zeros": envelope(padded=bytes(48)),
        "padding too long": envelope(padded=bytes(31) + b"\x11"),
        "padding inconsistent": envelope(padded=bytes(30) + b"\x01\x02"),
    }
    texts = set()
    for case in cases.values():
        with pytest.raises(MessageError) as caught:
            cms.decrypt(case, KEY)
        texts.add(caught.value.detail)
        assert caught.value.__cause__ is None
    assert texts == {"the envelope does not decrypt"}


def test_an_envelope_for_another_key_is_refused() -> None:
    """The recipient's key id must be SHA-256 of our own SPKI."""
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    spki = stranger.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(MessageError, match="for a different key"):
        cms.decrypt(make_envelope(DATA_KEY, KEY.public_key(), spki), KEY)


def replaced(old: str, new: str) -> bytes:
    """The envelope with one occurrence of some bytes replaced by as many others."""
    before, after = bytes.fromhex(old), bytes.fromhex(new)
    assert before in ENVELOPE
    assert len(before) == len(after)
    return ENVELOPE.replace(before, after, 1)


SHA256_OID, SHA1_OID = "608648016503040201", "608648016503040204"
HOSTILE = {
    "empty": b"",
    "trailing byte": ENVELOPE + b"\0",
    "trailing end-of-contents": ENVELOPE + b"\0\0",
    "truncated": ENVELOPE[:-2],
    "SignedData": replaced("2a864886f70d010703", "2a864886f70d010702"),
    "EnvelopedData inside": replaced("2a864886f70d010701", "2a864886f70d010703"),
    "PKCS #1 v1.5 in place of OAEP": replaced("2a864886f70d010107", "2a864886f70d010101"),
    "OAEP with another hash": replaced(SHA256_OID, SHA1_OID),
    "MGF1 with another hash": ENVELOPE[::-1].replace(
        bytes.fromhex(SHA256_OID)[::-1], bytes.fromhex(SHA1_OID)[::-1], 1
    )[::-1],
    "AES-128 in CBC": replaced("60864801650304012a", "608648016503040102"),
    "AES-256 in GCM": replaced("60864801650304012a", "60864801650304012e"),
    "version 0": replaced("020102", "020100"),
    "nested 10,000 deep": b"\x30\x80" * 5000 + b"\0\0" * 5000,
    "lengths nested to the limit": b"\x30\x80" * 50,
    "length over four bytes": b"\x30\x84\x00\x00\x00\x02\x02\x00",
    "length not minimal": b"\x30\x81\x02\x02\x00",
    "length beyond the end": b"\x30\x7f\x02\x00",
    "reserved length": b"\x30\xff",
    "indefinite primitive": b"\x04\x80\x00\x00",
    "multi-byte tag": b"\x3f\x81\x01\x00",
    "end-of-contents alone": b"\0\0",
    "too large": b"\x30\x80" + der(0x04, bytes(1000)) * 20 + b"\0\0",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_envelopes_are_refused(name: str) -> None:
    """One content type, one key transport with fixed parameters, one cipher, one recipient."""
    assert HOSTILE[name] != ENVELOPE
    with pytest.raises(MessageError):
        cms.parse_enveloped(HOSTILE[name])


def assembled(
    *, recipients: int = 1, key_id: bytes = bytes(32), iv: bytes = bytes(16), content: bytes
) -> bytes:
    """An envelope of free parts."""
    oaep = cms._OAEP
    recipient = der(0x30, der(2, b"\x02"), der(0x80, key_id), oaep, der(4, bytes(256)))
    cipher = der(0x30, der(6, cms._AES256_CBC), der(4, iv))
    encrypted = ber(0x30, der(6, cms._DATA), cipher, content)
    enveloped = ber(0x30, der(2, b"\x02"), der(0x31, *[recipient] * recipients), encrypted)
    return ber(0x30, der(6, cms._ENVELOPED_DATA), ber(0xA0, enveloped))


def test_the_assembled_envelope_is_one_part_away_from_hostile() -> None:
    """The hostile forms below fail for their one change: with it undone they parse."""
    parsed = cms.parse_enveloped(assembled(content=der(0x80, bytes(16))))
    assert (parsed.recipient, parsed.iv, parsed.ciphertext) == (bytes(32), bytes(16), bytes(16))


@pytest.mark.parametrize(
    "data",
    [
        assembled(content=der(0x80, bytes(16)), recipients=0),
        assembled(content=der(0x80, bytes(16)), recipients=2),
        assembled(content=der(0x80, bytes(16)), key_id=bytes(20)),
        assembled(content=der(0x80, bytes(16)), iv=bytes(12)),
        assembled(content=der(0x80, bytes(15))),
        assembled(content=der(0x80)),
        assembled(content=ber(0xA0)),
        assembled(content=ber(0xA0, ber(0x24, der(4, bytes(16))))),
        assembled(content=ber(0xA0, der(2, bytes(16)))),
        assembled(content=der(4, bytes(16))),
        assembled(content=der(0x81, bytes(16))),
    ],
)
def test_misassembled_envelopes_are_refused(data: bytes) -> None:
    """Other counts, lengths and nestings of the parts are refused."""
    with pytest.raises(MessageError):
        cms.parse_enveloped(data)


def test_the_recipient_is_the_digest_of_the_public_key() -> None:
    """The key id that KMS writes is SHA-256 of the SPKI in the attestation document."""
    assert cms.parse_enveloped(ENVELOPE).recipient == hashlib.sha256(SPKI).digest()
