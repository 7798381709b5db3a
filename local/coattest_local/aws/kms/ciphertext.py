"""The ciphertext blob of a symmetric key. AWS's own format is not published; this one has its properties.

It names the key (Decrypt works without KeyId), is bound to the encryption context, and cannot be decrypted
after any change. moto's format is not used: it joins context pairs without lengths, so {a: bc} and {ab: c}
are the same.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"coattest-local-kms/1\0"
_NONCE = 12


class BadCiphertext(Exception):
    """The blob is not one of ours, was changed, or belongs to another encryption context."""


def seal_blob(material: bytes, key_arn: str, plaintext: bytes, context: Mapping[str, str]) -> bytes:
    """Encrypt under a key's material (32 bytes)."""
    header = MAGIC + _counted(key_arn.encode())
    nonce = os.urandom(_NONCE)
    return header + nonce + AESGCM(material).encrypt(nonce, plaintext, header + _context(context))


def key_of(blob: bytes) -> str:
    """The ARN of the key that a blob names. Raises BadCiphertext."""
    return _split(blob)[1]


def open_blob(material: bytes, blob: bytes, context: Mapping[str, str]) -> bytes:
    """Decrypt. Raises BadCiphertext."""
    header, _, rest = _split(blob)
    try:
        return AESGCM(material).decrypt(rest[:_NONCE], rest[_NONCE:], header + _context(context))
    except (InvalidTag, ValueError) as error:
        raise BadCiphertext("the ciphertext was changed, or the key or the context is wrong") from error


def _split(blob: bytes) -> tuple[bytes, str, bytes]:
    start = len(MAGIC) + 2
    if not blob.startswith(MAGIC) or len(blob) < start:
        raise BadCiphertext("not a ciphertext of this service")
    (size,) = struct.unpack(">H", blob[len(MAGIC) : start])
    header, rest = blob[: start + size], blob[start + size :]
    if len(header) != start + size or len(rest) < _NONCE + 16:
        raise BadCiphertext("truncated")
    try:
        return header, header[start:].decode(), rest
    except UnicodeDecodeError as error:
        raise BadCiphertext("not a key ARN") from error


def _context(context: Mapping[str, str]) -> bytes:
    return b"".join(_counted(part.encode()) for pair in sorted(context.items()) for part in pair)


def _counted(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value
