"""What a bid is bound to: its auction, its buyer, that buyer's own seal, and the image that may open it."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from coattest_enclave.protocol import canonical
from coattest_enclave.protocol.manifest import Buyer, Manifest

BID = "coattest/bid/v1"

AUCTION = "coattest:auction"
"""The encryption context's key for the manifest's digest, hex."""

BUYER = "coattest:buyer"
"""For the buyer's name."""

SEAL_KEY = "coattest:seal-key"
"""For the SHA-256 of the buyer's own seal key (SPKI DER), hex."""

IMAGE = "coattest:image"
"""For PCR0 of the image, hex."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Everything that must be the same when a bid is encrypted and when it is opened.

    Who encrypts takes ``seal_key`` (SPKI DER) from its own key file and ``image`` (PCR0, 48 bytes) from the
    decision that it recomputed. The enclave takes them from the signature that it verified and from its own
    NSM document. So a bid opens under its buyer's own seal only, in the image that it was made for.
    """

    manifest: bytes
    """The manifest's digest, 48 bytes."""
    buyer: str
    seal_key: bytes
    image: bytes
    kms: str
    """Full ARN of the buyer's KMS key."""

    @classmethod
    def of(cls, manifest: Manifest, buyer: Buyer, image: bytes) -> Binding:
        """The binding of a buyer's bid, with the seal key that ``manifest`` gives for it."""
        return cls(manifest.digest, buyer.name, buyer.key, image, buyer.kms)

    @property
    def context(self) -> dict[str, str]:
        """KMS's encryption context of the data key."""
        return {
            AUCTION: self.manifest.hex(),
            BUYER: self.buyer,
            IMAGE: self.image.hex(),
            SEAL_KEY: seal_key_digest(self.seal_key).hex(),
        }

    @property
    def aad(self) -> bytes:
        """External AAD of the bid file."""
        digest = seal_key_digest(self.seal_key)
        return canonical.dumps([BID, self.manifest, self.buyer, digest, self.image, self.kms])


def seal_key_digest(spki: bytes) -> bytes:
    """SHA-256 (32 bytes) of a seal key's SPKI DER."""
    return sha256(spki).digest()
