"""The seal: what every buyer signs, and the check that all of them did (docs/protocol.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coattest_enclave.protocol import canonical, cose
from coattest_enclave.protocol.errors import MessageError
from coattest_enclave.protocol.fields import (
    BUYERS_MAX,
    DIGEST,
    NAME,
    array_of,
    byte_string,
    exact_map,
    sha384,
    text,
)
from coattest_enclave.protocol.manifest import Manifest

PURPOSE = "coattest/seal/v1"

RELEASE_DIGEST = 32
"""Bytes of a release digest, a SHA-256."""

IMAGE = DIGEST
"""Bytes of PCR0, a SHA-384."""


@dataclass(frozen=True, slots=True)
class Seal:
    """What every buyer signs: manifest digest (48 bytes), release digest (32), the image's PCR0 (48), and
    each bid file's digest (48).
    """

    manifest: bytes
    release: bytes
    image: bytes
    bids: tuple[tuple[str, bytes], ...]

    def __post_init__(self) -> None:
        byte_string(self.manifest, DIGEST, DIGEST, "manifest digest")
        byte_string(self.release, RELEASE_DIGEST, RELEASE_DIGEST, "release digest")
        if not any(byte_string(self.image, IMAGE, IMAGE, "image")):
            raise MessageError("the image is that of a debug enclave: PCR0 is zero")
        if not 1 <= len(self.bids) <= BUYERS_MAX:
            raise MessageError("number of bids out of range")
        for name, digest in self.bids:
            text(name, NAME, "buyer name")
            byte_string(digest, DIGEST, DIGEST, "bid digest")

    @property
    def digest(self) -> bytes:
        """SHA-384 of the payload, 48 bytes."""
        return sha384(self.encode())

    def encode(self) -> bytes:
        """The payload that is signed."""
        bids = [[name, digest] for name, digest in self.bids]
        fields = {"manifest": self.manifest, "release": self.release, "image": self.image, "bids": bids}
        return canonical.dumps({"purpose": PURPOSE, **fields})

    @classmethod
    def decode(cls, data: bytes) -> Seal:
        """The seal in ``data``; raises MessageError."""
        names = ("manifest", "release", "image", "bids")
        fields = exact_map(canonical.loads(data, cose.SIGN1_MAX), PURPOSE, names)
        bids = [array_of(entry, "bid", 2) for entry in array_of(fields["bids"], "bids")]
        pairs = tuple((name, digest) for name, digest in bids)
        return cls(fields["manifest"], fields["release"], fields["image"], pairs)


def check_seals(manifest: Manifest, seals: Sequence[bytes]) -> Seal:
    """The seal that every buyer of ``manifest`` signed with its key from there; raises MessageError.

    ``seals`` are COSE_Sign1 messages in any order, one per buyer. All must carry the same payload, byte for
    byte; it must name this manifest and list exactly the manifest's buyers, in the manifest's order.
    """
    if len(seals) != len(manifest.buyers):
        raise MessageError("not one seal per buyer")
    by_kid = {cose.parse_sign1(data).kid: data for data in seals}
    payloads = set()
    for buyer in manifest.buyers:
        kid = buyer.name.encode()
        if kid not in by_kid:
            raise MessageError(f"no seal of {buyer.name}")
        payloads.add(cose.verify1(by_kid[kid], buyer.key, kid=kid))
    if len(payloads) != 1:
        raise MessageError("the buyers sealed different things")
    seal = Seal.decode(payloads.pop())
    if seal.manifest != manifest.digest:
        raise MessageError("the seal names a different manifest")
    if [name for name, _ in seal.bids] != [buyer.name for buyer in manifest.buyers]:
        raise MessageError("the sealed bids are not the manifest's buyers in order")
    return seal


def bid_digest(bid_file: bytes | bytearray) -> bytes:
    """SHA-384 of a bid file (48 bytes), which the seal lists."""
    return sha384(bid_file)
