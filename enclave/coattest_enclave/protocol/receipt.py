"""What the document of a receipt says: user_data; its nonce is the seal's digest, its public_key null."""

from __future__ import annotations

from coattest_enclave.protocol import canonical
from coattest_enclave.protocol.fields import sha384

RESULT = "coattest/result/v1"
"""The purpose of a result and of its receipt."""


def receipt_user_data(result: bytes) -> bytes:
    """user_data of the receipt for these result bytes."""
    return canonical.dumps([RESULT, sha384(result)])
