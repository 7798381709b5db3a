"""What is proved, no sampled request contradicts; what is refuted, AWS could receive.

Beyond the pairs: whole policies with variables, numbers, times, addresses, tags, contexts and odd resources,
and for each that is proved a hundred requests made of the policy's own words.
"""

from __future__ import annotations

import json
import os
import random
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

pytest.importorskip("z3")

from coattest_verify.keypolicy.iam import KMS, Policy, Principal, Request, Ternary, assess, parse_policy
from coattest_verify.keypolicy.iam.actions import CHANGES_POWER, MAKES_CIPHERTEXT, READS_PLAINTEXT
from coattest_verify.keypolicy.iam.callers import callers
from coattest_verify.keypolicy.prove import GoalResult, ProofQuestion, Status
from coattest_verify.keypolicy.prove.present import ALWAYS, OWNER
from support.verify.keypolicy.adversarial import CONTEXT, EVE, POLICIES, TAG
from support.verify.keypolicy.adversarial_present import POLICIES_OF_REQUESTS
from support.verify.keypolicy.prover import (
    ACCOUNT,
    ADMIN,
    BIDDER,
    KEY,
    LISTED,
    PARENT,
    PCR,
    ROOT,
    SERVICE,
    SHA,
    A,
    B,
    allow,
    deny,
)
from support.verify.keypolicy.solving import solve

GENERATED = int(os.environ.get("COATTEST_POLICIES", "5"))
SEEDS = 5 if "COATTEST_POLICIES" in os.environ else 1
QUESTION = ProofQuestion((A,), (ADMIN,), (BIDDER,), KEY)
GOALS = (
    ("plaintext", READS_PLAINTEXT, None),
    ("power", CHANGES_POWER, ADMIN),
    ("encryption", MAKES_CIPHERTEXT, BIDDER),
)
STEM = "kms:encryptioncontext:"
TEXTS = ["a", "A", "ab", "x*", "?", "\u00fc", "\u212a", "k", "${aws:username}", "${aws:PrincipalTag/team}b"]
STRINGS = [
    f"{set_operator}{name}{suffix}"
    for set_operator in ("", "ForAllValues:", "ForAnyValue:")
    for name in ("StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringEqualsIgnoreCase")
    for suffix in ("", "IfExists")
]
KINDS: dict[str, tuple[list[str], list[str]]] = {
    CONTEXT: (STRINGS, TEXTS),
    CONTEXT.upper(): (STRINGS, TEXTS),
    LISTED: (STRINGS, [*TEXTS, "buyer", "Buyer"]),
    TAG: (STRINGS, TEXTS),
    "aws:username": (STRINGS, TEXTS),
    "aws:PrincipalAccount": (STRINGS, [ACCOUNT, SERVICE, "2*", "${kms:CallerAccount}"]),
    "aws:PrincipalArn": (
        ["ArnLike", "ArnNotLike", "StringLike", "StringNotEquals", "ArnEqualsIfExists"],
        [PARENT, EVE, "arn:aws:iam::*:role/*", "arn:aws:iam::${aws:PrincipalAccount}:user/e*", "arn:aws:iam"],
    ),
    SHA: (STRINGS, [A[0], B[0], A[0].upper(), "a*", "0x" + A[0], "${aws:PrincipalTag/team}"]),
    f"{PCR}1": (STRINGS, [A[1], B[1], "*"]),
    f"{PCR}2": (STRINGS, [A[2], B[2], "?" * 96]),
    "aws:MultiFactorAuthAge": (
        ["NumericLessThan", "NumericGreaterThanEquals", "NumericNotEquals", "NumericEqualsIfExists"],
        ["1", "2", "1.5", "-3"],
    ),
    "aws:CurrentTime": (
        ["DateLessThan", "DateGreaterThan", "DateNotEquals"],
        ["2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "0"],
    ),
    "aws:SourceIp": (
        ["IpAddress", "NotIpAddress", "IpAddressIfExists"],
        ["203.0.113.0/24", "203.0.113.128/25", "0.0.0.0/0", "2001:db8::/32"],
    ),
    "aws:SecureTransport": (["Bool", "BoolIfExists"], ["true", "false"]),
    "kms:NoSuchKey": (["StringEquals", "StringNotEquals"], ["a"]),
}


@st.composite
def conditions(draw: Any) -> dict[str, Any]:
    """Up to three conditions of all kinds."""
    block: dict[str, Any] = {}
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(KINDS)))
        operators, values = KINDS[key]
        name = draw(st.sampled_from([*operators, "Null"]))
        listed = ["true", "false"] if name == "Null" else values
        if any(key.lower() == other.lower() for other in block.get(name, {})):
            continue
        block.setdefault(name, {})[key] = draw(st.lists(st.sampled_from(listed), min_size=1, max_size=2))
    return block


@st.composite
def statements(draw: Any) -> dict[str, Any]:
    """A statement of any kind."""
    found: dict[str, Any] = {"Effect": draw(st.sampled_from(["Allow", "Allow", "Deny"]))}
    named = [
        {"AWS": PARENT},
        {"AWS": EVE},
        {"AWS": ROOT},
        "*",
        {"AWS": [PARENT, f"arn:aws:iam::{SERVICE}:root"]},
    ]
    element = "NotPrincipal" if found["Effect"] == "Deny" and not draw(st.integers(0, 4)) else "Principal"
    found[element] = draw(st.sampled_from(named))
    actions = [
        "kms:Decrypt",
        "kms:*",
        "kms:ReEncrypt*",
        "kms:CreateGrant",
        "kms:*Key*",
        "kms:GenerateDataKey",
    ]
    found[draw(st.sampled_from(["Action", "Action", "Action", "NotAction"]))] = draw(st.sampled_from(actions))
    resources = ["*", "*", KEY, "arn:aws:kms:*:key/*", "arn:aws:kms:*:${aws:PrincipalAccount}:key/*"]
    if draw(st.integers(0, 9)):
        element = draw(st.sampled_from(["Resource", "Resource", "Resource", "NotResource"]))
        found[element] = draw(st.sampled_from(resources))
    return found | {"Condition": draw(conditions())}


def words(policy: Policy) -> dict[str, list[str]]:
    """Each condition key of a policy, with the values that it is compared with and some beside them."""
    found: dict[str, list[str]] = {}
    for statement in policy.statements:
        for condition in statement.conditions:
            near = [
                text for value in condition.values for text in (value, value.lower(), value.replace("*", "q"))
            ]
            found.setdefault(condition.key, []).extend(
                [*near, "other", "7", "2026-06-01T00:00:00Z", "203.0.113.200"]
            )
    return found


def of_every_request(name: str, values: list[str], who: Principal) -> list[str]:
    """The values that a key can have which every request of a caller has."""
    if name == "aws:principaltype":
        named = "User" if ":user/" in who.arn else "FederatedUser"
        return ["AssumedRole" if who.role_arn else "Account" if who.is_root else named]
    if name == "aws:requestedregion":
        return [KEY.split(":")[3]]
    times = [text for text in values if re.match(r"[0-9]{4}-", text)]
    fixed = {
        OWNER: [ACCOUNT],
        "aws:principalisawsservice": ["false"],
        "aws:securetransport": ["true", "false"],
        "aws:viaawsservice": ["true", "false"],
        "aws:currenttime": times,
        "aws:epochtime": ["1767225600.5", "1700000000"],
    }
    return fixed.get(name, values)


def sampled(policy: Policy, action: str, draw: random.Random) -> Request:
    """A request that KMS could get: registers with a document only, the keys of a context listed."""
    everybody = [
        caller.principal for caller in callers(policy, (ADMIN, BIDDER, EVE)) if caller.principal.kind == "AWS"
    ]
    who = draw.choice(everybody)
    context: dict[str, tuple[str, ...]] = {
        "aws:PrincipalArn": (who.principal_arn,),
        "aws:PrincipalAccount": (who.account,),
        "kms:CallerAccount": (who.account,),
    }
    for key, values in words(policy).items():
        name = key.lower()
        if (
            name in map(str.lower, context)
            or KMS.never_sent(key)
            or "recipient" in name
            or name == LISTED.lower()
        ):
            continue
        if name == "aws:username" and (who.role_arn or who.user_arn):
            continue
        if name in (*ALWAYS, OWNER):
            context[key] = (draw.choice(of_every_request(name, values, who)),)
        elif draw.random() < 0.6:
            context[key] = (draw.choice(values),)
    names = [key[len(STEM) :] for key in context if key.lower().startswith(STEM)]
    if names:
        context[LISTED] = tuple(names)
    if KMS.documented(SHA, f"kms:{action}") and draw.random() < 0.5:
        registers = [draw.choice([A[index], B[index], "0" * 96]) for index in range(3)]
        context |= {f"{PCR}{index}": (value,) for index, value in enumerate(registers)}
        context[SHA] = (registers[0],)
    return Request(who, f"kms:{action}", KEY, context)


def decided(request: Request) -> bool:
    """Whether a request has a document of the decided enclave."""
    return all(request.context.get(f"{PCR}{index}") == (A[index],) for index in range(3))


def contradicts(policy: Policy, answers: dict[str, GoalResult], seed: int) -> list[Request]:
    """Sampled requests that a proof says do not exist."""
    draw, found = random.Random(seed), []
    for goal, actions, excepted in GOALS:
        if answers[goal].status is not Status.PROVED:
            continue
        for _ in range(100):
            request = sampled(policy, draw.choice(sorted(actions)), draw)
            mine = excepted in request.principal.identities or (goal == "plaintext" and decided(request))
            if not mine and assess(policy, request).granted is not Ternary.NO:
                found.append(request)
    return found


def unreal(policy: Policy, answer: GoalResult) -> list[str]:
    """What is wrong with a counterexample."""
    if answer.counterexample is None:
        return []
    shown = answer.counterexample
    role = shown.context.get("aws:PrincipalArn", ("",))[0] if ":assumed-role/" in shown.arn else None
    partition, account = shown.arn.split(":")[1:5:3] if shown.arn.startswith("arn:") else ("aws", "")
    user = shown.caller.partition("federated session of ")[2] or None
    kind = "AWS" if account else "Service"
    who = Principal(shown.arn, account, role_arn=role, kind=kind, user_arn=user, partition=partition)
    request = Request(who, shown.action, shown.resource, shown.context)
    wrong = [] if assess(policy, request).granted is Ternary.YES else ["the evaluator does not grant it"]
    wrong += [
        key for key in shown.context if KMS.spelled(key) != key or not KMS.documented(key, shown.action)
    ]
    return wrong


@settings(
    max_examples=GENERATED,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@example([allow("*", Condition={"StringEquals": {"aws:PrincipalAccount": "${kms:CallerAccount}"}})], 1)
@example([allow("*"), deny(Principal={"AWS": "arn:aws:iam::222233334444:root"})], 1)  # "aws" alone
@given(st.lists(statements(), min_size=1, max_size=4), st.integers(0, 2**32))
def test_what_is_proved_no_sampled_request_contradicts(drawn: list[dict[str, Any]], seed: int) -> None:
    """A hundred requests for each goal that is proved; each counterexample is granted and could be sent."""
    policy = parse_policy(json.dumps({"Version": "2012-10-17", "Statement": drawn}))
    answers = {found.goal: found for found in solve(policy, QUESTION, deadline=10)}
    assert contradicts(policy, answers, seed) == []
    for answer in answers.values():
        assert unreal(policy, answer) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", [*POLICIES, *POLICIES_OF_REQUESTS], ids=lambda case: case.name)
def test_the_adversarial_policies_are_sampled_too(case: Any) -> None:
    """The same for each, under one seed, and in ``tox -e policy-pairs`` under five."""
    policy = parse_policy(json.dumps({"Version": "2012-10-17", "Statement": case.statements}))
    answers = {found.goal: found for found in solve(policy, QUESTION, deadline=10)}
    for seed in range(SEEDS):
        assert contradicts(policy, answers, seed) == []
    for answer in answers.values():
        assert unreal(policy, answer) == []
