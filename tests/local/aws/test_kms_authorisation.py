"""Who may do what: key policies, the caller's own policies, both sides across accounts, grants, the lock-out
check.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from coattest_local.aws.services import Services
from support.local import kms_world as world

BUYER = "222233334444"
ADMIN = f"arn:aws:iam::{BUYER}:user/admin"
MALFORMED = "MalformedPolicyDocumentException"


def make_key(kms: Any, *statements: dict[str, Any]) -> str:
    """A key of buyer-1 with its admin and the given statements."""
    arn = kms.create_key(Policy=world.policy(world.administer(BUYER), *statements))["KeyMetadata"]["Arn"]
    assert isinstance(arn, str)
    return arn


def test_the_default_policy_lets_the_accounts_own_policies_decide(running: Services, buyer: Any) -> None:
    """Root delegation: the admin, who may do everything by IAM policy, can; a role without a policy
    cannot.
    """
    arn = buyer.create_key()["KeyMetadata"]["Arn"]
    blob = buyer.encrypt(KeyId=arn, Plaintext=b"bid")["CiphertextBlob"]
    assert buyer.decrypt(CiphertextBlob=blob)["Plaintext"] == b"bid"
    role = world.make_role(running, "buyer-1", "nothing")
    nobody = running.client("kms", "buyer-1", session=world.assume(running, "buyer-1", role))
    assert world.code_of(nobody.decrypt, CiphertextBlob=blob) == "AccessDeniedException"


def test_an_iam_policy_alone_does_not_open_a_key(buyer: Any) -> None:
    """Without a statement for the account, even the account's administrator has only what the key policy
    says.
    """
    arn = make_key(buyer)
    assert world.code_of(buyer.encrypt, KeyId=arn, Plaintext=b"bid") == "AccessDeniedException"
    assert world.code_of(buyer.describe_key, KeyId=arn) == "none"


def test_another_accounts_role_needs_both_sides(
    running: Services, buyer: Any, parent: dict[str, str]
) -> None:
    """The key policy names the role; without the role's own policy it stays closed, with it it opens."""
    role = world.make_role(running, "service", "two-sided")
    arn = make_key(buyer, world.allow(role, "kms:Encrypt"))
    session = running.client("kms", "service", session=world.assume(running, "service", role))
    assert world.code_of(session.encrypt, KeyId=arn, Plaintext=b"x") == "AccessDeniedException"
    iam = running.client("iam", "service")
    iam.put_role_policy(
        RoleName="two-sided", PolicyName="kms", PolicyDocument=world.policy(world.may("kms:Encrypt"))
    )
    assert world.code_of(session.encrypt, KeyId=arn, Plaintext=b"x") == "none"
    other = running.client("kms", "service", session=parent)
    assert world.code_of(other.encrypt, KeyId=arn, Plaintext=b"x") == "AccessDeniedException"


def test_a_deny_wins_over_everything(running: Services, buyer: Any) -> None:
    """Over a direct Allow, over the account's policies and over a grant."""
    arn = make_key(
        buyer,
        world.allow(f"arn:aws:iam::{BUYER}:root", "kms:*"),
        world.allow(ADMIN, "kms:Encrypt"),
        world.deny("*", "kms:Encrypt"),
    )
    buyer.create_grant(KeyId=arn, GranteePrincipal=ADMIN, Operations=["Encrypt"])
    assert world.code_of(buyer.encrypt, KeyId=arn, Plaintext=b"x") == "AccessDeniedException"


def test_a_grant_opens_what_it_names_within_its_constraints(running: Services, buyer: Any) -> None:
    """A grantee may do the operation with the constrained encryption context, and nothing else."""
    role = world.make_role(running, "buyer-1", "grantee")
    arn = make_key(buyer, world.allow(ADMIN, ["kms:CreateGrant", "kms:Encrypt"]))
    constraints = {"EncryptionContextEquals": {"a": "b"}}
    buyer.create_grant(KeyId=arn, GranteePrincipal=role, Operations=["Decrypt"], Constraints=constraints)
    blob = buyer.encrypt(KeyId=arn, Plaintext=b"x", EncryptionContext={"a": "b"})["CiphertextBlob"]
    session = running.client("kms", "buyer-1", session=world.assume(running, "buyer-1", role))
    assert world.code_of(session.decrypt, CiphertextBlob=blob, EncryptionContext={"a": "b"}) == "none"
    assert world.code_of(session.decrypt, CiphertextBlob=blob) == "AccessDeniedException"
    assert world.code_of(session.encrypt, KeyId=arn, Plaintext=b"x") == "AccessDeniedException"


def test_reencrypt_needs_permission_on_both_keys(running: Services, buyer: Any) -> None:
    """kms:ReEncryptFrom on the source, kms:ReEncryptTo on the destination."""
    source = make_key(buyer, world.allow(ADMIN, ["kms:Encrypt"]))
    target = make_key(buyer, world.allow(ADMIN, ["kms:ReEncryptTo", "kms:Decrypt"]))
    blob = buyer.encrypt(KeyId=source, Plaintext=b"x")["CiphertextBlob"]
    arguments = {"CiphertextBlob": blob, "DestinationKeyId": target}
    assert world.code_of(buyer.re_encrypt, **arguments) == "AccessDeniedException"
    allowed = world.policy(world.administer(BUYER), world.allow(ADMIN, ["kms:Encrypt", "kms:ReEncryptFrom"]))
    buyer.put_key_policy(KeyId=source, Policy=allowed)
    moved = buyer.re_encrypt(**arguments)
    assert moved["SourceKeyId"] == source
    assert buyer.decrypt(CiphertextBlob=moved["CiphertextBlob"])["Plaintext"] == b"x"


@pytest.mark.parametrize(
    "policy",
    [
        "{}",
        '{"Version":"2012-10-17","Statement":[]}',
        world.policy(world.allow("*", "kms:*", {"StringNearly": {"a": "b"}})),
        world.policy(world.allow(f"arn:aws:iam::{BUYER}:role/nobody", "kms:*")),
        world.policy(world.allow("arn:aws:iam::999999999999:root", "kms:*")),
        world.policy(world.allow(world.PARENT, "kms:*")),
        world.policy(world.allow(ADMIN, ["kms:Encrypt"])),
        world.policy(world.allow(ADMIN, "kms:*"), world.deny("*", "kms:PutKeyPolicy")),
    ],
)
def test_a_policy_that_is_wrong_or_locks_its_author_out_is_refused(
    buyer: Any, parent: dict[str, str], policy: str
) -> None:
    """Grammar, unknown members, principals that do not exist, and an author without kms:PutKeyPolicy."""
    assert world.code_of(buyer.create_key, Policy=policy) == MALFORMED
    arn = make_key(buyer)
    assert world.code_of(buyer.put_key_policy, KeyId=arn, Policy=policy) == MALFORMED
    assert "kms:PutKeyPolicy" in json.dumps(json.loads(buyer.get_key_policy(KeyId=arn)["Policy"]))


def test_what_kms_does_not_take_at_all_has_its_own_codes(buyer: Any) -> None:
    """KMS API Reference, "PutKeyPolicy": the characters of a policy, and its length."""
    odd = world.policy(world.administer(BUYER)).replace("{", "{\u4e2d", 1)
    long = world.policy(world.administer(BUYER), world.allow(ADMIN, "kms:Encrypt") | {"Sid": "x" * 33_000})
    arn = make_key(buyer)
    for policy, code in ((odd, "ValidationException"), (long, "LimitExceededException")):
        assert world.code_of(buyer.put_key_policy, KeyId=arn, Policy=policy) == code


@pytest.mark.parametrize("missing", ["Resource", "Action"])
def test_a_statement_without_resource_or_action_is_taken_and_ignored(buyer: Any, missing: str) -> None:
    """KMS API Reference, "PutKeyPolicy": "the policy statement has no effect", and the request succeeds."""
    deny = world.allow(ADMIN, "kms:Encrypt") | {"Effect": "Deny"}
    del deny[missing]
    arn = make_key(buyer, world.allow(ADMIN, "kms:Encrypt"), deny)
    assert world.code_of(buyer.encrypt, KeyId=arn, Plaintext=b"bid") == "none"


def test_what_aws_leaves_open_is_refused(buyer: Any) -> None:
    """A Deny with NotPrincipal that "might" reach the caller: a stand-in is no kinder than the real thing."""
    deny = world.allow(ADMIN, "kms:Encrypt") | {"Effect": "Deny", "NotPrincipal": {"AWS": ADMIN}}
    del deny["Principal"]
    arn = make_key(buyer, world.allow(ADMIN, "kms:Encrypt"), deny)
    assert world.code_of(buyer.encrypt, KeyId=arn, Plaintext=b"bid") == "AccessDeniedException"


def test_the_lock_out_check_can_be_bypassed_only_on_purpose(buyer: Any, parent: dict[str, str]) -> None:
    """BypassPolicyLockoutSafetyCheck skips that check and no other."""
    locked = world.policy(world.allow(world.PARENT, "kms:*"))
    arn = buyer.create_key(Policy=locked, BypassPolicyLockoutSafetyCheck=True)["KeyMetadata"]["Arn"]
    assert world.code_of(buyer.get_key_policy, KeyId=arn) == "AccessDeniedException"


def test_management_of_another_accounts_key_is_refused_even_when_its_policy_allows(
    running: Services, buyer: Any, parent: dict[str, str]
) -> None:
    """Only the operations that AWS lists for cross-account use reach another account's key."""
    arn = make_key(
        buyer, world.allow(world.PARENT, ["kms:PutKeyPolicy", "kms:DescribeKey", "kms:DisableKey"])
    )
    session = running.client("kms", "service", session=parent)
    assert world.code_of(session.describe_key, KeyId=arn) == "none"
    taken = world.policy(world.allow(world.PARENT, "kms:*"))
    assert world.code_of(session.put_key_policy, KeyId=arn, Policy=taken) == "AccessDeniedException"
    assert world.code_of(session.disable_key, KeyId=arn) == "AccessDeniedException"


def test_keys_that_do_not_exist_here(running: Services, buyer: Any, parent: dict[str, str]) -> None:
    """One's own missing key is not found; another account's sounds the same as one that is closed."""
    arn = make_key(buyer)
    missing = arn[:-12] + "000000000000"
    assert world.code_of(buyer.describe_key, KeyId=missing) == "NotFoundException"
    session = running.client("kms", "service", session=parent)
    assert world.code_of(session.describe_key, KeyId=missing) == "AccessDeniedException"
    elsewhere = running.client("kms", "buyer-1", region="eu-west-1")
    assert world.code_of(elsewhere.describe_key, KeyId=arn) == "NotFoundException"


def test_a_disabled_or_doomed_key_does_nothing(buyer: Any) -> None:
    """Key states have errors of their own."""
    arn = make_key(buyer, world.allow(ADMIN, "kms:Encrypt"))
    buyer.disable_key(KeyId=arn)
    assert world.code_of(buyer.encrypt, KeyId=arn, Plaintext=b"x") == "DisabledException"
    buyer.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)
    assert world.code_of(buyer.encrypt, KeyId=arn, Plaintext=b"x") == "KMSInvalidStateException"


def test_an_operation_that_is_not_emulated_is_refused_and_never_reaches_the_store(buyer: Any) -> None:
    """Nothing is authorised by default."""
    arn = buyer.create_key()["KeyMetadata"]["Arn"]
    code = world.code_of(buyer.sign, KeyId=arn, Message=b"x", SigningAlgorithm="ECDSA_SHA_256")
    assert code == "UnknownOperationException"


def test_encryption_context_pairs_do_not_run_into_each_other(buyer: Any) -> None:
    """{a: bc} and {ab: c} are different contexts."""
    arn = buyer.create_key()["KeyMetadata"]["Arn"]
    blob = buyer.encrypt(KeyId=arn, Plaintext=b"x", EncryptionContext={"a": "bc"})["CiphertextBlob"]
    code = world.code_of(buyer.decrypt, CiphertextBlob=blob, EncryptionContext={"ab": "c"})
    assert code == "InvalidCiphertextException"


def test_a_role_is_assumed_only_by_whom_its_trust_policy_names(running: Services) -> None:
    """Another account's role needs the trust policy and the caller's own; a role that is not there is denied
    too.
    """
    role = world.make_role(running, "service", "trusting", trust=f"arn:aws:iam::{BUYER}:root")
    arguments = {"RoleArn": role, "RoleSessionName": "session"}
    assert world.code_of(running.client("sts", "buyer-1").assume_role, **arguments) == "none"
    assert world.code_of(running.client("sts", "buyer-2").assume_role, **arguments) == "AccessDenied"
    assert world.code_of(running.client("sts", "service").assume_role, **arguments) == "AccessDenied"
    arguments["RoleArn"] = role + "-not"
    assert world.code_of(running.client("sts", "service").assume_role, **arguments) == "AccessDenied"


def test_a_session_policy_only_takes_away(running: Services) -> None:
    """What the session policy does not allow, the session cannot do, whatever its role may."""
    role = world.make_role(running, "service", "scoped", may=world.may("kms:*", "s3:*"))
    sts = running.client("sts", "service")
    narrow = world.policy(world.may("kms:ListKeys"))
    session = sts.assume_role(RoleArn=role, RoleSessionName="narrow", Policy=narrow)["Credentials"]
    kms = running.client("kms", "service", session=session)
    assert world.code_of(kms.list_keys) == "none"
    assert world.code_of(kms.list_aliases) == "AccessDeniedException"


def test_a_session_of_a_deleted_role_is_nobody(running: Services) -> None:
    """Its credentials still sign, and decide nothing."""
    role = world.make_role(running, "service", "short-lived", may=world.may("kms:*"))
    kms = running.client("kms", "service", session=world.assume(running, "service", role))
    assert world.code_of(kms.list_keys) == "none"
    iam = running.client("iam", "service")
    iam.delete_role_policy(RoleName="short-lived", PolicyName="inline")
    iam.delete_role(RoleName="short-lived")
    assert world.code_of(kms.list_keys) == "AccessDeniedException"
