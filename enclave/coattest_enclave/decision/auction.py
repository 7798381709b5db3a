"""Decides an auction: amounts in, one outcome per lot out. Pure, and the order of the buyers does not matter.

Rules: an amount of 0 or below the lot's reserve is no bid. The highest bid wins; equal highest bids are a
tie, which is not broken here. Under second price the winner pays the second highest bid or the reserve,
whichever is higher. A tie has no price, because that would reveal the amount of every tied buyer.

Which operations run, and on how large integers, depends on the numbers of lots and buyers and on the rule,
never on an amount (``lanes``).
"""

from __future__ import annotations

from collections.abc import Mapping

from coattest_enclave.decision import lanes
from coattest_enclave.protocol import buffers, canonical, columns
from coattest_enclave.protocol.fields import SECOND_PRICE
from coattest_enclave.protocol.manifest import Manifest
from coattest_enclave.protocol.receipt import RESULT

QUANTUM_MIN = 0.5
"""Seconds of the shortest quantum: some 20 times what a decision over few lots takes."""

QUANTUM_PER_AMOUNT = 0.3e-6
"""Seconds more for each buyer's amount, and for four more per lot, which are ids, reserves and the result."""

Plaintext = bytes | bytearray
"""What was in a bid file: 8 bytes big-endian per lot. Anything else counts as bidding on no lot."""


def quantum(lots: int, buyers: int) -> float:
    """Seconds of one tick of an auction of that size, some times what its decision takes."""
    return QUANTUM_MIN + QUANTUM_PER_AMOUNT * lots * (buyers + 4)


def columns_of_result(manifest: Manifest, bids: Mapping[str, Plaintext]) -> tuple[bytearray, bytearray]:
    """The columns of winners and of prices of ``manifest``'s lots (docs/protocol.md, "Result").

    ``bids`` has exactly the manifest's buyers; raises ValueError otherwise. Prices are empty under first
    price.
    """
    names, size = [buyer.name for buyer in manifest.buyers], columns.WIDTH * len(manifest.lots)
    if set(bids) != set(names):
        raise ValueError("the bids do not belong to exactly the manifest's buyers")
    given = [memoryview(bids[name] if len(bids[name]) == size else bytes(size)) for name in names]
    reserves = memoryview(columns.pack_column(manifest.lots.reserves))
    priced = manifest.rule == SECOND_PRICE
    winners, prices = bytearray(), bytearray()
    reader = lanes.ColumnReader()
    try:
        valid = [_mask_of(reader, column) for column in given]
        for start in range(0, size, lanes.SIZE):
            amounts = [
                lanes.kept(reader.read(column, start), by) for column, by in zip(given, valid, strict=True)
            ]
            won, price = _piece(amounts, reader.read(reserves, start), priced=priced)
            winners += lanes.write(won)
            prices += lanes.write(price) if priced else b""
    finally:
        reader.close()
    del winners[size:], prices[size:]
    return winners, prices


def _mask_of(reader: lanes.ColumnReader, column: memoryview) -> int:
    """Keeps every amount of the column, or none when a number in it is out of range."""
    seen = lanes.ZEROS
    for start in range(0, len(column), lanes.SIZE):
        seen |= reader.read(column, start)
    return (lanes.NONE, lanes.EVERY)[lanes.is_amounts(seen)]


def _piece(amounts: list[int], reserves: int, *, priced: bool) -> tuple[int, int]:
    """Winners and prices of some lots."""
    highest = second = lanes.ZEROS
    for each in amounts:
        highest, beaten = lanes.sort(each, highest)
        if priced:
            second, _ = lanes.sort(second, beaten)
    floor, _ = lanes.sort(reserves, lanes.ONES)
    sold = lanes.at_least(highest, floor)
    winners = lanes.ZEROS
    for index, each in enumerate(amounts):
        winners |= lanes.bits(lanes.at_least(each, highest) & sold, index)
    alone = lanes.inverse(lanes.at_least(second, highest))
    price, _ = lanes.sort(second, reserves)
    return winners, lanes.kept(price, lanes.mask(sold & alone))


def result(manifest: Manifest, seal: bytes, bids: Mapping[str, Plaintext]) -> bytes:
    """The result of ``manifest`` under the seal with digest ``seal`` (48 bytes), encoded.

    Buffers in ``bids`` are overwritten and emptied once it is decided: the result takes their memory.
    """
    winners, prices = columns_of_result(manifest, bids)
    for plaintext in bids.values():
        if isinstance(plaintext, bytearray):
            buffers.wipe(plaintext)
            plaintext.clear()
    return canonical.dumps(
        {
            "purpose": RESULT,
            "auction": manifest.auction,
            "manifest": manifest.digest,
            "seal": seal,
            "currency": manifest.currency,
            "rule": manifest.rule,
            "lots": manifest.lots.ids,
            "buyers": [buyer.name for buyer in manifest.buyers],
            "winners": winners,
            "prices": prices,
        }
    )
