"""Numbers, times and addresses: finitely many values that stand for all.

Comparisons with constants cut the numbers into points and the gaps between; networks lie in each other or
apart. One value of each piece, and one that is of no such type, answer every comparison in every way that a
request can.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal, localcontext

from coattest_verify.keypolicy.iam import Condition
from coattest_verify.keypolicy.iam.conditions import MAX_DIGITS, instant, number

FAMILIES = ("Numeric", "Date", "IpAddress")
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
NEITHER = "none"
"""A value that is no number, no time and no address."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def family(condition: Condition) -> str | None:
    """Which of the three kinds of comparison a condition makes."""
    return next((name for name in FAMILIES if name in condition.operator), None)


def representatives(conditions: Sequence[Condition]) -> tuple[str, ...] | None:
    """Values of a key that stand for all of them, or None where its conditions are not of one family."""
    families = {family(condition) for condition in conditions if condition.operator != "Null"}
    if len(families) != 1 or None in families:
        return None
    constants = sorted({value for condition in conditions if family(condition) for value in condition.values})
    if families == {"Numeric"}:
        found = [format(value, "f") for value in pieces(map(number, constants))]
    elif families == {"Date"}:
        found = [time_text(value) for value in pieces(map(instant, constants))]
    else:
        found = _addresses([ipaddress.ip_network(value, strict=False) for value in constants])
    return (*found, NEITHER)


def pieces(constants: Iterable[Decimal]) -> list[Decimal]:
    """Each constant, something between each two, something below and above all."""
    with localcontext() as context:
        # Nothing is rounded: the constants have at most this many digits, and what lies between a few more.
        context.prec = 4 * MAX_DIGITS
        ordered = sorted(set(constants))
        between = [(low + high) / 2 for low, high in itertools.pairwise(ordered)]
        return [ordered[0] - 1, *ordered, *between, ordered[-1] + 1]


def _addresses(networks: Sequence[Network]) -> list[str]:
    """An address of each network that is in none of the networks inside it, and one outside of all."""
    everything: list[Network] = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    found: list[str] = []
    for outer in dict.fromkeys([*everything, *networks]):
        inner = [
            other
            for other in networks
            if other != outer and other.version == outer.version and other.subnet_of(outer)  # type: ignore[arg-type]
        ]
        # An address behind one of them, where that is not the end of this network.
        behind = (other[-1] + 1 for other in inner if other[-1] != outer[-1])
        free = (each for each in (outer[0], *behind) if not any(each in other for other in inner))
        found += map(str, itertools.islice(free, 1))
    return found


def time_text(seconds: Decimal) -> str:
    """A time for people where a calendar has one, else epoch seconds (with a fraction: four digits are a
    year).
    """
    with localcontext() as context:
        context.prec = 4 * MAX_DIGITS
        try:
            time = EPOCH + timedelta(seconds=float(seconds))
            unit = "microseconds" if seconds % 1 else "seconds"
            text = time.isoformat(timespec=unit).replace("+00:00", "Z")
            if instant(text) == seconds:
                return text
        except OverflowError:
            pass
        return f"{seconds:.1f}" if seconds == seconds.quantize(Decimal("0.1")) else format(seconds, "f")
