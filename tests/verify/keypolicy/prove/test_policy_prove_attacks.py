"""Policies written to make the prover say "proved" where the evaluator grants. Each was one, or could be.

The evaluator confirms every counterexample before it is reported, so "refuted" here means that it grants.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from coattest_verify.keypolicy.iam import Effect, PolicyError, Principal, Request, evaluate, parse_policy

pytest.importorskip("z3")

from coattest_verify.keypolicy.iam.callers import callers
from coattest_verify.keypolicy.prove import ProofQuestion, Status
from support.verify.keypolicy.prover import (
    ACCOUNT,
    ADMIN,
    BIDDER,
    DECIDED,
    KEY,
    LISTED,
    PARENT,
    PROVED,
    REFUTED,
    SERVICE,
    SHA,
    UNKNOWN,
    A,
    allow,
    ask,
    deny,
    exactly,
    statuses,
)
from support.verify.keypolicy.solving import solve

SESSION = f"arn:aws:sts::{SERVICE}:assumed-role/parent/S"
WITH_PATH = f"arn:aws:iam::{SERVICE}:role/team/parent"
SERVICE_ROOT = f"arn:aws:iam::{SERVICE}:root"
ID = "AROAEXAMPLEEXAMPLE1"
CONTEXT = "kms:EncryptionContext:x"


def arn_like(pattern: str, **more: str) -> dict[str, Any]:
    """A condition on the caller's ARN."""
    return {"ArnLike": {"aws:PrincipalArn": pattern}} | ({"StringEquals": more} if more else {})


def not_principal(*arns: str) -> dict[str, Any]:
    """A Deny of Decrypt for everybody but these."""
    found = deny()
    del found["Principal"]
    return found | {"NotPrincipal": {"AWS": list(arns)}}


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param([allow("*", Condition=arn_like("arn:aws:iam::*:root"))], id="root users by pattern"),
        pytest.param(
            [allow("*", Condition=arn_like("arn:aws:sts::*:federated-user/*"))],
            id="federated users by pattern",
        ),
        pytest.param(
            [
                allow(
                    "*",
                    Condition=arn_like(
                        "arn:aws:sts::*:federated-user/*", **{"aws:PrincipalAccount": "999999999999"}
                    ),
                )
            ],
            id="federated users of an account",
        ),
        pytest.param(
            [allow("*", Condition={"Null": {"aws:PrincipalArn": "true"}})], id="callers without an ARN"
        ),
        pytest.param(
            [allow("*", Condition={"StringEquals": {"aws:PrincipalServiceName": "s3.amazonaws.com"}})],
            id="a service that no element names",
        ),
        pytest.param(
            [allow(WITH_PATH), not_principal(SESSION, WITH_PATH, SERVICE_ROOT)],
            id="a session of a role with a path, left out of NotPrincipal",
        ),
        pytest.param(
            [allow(SESSION, Condition={"ArnEquals": {"aws:PrincipalArn": WITH_PATH}})],
            id="a session whose role has a path",
        ),
        pytest.param(
            [
                allow("*", Condition={"ArnEquals": {"aws:PrincipalArn": PARENT}}),
                {**deny(), "Principal": {"AWS": SESSION}},
            ],
            id="another session than the one denied",
        ),
        pytest.param(
            [allow(ID, Condition={"StringEquals": {"aws:PrincipalAccount": ACCOUNT}})],
            id="a unique id of a named account",
        ),
        pytest.param(
            [
                allow(ID, Condition=arn_like(f"arn:aws:iam::{SERVICE}:role/p*")),
                {**deny(), "Principal": {"AWS": f"arn:aws:iam::{SERVICE}:user/x"}},
            ],
            id="a unique id by ARN pattern",
        ),
        pytest.param(
            [
                allow("*", Condition=arn_like(f"arn:aws:iam::{SERVICE}:user/*")),
                {**deny(), "Principal": {"AWS": f"arn:aws:iam::{SERVICE}:user/somebody"}},
            ],
            id="a Deny on the prover's own somebody",
        ),
        pytest.param(
            [
                allow(
                    [f"arn:aws:iam::{SERVICE}:root", f"arn:aws-us-gov:iam::{SERVICE}:root"],
                    Condition=arn_like("arn:aws-us-gov:iam::*:role/*"),
                )
            ],
            id="one number in two partitions",
        ),
        pytest.param(
            [
                allow("*", Condition=arn_like(f"arn:aws-cn:iam::{SERVICE}:user/*")),
                {**deny(), "Principal": {"AWS": SERVICE_ROOT}},
            ],
            id="the denied account's number elsewhere",
        ),
        pytest.param(
            [
                allow(
                    "*",
                    Condition={
                        "ForAnyValue:StringEquals": {"aws:SourceOrgPaths": "a"},
                        "ForAnyValue:StringLike": {"aws:SourceOrgPaths": "b"},
                    },
                )
            ],
            id="a source key with several values",
        ),
        pytest.param(
            [
                allow("*", Condition={"StringEquals": {CONTEXT: "x"}}),
                deny(Condition={"StringEquals": {CONTEXT: "\\u{78}"}}),
            ],
            id="text that z3 reads as an escape",
        ),
        pytest.param(
            [allow(), deny(Condition={"ForAllValues:StringEquals": {LISTED: "a"}})],
            id="ForAllValues: a value that is not listed",
        ),
        pytest.param(
            [allow(), deny(Condition={"ForAnyValue:StringLike": {LISTED: "*"}})],
            id="ForAnyValue: no values at all",
        ),
        pytest.param(
            [allow(Condition={"StringEqualsIfExists": exactly(A)["StringEqualsIgnoreCase"]})],
            id="IfExists in the Allow",
        ),
        pytest.param(
            [allow(Condition={"ForAllValues:StringEquals": exactly(A)["StringEqualsIgnoreCase"]})],
            id="ForAllValues in the Allow",
        ),
        pytest.param(
            [allow(), deny(Condition={"StringNotEquals": {f"{SHA}x": A[0]}, "Null": {SHA: "true"}})],
            id="a key that is nearly the right one",
        ),
        pytest.param(
            [allow(Condition={"StringLike": {**exactly(A)["StringEqualsIgnoreCase"], SHA: f"{A[0][:95]}?"}})],
            id="a question mark",
        ),
        pytest.param(
            [allow("*", Condition={"StringEquals": {"aws:PrincipalOrgID": "o-1"}})], id="an organisation"
        ),
        pytest.param(
            [allow("*", Condition={"StringEquals": {"kms:ViaService": "s3.eu-central-1.amazonaws.com"}})],
            id="through a service",
        ),
        pytest.param(
            [allow("*", Condition={"StringEquals": {"aws:PrincipalArn": "${aws:PrincipalArn}"}})],
            id="a variable that is always true",
        ),
        pytest.param(
            [
                allow(),
                deny(Condition={"StringEquals": {"aws:PrincipalArn": "${aws:username}"}}),
            ],
            id="a variable without a value",
        ),
        pytest.param(
            [allow(), deny(Condition={"StringLike": {"aws:PrincipalArn": "${*}"}})],
            id="the character * is no wildcard",
        ),
        pytest.param(
            [
                allow(),
                deny(Condition={"StringNotEqualsIfExists": {SHA: "${aws:x, 'a'}"}, "Bool": {"k": "true"}}),
            ],
            id="a default value",
        ),
        pytest.param(
            [allow(Condition={"DateLessThan": {"aws:CurrentTime": "2027-01-01T00:00:00Z"}})],
            id="an end alone",
        ),
        pytest.param(
            [allow(), deny(Condition={"NotIpAddress": {"aws:SourceIp": "203.0.113.0/24"}})],
            id="an address alone",
        ),
        pytest.param(
            [allow(PARENT, Sid="Same"), deny(Sid="Same", Condition=exactly(A))],
            id="one Sid for two statements",
        ),
    ],
)
def test_the_prover_is_not_talked_into_a_proof(statements: list[dict[str, Any]]) -> None:
    """Somebody gets plaintext without a decided tuple, and the counterexample says who."""
    found = ask(*statements)["plaintext"]
    assert found.status is REFUTED, found.reason
    assert found.counterexample is not None


CHINA = KEY.replace("arn:aws:", "arn:aws-cn:")


@pytest.mark.parametrize(
    ("statements", "key"),
    [
        pytest.param([allow("*"), deny(Resource=CHINA)], None, id="a Deny on a key elsewhere"),
        pytest.param(
            [allow("*"), deny(Resource="arn:aws-us-gov:kms:*:*:key/*")], None, id="a Deny on keys elsewhere"
        ),
        pytest.param(
            [allow("*"), deny(Resource=CHINA, Principal={"AWS": f"arn:aws-cn:iam::{SERVICE}:root"})],
            None,
            id="a Deny on principals elsewhere",
        ),
        pytest.param(
            [allow(SERVICE), deny(Resource="arn:aws:kms:*:*:key/*")], None, id="a number, and a Deny here"
        ),
        pytest.param(
            [allow(SERVICE), deny(Condition={"ArnNotLike": {"aws:PrincipalArn": "arn:aws-cn:iam::*:*"}})],
            CHINA,
            id="a number is an account of the key's partition",
        ),
        pytest.param(
            [allow("*"), {**deny(), "Principal": {"AWS": f"arn:aws-cn:iam::{SERVICE}:root"}}],
            CHINA,
            id="a Deny for one account of the key's partition",
        ),
    ],
)
def test_no_arn_of_another_partition_makes_a_proof(statements: list[dict[str, Any]], key: str | None) -> None:
    """What a Deny names says nothing about where the key is (IAM User Guide, "IAM identifiers": the partition
    is that of the resource), and an account's number is "a shortened form" of its ARN in any partition.
    """
    policy = parse_policy(json.dumps({"Version": "2012-10-17", "Statement": statements}))
    found = solve(policy, ProofQuestion(DECIDED, key_arn=key), deadline=60)[0]
    assert found.status is REFUTED, found.reason


def test_a_number_of_a_document_is_compared_as_it_is_written() -> None:
    """JSON's numbers are not rounded to floats; one with an exponent is refused, since nobody says which
    text it is.
    """
    between = {"NumericGreaterThan": {"aws:Age": "@1"}, "NumericLessThan": {"aws:Age": "@2"}}
    text = json.dumps({"Statement": [allow("*", Condition=between)]})
    exact = text.replace('"@1"', "0.12345678901234567890").replace('"@2"', "0.12345678901234567891")
    policy = parse_policy(exact)
    assert policy.statements[0].conditions[0].values == ("0.12345678901234567890",)
    caller = Principal(PARENT, SERVICE)
    age = {"aws:Age": ("0.123456789012345678905",)}
    assert evaluate(policy, Request(caller, "kms:Decrypt", KEY, age)) is Effect.ALLOW
    for number in ("1e2", "1E400", "1.5e-7", "9e99999999999999999999"):
        with pytest.raises(PolicyError):
            parse_policy(text.replace('"@1"', number).replace('"@2"', "3"))
    with pytest.raises(PolicyError, match="does not suit"):
        parse_policy(text.replace("@1", "1" * 41).replace("@2", "3"))


def test_only_the_administrators_hand_out_grants_to_services() -> None:
    """kms:GrantIsForAWSResource does not make somebody else's CreateGrant harmless."""
    condition = {"Bool": {"kms:GrantIsForAWSResource": "true"}}
    assert statuses(ask(allow(PARENT, "kms:CreateGrant", Condition=condition)))[1] is REFUTED
    assert statuses(ask(allow(ADMIN, "kms:CreateGrant", Condition=condition)))[1] is PROVED


def test_a_variable_is_one_in_the_newer_version_only() -> None:
    """In a policy of 2008 ``${aws:PrincipalArn}`` is that text, which no caller's ARN is."""
    condition = {"StringEquals": {"aws:PrincipalArn": "${aws:PrincipalArn}"}}
    question = ProofQuestion(DECIDED, (ADMIN,), (BIDDER,))
    answers = {}
    for version in ("2008-10-17", "2012-10-17"):
        document = {"Version": version, "Statement": [allow("*", Condition=condition)]}
        answers[version] = solve(parse_policy(json.dumps(document)), question, deadline=60)[0].status
    assert answers == {"2008-10-17": PROVED, "2012-10-17": REFUTED}


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ({"StringEqualsIgnoreCase": {CONTEXT: "\u212a"}}, REFUTED),
        ({"StringEqualsIgnoreCase": {SHA: "\u212a"}}, UNKNOWN),
        ({"StringEquals": {CONTEXT: "\u00fc\u4e2d"}}, REFUTED),
        (
            {
                "ForAnyValue:StringEquals": {CONTEXT: "a"},
                "ForAnyValue:StringLike": {CONTEXT.upper(): "b"},
            },
            UNKNOWN,
        ),
    ],
)
def test_text_outside_ascii_and_names_that_differ_in_case(value: dict[str, Any], status: Status) -> None:
    """A text is equal to itself in any alphabet. What a condition sees of context names that differ in case
    alone is not documented (KMS Developer Guide, "kms:EncryptionContext:context-key").
    """
    assert ask(allow("*", Condition=value))["plaintext"].status is status


@pytest.mark.parametrize(
    "text",
    [
        '{"Version":"2012-10-17","Statement":[],"Statement":[{"Effect":"Allow"}]}',
        json.dumps({"Statement": [deny(Condition={"StringEquals": {CONTEXT: []}})]}),
        json.dumps({"Statement": [deny(Condition={"NumericEquals": {"k": "nan"}})]}),
        json.dumps({"Statement": [deny(Condition={"NumericEquals": {"k": "1_0"}})]}),
        json.dumps({"Statement": [deny(Condition={"NumericEquals": {"k": "\u0661"}})]}),
        json.dumps({"Statement": [deny(Condition={"DateEquals": {"k": "20260101T000000Z"}})]}),
        json.dumps({"Statement": [deny(Condition={"DateEquals": {"k": "2026-W01-1"}})]}),
        json.dumps({"Statement": [deny(Condition={"StringEquals": {"k": "\ud800"}})]}),
        json.dumps({"Statement": [allow(f"arn:aws:iam::{SERVICE}:role/\u00fc")]}),
        json.dumps(
            {"Version": "2012-10-17", "Statement": [deny(Condition={"StringEquals": {"k": "${aws:x, y}"}})]}
        ),
        json.dumps({"Statement": [{**deny(), "Principal": {"AWS": "\uff11" * 12}}]}),
    ],
)
def test_what_two_readers_could_read_differently_is_not_read(text: str) -> None:
    """Keys given twice, empty lists, numbers and times in Python's wider forms, half a variable."""
    with pytest.raises(PolicyError):
        parse_policy(text)


def test_a_caller_is_every_combination_of_its_names() -> None:
    """Session and role, id and account: the classes are those that principal elements can tell apart."""
    policy = parse_policy(json.dumps({"Statement": [allow([SESSION, WITH_PATH, ID])]}))
    found = callers(policy, ())
    pairs = {(item.principal.arn, item.principal.role_arn, item.principal.unique_id) for item in found}
    assert (SESSION, WITH_PATH, None) in pairs
    assert (SESSION, WITH_PATH, ID) in pairs
    # And a role at another path, which the policy does not name: the session's ARN leaves the path out.
    elsewhere = [(item.principal.arn, item.principal.role_arn) for item in found if item.free_path]
    assert {arn for arn, _ in elsewhere} == {SESSION}
    assert WITH_PATH not in {role for _, role in elsewhere}
    alone = callers(parse_policy(json.dumps({"Statement": [allow([SESSION])]})), ())
    assert [item.principal.arn for item in alone if item.free_path] == [SESSION]


@pytest.mark.slow
def test_a_policy_of_many_principals_is_answered() -> None:
    """What cannot be asked in ten seconds is unknown, or refuted by what was asked; it ends."""
    arns = [f"arn:aws:iam::{number:012d}:role/r{number}" for number in range(1, 301)]
    findings = ask(allow(arns, Condition=exactly(A)), allow(arns, "kms:Decrypt", Condition=exactly(A)))
    assert statuses(findings)[0] in (PROVED, UNKNOWN)


def test_the_counterexamples_are_requests_of_the_evaluator() -> None:
    """The same request, put together by hand, is allowed."""
    policy = parse_policy(
        json.dumps(
            {"Version": "2012-10-17", "Statement": [allow("*", Condition=arn_like("arn:aws:iam::*:root"))]}
        )
    )
    example = solve(policy, ProofQuestion(DECIDED), deadline=60)[0].counterexample
    assert example is not None
    principal = Principal(example.arn, example.arn.split(":")[4])
    assert principal.is_root
    assert evaluate(policy, Request(principal, example.action, KEY, example.context)) is Effect.ALLOW
