"""What is proved, no caller contradicts: policies about who asks, against callers of every kind."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from coattest_verify.keypolicy.iam import Policy, Principal, Request, Ternary, assess, parse_policy

pytest.importorskip("z3")

from coattest_verify.keypolicy.iam.actions import CHANGES_POWER, MAKES_CIPHERTEXT, READS_PLAINTEXT
from coattest_verify.keypolicy.prove import ProofQuestion, Status
from support.verify.keypolicy.prover import ACCOUNT, ADMIN, BIDDER, DECIDED, KEY, SERVICE, SHA, allow
from support.verify.keypolicy.solving import solve

OUTSIDE = "999999999999"


def session(account: str, role: str, name: str, **more: Any) -> Principal:
    """A session of a role, whose path the session's own ARN leaves out."""
    arn = f"arn:aws:sts::{account}:assumed-role/{role.rsplit('/', 1)[-1]}/{name}"
    return Principal(arn, account, role_arn=f"arn:aws:iam::{account}:role/{role}", **more)


CALLERS = [
    session(SERVICE, "parent", "s"),
    session(SERVICE, "parent", "t"),
    session(SERVICE, "team/parent", "s", unique_id="AROAEXAMPLEEXAMPLE1"),
    session(ACCOUNT, "parent", "s"),
    session(OUTSIDE, "parent", "s"),
    Principal(ADMIN, ACCOUNT),
    Principal(BIDDER, ACCOUNT),
    Principal(f"arn:aws:iam::{ACCOUNT}:user/x", ACCOUNT, unique_id="AIDAEXAMPLEEXAMPLE1"),
    Principal(f"arn:aws:iam::{ACCOUNT}:root", ACCOUNT),
    Principal(f"arn:aws:iam::{OUTSIDE}:root", OUTSIDE),
    Principal(f"arn:aws:sts::{ACCOUNT}:federated-user/x", ACCOUNT),
    Principal(f"arn:aws-cn:iam::{OUTSIDE}:user/x", OUTSIDE, partition="aws-cn"),
    Principal("s3.amazonaws.com", "", kind="Service"),
]
NAMES = sorted({name for caller in CALLERS if caller.kind == "AWS" for name in caller.identities})
PATTERNS = [
    *NAMES,
    "*",
    "arn:aws:iam::*:root",
    "arn:aws:iam::*:role/*",
    "arn:*:*::*:federated-user/*",
    "arn:aws*",
]
ELEMENTS = [
    "*",
    *({"AWS": name} for name in NAMES),
    {"AWS": f"arn:aws:iam::{SERVICE}:root"},
    {"AWS": ACCOUNT},
    {"Service": "s3.amazonaws.com"},
]


@st.composite
def statements(draw: Any) -> dict[str, Any]:
    """A statement about who asks and, sometimes, from which image."""
    found: dict[str, Any] = {"Effect": draw(st.sampled_from(["Allow", "Allow", "Deny"])), "Resource": "*"}
    if draw(st.integers(0, 4)):
        found["Principal"] = draw(st.sampled_from(ELEMENTS))
    else:
        found["NotPrincipal"] = {"AWS": draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4))}
    found["Action"] = draw(st.sampled_from(["kms:*", "kms:Decrypt", "kms:CreateGrant", "kms:Encrypt"]))
    condition: dict[str, Any] = {}
    if draw(st.booleans()):
        name = draw(
            st.sampled_from(["ArnLike", "ArnNotLike", "StringLike", "StringNotLike", "ArnLikeIfExists"])
        )
        condition[name] = {"aws:PrincipalArn": draw(st.sampled_from(PATTERNS))}
    if not draw(st.integers(0, 3)):
        name = draw(st.sampled_from(["StringEquals", "StringNotEquals"]))
        key = draw(st.sampled_from(["aws:PrincipalAccount", "kms:CallerAccount"]))
        condition[name] = {key: draw(st.sampled_from([ACCOUNT, SERVICE, OUTSIDE]))}
    if not draw(st.integers(0, 3)):
        condition["Null"] = {
            draw(st.sampled_from(["aws:PrincipalArn", SHA])): draw(st.sampled_from(["true", "false"]))
        }
    return found | ({"Condition": condition} if condition else {})


def request(caller: Principal, action: str) -> Request:
    """A request without a document, with what KMS says of its caller."""
    if caller.kind != "AWS":
        return Request(caller, action, KEY)
    account = (caller.account,)
    context = {
        "aws:PrincipalArn": (caller.principal_arn,),
        "aws:PrincipalAccount": account,
        "kms:CallerAccount": account,
    }
    return Request(caller, action, KEY, context)


def granted(policy: Policy, caller: Principal, action: str) -> bool:
    """Whether the policy perhaps allows or delegates it."""
    return assess(policy, request(caller, f"kms:{action}")).granted is not Ternary.NO


@pytest.mark.slow
@settings(
    max_examples=int(os.environ.get("COATTEST_POLICIES", "15")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@example(
    [
        allow("arn:aws:iam::111122223333:role/team/parent", Condition={"ArnLike": {"aws:PrincipalArn": "x"}}),
        allow(
            "arn:aws:sts::111122223333:assumed-role/parent/s",
            "kms:*",
            Condition={"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::111122223333:role/parent"}},
        ),
    ]
)
@given(st.lists(statements(), min_size=1, max_size=3))
def test_what_is_proved_no_caller_contradicts(drawn: list[dict[str, Any]]) -> None:
    """Sessions, paths, unique ids, root and federated users, other partitions and services."""
    policy = parse_policy(json.dumps({"Version": "2012-10-17", "Statement": drawn}))
    question = ProofQuestion(DECIDED, (ADMIN,), (BIDDER,))
    answers = {found.goal: found for found in solve(policy, question, deadline=10)}
    for goal, actions, excepted in (
        ("plaintext", READS_PLAINTEXT, None),
        ("power", CHANGES_POWER, ADMIN),
        ("encryption", MAKES_CIPHERTEXT, BIDDER),
    ):
        contradicting = [
            (caller, action)
            for caller in CALLERS
            for action in actions
            if excepted not in caller.identities and granted(policy, caller, action)
        ]
        if answers[goal].status is Status.PROVED:
            assert not contradicting
        if answers[goal].status is Status.REFUTED:
            example = answers[goal].counterexample
            assert example is not None
            assert example.allowed_by
