"""What an auction ends with: an outcome per lot, the result, and the file that is published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coattest_enclave import canonical, cose
from coattest_enclave.canonical import MessageError
from coattest_enclave.fields import (
    BUYERS_MAX,
    CURRENCY,
    DIGEST,
    LOT_ID,
    LOTS_MAX,
    NAME,
    RULE,
    SECOND_PRICE,
    array_of,
    byte_string,
    exact_map,
    sha384,
    text,
    uint,
    unique,
)

PURPOSE, FILE_PURPOSE = "coattest/result/v1", "coattest/result-file/v1"

RECEIPT_MAX = 32 * 1024
"""Bytes of an attestation document: a payload of at most 16384 (its specification, 2) and more."""


@dataclass(frozen=True, slots=True)
class Won:
    """One buyer has the highest bid; ``price`` in minor units under second price, None under first price."""

    buyer: str
    price: int | None = None


@dataclass(frozen=True, slots=True)
class Tie:
    """Several buyers, sorted, have the same highest bid; which amount is not said."""

    buyers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsold:
    """No bid reached the reserve."""


Outcome = Won | Tie | Unsold


@dataclass(frozen=True, slots=True)
class Result:
    """What an auction ended with: one outcome per lot, in the manifest's order."""

    auction: str
    manifest: bytes
    seal: bytes
    currency: str
    rule: str
    lots: tuple[tuple[str, Outcome], ...]

    def __post_init__(self) -> None:
        text(self.auction, NAME, "auction id")
        byte_string(self.manifest, DIGEST, DIGEST, "manifest digest")
        byte_string(self.seal, DIGEST, DIGEST, "seal digest")
        text(self.currency, CURRENCY, "currency")
        text(self.rule, RULE, "rule")
        if not 1 <= len(self.lots) <= LOTS_MAX:
            raise MessageError("number of lots out of range")

    @property
    def digest(self) -> bytes:
        """SHA-384 of the encoding, 48 bytes."""
        return sha384(self.encode())

    def encode(self) -> bytes:
        """The result's bytes: what the receipt is about."""
        return canonical.encode(
            {
                "purpose": PURPOSE,
                "auction": self.auction,
                "manifest": self.manifest,
                "seal": self.seal,
                "currency": self.currency,
                "rule": self.rule,
                "lots": [[identifier, _pack_outcome(outcome)] for identifier, outcome in self.lots],
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Result:
        """The result in ``data``; raises MessageError."""
        names = ("auction", "manifest", "seal", "currency", "rule", "lots")
        fields = exact_map(canonical.decode(data), PURPOSE, names)
        priced = fields["rule"] == SECOND_PRICE
        lots = []
        for entry in array_of(fields["lots"], "lots"):
            identifier, outcome = array_of(entry, "lot", 2)
            lots.append((text(identifier, LOT_ID, "lot id"), _unpack_outcome(outcome, priced)))
        unique([identifier for identifier, _ in lots], "lot id")
        return cls(**{**fields, "lots": tuple(lots)})


@dataclass(frozen=True, slots=True)
class ResultFile:
    """What is published: the result's bytes, the receipt (an NSM document) and every buyer's signed seal."""

    result: bytes
    receipt: bytes
    seals: tuple[bytes, ...]

    def encode(self) -> bytes:
        """The file's bytes."""
        return canonical.encode(
            {
                "purpose": FILE_PURPOSE,
                "result": self.result,
                "receipt": self.receipt,
                "seals": list(self.seals),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> ResultFile:
        """The parts of a result file, none of them verified; raises MessageError."""
        fields = exact_map(canonical.decode(data), FILE_PURPOSE, ("result", "receipt", "seals"))
        seals = array_of(fields["seals"], "seals")
        if not 1 <= len(seals) <= BUYERS_MAX:
            raise MessageError("number of seals out of range")
        return cls(
            byte_string(fields["result"], 1, canonical.SIZE_MAX, "result"),
            byte_string(fields["receipt"], 1, RECEIPT_MAX, "receipt"),
            tuple(byte_string(seal, 1, cose.SIGN1_MAX, "seal") for seal in seals),
        )


def _pack_outcome(outcome: Outcome) -> list[Any]:
    match outcome:
        case Won(buyer, None):
            return ["won", buyer]
        case Won(buyer, price):
            return ["won", buyer, price]
        case Tie(buyers):
            return ["tie", list(buyers)]
        case Unsold():
            return ["unsold"]


def _unpack_outcome(value: Any, priced: bool) -> Outcome:
    match value:
        case ["won", buyer] if not priced:
            return Won(text(buyer, NAME, "buyer name"))
        case ["won", buyer, price] if priced:
            return Won(text(buyer, NAME, "buyer name"), uint(price, "price"))
        case ["tie", [_, _, *_] as names]:
            buyers = tuple(text(name, NAME, "buyer name") for name in names)
            unique(buyers, "buyer name")
            if list(buyers) == sorted(buyers):
                return Tie(buyers)
        case ["unsold"]:
            return Unsold()
    raise MessageError("not an outcome of this rule")
