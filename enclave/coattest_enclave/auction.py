"""The decision: amounts in, one outcome per lot out. Pure, and the order of the buyers does not matter.

Rules: 0 is no bid, and so is an amount below the lot's reserve. The highest bid wins; several highest are a
tie, never broken here. Under second price the winner pays the second highest bid or the reserve, whichever
is higher; a tie has no price, because it would be every tied buyer's amount.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from coattest_enclave.messages import SECOND_PRICE, Manifest, Outcome, Result, Tie, Unsold, Won


def decide(manifest: Manifest, bids: Mapping[str, Sequence[int] | None]) -> tuple[Outcome, ...]:
    """One outcome per lot of ``manifest``, in its order.

    ``bids`` has every buyer of the manifest and nobody else: amounts in minor units, one per lot, or None
    for a buyer who counts as having bid on nothing. Raises ValueError when that does not hold.
    """
    names = [buyer.name for buyer in manifest.buyers]
    if set(bids) != set(names):
        raise ValueError("bids are not the manifest's buyers'")
    nothing = array("Q", bytes(8 * len(manifest.lots)))
    columns = [nothing if amounts is None else amounts for amounts in map(bids.__getitem__, names)]
    if any(len(column) != len(manifest.lots) for column in columns):
        raise ValueError("bids are not one amount per lot")
    priced = manifest.rule == SECOND_PRICE
    # One outcome object per buyer, not per lot: a million lots need no million objects.
    unsold, won = Unsold(), [Won(name) for name in names]
    outcomes: list[Outcome] = []
    for lot, amounts in zip(manifest.lots, zip(*columns, strict=True), strict=True):
        highest = max(amounts)
        if not highest or highest < lot.reserve:
            outcomes.append(unsold)
        elif amounts.count(highest) > 1:
            outcomes.append(Tie(tuple(n for n, a in zip(names, amounts, strict=True) if a == highest)))
        elif priced:
            second = sorted(amounts)[-2] if len(amounts) > 1 else 0
            outcomes.append(Won(names[amounts.index(highest)], max(second, lot.reserve)))
        else:
            outcomes.append(won[amounts.index(highest)])
    return tuple(outcomes)


def result(manifest: Manifest, seal: bytes, bids: Mapping[str, Sequence[int] | None]) -> Result:
    """The result of ``manifest`` under the seal with digest ``seal`` (48 bytes)."""
    lots = zip((lot.id for lot in manifest.lots), decide(manifest, bids), strict=True)
    return Result(manifest.auction, manifest.digest, seal, manifest.currency, manifest.rule, tuple(lots))
