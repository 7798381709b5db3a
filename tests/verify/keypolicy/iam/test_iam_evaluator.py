"""The policy evaluator against the truth table, the rules of principals and combinations, and hostile
documents.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest_verify.keypolicy.iam import (
    Effect,
    PolicyError,
    Principal,
    Request,
    assess,
    authorize,
    evaluate,
    parse_policy,
)
from support.verify.iam_truth_table import CONDITIONS, Row

OWNER, OTHER = "222233334444", "111122223333"
KEY = f"arn:aws:kms:eu-central-1:{OWNER}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ROLE = f"arn:aws:iam::{OTHER}:role/path/parent"
SESSION = Principal(
    f"arn:aws:sts::{OTHER}:assumed-role/parent/i-1", OTHER, role_arn=ROLE, unique_id="AROAEXAMPLEEXAMPLE1"
)
USER = Principal(f"arn:aws:iam::{OWNER}:user/alice", OWNER, unique_id="AIDAEXAMPLEEXAMPLE1")
ROOT = Principal(f"arn:aws:iam::{OWNER}:root", OWNER)


def document(*statements: dict[str, Any], version: str = "2012-10-17") -> str:
    return json.dumps({"Version": version, "Statement": list(statements)})


def says(
    effect: str = "Allow", principal: Any = "*", action: Any = "kms:Decrypt", **more: Any
) -> dict[str, Any]:
    statement = {"Effect": effect, "Principal": principal, "Action": action, "Resource": "*"}
    return {name: value for name, value in (statement | more).items() if value is not None}


def ask(principal: Principal = USER, action: str = "kms:Decrypt", **context: Any) -> Request:
    return Request(principal, action, KEY, context)


@pytest.mark.parametrize(
    "row", CONDITIONS, ids=lambda row: f"{json.dumps(row.condition)}-{dict(row.context)}"
)
def test_a_condition_holds_exactly_when_aws_says_so(row: Row) -> None:
    """Each row names the page of AWS's documentation behind it."""
    policy = parse_policy(document(says(Condition=row.condition), version=row.version))
    found = evaluate(policy, Request(USER, "kms:Decrypt", KEY, row.context))
    assert (found is Effect.ALLOW) is row.holds, row.source


@pytest.mark.parametrize(
    ("named", "who", "effect"),
    [
        ("*", SESSION, Effect.ALLOW),
        ({"AWS": "*"}, SESSION, Effect.ALLOW),
        ({"AWS": ROLE}, SESSION, Effect.ALLOW),
        ({"AWS": SESSION.arn}, SESSION, Effect.ALLOW),
        ({"AWS": "AROAEXAMPLEEXAMPLE1"}, SESSION, Effect.ALLOW),
        ({"AWS": f"arn:aws:iam::{OTHER}:role/parent"}, SESSION, Effect.IMPLICIT_DENY),
        ({"AWS": ROLE + "x"}, SESSION, Effect.IMPLICIT_DENY),
        ({"AWS": USER.arn}, USER, Effect.ALLOW),
        ({"AWS": USER.arn}, SESSION, Effect.IMPLICIT_DENY),
        ({"AWS": OWNER}, USER, Effect.IMPLICIT_DENY),
        ({"AWS": f"arn:aws:iam::{OWNER}:root"}, USER, Effect.IMPLICIT_DENY),
        ({"AWS": OWNER}, ROOT, Effect.ALLOW),
        ({"Service": "s3.amazonaws.com"}, USER, Effect.IMPLICIT_DENY),
        ({"AWS": [ROLE, USER.arn]}, USER, Effect.ALLOW),
    ],
)
def test_whom_a_principal_element_means(named: Any, who: Principal, effect: Effect) -> None:
    """A role means its sessions; an account means nobody by itself, but delegates. IAM User Guide,
    "Principal".
    """
    assert evaluate(parse_policy(document(says(principal=named))), ask(who)) is effect


def test_a_statement_for_the_account_delegates_and_a_deny_for_it_denies_everybody_in_it() -> None:
    """The same element means "those whom the account's policies allow" in an Allow, and everyone in a
    Deny.
    """
    allowing = parse_policy(document(says(principal={"AWS": OWNER})))
    assert assess(allowing, ask()).delegated_by == (0,)
    assert assess(allowing, ask(SESSION)).delegated_by == ()
    denying = parse_policy(document(says(), says("Deny", {"AWS": OWNER})))
    assert evaluate(denying, ask()) is Effect.EXPLICIT_DENY
    assert evaluate(denying, ask(SESSION)) is Effect.ALLOW


@pytest.mark.parametrize(
    ("listed", "denied"),
    [
        ([USER.arn], True),
        ([f"arn:aws:iam::{OWNER}:root"], True),
        ([USER.arn, f"arn:aws:iam::{OWNER}:root"], False),
    ],
)
def test_not_principal_leaves_out_a_caller_only_with_its_account(listed: list[str], denied: bool) -> None:
    """IAM User Guide, "NotPrincipal": "you must also specify the account ARN of the non-denied principal"."""
    statement = says("Deny", None, NotPrincipal={"AWS": listed})
    found = evaluate(parse_policy(document(says(), statement)), ask())
    assert (found is Effect.EXPLICIT_DENY) is denied


@pytest.mark.parametrize(
    ("element", "applies"),
    [
        ({"Action": "kms:*"}, True),
        ({"Action": "KMS:decrypt"}, True),
        ({"Action": "kms:De*t"}, True),
        ({"Action": "kms:Decryp?"}, True),
        ({"Action": "*"}, True),
        ({"Action": "kms:Encrypt"}, False),
        ({"Action": None, "NotAction": "kms:Encrypt"}, True),
        ({"Action": None, "NotAction": "kms:D*"}, False),
        ({"Resource": KEY}, True),
        ({"Resource": KEY[:-1] + "?"}, True),
        ({"Resource": "arn:aws:kms:*:*:key/*"}, True),
        ({"Resource": "arn:aws:kms:eu-west-1:*:key/*"}, False),
        ({"Resource": KEY.replace("abcd", "ABCD")}, False),
        ({"Resource": "arn:aws:kms"}, True),
        ({"Resource": None, "NotResource": KEY}, False),
        ({"Resource": None, "NotResource": "arn:aws:s3:::*"}, True),
    ],
)
def test_what_a_statement_is_about(element: dict[str, Any], applies: bool) -> None:
    """Actions in any case, resources in theirs, part by part. IAM User Guide, "Action" and "Resource"."""
    found = evaluate(parse_policy(document(says(**element))), ask())
    assert (found is Effect.ALLOW) is applies


ALLOW = parse_policy(document(says(principal={"AWS": [USER.arn, ROLE]})))
DELEGATE = parse_policy(document(says(principal={"AWS": [OWNER, OTHER]})))
DENY = parse_policy(document(says("Deny")))
NOTHING = parse_policy(document(says(action="kms:ListKeys")))
MINE = parse_policy(document(says(principal=None)))
MINE_DENY = parse_policy(document(says("Deny", None)))


@pytest.mark.parametrize(
    ("who", "resource", "identity", "session", "required", "allowed"),
    [
        (USER, ALLOW, [], [], True, True),
        (USER, ALLOW, [MINE_DENY], [], True, False),
        (USER, DELEGATE, [], [], True, False),
        (USER, DELEGATE, [MINE], [], True, True),
        (USER, NOTHING, [MINE], [], True, False),
        (USER, NOTHING, [MINE], [], False, True),
        (USER, None, [MINE], [], False, True),
        (USER, DENY, [MINE], [], False, False),
        (USER, ALLOW, [], [NOTHING], True, False),
        (USER, ALLOW, [], [MINE], True, True),
        (SESSION, ALLOW, [], [], True, False),
        (SESSION, ALLOW, [MINE], [], True, True),
        (SESSION, DELEGATE, [MINE], [], True, True),
        (SESSION, NOTHING, [MINE], [], False, False),
        (SESSION, None, [MINE], [], False, False),
        (ROOT, DELEGATE, [], [], True, True),
        (ROOT, NOTHING, [], [], True, False),
    ],
)
def test_both_sides_together(  # noqa: PLR0917
    who: Principal, resource: Any, identity: list[Any], session: list[Any], required: bool, allowed: bool
) -> None:
    """One's own account: the key policy decides, or lets the account decide. Another account: both sides."""
    found = authorize(
        ask(who),
        owner=OWNER,
        resource_policy=resource,
        identity_policies=identity,
        session_policies=session,
        resource_policy_required=required,
    )
    assert found.allowed is allowed, found.code


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "malformed-policy"),
        ("[]", "malformed-policy"),
        ('{"Statement":[]}', "malformed-policy"),
        ('{"Version":"2020-01-01","Statement":[{}]}', "malformed-policy"),
        ('{"Version":"2012-10-17","Version":"2012-10-17","Statement":[{}]}', "malformed-policy"),
        (document(says(Extra=1)), "malformed-policy"),
        (document(says(effect="allow")), "malformed-policy"),
        (document(says(NotAction="kms:*")), "malformed-policy"),
        (document(says(action=None)), "malformed-policy"),
        (document(says(action=[])), "malformed-policy"),
        (document(says(action="Decrypt")), "malformed-policy"),
        (document(says(Resource=None, NotPrincipal=None, principal=None)), "malformed-policy"),
        (document(says(principal={"AWS": "arn:aws:iam::222233334444:role/*"})), "malformed-policy"),
        (document(says(principal={"AWS": "alice"})), "malformed-policy"),
        (document(says(principal={"Aws": "*"})), "malformed-policy"),
        (document(says(principal=[])), "malformed-policy"),
        (document(says(Condition={"StringEquals": "a"})), "malformed-policy"),
        (document(says(Condition={"Bool": {"k": "maybe"}})), "malformed-policy"),
        (document(says(Condition={"NumericEquals": {"k": "x"}})), "malformed-policy"),
        (document(says(Condition={"DateLessThan": {"k": "tomorrow"}})), "malformed-policy"),
        (document(says(Condition={"IpAddress": {"k": "here"}})), "malformed-policy"),
        (document(says(Condition={"StringEquals": {"k": [["a"]]}})), "malformed-policy"),
        (document(says(Condition={"StringAlmost": {"k": "a"}})), "unknown-operator"),
        (document(says(Condition={"stringequals": {"k": "a"}})), "unknown-operator"),
        (document(says(Condition={"NullIfExists": {"k": "true"}})), "unknown-operator"),
        (document(says(Condition={"ForAnyValue:Null": {"k": "true"}})), "unknown-operator"),
        (document(says(Condition={"ForSomeValues:StringEquals": {"k": "a"}})), "unknown-operator"),
        ('{"Version":"2012-10-17","Statement":' + "[" * 5000 + "]" * 5000 + "}", "malformed-policy"),
        (document(says(Sid="x" * 40_000)), "malformed-policy"),
    ],
)
def test_a_document_outside_the_grammar_is_not_evaluated(text: str, reason: str) -> None:
    """One error type, with a reason code."""
    with pytest.raises(PolicyError) as refused:
        parse_policy(text)
    assert refused.value.code == reason


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(),
        lambda c: (
            st.lists(c)
            | st.dictionaries(
                st.sampled_from(
                    ["Statement", "Effect", "Principal", "Action", "Condition", "Resource", "AWS"]
                )
                | st.text(),
                c,
            )
        ),
    )
)
def test_nothing_but_a_policy_error_leaves_the_parser(value: Any) -> None:
    """Any JSON value either is a policy or is refused."""
    with contextlib.suppress(PolicyError):
        parse_policy(json.dumps(value))


@given(st.lists(st.sampled_from(range(5)), min_size=1, max_size=6), st.randoms())
def test_the_order_of_statements_does_not_matter_and_a_deny_never_allows(
    picks: list[int], random: Any
) -> None:
    """Statements are a set; adding a Deny never turns a refusal into a permission."""
    pool = [
        says(),
        says(action="kms:Encrypt"),
        says("Deny", action="kms:Enc*"),
        says(principal={"AWS": OTHER}),
        says("Deny"),
    ]
    statements = [pool[index] for index in picks]
    shuffled = random.sample(statements, len(statements))
    first, second = (parse_policy(document(*items)) for items in (statements, shuffled))
    for action in ("kms:Decrypt", "kms:Encrypt"):
        assert evaluate(first, ask(action=action)) is evaluate(second, ask(action=action))
        more = parse_policy(document(*statements, pool[2]))
        if evaluate(more, ask(action=action)) is Effect.ALLOW:
            assert evaluate(first, ask(action=action)) is Effect.ALLOW
