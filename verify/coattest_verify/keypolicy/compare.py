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
    found = [
        Finding(code, name, f"{name} is {theirs}, not {ours}{means}", ours, theirs)
        for code, name, ours, theirs, means in (
            ("policy-version", "Version", expected.version, live.version, ""),
            ("policy-id", "Id", expected.id, live.id, ": another decision's policy"),
        )
        if ours != theirs
    ]
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
    name = f"statement {sid}" if sid else "a statement without a Sid"
    return Finding(code, name, f"{name} {how}")


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
