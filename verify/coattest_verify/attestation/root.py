"""The pinned root of an attestation chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from coattest.errors import UsageError
from coattest_verify.attestation.limits import SHA256_SIZE


@dataclass(frozen=True, slots=True)
class Root:
    """A root certificate, named by the SHA-256 of its DER: the first entry of cabundle must be that
    certificate.

    ``name`` is for people and appears in verdicts. Raises UsageError when ``sha256`` is not 32 bytes: a
    root that cannot match, or is missing, must not become a root that is not checked.
    """

    name: str
    sha256: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.sha256, bytes) or len(self.sha256) != SHA256_SIZE:
            raise UsageError("the root's fingerprint is not 32 bytes", where=self.name, code="bad-root")


AWS_NITRO: Final = Root(
    "AWS Nitro Enclaves Root-G1",
    bytes.fromhex("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"),
)
"""AWS's root for the commercial partition, valid 2019-10-28 to 2049-10-28. Source: Nitro Enclaves User Guide,
"Verifying the root of trust" (the fingerprint given there), and cabundle[0] of every known document."""
