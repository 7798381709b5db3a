"""The envelope in which KMS sends a plaintext to an enclave: CMS EnvelopedData in BER.

The shape is that of KMS's own answers (recorded ones lie in the AWS SDKs' tests): indefinite lengths
outside, version 2, one KeyTransRecipientInfo of version 2 that names the key by SHA-256 of its
SubjectPublicKeyInfo, RSAES-OAEP with SHA-256 and MGF1 with SHA-256, AES-256-CBC, the content as a
constructed [0] with OCTET STRINGs of at most 1000 bytes. RFC 5652, section 6 (EnvelopedData); RFC 8017,
A.2.1 (OAEP parameters).
"""

from __future__ import annotations

import hashlib
import os

from cryptography.hazmat.primitives import hashes, padding, serialization
from cryptography.hazmat.primitives.asymmetric import padding as asymmetric_padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

CHUNK = 1000
"""Bytes of the OCTET STRING chunks in KMS's answers."""

_ENVELOPED_DATA = bytes.fromhex("06092a864886f70d010703")
_DATA = bytes.fromhex("06092a864886f70d010701")
_RSAES_OAEP = bytes.fromhex("06092a864886f70d010107")
_MGF1 = bytes.fromhex("06092a864886f70d010108")
_SHA256 = bytes.fromhex("0609608648016503040201")
_AES256_CBC = bytes.fromhex("060960864801650304012a")
_NULL = bytes.fromhex("0500")
_END = bytes.fromhex("0000")


def envelop(plaintext: bytes, public_key: bytes) -> bytes:
    """Encrypt to an RSA public key (SubjectPublicKeyInfo, DER).

    Raises ValueError when it is not an RSA key.
    """
    key = serialization.load_der_public_key(public_key)
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("not an RSA key")
    content_key, vector = os.urandom(32), os.urandom(16)
    oaep = asymmetric_padding.OAEP(asymmetric_padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    recipient = _der(
        0x30,
        _der(0x02, b"\x02")
        + _der(0x80, hashlib.sha256(public_key).digest())
        + _der(0x30, _RSAES_OAEP + _oaep_parameters())
        + _der(0x04, key.encrypt(content_key, oaep)),
    )
    padder = padding.PKCS7(128).padder()
    padded = padder.update(plaintext) + padder.finalize()
    encryptor = Cipher(algorithms.AES(content_key), modes.CBC(vector)).encryptor()
    encrypted = encryptor.update(padded) + encryptor.finalize()
    chunks = b"".join(_der(0x04, encrypted[at : at + CHUNK]) for at in range(0, len(encrypted), CHUNK))
    content = _indefinite(
        0x30, _DATA + _der(0x30, _AES256_CBC + _der(0x04, vector)) + _indefinite(0xA0, chunks)
    )
    data = _indefinite(0x30, _der(0x02, b"\x02") + _der(0x31, recipient) + content)
    return _indefinite(0x30, _ENVELOPED_DATA + _indefinite(0xA0, data))


def _oaep_parameters() -> bytes:
    digest = _der(0x30, _SHA256 + _NULL)
    mask = _der(0x30, _MGF1 + _der(0x30, _SHA256 + _NULL))
    return _der(0x30, _der(0xA0, digest) + _der(0xA1, mask))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _indefinite(tag: int, content: bytes) -> bytes:
    return bytes((tag, 0x80)) + content + _END
