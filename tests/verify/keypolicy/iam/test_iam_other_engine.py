"""Our evaluator against somebody else's: Principal Mapper's local policy simulation (NCC Group, 1.1.5).

It is compared on what both can do: one key in each condition block, lower-case resources without wildcards,
users and accounts as principals. Where the two differ beyond that, AWS's documentation decides, and the
difference is a row of DIFFERENCES with both answers. Not one of our extras: ``tox -e policy-engine``.
"""

from __future__ import annotations

import collections
import collections.abc
import json
import os
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coattest_verify.keypolicy.iam import Principal, Request, assess, parse_policy

if os.environ.get("COATTEST_REQUIRE_ENGINE") != "1":
    pytest.importorskip("principalmapper")
# 1.1.5 imports names that Python 3.10 moved.
for moved in ("Mapping", "MutableMapping"):
    if not hasattr(collections, moved):
        setattr(collections, moved, getattr(collections.abc, moved))

from principalmapper.common import Node  # type: ignore[import-not-found,import-untyped,unused-ignore]
from principalmapper.querying.local_policy_simulation import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    ResourcePolicyEvalResult as Result,
)
from principalmapper.querying.local_policy_simulation import (
    resource_policy_authorization,
)

OWNER, OTHER = "222233334444", "111122223333"
USERS = [f"arn:aws:iam::{OWNER}:user/a", f"arn:aws:iam::{OWNER}:user/b", f"arn:aws:iam::{OTHER}:user/a"]
KEY = f"arn:aws:kms:eu-central-1:{OWNER}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
PAGE = "IAM User Guide, "
OPERATORS = f"{PAGE}Condition operators"


def theirs(document: dict[str, Any], user: str, action: str, context: dict[str, Any]) -> str:
    """Principal Mapper's answer in our words."""
    node = Node(user, "AIDAEXAMPLEEXAMPLE", [], [], None, None, 0, False, False, None, False, {})
    found = resource_policy_authorization(node, OWNER, document, action, KEY, context)
    names = {
        Result.NO_MATCH: "nothing",
        Result.DENY_MATCH: "denied",
        Result.ROOT_MATCH: "delegated",
        Result.NODE_MATCH: "allowed",
        Result.DIFF_ACCOUNT_MATCH: "allowed or delegated",
    }
    return names[found]


def ours(document: dict[str, Any], user: str, action: str, context: dict[str, Any]) -> str:
    """Our evaluator's answer; for another account it keeps no one apart, since theirs does not."""
    values = {key: tuple(item) if isinstance(item, list) else (item,) for key, item in context.items()}
    account = user.split(":")[4]
    found = assess(parse_policy(json.dumps(document)), Request(Principal(user, account), action, KEY, values))
    if found.denied_by:
        return "denied"
    if not (found.allowed_by or found.delegated_by):
        return "nothing"
    if account != OWNER:
        return "allowed or delegated"
    return "allowed" if found.allowed_by else "delegated"


def one(condition: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A policy of one Allow for everybody."""
    found = {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"} | more
    found = {name: value for name, value in found.items() if value is not None}
    return {"Version": "2012-10-17", "Statement": [found | {"Condition": condition}]}


# What both can do, generated.

TEXTS = ["a", "A", "ab", "b", "a.b", "x^y"]
PATTERNS = [*TEXTS, "a*", "*", "?", "a?", "*b*"]
NUMBERS = ["0", "1", "1.5", "-2", "10"]
DATES = ["2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", "2027-06-01T00:00:00Z"]
ADDRESSES = ["203.0.113.9", "198.51.100.1", "2001:db8::1"]
NETWORKS = ["203.0.113.0/24", "0.0.0.0/0", "2001:db8::/32"]
ARNS = ["arn:aws:iam::1:role/a", "arn:aws:iam::1:user/a", "arn:aws:s3:::b"]
STRINGS = [
    "StringEquals",
    "StringNotEquals",
    "StringEqualsIgnoreCase",
    "StringNotEqualsIgnoreCase",
    "StringLike",
]
NUMERIC = [f"Numeric{name}" for name in ("Equals", "NotEquals", "LessThan", "LessThanEquals", "GreaterThan")]
DATE = [f"Date{name}" for name in ("Equals", "NotEquals", "LessThan", "LessThanEquals", "GreaterThanEquals")]
KINDS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "s": (STRINGS, PATTERNS, TEXTS),
    "n": (NUMERIC, NUMBERS, NUMBERS),
    "d": (DATE, DATES, DATES),
    "i": (["IpAddress", "NotIpAddress"], NETWORKS, ADDRESSES),
    "r": (["ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike"], ARNS, ARNS),
    "b": (["Bool"], ["true", "false"], ["true", "false"]),
}


@st.composite
def blocks(draw: Any) -> dict[str, Any]:
    """Condition blocks of one key each, with the suffixes and set operators that both know."""
    found: dict[str, Any] = {}
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(KINDS)))
        operators, policy, _ = KINDS[key]
        name = draw(st.sampled_from([*operators, "Null"]))
        if name == "Null":
            found[name] = {key: draw(st.sampled_from(["true", "false"]))}
            continue
        if key == "s":
            positive = "Not" not in name
            name = draw(st.sampled_from(["", "ForAllValues:", "ForAnyValue:"] if positive else [""])) + name
            name += draw(st.sampled_from(["", "IfExists"])) if not name.startswith("ForAny") else ""
        several = 1 if key == "d" else 2
        values = draw(st.lists(st.sampled_from(policy), min_size=1, max_size=several))
        found[name] = {key: values}
    return found


@st.composite
def contexts(draw: Any) -> dict[str, Any]:
    """One value or none for each key; several only for the key that set operators may be on."""
    found: dict[str, Any] = {}
    for key, (_, _, values) in KINDS.items():
        if draw(st.booleans()):
            found[key] = draw(st.sampled_from(values))
    if "s" in found and draw(st.booleans()):
        found["s"] = draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3))
    return found


@st.composite
def policies(draw: Any) -> dict[str, Any]:
    """Statements for users, accounts and everybody."""
    statements = []
    for _ in range(draw(st.integers(1, 4))):
        named = st.sampled_from([*USERS, f"arn:aws:iam::{OWNER}:root", OTHER])
        principals = st.lists(named, min_size=1, max_size=2).map(lambda arns: {"AWS": arns})
        action = st.sampled_from(["kms:*", "kms:Decrypt", "KMS:d*", "kms:Enc?ypt", "*"])
        listed = draw(st.lists(action, min_size=1, max_size=2))
        statements.append(
            {
                "Effect": draw(st.sampled_from(["Allow", "Allow", "Deny"])),
                "Principal": draw(st.one_of(principals, st.just("*"))),
                draw(st.sampled_from(["Action", "Action", "NotAction"])): listed,
                draw(st.sampled_from(["Resource", "NotResource"])): draw(st.sampled_from(["*", KEY])),
                "Condition": draw(blocks()),
            }
        )
    return {"Version": "2012-10-17", "Statement": statements}


@settings(
    max_examples=int(os.environ.get("COATTEST_POLICIES", "300")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    policies(), st.lists(contexts(), min_size=1, max_size=10), st.sampled_from(["kms:Decrypt", "kms:Encrypt"])
)
def test_both_engines_answer_alike(
    document: dict[str, Any], asked: list[dict[str, Any]], action: str
) -> None:
    """Every user, every context: the same of denied, allowed, delegated and nothing."""
    for context in asked:
        for user in USERS:
            assert ours(document, user, action, context) == theirs(document, user, action, context)


class Difference(NamedTuple):
    """What the two answer differently, and the page that decides."""

    document: dict[str, Any]
    context: dict[str, Any]
    ours: str
    theirs: str
    source: str


DIFFERENCES = [
    Difference(
        one({}, Principal={"AWS": "*"}),
        {},
        "allowed",
        "delegated",
        f'{PAGE}Principal: "*" and {{"AWS": "*"}} are equivalent in resource-based policies',
    ),
    Difference(
        one({"StringNotLike": {"k": "a"}}),
        {},
        "allowed",
        "nothing",
        f"{OPERATORS}: negated, no key",
    ),
    Difference(
        one({"NumericEqualsIfExists": {"k": "1"}}), {"k": "1"}, "allowed", "nothing", f"{OPERATORS}: IfExists"
    ),
    Difference(
        one({"DateLessThan": {"k": ["2026-01-01T00:00:00Z", "2028-01-01T00:00:00Z"]}}),
        {"k": "2027-01-01T00:00:00Z"},
        "allowed",
        "nothing",
        f"{PAGE}Conditions with multiple context keys or values: values of one key are alternatives",
    ),
    Difference(
        one({"ForAnyValue:StringEquals": {"k": "a", "l": "b"}}),
        {"k": "a", "l": "c"},
        "nothing",
        "allowed",
        f"{PAGE}Conditions with multiple context keys or values: keys are combined with AND",
    ),
    Difference(
        one({"ForAnyValue:StringNotEquals": {"k": "a"}}),
        {"k": ["a", "b"]},
        "allowed",
        "nothing",
        f"{PAGE}Set operators for multivalued context keys: ForAnyValue",
    ),
    Difference(
        one({"ForAnyValue:StringEqualsIfExists": {"k": "a"}}),
        {},
        "allowed",
        "nothing",
        f"{OPERATORS}: IfExists",
    ),
    Difference(
        one({"StringEquals": {"k": "${aws:username}"}}),
        {"k": "eve", "aws:username": "eve"},
        "allowed",
        "nothing",
        f"{PAGE}Variables and tags",
    ),
    Difference(
        one({"ArnLike": {"k": "arn:aws:*:role/a"}}),
        {"k": "arn:aws:iam::1:role/a"},
        "nothing",
        "allowed",
        f"{OPERATORS}: each of the six parts of an ARN is compared by itself",
    ),
    Difference(
        one({}, Resource=KEY.upper().replace("ARN:", "arn:")),
        {},
        "nothing",
        "allowed",
        f"{PAGE}Resource: ARNs are case-sensitive",
    ),
    Difference(
        one({}, Principal=None, NotPrincipal={"AWS": USERS[0]}),
        {},
        "allowed",
        "nothing",
        f"{PAGE}NotPrincipal: to leave a user out, its account must be listed too",
    ),
]


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: row.source)
def test_where_the_engines_differ_aws_documentation_decides(row: Difference) -> None:
    """The other engine's answer is recorded too: a new version that agrees shows here."""
    assert ours(row.document, USERS[0], "kms:Decrypt", row.context) == row.ours
    assert theirs(row.document, USERS[0], "kms:Decrypt", row.context) == row.theirs
