"""An auction's outcomes as tables and as JSON."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from rich.table import Table

from coattest.jsontext import Rows
from coattest_verify.auction import messages

LOTS_SHOWN = 200
"""Lots in a table; JSON has them all."""


def moment_text(seconds: int) -> str:
    """Unix seconds as ISO 8601 in UTC, or as a number of seconds where no calendar date fits."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s after 1970"


def outcomes_json(result: messages.Result) -> Rows:
    """One object per lot: ``lot``, ``outcome``, and ``buyer``, ``buyers`` and ``price`` where it has them."""
    return Rows(result.lots, lambda pair: {"lot": pair[0], **_one(pair[1])})


def outcomes_table(result: messages.Result) -> Table:
    """A table with one row per lot, for the first LOTS_SHOWN."""
    priced = result.rule == messages.SECOND_PRICE
    table = Table("lot", "outcome", *([f"price ({result.currency}, minor units)"] if priced else []))
    for lot, outcome in result.lots[:LOTS_SHOWN]:
        row = [lot, outcome_text(outcome)]
        if priced:
            row.append(outcome_price(outcome))
        table.add_row(*row)
    if len(result.lots) > LOTS_SHOWN:
        table.caption = f"and {len(result.lots) - LOTS_SHOWN} more lots"
    return table


def _one(outcome: messages.Outcome) -> dict[str, Any]:
    match outcome:
        case messages.Won(buyer, None):
            return {"outcome": "won", "buyer": buyer}
        case messages.Won(buyer, price):
            return {"outcome": "won", "buyer": buyer, "price": price}
        case messages.Tie(buyers):
            return {"outcome": "tie", "buyers": list(buyers)}
        case messages.Unsold():
            return {"outcome": "unsold"}


def outcome_price(outcome: messages.Outcome) -> str:
    """The price of a won lot in minor units; empty where there is none."""
    return str(outcome.price) if isinstance(outcome, messages.Won) else ""


def outcome_text(outcome: messages.Outcome) -> str:
    """Who won, ``tie: NAME, NAME`` or ``unsold``."""
    match outcome:
        case messages.Won(buyer, _):
            return buyer
        case messages.Tie(buyers):
            return f"tie: {', '.join(buyers)}"
        case messages.Unsold():
            return "unsold"
