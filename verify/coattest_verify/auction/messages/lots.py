"""A manifest's lots and buyers one by one; the enclave has lots in columns only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

from coattest_enclave.protocol.errors import MessageError
from coattest_enclave.protocol.manifest import Buyer, Lots, Manifest
from coattest_verify.auction.messages.amounts import column


class Lot(NamedTuple):
    """A lot's id and its reserve price in minor units (0: none)."""

    id: str
    reserve: int


def make_lots(lots: Iterable[tuple[str, int]]) -> Lots:
    """The columns of these pairs of id and reserve; raises MessageError."""
    pairs = list(lots)
    if not all(isinstance(identifier, str) for identifier, _ in pairs):
        raise MessageError("lot id: not a text")
    reserves = column((reserve for _, reserve in pairs), "reserve")
    return Lots("\n".join(identifier for identifier, _ in pairs), reserves)


@dataclass(frozen=True, slots=True)
class LotList(Sequence[Lot]):
    """The lots of a manifest in order, made from its columns as they are asked for."""

    lots: Lots

    def __len__(self) -> int:
        return len(self.lots)

    def __iter__(self) -> Iterator[Lot]:
        return map(Lot, self.lots.ids.split("\n"), self.lots.reserves)

    @overload
    def __getitem__(self, index: int) -> Lot: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Lot, ...]: ...
    def __getitem__(self, index: int | slice) -> Lot | tuple[Lot, ...]:
        ids = self.lots.ids.split("\n")
        if isinstance(index, slice):
            return tuple(map(Lot, ids[index], self.lots.reserves[index]))
        return Lot(ids[index], self.lots.reserves[index])


def named_buyer(manifest: Manifest, name: str) -> Buyer:
    """The buyer of that name; raises MessageError."""
    for buyer in manifest.buyers:
        if buyer.name == name:
            return buyer
    raise MessageError("the manifest has no buyer of that name")
