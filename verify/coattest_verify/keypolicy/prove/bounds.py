"""Formulas for what surely holds and what perhaps holds: the solver's side of ``iam.reading``.

They differ only where AWS's documents leave something open. "Perhaps" for an Allow and "surely" for a Deny
make a proof; the other two make a counterexample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import z3  # type: ignore[import-untyped,unused-ignore]

from coattest_verify.keypolicy.iam import Ternary


@dataclass(frozen=True, slots=True)
class Bounds:
    """``surely`` implies ``perhaps``."""

    surely: Any
    perhaps: Any

    def opposite(self) -> Bounds:
        """Not this."""
        if self.surely is self.perhaps:
            return exact(z3.Not(self.surely))
        return Bounds(z3.Not(self.perhaps), z3.Not(self.surely))


def exact(formula: Any) -> Bounds:
    """Something that AWS's documents decide."""
    return Bounds(formula, formula)


NEVER, ALWAYS = exact(z3.BoolVal(False)), exact(z3.BoolVal(True))
OPEN = Bounds(z3.BoolVal(False), z3.BoolVal(True))


def of(answer: Ternary) -> Bounds:
    """A verdict that does not depend on the request's symbols."""
    return {Ternary.NO: NEVER, Ternary.OPEN: OPEN, Ternary.YES: ALWAYS}[answer]


def all_bounds(items: Sequence[Bounds]) -> Bounds:
    """All of them."""
    return _joined(z3.And, items)


def any_bounds(items: Sequence[Bounds]) -> Bounds:
    """At least one of them."""
    return _joined(z3.Or, items)


def _joined(join: Any, items: Sequence[Bounds]) -> Bounds:
    if len(items) == 1:
        return items[0]
    surely = join(*(item.surely for item in items))
    if all(item.surely is item.perhaps for item in items):
        return exact(surely)
    return Bounds(surely, join(*(item.perhaps for item in items)))


def agreed(one: Bounds, other: Bounds) -> Bounds:
    """What two readings of AWS's documents say; open where they differ."""
    return Bounds(z3.And(one.surely, other.surely), z3.Or(one.perhaps, other.perhaps))


def given(condition: Any, item: Bounds) -> Bounds:
    """Both the condition, which is decided, and the item."""
    return all_bounds([exact(condition), item])


def either(condition: Any, yes: Bounds, no: Bounds) -> Bounds:
    """The one where the condition, which is decided, holds; the other where it does not."""
    if yes.surely is yes.perhaps and no.surely is no.perhaps:
        return exact(z3.If(condition, yes.surely, no.surely))
    return Bounds(z3.If(condition, yes.surely, no.surely), z3.If(condition, yes.perhaps, no.perhaps))
