"""Fixtures of the builder's tests: a key that signs images, and its certificate."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from support.verify.signing_keys import Key, certify


@pytest.fixture(scope="module")
def key() -> Key:
    """A P-384 key."""
    return ec.generate_private_key(ec.SECP384R1())


@pytest.fixture(scope="module")
def certificate(key: Key) -> x509.Certificate:
    """A certificate of the key, in date at NOW."""
    return certify(key)
