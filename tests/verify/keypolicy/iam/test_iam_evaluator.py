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
    PolicyKind,
    Principal,
    Request,
    assess,
    authorize,
    evaluate,
    parse_policy,
)
from coattest_verify.keypolicy.iam.match import BadVariable, glob, parts_of
from support.verify.keypolicy.iam_truth_table import CONDITIONS, Row

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
    expected = {True: Effect.ALLOW, False: Effect.IMPLICIT_DENY, None: Effect.OPEN}
    assert found is expected[row.holds], row.source


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
    ("listed", "who", "effect"),
    [
        ([USER.arn], USER, Effect.OPEN),
        ([f"arn:aws:iam::{OWNER}:root"], USER, Effect.OPEN),
        ([USER.arn, f"arn:aws:iam::{OWNER}:root"], USER, Effect.ALLOW),
        ([f"arn:aws:iam::{OWNER}:user/bob"], USER, Effect.EXPLICIT_DENY),
        ([USER.arn, f"arn:aws:iam::{OWNER}:root"], SESSION, Effect.EXPLICIT_DENY),
        ([ROLE], SESSION, Effect.OPEN),
        ([SESSION.arn, f"arn:aws:iam::{OTHER}:root"], SESSION, Effect.OPEN),
        ([ROLE, f"arn:aws:iam::{OTHER}:root"], SESSION, Effect.OPEN),
        ([SESSION.arn, ROLE, f"arn:aws:iam::{OTHER}:root"], SESSION, Effect.ALLOW),
    ],
)
def test_not_principal_leaves_out_a_caller_only_with_its_account(
    listed: list[str], who: Principal, effect: Effect
) -> None:
    """IAM User Guide, "NotPrincipal": "you must also specify the account ARN of the not-denied principal.
    Otherwise, the policy might deny access to the entire account".
    """
    statement = says("Deny", None, NotPrincipal={"AWS": listed})
    assert evaluate(parse_policy(document(says(), statement)), ask(who)) is effect


@pytest.mark.parametrize("missing", ["Resource", "Action"])
@pytest.mark.parametrize("effect", ["Allow", "Deny"])
def test_a_statement_of_a_key_policy_without_resource_or_action_has_no_effect(
    missing: str, effect: str
) -> None:
    """KMS API Reference, "PutKeyPolicy": "the policy statement has no effect", and the request succeeds."""
    statement = {name: value for name, value in says(effect).items() if name != missing}
    found = assess(parse_policy(document(statement, says())), ask())
    assert (found.allowed_by, found.denied_by) == ((1,), ())
    with pytest.raises(PolicyError):
        parse_policy(document(statement), kind=PolicyKind.OTHER)


@pytest.mark.parametrize(
    ("effect", "element", "found"),
    [
        ("Allow", {"Resource": "arn:aws:kms:*:key/*"}, Effect.ALLOW),
        ("Deny", {"Resource": "arn:aws:kms:*:key/*"}, Effect.OPEN),
        ("Deny", {"NotResource": "arn:aws:kms:*:key/*"}, Effect.ALLOW),
        ("Allow", {"NotResource": "arn:aws:kms:*:key/*"}, Effect.OPEN),
        ("Allow", {"Resource": "arn:aws:kms:eu-*:key/*"}, Effect.ALLOW),
        ("Allow", {"Resource": "arn:aws:kms:e*l-1:*:key/*"}, Effect.ALLOW),
        ("Allow", {"Resource": "arn:aws:kms:e*4:key/*"}, Effect.OPEN),
        ("Allow", {"Resource": "arn:aws:kms:eu-central-1?222233334444:key/*"}, Effect.OPEN),
        ("Allow", {"Resource": "arn:aws:*"}, Effect.ALLOW),
        ("Allow", {"Resource": "arn:aws:s3:*"}, Effect.IMPLICIT_DENY),
        ("Allow", {"Resource": "arn:aws:kms:*:333344445555:key/*"}, Effect.IMPLICIT_DENY),
    ],
)
def test_a_star_at_the_end_of_a_part_may_match_beyond_the_colons(
    effect: str, element: dict[str, str], found: Effect
) -> None:
    """IAM User Guide, "Resource": "it can expand to match beyond the colon boundaries". What that permits is
    permitted; what it would protect is open.
    """
    statement = {name: value for name, value in says(effect).items() if name != "Resource"} | element
    others = [] if effect == "Allow" else [says()]
    assert evaluate(parse_policy(document(statement, *others)), ask()) is found


def test_a_match_takes_time_that_grows_with_the_text_alone() -> None:
    """Patterns that a backtracking matcher does not come back from, as long as a policy can have them."""
    for pattern in ("*a" * 10_000 + "b", "*a?" * 8_000 + "b", "*" * 30_000 + "b", "?*" * 10_000 + "b"):
        assert not glob(parts_of(pattern, False), "a" * 30_000)
        assert glob(parts_of(pattern, False), "a" * 30_000 + "b")
    assert parts_of("${a" + " " * 30_000 + "}", True)
    with pytest.raises(BadVariable):
        parts_of("${" * 15_000, True)


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


def test_names_in_capitals_are_no_placeholders_where_a_name_may_be() -> None:
    """A role, a tag or a context may be called anything."""
    arn = f"arn:aws:iam::{OWNER}:role/YOUR_ROLE_NAME"
    conditions = {
        "ArnEquals": {"aws:PrincipalArn": arn},
        "StringEquals": {"aws:PrincipalTag/team": "PROD_EU", "kms:EncryptionContext:b": "REPLACE_ME"},
    }
    assert parse_policy(document(says(principal={"AWS": arn}, Condition=conditions)))


ALLOW = parse_policy(document(says(principal={"AWS": [USER.arn, ROLE]})))
DELEGATE = parse_policy(document(says(principal={"AWS": [OWNER, OTHER]})))
DENY = parse_policy(document(says("Deny")))
NOTHING = parse_policy(document(says(action="kms:ListKeys")))
MINE = parse_policy(document(says(principal=None)), kind=PolicyKind.OTHER)
MINE_DENY = parse_policy(document(says("Deny", None)), kind=PolicyKind.OTHER)


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
    assert found.allowed is allowed, found.reason


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
        (document(says(principal=None)), "malformed-policy"),
        (document(says(Condition={"StringEquals": {"aws:x": "a", "AWS:X": "b"}})), "malformed-policy"),
        (document(says(principal={"AWS": "arn:aws:iam::222233334444:group/g"})), "malformed-policy"),
        (document(says(principal={"AWS": "arn:aws:iam::222233334444:role/\u00fc"})), "malformed-policy"),
        (document(says(principal={"Service": "*"})), "malformed-policy"),
        (document(says(Condition={"StringEquals": {"k": "\ud800"}})), "malformed-policy"),
        (document(says(Condition={"StringEquals": {"k": "${"}})), "malformed-policy"),
        (document(says(Condition={"StringEquals": {"k": "${}"}})), "malformed-policy"),
        (
            '{"Statement":[{"Effect":"Deny","Principal":"*","Condition":{"Bool":{"k":NaN}}}]}',
            "malformed-policy",
        ),
        (document(says(principal={"AWS": "arn:aws:iam::ACCOUNT_ID:role/x"})), "placeholder"),
        (document(says(principal={"AWS": "ACCOUNT_ID"})), "placeholder"),
        (document(says(principal={"AWS": "<account>"})), "placeholder"),
        (document(says(principal={"AWS": "arn:aws:iam::${AWS::AccountId}:root"})), "placeholder"),
        (document(says(principal={"AWS": "arn:aws:iam::{{ account }}:root"})), "placeholder"),
        (document(says(Resource="arn:aws:kms:REGION:ACCOUNT:key/KEY_ID")), "placeholder"),
        (
            document(says(Condition={"StringEquals": {"kms:RecipientAttestation:PCR0": "EXPECTED_PCR0"}})),
            "placeholder",
        ),
        (document(says(Condition={"StringEquals": {"kms:CallerAccount": "YOUR_ACCOUNT"}})), "placeholder"),
        (document(says(Condition={"StringEquals": {"kms:EncryptionContext:b": "<buyer>"}})), "placeholder"),
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
