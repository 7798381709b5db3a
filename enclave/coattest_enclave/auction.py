"""Decides an auction: amounts in, one outcome per lot out. Pure, and the order of the buyers does not matter.

Rules: an amount of 0 or below the lot's reserve is no bid. The highest bid wins; equal highest bids are a
tie, which is not broken here. Under second price the winner pays the second highest bid or the reserve,
whichever is higher. A tie has no price, because that would reveal the amount of every tied buyer.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from coattest_enclave.protocol.columns import WIDTH
from coattest_enclave.protocol.messages import SECOND_PRICE, Manifest, Outcomes, Result


def decide_lots(manifest: Manifest, bids: Mapping[str, Sequence[int] | None]) -> Outcomes:
    """One outcome per lot of ``manifest``, in its order.

    ``bids`` has exactly the manifest's buyers: amounts in minor units, one per lot, or None for a buyer who
    counts as not bidding on any lot. Raises ValueError otherwise.
    """
    names, count = tuple(buyer.name for buyer in manifest.buyers), len(manifest.lots)
    if set(bids) != set(names):
        raise ValueError("the bids do not belong to exactly the manifest's buyers")
    if any(given is not None and len(given) != count for given in bids.values()):
        raise ValueError("a buyer's bids are not one amount per lot")
    # A buyer without bids gets a column of zeros, so that deciding takes the same work.
    columns: list[Sequence[int]] = []
    for name in names:
        given = bids[name]
        columns.append(array("Q", bytes(WIDTH * count)) if given is None else given)
    bits = [1 << index for index in range(len(names))]
    priced = manifest.rule == SECOND_PRICE
    winners, prices = array("Q"), array("Q")
    for reserve, amounts in zip(manifest.lots.reserves, zip(*columns, strict=True), strict=True):
        highest = max(amounts)
        winner = price = 0
        if highest and highest >= reserve:
            if amounts.count(highest) == 1:
                winner = bits[amounts.index(highest)]
                if priced:
                    price = max(reserve, sorted(amounts)[-2] if len(amounts) > 1 else 0)
            else:
                winner = sum(bit for bit, a in zip(bits, amounts, strict=True) if a == highest)
        winners.append(winner)
        if priced:
            prices.append(price)
    return Outcomes(manifest.lots.ids, names, winners, prices)


def result(manifest: Manifest, seal: bytes, bids: Mapping[str, Sequence[int] | None]) -> Result:
    """The result of ``manifest`` under the seal with digest ``seal`` (48 bytes)."""
    lots = decide_lots(manifest, bids)
    return Result(manifest.auction, manifest.digest, seal, manifest.currency, manifest.rule, lots)
