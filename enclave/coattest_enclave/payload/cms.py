"""CiphertextForRecipient: CMS EnvelopedData (RFC 5652, 6), only in the forms of BER that KMS writes.

The envelope is not authenticated: anyone can encrypt to the public key. TLS shows that it comes from KMS;
what was encrypted decrypts only if the key in it is the right one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coattest_enclave.protocol import buffers
from coattest_enclave.protocol.errors import MessageError

ENVELOPE_MAX = 16 * 1024
"""Bytes of an envelope; KMS decrypts at most 4096 bytes (KMS API reference, Encrypt: Plaintext)."""

DEPTH_MAX = 10
"""Depth of the deepest value: the hash parameters of OAEP's mask function."""

BLOCK = 16
"""Bytes of an AES block."""

INTEGER, OCTETS, OID, SEQUENCE, SET = 0x02, 0x04, 0x06, 0x30, 0x31
CONTEXT_0, CONTEXT_0_CONSTRUCTED = 0x80, 0xA0
_CONSTRUCTED, _LONG_TAG = 0x20, 0x1F
_ENVELOPED_DATA = bytes.fromhex("2a864886f70d010703")
_DATA = bytes.fromhex("2a864886f70d010701")
_AES256_CBC = bytes.fromhex("60864801650304012a")
_OAEP = bytes.fromhex(
    "303c06092a864886f70d010107302fa00f300d06096086480165030402010500"
    "a11c301a06092a864886f70d010108300d06096086480165030402010500"
)
"""AlgorithmIdentifier id-RSAES-OAEP {SHA-256, MGF1 with SHA-256} (RFC 4055, 4.1), as KMS writes it."""


@dataclass(frozen=True, slots=True)
class EnvelopedData:
    """An EnvelopedData with one recipient, whose 32-byte subject key identifier is ``recipient``."""

    recipient: bytes
    wrapped_key: bytes
    iv: bytes
    ciphertext: bytes


class Value(NamedTuple):
    """A BER value: its tag, and its content (if primitive) or the values in it (if constructed)."""

    tag: int
    content: bytes
    values: tuple[Value, ...]


def parse_enveloped(data: bytes) -> EnvelopedData:
    """The parts of an envelope for one recipient (RSA-OAEP-SHA256, AES-256-CBC); raises MessageError."""
    if len(data) > ENVELOPE_MAX:
        raise MessageError("the envelope is too large")
    root, end = _value(data, 0, len(data), 0)
    if end != len(data):
        raise MessageError("there are bytes after the envelope")
    content_type, explicit = _inside(root, SEQUENCE, OID, CONTEXT_0_CONSTRUCTED)
    (enveloped,) = _inside(explicit, CONTEXT_0_CONSTRUCTED, SEQUENCE)
    version, recipients, encrypted = _inside(enveloped, SEQUENCE, INTEGER, SET, SEQUENCE)
    (recipient,) = _inside(recipients, SET, SEQUENCE)
    recipient_version, key_id, oaep, key = _inside(recipient, SEQUENCE, INTEGER, CONTEXT_0, SEQUENCE, OCTETS)
    inner_type, cipher, content = _inside(encrypted, SEQUENCE, OID, SEQUENCE, None)
    cipher_name, iv = _inside(cipher, SEQUENCE, OID, OCTETS)
    if (content_type.content, inner_type.content) != (_ENVELOPED_DATA, _DATA):
        raise MessageError("not EnvelopedData over data")
    if version.content != b"\x02" or recipient_version.content != b"\x02":
        raise MessageError("not version 2")
    if oaep != _value(_OAEP, 0, len(_OAEP), 0)[0]:
        raise MessageError("not RSAES-OAEP with SHA-256 and MGF1-SHA-256")
    if cipher_name.content != _AES256_CBC:
        raise MessageError("not AES-256-CBC")
    if content.tag == CONTEXT_0_CONSTRUCTED:
        pieces = _inside(content, CONTEXT_0_CONSTRUCTED, *[OCTETS] * len(content.values))
        ciphertext = b"".join(piece.content for piece in pieces)
    elif content.tag == CONTEXT_0:
        ciphertext = content.content
    else:
        raise MessageError("there is no encrypted content")
    if len(key_id.content) != 32 or len(iv.content) != 16 or not ciphertext or len(ciphertext) % 16:
        raise MessageError("a field of the envelope has the wrong length")
    return EnvelopedData(key_id.content, key.content, iv.content, ciphertext)


def decrypt(data: bytes, key: rsa.RSAPrivateKey) -> bytearray:
    """The content of an envelope made for ``key``, in a buffer to overwrite; raises MessageError.

    Every failure after parsing is one error with one text, which does not say which step failed.
    """
    envelope = parse_enveloped(data)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if envelope.recipient != hashlib.sha256(spki).digest():
        raise MessageError("the envelope is for a different key")
    try:
        content_key = key.decrypt(envelope.wrapped_key, padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))
        decryptor = Cipher(AES256(content_key), CBC(envelope.iv)).decryptor()
        # The library needs room for one more block than it writes.
        content = bytearray(len(envelope.ciphertext) + BLOCK)
        decryptor.update_into(envelope.ciphertext, content)
        decryptor.finalize()
    except ValueError:
        raise MessageError("the envelope does not decrypt") from None
    del content[len(envelope.ciphertext) :]
    # PKCS #7 (RFC 5652, 6.3), by hand: the library's unpadder returns bytes, which cannot be overwritten.
    padding_size = content[-1]
    if not 1 <= padding_size <= BLOCK or content[-padding_size:].count(padding_size) != padding_size:
        buffers.wipe(content)
        raise MessageError("the envelope does not decrypt")
    del content[-padding_size:]
    return content


def _inside(value: Value, tag: int, *tags: int | None) -> tuple[Value, ...]:
    """The values in a constructed ``value`` with ``tag``; they must have ``tags``, where None means any."""
    found = [inner.tag for inner in value.values]
    if value.tag != tag or len(found) != len(tags):
        raise MessageError("not an EnvelopedData as KMS writes it")
    if any(wanted not in (None, given) for wanted, given in zip(tags, found, strict=True)):
        raise MessageError("not an EnvelopedData as KMS writes it")
    return value.values


def _value(data: bytes, start: int, end: int, depth: int) -> tuple[Value, int]:
    """The value at ``start`` and where it ends; lengths are minimal, or indefinite if constructed."""
    if depth > DEPTH_MAX or start + 2 > end:
        raise MessageError("truncated, or too deep")
    tag, length, position = data[start], data[start + 1], start + 2
    constructed, indefinite = bool(tag & _CONSTRUCTED), length == 0x80
    if not tag or tag & _LONG_TAG == _LONG_TAG or (indefinite and not constructed):
        raise MessageError("unexpected tag or length")
    if length > 0x80:
        width = length & 0x7F
        length = int.from_bytes(data[position : position + width], "big")
        position += width
        if width > 2 or length < (0x80 if width == 1 else 0x100):
            raise MessageError("a length is not minimal")
    stop = end if indefinite else position + length
    if stop > end:
        raise MessageError("truncated")
    if not constructed:
        return Value(tag, data[position:stop], ()), stop
    values: list[Value] = []
    while not (data.startswith(b"\0\0", position, stop) if indefinite else position == stop):
        inner, position = _value(data, position, stop, depth + 1)
        values.append(inner)
    return Value(tag, b"", tuple(values)), position + 2 * indefinite
