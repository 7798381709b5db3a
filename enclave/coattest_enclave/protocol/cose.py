"""COSE_Sign1 with ES384 and COSE_Encrypt0 with A256GCM (RFC 9052, RFC 9053): one algorithm each, fixed here.

The algorithm is never read from the message: the protected header must be, byte for byte, the one expected.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from coattest_enclave.protocol import buffers, canonical
from coattest_enclave.protocol.errors import MessageError
from coattest_enclave.protocol.fields import byte_string

ES384 = bytes.fromhex("a1013822")
"""Protected header {1: -35} (RFC 9053, table 1)."""

A256GCM = bytes.fromhex("a10103")
"""Protected header {1: 3} (RFC 9053, table 5)."""

TAG_ENCRYPT0, TAG_SIGN1 = 0xD0, 0xD2
"""The one-byte heads of tags 16 and 18 (RFC 9052, table 1)."""

WRAPPED_KEY = -65537
"""Unprotected label of the data key's KMS ciphertext blob; private use (RFC 9052, 11.2: below -65536)."""

COMMITMENT = -65538
"""Unprotected label of the data key's commitment; private use as above. AES-GCM does not commit to its key:
somebody can make a file that authenticates under two keys, and holds a bid under only one of them.
"""

COORDINATE = 48
"""Bytes of r and of s for P-384; both are written in full, leading zeros included (RFC 9053, 2.1)."""

IV_SIZE, KEY_SIZE, TAG_SIZE = 12, 32, 16
"""A256GCM's nonce, key and authentication tag in bytes (RFC 9053, 4.1)."""

COMMITMENT_SIZE = 48
"""Bytes of a SHA-384."""

WRAPPED_KEY_MAX = 6144
"""Bytes of a KMS CiphertextBlob (KMS API reference, Decrypt: CiphertextBlob)."""

KID_MAX = 64
"""Bytes of a key id, which is a buyer's name."""

SIGN1_MAX = 16 * 1024
"""Bytes of a COSE_Sign1; a seal of 64 buyers with the longest names is 8 KB."""

ENCRYPT0_OVERHEAD = WRAPPED_KEY_MAX + 128
"""Bytes that a COSE_Encrypt0 has beyond its plaintext, at most."""


@dataclass(frozen=True, slots=True)
class Sign1:
    """A parsed, unverified COSE_Sign1: payload, key id and the 96 signature bytes r||s."""

    payload: bytes
    kid: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Encrypt0:
    """A parsed COSE_Encrypt0: nonce, the wrapped data key, its commitment, ciphertext with its tag."""

    iv: bytes
    wrapped_key: bytes
    commitment: bytes
    ciphertext: bytes


def load_public_key(spki: bytes) -> ec.EllipticCurvePublicKey:
    """The P-384 key of an SPKI DER with named curve and uncompressed point; raises MessageError."""
    try:
        key = load_der_public_key(spki)
    except Exception as error:  # cryptography documents several types here, and more for odd curves
        raise MessageError("not a public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise MessageError("not a P-384 key")
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
        raise MessageError("the key is not a named curve with an uncompressed point")
    return key


def parse_sign1(data: bytes) -> Sign1:
    """Parse a COSE_Sign1 without verifying it; raises MessageError."""
    protected, unprotected, payload, signature = _parts(data, TAG_SIGN1, 4, SIGN1_MAX)
    if protected != ES384:
        raise MessageError("the algorithm is not ES384")
    if not isinstance(unprotected, dict) or list(unprotected) != [4]:
        raise MessageError("unprotected header is not {4: key id}")
    kid = byte_string(unprotected[4], 1, KID_MAX, "key id")
    return Sign1(
        byte_string(payload, 0, SIGN1_MAX, "payload"),
        kid,
        byte_string(signature, 2 * COORDINATE, 2 * COORDINATE, "signature"),
    )


def verify1(data: bytes, public_key: ec.EllipticCurvePublicKey | bytes, *, kid: bytes | None = None) -> bytes:
    """The payload of a COSE_Sign1 that ``public_key`` (a P-384 key or its SPKI DER) signed; raises
    MessageError.

    With ``kid`` the message must have that key id. It is unprotected, so it proves nothing by itself.
    """
    message = parse_sign1(data)
    key = load_public_key(public_key) if isinstance(public_key, bytes) else public_key
    if not isinstance(key.curve, ec.SECP384R1):
        raise MessageError("not a P-384 key")
    if kid is not None and message.kid != kid:
        raise MessageError("wrong key id")
    r = int.from_bytes(message.signature[:COORDINATE], "big")
    s = int.from_bytes(message.signature[COORDINATE:], "big")
    try:
        key.verify(encode_dss_signature(r, s), sig_structure(message.payload), ec.ECDSA(SHA384()))
    except InvalidSignature as error:
        raise MessageError("signature does not verify") from error
    return message.payload


def commitment_of(data_key: bytes | bytearray) -> bytes:
    """SHA-384 of the CBOR ["coattest/data-key/v1", data key]; it says under which key a file may be read."""
    digest = hashlib.sha384(_COMMITMENT_PREFIX)
    digest.update(data_key)
    return digest.digest()


def parse_encrypt0(data: bytes) -> Encrypt0:
    """Parse a COSE_Encrypt0 without decrypting it; raises MessageError."""
    protected, unprotected, ciphertext = _parts(data, TAG_ENCRYPT0, 3, canonical.SIZE_MAX)
    if protected != A256GCM:
        raise MessageError("the algorithm is not A256GCM")
    if not isinstance(unprotected, dict) or list(unprotected) != [5, WRAPPED_KEY, COMMITMENT]:
        raise MessageError("unprotected header is not {5: iv, -65537: wrapped key, -65538: commitment}")
    return Encrypt0(
        byte_string(unprotected[5], IV_SIZE, IV_SIZE, "iv"),
        byte_string(unprotected[WRAPPED_KEY], 1, WRAPPED_KEY_MAX, "wrapped key"),
        byte_string(unprotected[COMMITMENT], COMMITMENT_SIZE, COMMITMENT_SIZE, "commitment"),
        byte_string(ciphertext, TAG_SIZE, canonical.SIZE_MAX, "ciphertext"),
    )


def decrypt0(data: bytes | Encrypt0, data_key: bytes | bytearray, *, external_aad: bytes) -> bytearray:
    """The plaintext of a COSE_Encrypt0, in a buffer to overwrite, once its tag has verified.

    Raises MessageError, with one text for every failure after parsing.
    """
    message = data if isinstance(data, Encrypt0) else parse_encrypt0(data)
    if len(data_key) != KEY_SIZE or commitment_of(data_key) != message.commitment:
        raise MessageError("does not authenticate")
    ciphertext, tag = memoryview(message.ciphertext)[:-TAG_SIZE], message.ciphertext[-TAG_SIZE:]
    decryptor = Cipher(AES256(data_key), GCM(message.iv, tag)).decryptor()
    decryptor.authenticate_additional_data(enc_structure(external_aad))
    # The library needs room for one more block than it writes.
    plaintext = bytearray(len(ciphertext) + TAG_SIZE)
    try:
        decryptor.update_into(ciphertext, plaintext)
        decryptor.finalize()
    except (InvalidTag, ValueError) as error:
        buffers.wipe(plaintext)
        raise MessageError("does not authenticate") from error
    del plaintext[len(ciphertext) :]
    return plaintext


_COMMITMENT_PREFIX = canonical.dumps(["coattest/data-key/v1", bytes(KEY_SIZE)])[:-KEY_SIZE]


def sig_structure(payload: bytes) -> bytes:
    """What a COSE_Sign1 signs (RFC 9052, 4.4)."""
    return canonical.dumps(["Signature1", ES384, b"", payload])


def enc_structure(external_aad: bytes) -> bytes:
    """What a COSE_Encrypt0 authenticates beside its ciphertext (RFC 9052, 5.3)."""
    return canonical.dumps(["Encrypt0", A256GCM, external_aad])


def _parts(data: bytes, tag: int, count: int, limit: int) -> list[object]:
    if data[:1] != bytes([tag]):
        raise MessageError(f"not COSE tag {tag - 0xC0}")
    parts = canonical.loads(data[1:], limit)
    if not isinstance(parts, list) or len(parts) != count:
        raise MessageError(f"not an array of {count}")
    return parts
