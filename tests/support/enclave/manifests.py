"""Manifests to decide over, and the rules once more, as they are said."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric import ec

from coattest_verify.auction import messages
from coattest_verify.auction.messages import FIRST_PRICE, Buyer, Manifest, Tie, Unsold, Won, make_lots
from support.enclave.running_enclave import arn_of, spki_of


@functools.cache
def buyer(index: int, wide: bool = False) -> Buyer:
    """The buyer of that number."""
    key = ec.derive_private_key(index + 1, ec.SECP384R1())
    name = f"buyer-{index:02}" if wide else f"buyer-{index}"
    return Buyer(name, spki_of(key), b"{}", arn_of(index), f"s3://bids-{index}/")


def manifest(
    buyers: int, reserves: Sequence[int], rule: str = FIRST_PRICE, *, wide: bool = False
) -> Manifest:
    """A manifest over that many buyers and lots with these reserves; ``wide`` names sort by number."""
    lots = make_lots((f"lot-{i}", reserve) for i, reserve in enumerate(reserves))
    return Manifest("auction", "EUR", rule, lots, tuple(buyer(i, wide) for i in range(buyers)), 1, 2)


def by_definition(amounts: Mapping[str, int], reserve: int, rule: str) -> messages.Outcome:
    """The rules once more, written as they are said and not as they are fast."""
    valid = {name: amount for name, amount in amounts.items() if amount > 0 and amount >= reserve}
    if not valid:
        return Unsold()
    highest = max(valid.values())
    winners = sorted(name for name, amount in valid.items() if amount == highest)
    if len(winners) > 1:
        return Tie(tuple(winners))
    if rule == FIRST_PRICE:
        return Won(winners[0])
    return Won(winners[0], max([reserve, *(a for n, a in valid.items() if n != winners[0])]))
