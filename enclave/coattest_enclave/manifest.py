"""The manifest: what an auction is, and by its digest, which auction it is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from coattest_enclave import canonical, cose
from coattest_enclave.canonical import MessageError
from coattest_enclave.fields import (
    BUYERS_MAX,
    CURRENCY,
    LOT_ID,
    LOTS_MAX,
    NAME,
    RULE,
    array_of,
    byte_string,
    exact_map,
    sha384,
    text,
    uint,
    unique,
)

PURPOSE = "coattest/manifest/v1"

CERTIFICATE_MAX = 16 * 1024
"""Bytes of an operator's certificate for a buyer's key."""

_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[!-~]{1,1024}")
# Single-Region keys by full ARN: an alias can be pointed at another key at any time.
_ARN = re.compile(
    r"arn:(aws|aws-cn|aws-us-gov):kms:([a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}):([0-9]{12}):key/"
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
)


class Lot(NamedTuple):
    """A lot's id and its reserve price in minor units (0: none)."""

    id: str
    reserve: int


class KeyArn(NamedTuple):
    """The parts of a KMS key ARN that decide where a request goes."""

    partition: str
    region: str
    account: str


@dataclass(frozen=True, slots=True)
class Buyer:
    """One buyer: seal key (SPKI DER), operator's certificate (opaque here), KMS key ARN, bids URI."""

    name: str
    key: bytes
    certificate: bytes
    kms: str
    bids: str

    def __post_init__(self) -> None:
        text(self.name, NAME, "buyer name")
        cose.load_public_key(byte_string(self.key, 1, 256, "buyer key"))
        byte_string(self.certificate, 1, CERTIFICATE_MAX, "buyer certificate")
        parse_key_arn(self.kms)
        text(self.bids, _S3, "bids URI")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an auction is; ``digest`` (SHA-384, 48 bytes) is its identity; times are Unix seconds."""

    auction: str
    currency: str
    rule: str
    lots: tuple[Lot, ...]
    buyers: tuple[Buyer, ...]
    closes: int
    publish_by: int
    _encoded: bytes = field(init=False, repr=False, compare=False)
    digest: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text(self.auction, NAME, "auction id")
        text(self.currency, CURRENCY, "currency")
        text(self.rule, RULE, "rule")
        if not 1 <= len(self.lots) <= LOTS_MAX or not 1 <= len(self.buyers) <= BUYERS_MAX:
            raise MessageError("number of lots or buyers out of range")
        for identifier, reserve in self.lots:
            text(identifier, LOT_ID, "lot id")
            uint(reserve, "reserve")
        unique([lot.id for lot in self.lots], "lot id")
        names = [buyer.name for buyer in self.buyers]
        unique(names, "buyer name")
        if names != sorted(names):
            raise MessageError("buyers are not in order of their names")
        unique([buyer.key for buyer in self.buyers], "buyer key")
        unique([buyer.kms for buyer in self.buyers], "KMS key")
        if uint(self.closes, "closing time") > uint(self.publish_by, "publication deadline"):
            raise MessageError("publication deadline is before the closing time")
        encoded = canonical.encode(
            {
                "purpose": PURPOSE,
                "auction": self.auction,
                "currency": self.currency,
                "rule": self.rule,
                "lots": [list(lot) for lot in self.lots],
                "buyers": [
                    {"name": b.name, "key": b.key, "certificate": b.certificate, "kms": b.kms, "bids": b.bids}
                    for b in self.buyers
                ],
                "closes": self.closes,
                "publish_by": self.publish_by,
            }
        )
        object.__setattr__(self, "_encoded", encoded)
        object.__setattr__(self, "digest", sha384(encoded))

    def encode(self) -> bytes:
        """The manifest's bytes."""
        return self._encoded

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """The manifest in ``data``; raises MessageError."""
        names = ("auction", "currency", "rule", "lots", "buyers", "closes", "publish_by")
        fields = exact_map(canonical.decode(data), PURPOSE, names)
        buyers = []
        for entry in array_of(fields["buyers"], "buyers"):
            buyers.append(Buyer(**exact_map(entry, None, ("name", "key", "certificate", "kms", "bids"))))
        lots = [Lot(*array_of(entry, "lot", 2)) for entry in array_of(fields["lots"], "lots")]
        return cls(**{**fields, "lots": tuple(lots), "buyers": tuple(buyers)})

    def buyer(self, name: str) -> Buyer:
        """The buyer of that name; raises MessageError."""
        for buyer in self.buyers:
            if buyer.name == name:
                return buyer
        raise MessageError("no such buyer in the manifest")


def parse_key_arn(arn: Any) -> KeyArn:
    """Partition, region and account of a full KMS key ARN; raises MessageError for aliases and all else."""
    match = _ARN.fullmatch(arn) if isinstance(arn, str) else None
    if match is None:
        raise MessageError("not the full ARN of a single-Region KMS key")
    return KeyArn(*match.groups())
