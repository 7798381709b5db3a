"""Whether two policies say the same. Pure.

Services hand a policy back in another order, with lists of one as strings and keys in another case; none of
that is a difference. Everything else is one, and each is named.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from coattest_verify.keypolicy.iam import Condition, Policy, Statement


@dataclass(frozen=True, slots=True)
class Drift:
    """One way in which a live key differs from what the decision asks for. ``code`` is stable."""

    code: str
    detail: str


def differences(expected: Policy, live: Policy) -> tuple[Drift, ...]:
    """Every difference of a live policy from the expected one; none when they mean the same."""
    found = []
    if expected.version != live.version:
        found.append(Drift("policy-version", f"Version is {live.version}, not {expected.version}"))
    if expected.id != live.id:
        found.append(Drift("policy-id", f"Id is {live.id}, not {expected.id}: another decision's policy"))
    wanted = Counter(_normal(statement) for statement in expected.statements)
    present = Counter(_normal(statement) for statement in live.statements)
    names = {_normal(item): item.sid for policy in (live, expected) for item in policy.statements}
    changed = {names[item] for item in wanted - present} & {names[item] for item in present - wanted}
    for statement in (wanted - present).elements():
        if names[statement] not in changed:
            found.append(Drift("statement-missing", f"{_name(names[statement])} is missing"))
    for statement in (present - wanted).elements():
        if names[statement] in changed:
            found.append(Drift("statement-changed", f"{_name(names[statement])} was changed"))
        else:
            found.append(Drift("statement-extra", f"{_name(names[statement])} was added"))
    return tuple(found)


def _name(sid: str) -> str:
    return f"statement {sid}" if sid else "a statement without a Sid"


def _normal(statement: Statement) -> tuple[Any, ...]:
    return (
        statement.allow,
        frozenset(statement.principals or ()),
        statement.not_principal,
        frozenset(action.lower() for action in statement.actions),
        statement.not_action,
        frozenset(statement.resources),
        statement.not_resource,
        frozenset(_condition(condition) for condition in statement.conditions),
    )


def _condition(condition: Condition) -> tuple[Any, ...]:
    fold = condition.operator.endswith("IgnoreCase") or condition.operator in ("Null", "Bool")
    return (
        condition.name,
        condition.key.lower(),
        frozenset(value.lower() if fold else value for value in condition.values),
    )
