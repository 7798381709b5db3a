"""Our evaluator against somebody else's: npm's @cloud-copilot/iam-simulate, in a Node.js of its own.

On the truth table, on the cases of ../shared/cases/policies, and on generated pairs of policy and request.
Where the two differ, the row of DIFFERENCES has both answers and AWS's sentence that decides. Our "open" says
that AWS's documents decide nothing, so there any answer of the engine is one. ``tox -e policy-engine``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coattest_verify.keypolicy.iam import PolicyError, Principal, Request, assess, parse_policy
from support.verify.keypolicy.iam_truth_table import CONDITIONS, Row
from support.verify.keypolicy.node_engine import FOLDER, NodeEngine

if FOLDER not in os.environ:
    pytest.skip(f"no {FOLDER}: tox -e policy-engine installs the engine", allow_module_level=True)

OWNER, OTHER = "222233334444", "111122223333"
USERS = [f"arn:aws:iam::{OWNER}:user/a", f"arn:aws:iam::{OWNER}:user/b", f"arn:aws:iam::{OTHER}:user/a"]
KEY = f"arn:aws:kms:eu-central-1:{OWNER}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
CASES = Path(__file__).resolve().parents[5] / "shared/cases/policies"
PAIRS_EACH = 10
"""Requests of a generated policy."""


@pytest.fixture(scope="module")
def engine() -> Iterator[NodeEngine]:
    """The running engine."""
    running = NodeEngine(Path(os.environ[FOLDER]))
    yield running
    running.close()


Asked = tuple[str, str, dict[str, Any]]
"""Caller, action, context."""


def theirs(engine: NodeEngine, document: dict[str, Any], asked: Asked) -> str:
    """The engine's answer."""
    user, action, context = asked
    return engine.ask(document, user, action, context, resource=KEY, account=OWNER)


def ours(document: dict[str, Any], asked: Asked) -> str:
    """Our evaluator's answer, in the same words, and "open" where AWS's documents do not decide."""
    user, action, context = asked
    values = {key: tuple(item) if isinstance(item, list) else (item,) for key, item in context.items()}
    request = Request(Principal(user, user.split(":")[4]), action, KEY, values)
    found = assess(parse_policy(json.dumps(document)), request)
    if found.denied_by:
        return "denied"
    if found.effect.value == "open":
        return "open"
    if found.allowed_by:
        return "allowed"
    return "delegated" if found.delegated_by else "nothing"


def one(condition: dict[str, Any], version: str = "2012-10-17") -> dict[str, Any]:
    """A policy of one Allow for a user."""
    found = {
        "Effect": "Allow",
        "Principal": {"AWS": USERS[0]},
        "Action": "kms:Decrypt",
        "Resource": "*",
        "Condition": condition,
    }
    return {"Version": version, "Statement": [found]}


# What both can do, generated.

TEXTS = ["a", "A", "ab", "b", "a.b", "x^y"]
PATTERNS = [*TEXTS, "a*", "*", "?", "a?", "*b*"]
ACTIONS = ["kms:Decrypt", "kms:Encrypt", "kms:ReEncryptTo", "kms:CreateGrant", "kms:PutKeyPolicy"]
PATTERNS_OF_ACTIONS = ["kms:*", "kms:Decrypt", "KMS:d*", "kms:Enc?ypt", "kms:ReEncrypt*", "kms:?ut*", "*"]
NUMBERS = ["0", "1", "1.5", "-2", "10"]
DATES = ["2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", "2027-06-01T00:00:00Z"]
ADDRESSES = ["203.0.113.9", "198.51.100.1", "2001:db8::1"]
NETWORKS = ["203.0.113.0/24", "203.0.0.0/8", "2001:db8::/32"]
ARNS = ["arn:aws:iam::1:role/a", "arn:aws:iam::1:user/a", "arn:aws:s3:::b"]
STRINGS = [
    "StringEquals",
    "StringNotEquals",
    "StringEqualsIgnoreCase",
    "StringNotEqualsIgnoreCase",
    "StringLike",
    "StringNotLike",
]
ORDER = ("Equals", "NotEquals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals")
NUMERIC = [f"Numeric{name}" for name in ORDER]
DATE = [f"Date{name}" for name in ORDER]
KINDS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "s": (STRINGS, PATTERNS, TEXTS),
    "m": (STRINGS, PATTERNS, TEXTS),
    "n": (NUMERIC, NUMBERS, NUMBERS),
    "d": (DATE, DATES, DATES),
    "i": (["IpAddress", "NotIpAddress"], NETWORKS, ADDRESSES),
    "r": (["ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike"], ARNS, ARNS),
    "b": (["Bool"], ["true", "false"], ["true", "false"]),
}


@st.composite
def blocks(draw: Any) -> dict[str, Any]:
    """Condition blocks of one key each; set operators are on the key with several values, and only there."""
    found: dict[str, Any] = {}
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(KINDS)))
        operators, policy, _ = KINDS[key]
        name = draw(st.sampled_from([*operators, "Null"]))
        if name == "Null":
            found[name] = {key: draw(st.sampled_from(["true", "false"]))}
            continue
        if key == "m":
            name = f"{draw(st.sampled_from(['ForAllValues', 'ForAnyValue']))}:{name}"
        if not name.startswith("ForAny"):
            name += draw(st.sampled_from(["", "IfExists"]))
        values = draw(st.lists(st.sampled_from(policy), min_size=1, max_size=2))
        found[name] = {key: values}
    return found


@st.composite
def contexts(draw: Any) -> dict[str, Any]:
    """One value or none for each key, and several for the key that set operators are on."""
    found: dict[str, Any] = {}
    for key, (_, _, values) in KINDS.items():
        if draw(st.booleans()):
            found[key] = draw(st.sampled_from(values))
    if "m" in found:
        found["m"] = draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3))
    return found


@st.composite
def asks(draw: Any) -> Asked:
    """A caller, an action and a context."""
    action = draw(st.sampled_from(ACTIONS))
    return draw(st.sampled_from(USERS)), action, draw(contexts())


@st.composite
def policies(draw: Any) -> dict[str, Any]:
    """Statements for users, accounts and everybody."""
    statements = []
    for _ in range(draw(st.integers(1, 4))):
        named = st.sampled_from([*USERS, f"arn:aws:iam::{OWNER}:root", OTHER])
        principals = st.lists(named, min_size=1, max_size=2).map(lambda arns: {"AWS": arns})
        action = st.sampled_from(PATTERNS_OF_ACTIONS)
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
    max_examples=int(os.environ.get("COATTEST_POLICIES", "50")),
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(policies(), st.lists(asks(), min_size=PAIRS_EACH, max_size=PAIRS_EACH))
def test_both_engines_answer_alike(
    engine: NodeEngine, document: dict[str, Any], requests: list[Asked]
) -> None:
    """Ten requests of each policy: the same of denied, allowed, delegated and nothing."""
    for asked in requests:
        found = ours(document, asked)
        assert found in ("open", theirs(engine, document, asked)), asked


class Difference(NamedTuple):
    """What the two answer differently, and AWS's sentence that decides."""

    document: dict[str, Any]
    context: dict[str, Any]
    ours: frozenset[str]
    theirs: str
    sentence: str


def differs(
    document: dict[str, Any], context: dict[str, Any], ours: str, theirs: str, sentence: str
) -> Difference:
    """A row; ``ours`` may be two words where AWS's documents leave it open."""
    return Difference(document, context, frozenset(ours.split(" or ")), theirs, sentence)


IF_EXISTS = (
    "IAM User Guide, Condition operators: If the condition key is present in the context of the request, "
    "process the key as specified in the policy. If the key is not present, evaluate the condition element "
    "as true."
)
DIFFERENCES = [
    differs(one({"ForAnyValue:StringEqualsIfExists": {"k": ["a"]}}), {}, "allowed", "nothing", IF_EXISTS),
    differs(one({"ForAnyValue:StringNotEqualsIfExists": {"k": ["a"]}}), {}, "allowed", "nothing", IF_EXISTS),
    differs(
        one({"StringEquals": {"k": "a"}}),
        {"k": ["a", "b"]},
        "allowed or open",
        "nothing",
        "IAM User Guide, Single-valued vs. multivalued context keys: Multivalued context keys require a "
        "condition set operator. So a plain operator on several values is not defined.",
    ),
    differs(
        one({"NumericGreaterThan": {"k": "9007199254740992"}}),
        {"k": "9007199254740993"},
        "allowed",
        "nothing",
        "IAM User Guide, Numeric condition operators: comparing a key to an integer or decimal value. "
        "(JavaScript's numbers are not integers from 2^53 on.)",
    ),
    differs(
        one({"IpAddress": {"k": "0.0.0.0/0"}}),
        {"k": "203.0.113.9"},
        "allowed",
        "nothing",
        "IAM User Guide, IP address condition operators: The value must be in the standard CIDR format. (A "
        "prefix of length 0 has every address; JavaScript does not shift by 32 bits.)",
    ),
    differs(
        one({"DateEquals": {"k": "1767312000"}}),
        {"k": "2026-01-02T00:00:00Z"},
        "allowed",
        "nothing",
        "IAM User Guide, Date condition operators: You must specify date/time values with one of the W3C "
        "implementations of the ISO 8601 date formats or in epoch (UNIX) time.",
    ),
    differs(
        one({"StringNotEquals": {"k": "${aws:username}"}}),
        {"k": "eve"},
        "allowed or open",
        "nothing",
        "IAM User Guide, Variables and tags: If the variable has no value, the policy element with it "
        "matches nothing; a negated operator on what matches nothing holds.",
    ),
    differs(
        one({"StringEquals": {"k": "${aws:username}"}}, version="2008-10-17"),
        {"k": "eve", "aws:username": "eve"},
        "nothing",
        "allowed",
        "IAM User Guide, Version: If you include policy variables with an earlier version, they are treated "
        "as literal strings.",
    ),
]
KNOWN = {(json.dumps(row.document, sort_keys=True), json.dumps(row.context)) for row in DIFFERENCES}


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: json.dumps(row.document["Statement"][0])[-90:])
def test_where_the_engines_differ_aws_sentence_decides(engine: NodeEngine, row: Difference) -> None:
    """The other engine's answer is recorded too: a new version that agrees shows here."""
    asked = (USERS[0], "kms:Decrypt", row.context)
    assert ours(row.document, asked) in row.ours
    assert theirs(engine, row.document, asked) == row.theirs


@pytest.mark.parametrize(
    "row", CONDITIONS, ids=lambda row: f"{json.dumps(row.condition)}-{dict(row.context)}"
)
def test_the_truth_table_is_the_engines_too(engine: NodeEngine, row: Row) -> None:
    """Every row but those of DIFFERENCES, and those that AWS's documents leave open."""
    document = one(row.condition, row.version)
    context = {key: list(item) if len(item) != 1 else item[0] for key, item in row.context.items()}
    if (json.dumps(document, sort_keys=True), json.dumps(context)) in KNOWN:
        return
    asked = (USERS[0], "kms:Decrypt", context)
    assert ours(document, asked) in ("open", theirs(engine, document, asked))


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in CASES.glob("*.json") if path.stem != "expected")
)
def test_the_cases_are_answered_alike(engine: NodeEngine, name: str) -> None:
    """Every caller that a case names, and one that none names, with and without the decided document."""
    document = json.loads((CASES / f"{name}.json").read_bytes())
    registers = {f"kms:RecipientAttestation:{key}": "a1" * 48 for key in ("ImageSha384", "PCR0")}
    decided = {
        **registers,
        "kms:RecipientAttestation:PCR1": "b2" * 48,
        "kms:RecipientAttestation:PCR2": "c3" * 48,
    }
    differing = {}
    for user in (*USERS, *callers(document)):
        for action in (
            "kms:Decrypt",
            "kms:Encrypt",
            "kms:ReEncryptTo",
            "kms:CreateGrant",
            "kms:PutKeyPolicy",
        ):
            for context in ({}, decided):
                asked = (
                    user,
                    action,
                    {"aws:PrincipalArn": user, "aws:PrincipalAccount": user.split(":")[4], **context},
                )
                try:
                    mine = ours(document, asked)
                except PolicyError:
                    mine = "open"
                found = theirs(engine, document, asked)
                if mine not in ("open", found):
                    differing[user, action, bool(context)] = (mine, found)
    assert not differing or name in CASE_DIFFERENCES, differing
    assert set(differing.values()) <= CASE_DIFFERENCES.get(name, (set(), ""))[0]


CASE_DIFFERENCES: dict[str, tuple[set[tuple[str, str]], str]] = {
    "notprincipal-role": (
        {("denied", "allowed")},
        "IAM User Guide, NotPrincipal: When you use NotPrincipal with Deny, you must also specify the "
        "account ARN of the not-denied principal. Otherwise, the policy might deny access to the entire "
        "account.",
    ),
    "deny-without-resource": (
        {("nothing", "denied"), ("allowed", "denied")},
        "AWS KMS API Reference, PutKeyPolicy, Policy: A key policy statement can include only the following "
        "elements; without Resource or Action the policy statement has no effect.",
    ),
    "star-over-colons": (
        {("allowed", "nothing")},
        "IAM User Guide, Resource: If the * wildcard is the last character of a resource ARN segment, it can "
        "expand to match beyond the colon boundaries.",
    ),
}
"""A case, the answers in which the two differ, and AWS's sentence."""


def callers(document: dict[str, Any]) -> list[str]:
    """The users and roles that a policy names."""
    found: list[str] = []
    for statement in document["Statement"]:
        for element in ("Principal", "NotPrincipal"):
            named = statement.get(element)
            listed = named.get("AWS", []) if isinstance(named, dict) else []
            found += [listed] if isinstance(listed, str) else listed
    return sorted(
        {arn for arn in found if arn.count(":") == 5 and "*" not in arn and not arn.endswith(":root")}
    )
