"""The manifest: what an auction is, and by its digest, which auction it is."""

from __future__ import annotations

import re
from array import array
from dataclasses import asdict, dataclass, field
from typing import Any

from coattest_enclave.protocol import canonical, columns, cose
from coattest_enclave.protocol.errors import MessageError
from coattest_enclave.protocol.fields import (
    AMOUNT_MAX,
    BUYERS_MAX,
    CURRENCY,
    IDS_MAX,
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
from coattest_enclave.protocol.key_arn import parse_key_arn

PURPOSE = "coattest/manifest/v1"

CERTIFICATE_MAX = 16 * 1024
"""Bytes of a member's certificate for a buyer's key."""

# A key there is this prefix, two digests in hex, a slash and a suffix; S3 allows 1024 bytes.
_PLACE = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/(?:[A-Za-z0-9][A-Za-z0-9._-]{0,99}/){0,7}")


@dataclass(frozen=True, slots=True)
class Lots:
    """A manifest's lots in order. ``ids`` holds all ids in one text, one per line, without a line feed at the
    end; ``reserves`` is a column.
    """

    ids: str
    reserves: array[int]

    def __post_init__(self) -> None:
        if len(self.reserves) != check_ids(self.ids):
            raise MessageError("not one reserve per lot")

    @classmethod
    def decode(cls, ids: Any, reserves: Any) -> Lots:
        """The lots of a manifest's two fields; raises MessageError."""
        if not isinstance(ids, str):
            raise MessageError("lots: not a text")
        data = byte_string(reserves, 0, columns.WIDTH * LOTS_MAX, "reserves")
        return cls(ids, columns.unpack_column(data, ids.count("\n") + 1, AMOUNT_MAX, "reserves"))

    def __len__(self) -> int:
        return len(self.reserves)


def check_ids(ids: str) -> int:
    """The number of lot ids in ``ids``, one per line, each well-formed and unique; raises MessageError."""
    if len(ids) > IDS_MAX:
        raise MessageError("lots: too long")
    lines = ids.split("\n")
    if len(lines) > LOTS_MAX:
        raise MessageError("number of lots out of range")
    if not all(map(LOT_ID.fullmatch, lines)):
        raise MessageError(f"lot id: not of the form {LOT_ID.pattern}")
    unique(lines, "lot id")
    return len(lines)


@dataclass(frozen=True, slots=True)
class Buyer:
    """One buyer: seal key (SPKI DER), member's certificate (opaque here), KMS key ARN, and the place of its
    bid files in S3: bucket and prefix, which end in a slash.
    """

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
        text(self.bids, _PLACE, "place of the bids")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an auction is; ``digest`` (SHA-384, 48 bytes) identifies it; times are Unix seconds."""

    auction: str
    currency: str
    rule: str
    lots: Lots
    buyers: tuple[Buyer, ...]
    closes: int
    publish_by: int
    _encoded: bytes = field(init=False, repr=False, compare=False)
    digest: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text(self.auction, NAME, "auction id")
        text(self.currency, CURRENCY, "currency")
        text(self.rule, RULE, "rule")
        if not 1 <= len(self.buyers) <= BUYERS_MAX:
            raise MessageError("number of buyers out of range")
        names = [buyer.name for buyer in self.buyers]
        unique(names, "buyer name")
        if names != sorted(names):
            raise MessageError("buyers are not sorted by name")
        unique([buyer.key for buyer in self.buyers], "buyer key")
        unique([buyer.kms for buyer in self.buyers], "KMS key")
        if uint(self.closes, "closing time") > uint(self.publish_by, "publication deadline"):
            raise MessageError("the publication deadline is before the closing time")
        encoded = canonical.dumps(
            {
                "purpose": PURPOSE,
                "auction": self.auction,
                "currency": self.currency,
                "rule": self.rule,
                "lots": self.lots.ids,
                "reserves": columns.pack_column(self.lots.reserves),
                "buyers": [asdict(buyer) for buyer in self.buyers],
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
        names = ("auction", "currency", "rule", "lots", "reserves", "buyers", "closes", "publish_by")
        fields = exact_map(canonical.loads(data), PURPOSE, names)
        parts = ("name", "key", "certificate", "kms", "bids")
        buyers = tuple(Buyer(**exact_map(each, None, parts)) for each in array_of(fields["buyers"], "buyers"))
        lots = Lots.decode(fields["lots"], fields.pop("reserves"))
        return cls(**{**fields, "lots": lots, "buyers": buyers})
