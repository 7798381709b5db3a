"""The answer to ``alive``: an attestation document with the asker's nonce (docs/protocol.md)."""

from __future__ import annotations

from coattest_enclave.protocol import canonical

PURPOSE = "coattest/alive/v1"

NONCE_MIN, NONCE_MAX = 16, 64
"""Bytes of an ``alive`` request's nonce."""


def alive_user_data() -> bytes:
    """user_data of a liveness document; its nonce is the asker's, its public_key null."""
    return canonical.dumps([PURPOSE])
