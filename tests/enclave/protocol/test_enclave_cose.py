"""COSE_Sign1 and COSE_Encrypt0, with pycose as the other implementation."""

from __future__ import annotations

import os
import warnings
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from coattest_enclave.protocol import canonical, cose
from coattest_enclave.protocol.errors import MessageError
from coattest_verify.auction import messages
from support.verify import two_keys

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pycose.algorithms import A256GCM, Es384
    from pycose.headers import IV, KID, Algorithm
    from pycose.keys import EC2Key, SymmetricKey
    from pycose.keys.curves import P384
    from pycose.messages import CoseMessage, Enc0Message, Sign1Message

KEY = ec.derive_private_key(int.from_bytes(b"coattest test key", "big"), ec.SECP384R1())
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
DATA_KEY = bytes(range(32))


def pycose_key() -> Any:
    """KEY as pycose's type."""
    numbers = KEY.private_numbers()
    x, y = (n.to_bytes(48, "big") for n in (numbers.public_numbers.x, numbers.public_numbers.y))
    return EC2Key(crv=P384, x=x, y=y, d=numbers.private_value.to_bytes(48, "big"))


def sealed(plaintext: bytes = b"plaintext", aad: bytes = b"aad") -> bytes:
    """A COSE_Encrypt0."""
    return messages.encrypt0(plaintext, DATA_KEY, wrapped_key=b"wrapped", external_aad=aad)


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=64))
def test_a_signature_verifies_and_returns_its_payload(payload: bytes, kid: bytes) -> None:
    """sign1 and verify1 are inverse, by key and by SPKI."""
    message = messages.sign1(payload, KEY, kid)
    assert cose.verify1(message, KEY.public_key(), kid=kid) == payload
    assert cose.verify1(message, SPKI) == payload


@given(st.binary(max_size=100))
def test_pycose_verifies_what_we_sign(payload: bytes) -> None:
    """Another implementation accepts our COSE_Sign1."""
    message = CoseMessage.decode(messages.sign1(payload, KEY, b"buyer-1"))
    message.key = pycose_key()
    assert message.verify_signature()
    assert message.payload == payload
    assert message.uhdr[KID] == b"buyer-1"


def test_we_verify_what_pycose_signs() -> None:
    """We accept another implementation's COSE_Sign1."""
    message = Sign1Message(phdr={Algorithm: Es384}, uhdr={KID: b"buyer-1"}, payload=b"payload")
    message.key = pycose_key()
    assert cose.verify1(message.encode(), KEY.public_key(), kid=b"buyer-1") == b"payload"


def test_pycose_decrypts_what_we_encrypt_and_the_reverse() -> None:
    """Both directions of COSE_Encrypt0 agree with another implementation."""
    message = CoseMessage.decode(sealed())
    message.key, message.external_aad = SymmetricKey(k=DATA_KEY), b"aad"
    assert message.decrypt() == b"plaintext"
    theirs = Enc0Message(
        phdr={Algorithm: A256GCM}, uhdr={IV: bytes(12)}, payload=b"theirs", external_aad=b"aad"
    )
    theirs.key = SymmetricKey(k=DATA_KEY)
    parts = cbor2.loads(theirs.encode()).value
    header = {5: bytes(12), cose.WRAPPED_KEY: b"w", cose.COMMITMENT: cose.commitment_of(DATA_KEY)}
    ours = rebuilt(cose.TAG_ENCRYPT0, [parts[0], header, parts[2]])
    assert cose.decrypt0(ours, DATA_KEY, external_aad=b"aad") == b"theirs"


def test_every_single_byte_change_of_a_signature_is_refused() -> None:
    """No byte of a COSE_Sign1 is free: header, key id, payload and signature included."""
    message = messages.sign1(b"payload", KEY, b"buyer-1")
    for position in range(len(message)):
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(message)
            changed[position] ^= flip
            with pytest.raises(MessageError):
                cose.verify1(bytes(changed), KEY.public_key(), kid=b"buyer-1")


def test_every_single_byte_change_of_an_encrypted_bid_is_refused() -> None:
    """Only the wrapped key, which KMS authenticates, can change without the AEAD noticing."""
    message = sealed()
    free = range(message.index(b"wrapped"), message.index(b"wrapped") + len(b"wrapped"))
    for position in range(len(message)):
        changed = bytearray(message)
        changed[position] ^= 0x01
        if position in free:
            assert cose.parse_encrypt0(bytes(changed)).wrapped_key != b"wrapped"
            continue
        with pytest.raises(MessageError):
            cose.decrypt0(bytes(changed), DATA_KEY, external_aad=b"aad")


def test_wrong_key_and_wrong_aad_are_one_error() -> None:
    """A wrong data key and a wrong external AAD cannot be told apart."""
    texts = set()
    for key, aad in ((bytes(32), b"aad"), (DATA_KEY, b"another")):
        with pytest.raises(MessageError) as caught:
            cose.decrypt0(sealed(), key, external_aad=aad)
        texts.add(caught.value.detail)
    assert texts == {"does not authenticate"}


def test_a_file_that_two_keys_authenticate_is_read_under_one_only() -> None:
    """AES-GCM lets one ciphertext pass under two data keys; the commitment leaves the one."""
    other, iv = bytes(32), bytes(12)
    aad = canonical.dumps(["Encrypt0", cose.A256GCM, b"aad"])
    ciphertext = two_keys.sealed_under_both(DATA_KEY, other, iv, aad)
    contents = {AESGCM(key).decrypt(iv, ciphertext, aad) for key in (DATA_KEY, other)}
    assert len(contents) == 2
    for chosen, refused in ((DATA_KEY, other), (other, DATA_KEY)):
        header = {5: iv, cose.WRAPPED_KEY: b"wrapped", cose.COMMITMENT: cose.commitment_of(chosen)}
        message = rebuilt(cose.TAG_ENCRYPT0, [cose.A256GCM, header, ciphertext])
        assert bytes(cose.decrypt0(message, chosen, external_aad=b"aad")) in contents
        with pytest.raises(MessageError, match="does not authenticate"):
            cose.decrypt0(message, refused, external_aad=b"aad")


def test_a_nonce_is_not_used_twice() -> None:
    """Without a given IV every message has its own."""
    assert len({cose.parse_encrypt0(sealed()).iv for _ in range(50)}) == 50


def rebuilt(tag: int, parts: list[Any]) -> bytes:
    """A message with other parts."""
    return bytes([tag]) + canonical.dumps(parts)


SIGN1_PARTS = cbor2.loads(messages.sign1(b"payload", KEY, b"kid")).value
ENC0_PARTS = cbor2.loads(sealed()).value

HOSTILE_SIGN1 = {
    "no tag": canonical.dumps(list(SIGN1_PARTS)),
    "tag of Encrypt0": rebuilt(0xD0, list(SIGN1_PARTS)),
    "algorithm ES256": rebuilt(0xD2, [bytes.fromhex("a10126"), *SIGN1_PARTS[1:]]),
    "algorithm none": rebuilt(0xD2, [b"", *SIGN1_PARTS[1:]]),
    "algorithm in the unprotected header": rebuilt(0xD2, [b"", {1: -35, 4: b"kid"}, *SIGN1_PARTS[2:]]),
    "one more unprotected header": rebuilt(0xD2, [SIGN1_PARTS[0], {3: 0, 4: b"kid"}, *SIGN1_PARTS[2:]]),
    "no key id": rebuilt(0xD2, [SIGN1_PARTS[0], {}, *SIGN1_PARTS[2:]]),
    "key id as text": rebuilt(0xD2, [SIGN1_PARTS[0], {4: "kid"}, *SIGN1_PARTS[2:]]),
    "empty key id": rebuilt(0xD2, [SIGN1_PARTS[0], {4: b""}, *SIGN1_PARTS[2:]]),
    "detached payload": rebuilt(0xD2, [*SIGN1_PARTS[:2], None, SIGN1_PARTS[3]]),
    "zero signature": rebuilt(0xD2, [*SIGN1_PARTS[:3], bytes(96)]),
    "signature a byte short": rebuilt(0xD2, [*SIGN1_PARTS[:3], SIGN1_PARTS[3][:-1]]),
    "signature a byte long": rebuilt(0xD2, [*SIGN1_PARTS[:3], SIGN1_PARTS[3] + b"\0"]),
    "five parts": rebuilt(0xD2, [*SIGN1_PARTS, b""]),
    "trailing byte": messages.sign1(b"payload", KEY, b"kid") + b"\0",
    "protected header with a longer integer": rebuilt(0xD2, [bytes.fromhex("a101390022"), *SIGN1_PARTS[1:]]),
}


@pytest.mark.parametrize("name", HOSTILE_SIGN1)
def test_hostile_signatures_are_refused(name: str) -> None:
    """Nothing in the message chooses an algorithm, a form or a length."""
    with pytest.raises(MessageError):
        cose.verify1(HOSTILE_SIGN1[name], KEY.public_key())


HOSTILE_ENC0 = {
    "no tag": canonical.dumps(list(ENC0_PARTS)),
    "algorithm A128GCM": rebuilt(0xD0, [bytes.fromhex("a10101"), *ENC0_PARTS[1:]]),
    "short iv": rebuilt(0xD0, [ENC0_PARTS[0], {**ENC0_PARTS[1], 5: bytes(11)}, ENC0_PARTS[2]]),
    "no wrapped key": rebuilt(0xD0, [ENC0_PARTS[0], {5: ENC0_PARTS[1][5]}, ENC0_PARTS[2]]),
    "empty wrapped key": rebuilt(0xD0, [ENC0_PARTS[0], {**ENC0_PARTS[1], -65537: b""}, ENC0_PARTS[2]]),
    "huge wrapped key": rebuilt(0xD0, [ENC0_PARTS[0], {**ENC0_PARTS[1], -65537: bytes(6145)}, ENC0_PARTS[2]]),
    "shorter than a tag": rebuilt(0xD0, [*ENC0_PARTS[:2], bytes(15)]),
    "detached ciphertext": rebuilt(0xD0, [*ENC0_PARTS[:2], None]),
    "trailing byte": sealed() + b"\0",
}


@pytest.mark.parametrize("name", HOSTILE_ENC0)
def test_hostile_bid_files_are_refused(name: str) -> None:
    """A bid file has one form."""
    with pytest.raises(MessageError):
        cose.decrypt0(HOSTILE_ENC0[name], DATA_KEY, external_aad=b"aad")


@given(st.binary(max_size=200))
def test_junk_after_a_tag_raises_nothing_but_message_error(junk: bytes) -> None:
    """No other exception escapes the parsers."""
    for tag, parse in ((b"\xd2", cose.parse_sign1), (b"\xd0", cose.parse_encrypt0)):
        with pytest.raises(MessageError):
            parse(tag + junk)


def compressed() -> bytes:
    """SPKI of KEY with a compressed point."""
    point = KEY.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return bytes.fromhex("3046301006072a8648ce3d020106052b81040022033200") + point


HOSTILE_KEYS = {
    "empty": b"",
    "P-256": ec.generate_private_key(ec.SECP256R1())
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "Ed25519": ed25519.Ed25519PrivateKey.generate()
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "compressed point": compressed(),
    "trailing byte": SPKI + b"\0",
    "point not on the curve": SPKI[:-1] + bytes([SPKI[-1] ^ 1]),
    "PEM": KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    "random": os.urandom(120),
}


@pytest.mark.parametrize("name", HOSTILE_KEYS)
def test_only_one_encoding_of_a_p384_key_is_a_key(name: str) -> None:
    """Two encodings of one key would be two buyers with one key."""
    with pytest.raises(MessageError):
        cose.load_public_key(HOSTILE_KEYS[name])


def test_other_curves_neither_sign_nor_verify() -> None:
    """A P-256 key is refused on both sides."""
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(MessageError):
        messages.sign1(b"", other, b"kid")
    with pytest.raises(MessageError):
        cose.verify1(messages.sign1(b"", KEY, b"kid"), other.public_key())
