"""The differences between two policies. Pure.

Services return a policy in another order, with lists of one as strings and keys in another case; none of that
is a difference. Everything else is.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from coattest.findings import Finding
from coattest_verify.keypolicy.iam import Condition, Policy, PolicyStatement
from coattest_verify.keypolicy.iam.match import ascii_lower


def policy_differences(expected: Policy, live: Policy) -> tuple[Finding, ...]:
    """Every difference of a live policy from the expected one; none when they mean the same."""
    found = []
    if expected.version != live.version:
        found.append(
            Finding(
                "policy-version",
                "Version",
                f"Version is {live.version}, not {expected.version}",
                expected.version,
                live.version,
            )
        )
    if expected.id != live.id:
        found.append(
            Finding(
                "policy-id",
                "Id",
                f"Id is {live.id}, not {expected.id}: another decision's policy",
                expected.id,
                live.id,
            )
        )
    wanted = Counter(_normal(statement) for statement in expected.statements)
    present = Counter(_normal(statement) for statement in live.statements)
    names = {_normal(item): item.sid for policy in (live, expected) for item in policy.statements}
    changed = {names[item] for item in wanted - present} & {names[item] for item in present - wanted}
    for statement in (wanted - present).elements():
        if names[statement] not in changed:
            found.append(_changed("statement-missing", names[statement], "is missing"))
    for statement in (present - wanted).elements():
        if names[statement] in changed:
            found.append(_changed("statement-changed", names[statement], "was changed"))
        else:
            found.append(_changed("statement-extra", names[statement], "was added"))
    return tuple(found)


def _changed(code: str, sid: str, how: str) -> Finding:
    name = _name(sid)
    return Finding(code, name, f"{name} {how}")


def _name(sid: str) -> str:
    return f"statement {sid}" if sid else "a statement without a Sid"


def _normal(statement: PolicyStatement) -> tuple[Any, ...]:
    return (
        statement.allow,
        frozenset(statement.principals or ()),
        statement.not_principal,
        frozenset(ascii_lower(action) for action in statement.actions),
        statement.not_action,
        frozenset(statement.resources),
        statement.not_resource,
        frozenset(_condition(condition) for condition in statement.conditions),
    )


def _condition(condition: Condition) -> tuple[Any, ...]:
    fold = condition.operator.endswith("IgnoreCase") or condition.operator in ("Null", "Bool")
    return (
        condition.name,
        ascii_lower(condition.key),
        frozenset(ascii_lower(value) if fold else value for value in condition.values),
    )
