"""How an auction ends: an outcome per lot, the result, and the file that is published."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import overload

from coattest_enclave.protocol import canonical, columns, cose
from coattest_enclave.protocol.errors import MessageError
from coattest_enclave.protocol.fields import (
    AMOUNT_MAX,
    BUYERS_MAX,
    CURRENCY,
    DIGEST,
    FIRST_PRICE,
    LOTS_MAX,
    NAME,
    RULE,
    SECOND_PRICE,
    array_of,
    byte_string,
    exact_map,
    sha384,
    text,
)
from coattest_enclave.protocol.manifest import check_ids
from coattest_enclave.protocol.receipt import RESULT

FILE_PURPOSE = "coattest/result-file/v1"

DISCLOSURE = {
    FIRST_PRICE: "who won each lot, ties with their names, unsold lots; no amount",
    SECOND_PRICE: "as first-price, and what each won lot costs: the second highest bid or the reserve",
}
"""The rules, and what a result reveals under each; a buyer reads it before sealing."""

RECEIPT_MAX = 32 * 1024
"""Bytes of a receipt: an attestation document's payload has at most 16384 (NSM API, attestation process)."""


@dataclass(frozen=True, slots=True)
class Won:
    """One buyer has the highest bid; ``price`` in minor units under second price, None under first price."""

    buyer: str
    price: int | None = None


@dataclass(frozen=True, slots=True)
class Tie:
    """Several buyers, sorted, have the same highest bid; the amount is not revealed."""

    buyers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsold:
    """No bid reached the reserve."""


Outcome = Won | Tie | Unsold


@dataclass(frozen=True, slots=True)
class Outcomes(Sequence[tuple[str, Outcome]]):
    """A result's lots in the manifest's order: a sequence of (lot id, outcome), stored in columns.

    ``ids`` come from a manifest and are checked there. ``winners`` has a bit per buyer (2**i is
    ``buyers[i]``): no bit is unsold, several are a tie. ``prices`` is empty under first price; under second
    price it has the price of each lot that was won, and 0 for every other lot.
    """

    ids: str
    buyers: tuple[str, ...]
    winners: array[int]
    prices: array[int]

    def __post_init__(self) -> None:
        for name in self.buyers:
            text(name, NAME, "buyer name")
        if not 1 <= len(self.buyers) <= BUYERS_MAX or list(self.buyers) != sorted(set(self.buyers)):
            raise MessageError("buyers are not sorted by name")
        count = self.ids.count("\n") + 1
        if len(self.winners) != count or len(self.prices) not in (0, count):
            raise MessageError("not one outcome per lot")
        if max(self.winners) >> len(self.buyers):
            raise MessageError("winners: a bit that stands for no buyer")
        alone = {1 << index for index in range(len(self.buyers))}
        if self.prices and any(
            price and mask not in alone for mask, price in zip(self.winners, self.prices, strict=True)
        ):
            raise MessageError("a price on a lot without a single winner")

    def __len__(self) -> int:
        return len(self.winners)

    def __iter__(self) -> Iterator[tuple[str, Outcome]]:
        return self._pairs(slice(None))

    @overload
    def __getitem__(self, index: int) -> tuple[str, Outcome]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[str, Outcome], ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, Outcome] | tuple[tuple[str, Outcome], ...]:
        if isinstance(index, slice):
            return tuple(self._pairs(index))
        position = range(len(self))[index]
        return next(self._pairs(slice(position, position + 1)))

    def _pairs(self, part: slice) -> Iterator[tuple[str, Outcome]]:
        # One outcome object per set of winners, not per lot.
        known: dict[int, Outcome] = {}
        masks = self.winners[part]
        prices: Iterable[int | None] = self.prices[part] or repeat(None, len(masks))
        for identifier, mask, price in zip(self.ids.split("\n")[part], masks, prices, strict=True):
            outcome = known.get(mask)
            if outcome is None:
                names = tuple(name for i, name in enumerate(self.buyers) if mask >> i & 1)
                outcome = Won(*names) if len(names) == 1 else Tie(names) if names else Unsold()
                known[mask] = outcome
            if price is not None and isinstance(outcome, Won):
                outcome = Won(outcome.buyer, price)
            yield identifier, outcome


@dataclass(frozen=True, slots=True)
class Result:
    """How an auction ended: one outcome per lot, in the manifest's order."""

    auction: str
    manifest: bytes
    seal: bytes
    currency: str
    rule: str
    lots: Outcomes

    def __post_init__(self) -> None:
        text(self.auction, NAME, "auction id")
        byte_string(self.manifest, DIGEST, DIGEST, "manifest digest")
        byte_string(self.seal, DIGEST, DIGEST, "seal digest")
        text(self.currency, CURRENCY, "currency")
        text(self.rule, RULE, "rule")
        if bool(self.lots.prices) is not (self.rule == SECOND_PRICE):
            raise MessageError("prices do not match the rule")

    @property
    def digest(self) -> bytes:
        """SHA-384 of the encoding, 48 bytes."""
        return sha384(self.encode())

    def encode(self) -> bytes:
        """The result's bytes, which the receipt covers. How many there are depends on the manifest only."""
        return canonical.dumps(
            {
                "purpose": RESULT,
                "auction": self.auction,
                "manifest": self.manifest,
                "seal": self.seal,
                "currency": self.currency,
                "rule": self.rule,
                "lots": self.lots.ids,
                "buyers": list(self.lots.buyers),
                "winners": columns.pack_column(self.lots.winners),
                "prices": columns.pack_column(self.lots.prices),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Result:
        """The result in ``data``; raises MessageError."""
        names = ("auction", "manifest", "seal", "currency", "rule", "lots", "buyers", "winners", "prices")
        fields = exact_map(canonical.loads(data), RESULT, names)
        ids, buyers = fields.pop("lots"), array_of(fields.pop("buyers"), "buyers")
        if not isinstance(ids, str):
            raise MessageError("lots: not a text")
        count = check_ids(ids)
        winners = byte_string(fields.pop("winners"), 0, columns.WIDTH * LOTS_MAX, "winners")
        prices = byte_string(fields.pop("prices"), 0, columns.WIDTH * LOTS_MAX, "prices")
        lots = Outcomes(
            ids,
            tuple(buyers),
            columns.unpack_column(winners, count, 2**BUYERS_MAX - 1, "winners"),
            columns.unpack_column(prices, count, AMOUNT_MAX, "prices") if prices else array("Q"),
        )
        return cls(**fields, lots=lots)


@dataclass(frozen=True, slots=True)
class ResultFile:
    """What is published: the result's bytes, the receipt (an NSM document) and every buyer's signed seal."""

    result: bytes
    receipt: bytes
    seals: tuple[bytes, ...]

    def encode(self) -> bytes:
        """The file's bytes."""
        return canonical.dumps(
            {
                "purpose": FILE_PURPOSE,
                "result": self.result,
                "receipt": self.receipt,
                "seals": list(self.seals),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> ResultFile:
        """The parts of a result file, unverified; raises MessageError."""
        fields = exact_map(canonical.loads(data), FILE_PURPOSE, ("result", "receipt", "seals"))
        seals = array_of(fields["seals"], "seals")
        if not 1 <= len(seals) <= BUYERS_MAX:
            raise MessageError("number of seals out of range")
        return cls(
            byte_string(fields["result"], 1, canonical.SIZE_MAX, "result"),
            byte_string(fields["receipt"], 1, RECEIPT_MAX, "receipt"),
            tuple(byte_string(seal, 1, cose.SIGN1_MAX, "seal") for seal in seals),
        )
