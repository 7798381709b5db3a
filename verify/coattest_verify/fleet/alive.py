"""What an enclave's answer to ``alive`` must be, whoever asked and for whatever. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from coattest_enclave.protocol.alive import alive_user_data
from coattest_verify.attestation import (
    Expectation,
    ExpectNonce,
    ExpectPcrs,
    ExpectPublicKey,
    ExpectUserData,
    MaxAge,
)


def expect_alive(pcrs: Mapping[int, bytes], age: MaxAge, nonce: bytes | None = None) -> list[Expectation]:
    """These registers (48 bytes by index), that age, no public key; without a nonce its age makes it live."""
    fresh: list[Expectation] = [] if nonce is None else [ExpectNonce(nonce)]
    return [ExpectPcrs(pcrs), ExpectUserData(alive_user_data()), ExpectPublicKey(None), age, *fresh]
