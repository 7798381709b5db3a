"""The decision: its rules, and that nothing but the amounts decides."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest_enclave.decision import auction
from coattest_verify.auction import messages
from coattest_verify.auction.messages import (
    FIRST_PRICE,
    SECOND_PRICE,
    Tie,
    Unsold,
    Won,
)
from support.auction import deciding
from support.enclave.manifests import by_definition, manifest


def outcome(amounts: Sequence[int], reserve: int = 0, rule: str = FIRST_PRICE) -> messages.Outcome:
    """The outcome of one lot."""
    bids = {f"buyer-{i}": [amount] for i, amount in enumerate(amounts)}
    ((_, only),) = deciding.outcomes(manifest(len(amounts), [reserve], rule), bids)
    return only


@pytest.mark.parametrize(
    ("amounts", "reserve", "first", "second"),
    [
        ([1], 0, Won("buyer-0"), Won("buyer-0", 0)),
        ([5], 3, Won("buyer-0"), Won("buyer-0", 3)),
        ([0], 0, Unsold(), Unsold()),
        ([0, 0], 0, Unsold(), Unsold()),
        ([2, 3], 4, Unsold(), Unsold()),
        ([2, 4], 4, Won("buyer-1"), Won("buyer-1", 4)),
        ([3, 4], 4, Won("buyer-1"), Won("buyer-1", 4)),
        ([3, 9], 2, Won("buyer-1"), Won("buyer-1", 3)),
        ([9, 3, 7], 0, Won("buyer-0"), Won("buyer-0", 7)),
        ([7, 3, 7], 0, Tie(("buyer-0", "buyer-2")), Tie(("buyer-0", "buyer-2"))),
        ([7, 7, 7], 8, Unsold(), Unsold()),
        ([0, 5], 0, Won("buyer-1"), Won("buyer-1", 0)),
        ([5, 5, 9], 0, Won("buyer-2"), Won("buyer-2", 5)),
        ([2**53 - 1, 2**53 - 2], 0, Won("buyer-0"), Won("buyer-0", 2**53 - 2)),
    ],
)
def test_the_rules(
    amounts: Sequence[int], reserve: int, first: messages.Outcome, second: messages.Outcome
) -> None:
    """Highest wins, 0 or below the reserve is no bid, ties stay ties, the reserve bounds the price."""
    assert outcome(amounts, reserve) == first
    assert outcome(amounts, reserve, SECOND_PRICE) == second


amount = st.integers(0, 6) | st.integers(0, messages.AMOUNT_MAX)
tables = st.integers(1, 5).flatmap(
    lambda lots: st.tuples(
        st.lists(st.integers(0, 6), min_size=lots, max_size=lots),
        st.lists(st.none() | st.lists(amount, min_size=lots, max_size=lots), min_size=1, max_size=5),
    )
)


@given(tables, st.sampled_from([FIRST_PRICE, SECOND_PRICE]))
def test_the_decision_is_the_definition(table: tuple[list[int], list[list[int] | None]], rule: str) -> None:
    """For any table of amounts every lot's outcome is the one the rules define, absent buyers included."""
    reserves, rows = table
    bids = {f"buyer-{i}": row for i, row in enumerate(rows)}
    decided = deciding.outcomes(manifest(len(rows), reserves, rule), bids)
    for lot, reserve in enumerate(reserves):
        amounts = {name: row[lot] if row is not None else 0 for name, row in bids.items()}
        assert decided[lot][1] == by_definition(amounts, reserve, rule)


@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_the_bids_does_not_matter(
    table: tuple[list[int], list[list[int] | None]], random: object
) -> None:
    """The same bids handed over in another order give the same result, byte for byte."""
    reserves, rows = table
    book = manifest(len(rows), reserves, SECOND_PRICE)
    items = [(f"buyer-{i}", row) for i, row in enumerate(rows)]
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    seal = bytes(48)
    assert (
        deciding.result(book, seal, dict(items)).encode()
        == deciding.result(book, seal, dict(shuffled)).encode()
    )


@given(tables)
def test_first_price_says_nothing_of_amounts(table: tuple[list[int], list[list[int] | None]]) -> None:
    """Doubling every amount and reserve changes nothing in a first-price result: only order counts."""
    reserves, rows = table
    halves = [[a // 2 for a in row] if row is not None else None for row in rows]
    doubled = [[a * 2 for a in row] if row is not None else None for row in halves]
    one = deciding.outcomes(
        manifest(len(rows), reserves), {f"buyer-{i}": row for i, row in enumerate(halves)}
    )
    two = deciding.outcomes(
        manifest(len(rows), [2 * r for r in reserves]),
        {f"buyer-{i}": row for i, row in enumerate(doubled)},
    )
    assert one == two


@pytest.mark.parametrize(
    "bids",
    [{}, {"buyer-0": [1]}, {"buyer-0": [1], "buyer-1": [1], "buyer-2": [1]}, {"buyer-0": [1], "x": [1]}],
)
def test_exactly_the_manifests_buyers_bid(bids: Mapping[str, Sequence[int]]) -> None:
    """A missing or additional buyer is an error, never a silent no-bid."""
    with pytest.raises(ValueError, match="buyers"):
        deciding.outcomes(manifest(2, [0]), bids)


@given(st.lists(st.integers(0, messages.AMOUNT_MAX), min_size=1, max_size=50))
def test_amounts_survive_packing(amounts: list[int]) -> None:
    """Packed amounts are 8 big-endian bytes each and unpack to themselves."""
    packed = messages.pack_bids(amounts)
    assert packed == b"".join(a.to_bytes(8, "big") for a in amounts)
    assert list(messages.unpack_bids(packed, len(amounts))) == amounts


@pytest.mark.parametrize(
    ("plaintext", "lots"),
    [
        (b"", 1),
        (bytes(7), 1),
        (bytes(9), 1),
        (bytes(16), 1),
        (bytes(8), 2),
        ((2**53).to_bytes(8, "big"), 1),
        (b"\xff" * 8, 1),
        (bytes(8) + b"\x80" + bytes(7), 2),
    ],
)
def test_a_bid_of_the_wrong_form_is_no_bid(plaintext: bytes, lots: int) -> None:
    """Another length or an amount out of range, in whichever lot, counts as bidding on none."""
    book = manifest(2, [0] * lots, SECOND_PRICE)
    other = struct.pack(f">{lots}Q", *[5] * lots)
    winners, prices = auction.columns_of_result(book, {"buyer-0": plaintext, "buyer-1": other})
    assert struct.unpack(f">{lots}Q", winners) == (2,) * lots
    assert struct.unpack(f">{lots}Q", prices) == (0,) * lots


@pytest.mark.parametrize("amounts", [[], [-1], [2**53], [1.0], [True], ["1"], [None]])
def test_what_is_no_amount_does_not_pack(amounts: list[int]) -> None:
    """A buyer's tool cannot make a bid that the enclave would count as none."""
    with pytest.raises(messages.MessageError):
        messages.pack_bids(amounts)
