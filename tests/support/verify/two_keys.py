"""A ciphertext that AES-256-GCM authenticates under two keys: what a key commitment is there for.

GHASH is linear in the ciphertext, so one free block makes the tags of two keys equal (Grubbs, Lu, Ristenpart:
"Message Franking via Committing Authenticated Encryption", CRYPTO 2017; field as in NIST SP 800-38D, 6.3).
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

BLOCK = 16
ONE = 1 << 127
REDUCTION = 0xE1 << 120


def sealed_under_both(one: bytes, other: bytes, iv: bytes, aad: bytes) -> bytes:
    """One block of ciphertext and its tag; ``iv`` has 12 bytes, the keys 32."""
    hashes = [number(encrypted(key, bytes(BLOCK))) for key in (one, other)]
    masks = [number(encrypted(key, iv + bytes([0, 0, 0, 1]))) for key in (one, other)]
    lengths = len(aad) * 8 << 64 | BLOCK * 8
    # Everything of a tag but the free block, which counts times the square of its key's hash.
    rest = []
    for hash_key, mask in zip(hashes, masks, strict=True):
        value = 0
        for start in range(0, len(aad), BLOCK):
            value = product(value ^ number(aad[start : start + BLOCK].ljust(BLOCK, b"\0")), hash_key)
        rest.append(product(product(value, hash_key) ^ lengths, hash_key) ^ mask)
    squares = [product(hash_key, hash_key) for hash_key in hashes]
    free = product(rest[0] ^ rest[1], inverse(squares[0] ^ squares[1]))
    tag = rest[0] ^ product(free, squares[0])
    return free.to_bytes(BLOCK, "big") + tag.to_bytes(BLOCK, "big")


def encrypted(key: bytes, block: bytes) -> bytes:
    """One block under AES-256."""
    return Cipher(AES256(key), ECB()).encryptor().update(block)


def number(block: bytes) -> int:
    """A block as the integer whose top bit is the field's constant term."""
    return int.from_bytes(block, "big")


def product(left: int, right: int) -> int:
    """The product of two field elements."""
    result = 0
    for bit in range(127, -1, -1):
        if left >> bit & 1:
            result ^= right
        right = right >> 1 ^ (REDUCTION if right & 1 else 0)
    return result


def inverse(element: int) -> int:
    """The inverse of a field element: its power 2^128 - 2."""
    result = ONE
    for _ in range(127):
        element = product(element, element)
        result = product(result, element)
    return result
