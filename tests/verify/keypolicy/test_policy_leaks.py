"""What a live policy would let past the decided enclave, as a buyer's tool sees it before it encrypts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coattest_verify.keypolicy.generate import PolicyOptions, policy_text
from coattest_verify.keypolicy.iam import parse_policy
from coattest_verify.keypolicy.leaks import policy_leaks
from support.verify.decisions import ACCOUNT, AN_AUCTIONS, decision, make

KEY = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
CONTEXT = {
    "coattest:auction": "5e" * 48,
    "coattest:buyer": "buyer-1",
    "coattest:seal-key": "5e" * 32,
    "coattest:image": decision().pcrs[0],
}
FOREIGN = {
    "another seal key": {**CONTEXT, "coattest:seal-key": "00" * 32},
    "another image's name": {**CONTEXT, "coattest:image": "00" * 48},
}


def leaks(document: dict[str, Any]) -> set[str]:
    """What is said of a policy, without who."""
    parsed = parse_policy(policy_text(document))
    found = policy_leaks(parsed, KEY, pcrs=decision().pcrs, context=CONTEXT, foreign=FOREIGN)
    assert {finding.code for finding in found} <= {"key-policy"}
    return {finding.detail.partition("may get a plaintext ")[2] for finding in found}


def test_an_auctions_policy_leaves_no_way() -> None:
    """As the tool makes it, for one release and for two, also with administration delegated."""
    assert leaks(make(context=AN_AUCTIONS)) == set()
    assert leaks(make([decision(), decision("b")], context=AN_AUCTIONS)) == set()
    assert leaks(make(context=AN_AUCTIONS, options=PolicyOptions(delegate_to_account=True))) == set()


def test_a_policy_without_the_context_is_open_to_other_seals() -> None:
    """Before seal keys were in it, the decided enclave got everything."""
    assert leaks(make()) == {"under another seal key", "under another image's name"}


@pytest.mark.parametrize(
    ("sids", "ways"),
    [
        ({"DenyAlways"}, {"by re-encryption", "by a grant"}),
        ({"DenyUnattested", "DenyOtherImages"}, {"without an attestation document", "from another image"}),
        ({"DenyOtherImages"}, {"from another image"}),
    ],
)
def test_each_missing_deny_is_a_way_for_who_may_do_all(sids: set[str], ways: set[str]) -> None:
    """Somebody with kms:* in the same policy."""
    document = json.loads(policy_text(make(context=AN_AUCTIONS)))
    everything = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:role/second"},
        "Action": "kms:*",
        "Resource": "*",
    }
    document["Statement"] = [each for each in document["Statement"] if each["Sid"] not in sids] + [everything]
    foreign = {"under another seal key", "under another image's name"}
    assert leaks(document) - foreign >= ways


def test_the_default_policy_of_a_new_key_is_open() -> None:
    """The account's root with kms:*: its IAM policies decide who decrypts."""
    root = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    statement = {"Sid": "x", "Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"}
    assert "without an attestation document" in leaks({"Version": "2012-10-17", "Statement": [statement]})


ANYBODY = {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}


@pytest.mark.parametrize(
    "more",
    [
        {"Condition": {"StringEquals": {"kms:CallerAccount": ACCOUNT}}},
        {"Condition": {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/other"}}},
        {"Condition": {"StringEquals": {"aws:PrincipalOrgID": "o-1234567890"}}},
        {"Condition": {"StringEquals": {"kms:ViaService": "s3.eu-central-1.amazonaws.com"}}},
        {"Condition": {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}},
        {"Condition": {"StringEquals": {"aws:PrincipalTag/a": "${aws:PrincipalTag/b}"}}},
        {"Condition": {"Null": {"kms:RecipientAttestation:NitroTPMPCR4": "false"}}},
        {"Principal": {"Service": "logs.amazonaws.com"}},
        {"Principal": {"AWS": "AIDACKCEVSQ6C2EXAMPLE"}},
        {"Principal": {"AWS": "AROACKCEVSQ6C2EXAMPLE"}},
        {"Principal": {"AWS": f"arn:aws:sts::{ACCOUNT}:assumed-role/parent/session"}},
        {"Principal": {"AWS": f"arn:aws:sts::{ACCOUNT}:federated-user/somebody"}},
        {"Principal": {"Federated": f"arn:aws:iam::{ACCOUNT}:saml-provider/idp"}},
        {"Principal": {"Federated": "cognito-identity.amazonaws.com"}},
        {"NotPrincipal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}},
        {"Resource": "arn:aws:kms:*:*:key/${aws:PrincipalTag/key}"},
    ],
)
def test_a_condition_that_nobody_settles_keeps_nobody_out(more: dict[str, Any]) -> None:
    """The request that is tried has no tag, address or service: somebody's has."""
    statement = {**ANYBODY, **more}
    if "NotPrincipal" in more:
        del statement["Principal"]
    found = leaks({"Version": "2012-10-17", "Statement": [statement]})
    assert "without an attestation document" in found


def test_a_register_beyond_the_image_hides_no_way_under_another_seal() -> None:
    """The decided enclave has it, and without the context decrypts what was sealed by others."""
    signed = PolicyOptions(registers={8: "5e" * 48})
    foreign = {"under another seal key", "under another image's name"}
    assert leaks(make(options=signed)) == foreign
    assert leaks(make(context=AN_AUCTIONS, options=signed)) == set()


def test_a_deny_that_may_not_apply_does_not_count() -> None:
    """One with a condition on an address; one without a condition does."""
    kept_out = {**ANYBODY, "Effect": "Deny"}
    sometimes = {**kept_out, "Condition": {"NotIpAddress": {"aws:SourceIp": "192.0.2.0/24"}}}
    assert leaks({"Version": "2012-10-17", "Statement": [ANYBODY, sometimes]})
    assert not leaks({"Version": "2012-10-17", "Statement": [ANYBODY, kept_out]})


ROOT = f"arn:aws:iam::{ACCOUNT}:root"
A_SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/parent/session"


@pytest.mark.parametrize(
    ("who", "condition"),
    [
        (ROOT, {"ArnNotEquals": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/administrator"}}),
        ("*", {"ArnNotLike": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/team-*"}}),
        ("*", {"StringNotEquals": {"kms:CallerAccount": "987654321098"}}),
        # A session's ARN leaves out its role's path: this may be one of /a/role/parent.
        (A_SESSION, {"ArnEquals": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/parent"}}),
    ],
)
def test_a_deny_that_spares_somebody_does_not_count(who: str, condition: dict[str, Any]) -> None:
    """Who is spared is named by a condition alone, and is one of the others to the Principal elements."""
    allow = {**ANYBODY, "Principal": {"AWS": who}}
    deny = {**ANYBODY, "Effect": "Deny", "Condition": condition}
    found = leaks({"Version": "2012-10-17", "Statement": [allow, deny]})
    assert "without an attestation document" in found


def test_a_deny_by_account_counts_for_callers_of_that_account() -> None:
    """Every caller of a class has its account."""
    allow = {**ANYBODY, "Principal": {"AWS": ROOT}}
    deny = {**ANYBODY, "Effect": "Deny", "Condition": {"StringEquals": {"kms:CallerAccount": ACCOUNT}}}
    assert not leaks({"Version": "2012-10-17", "Statement": [allow, deny]})


@pytest.mark.parametrize(
    ("who", "condition"),
    [
        ({"Service": "logs.amazonaws.com"}, {"ArnLike": {"aws:PrincipalArn": "arn:aws:*:*:*:*"}}),
        ({"Service": "logs.amazonaws.com"}, {"StringEquals": {"aws:PrincipalAccount": ACCOUNT}}),
        ({"AWS": A_SESSION}, {"ArnEquals": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/a/parent"}}),
    ],
)
def test_what_is_not_known_of_a_caller_keeps_it_not_out(who: Any, condition: dict[str, Any]) -> None:
    """AWS does not say what a service's keys are, nor a session's ARN what its role's path is."""
    statement = {**ANYBODY, "Principal": who, "Condition": condition}
    found = leaks({"Version": "2012-10-17", "Statement": [statement]})
    assert "without an attestation document" in found


def test_who_must_not_decrypt_by_one_name_does_not_by_another() -> None:
    """A Deny for the role by its ARN holds for its unique id too; one for somebody else does not."""
    allow = {**ANYBODY, "Principal": {"AWS": "AROACKCEVSQ6C2EXAMPLE"}}
    role = {"AWS": f"arn:aws:iam::{ACCOUNT}:role/parent"}
    deny = {**ANYBODY, "Effect": "Deny", "Principal": role}
    assert leaks({"Version": "2012-10-17", "Statement": [allow, deny]})
    assert not leaks({"Version": "2012-10-17", "Statement": [allow, {**deny, "Principal": "*"}]})


def test_a_policy_with_very_many_principals_is_not_judged() -> None:
    """Every one of them may be another of them too, so the work would grow with the square."""
    ids = [f"AROA{index:017}" for index in range(200)]
    document = {
        "Version": "2012-10-17",
        "Statement": [{**ANYBODY, "Effect": "Deny", "Principal": {"AWS": ids}}],
    }
    (found,) = policy_leaks(parse_policy(json.dumps(document)), KEY, pcrs={}, context={}, foreign={})
    assert "200 principals" in found.detail
