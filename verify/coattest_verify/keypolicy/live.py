"""A live key: reading it, judging it, putting a policy on it. The only module here that calls AWS.

The lock-out safety check of KMS is never bypassed. What a policy does not show is checked on the
key: where its material comes from, whether it is in one Region, whether there are grants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest.findings import Finding
from coattest_verify.keypolicy.compare import policy_differences
from coattest_verify.keypolicy.generate import DECISION_TAG, ENCLAVE_TAG, decision_tag
from coattest_verify.keypolicy.iam import Policy, PolicyError, Principal, Request, authorize, parse_policy
from coattest_verify.keypolicy.iam.evaluate import action_matches
from coattest_verify.keypolicy.iam.match import ascii_lower

_UNIQUE_ID = re.compile(r"A[A-Z]{3}[A-Z0-9]{12,}")
_IMAGE_KEYS = ("kms:recipientattestation:imagesha384", "kms:recipientattestation:pcr0")
_EQUAL = ("StringEquals", "StringEqualsIgnoreCase", "StringLike")
_INSTANCE_KEY = "kms:recipientattestation:pcr4"


@dataclass(frozen=True, slots=True)
class KeyState:
    """A key as it is now. ``policy`` is the text KMS returns."""

    arn: str
    state: str
    origin: str
    spec: str
    usage: str
    multi_region: bool
    replicas: tuple[str, ...]
    policy: str
    grants: tuple[str, ...]
    aliases: tuple[str, ...]
    decision: str | None


def read_key(kms: Any, key_id: str) -> KeyState:
    """Read a key with a boto3 KMS client. Raises EnvironmentFailure."""
    with aws_errors(key_id):
        metadata = kms.describe_key(KeyId=key_id)["KeyMetadata"]
        arn = metadata["Arn"]
        policy = kms.get_key_policy(KeyId=arn, PolicyName="default")["Policy"]
        grants = [grant for page in _pages(kms, "list_grants", arn) for grant in page["Grants"]]
        aliases = [alias for page in _pages(kms, "list_aliases", arn) for alias in page["Aliases"]]
        tags = [tag for page in _pages(kms, "list_resource_tags", arn) for tag in page["Tags"]]
    regions = metadata.get("MultiRegionConfiguration", {}).get("ReplicaKeys", [])
    return KeyState(
        arn=arn,
        state=metadata["KeyState"],
        origin=metadata["Origin"],
        spec=metadata.get("KeySpec", metadata.get("CustomerMasterKeySpec", "")),
        usage=metadata["KeyUsage"],
        multi_region=bool(metadata.get("MultiRegion")),
        replicas=tuple(replica["Arn"] for replica in regions),
        policy=policy,
        grants=tuple(f"{grant['GrantId']} to {grant.get('GranteePrincipal', '?')}" for grant in grants),
        aliases=tuple(sorted(alias["AliasName"] for alias in aliases)),
        decision=next((tag["TagValue"] for tag in tags if tag["TagKey"] == DECISION_TAG), None),
    )


def _pages(kms: Any, operation: str, key_id: str) -> Iterator[Any]:
    yield from kms.get_paginator(operation).paginate(KeyId=key_id)


def unfit(key: KeyState) -> tuple[Finding, ...]:
    """Why no policy could protect this key."""
    checks = (
        (
            key.origin == "AWS_KMS",
            "origin",
            f"Origin is {key.origin}: a copy of the key material exists outside KMS",
        ),
        (key.spec == "SYMMETRIC_DEFAULT", "key-spec", f"KeySpec is {key.spec}, not SYMMETRIC_DEFAULT"),
        (key.usage == "ENCRYPT_DECRYPT", "key-usage", f"KeyUsage is {key.usage}, not ENCRYPT_DECRYPT"),
        (
            not key.multi_region,
            "multi-region",
            f"a multi-Region key, replicas: {', '.join(key.replicas) or 'none yet'}",
        ),
        (not key.grants, "grants", f"grants, which allow past the policy's Allows: {', '.join(key.grants)}"),
        (key.state == "Enabled", "key-state", f"KeyState is {key.state}"),
    )
    return tuple(Finding(code, key.arn, detail) for good, code, detail in checks if not good)


def key_findings(key: KeyState, expected: Policy, aliases: Sequence[str] = ()) -> tuple[Finding, ...]:
    """Every difference of a key from what the decision asks for.

    ``aliases``, where there are any, are all the names that the key should have.
    """
    found = list(unfit(key))
    try:
        live = parse_policy(key.policy)
    except PolicyError as error:
        return (*found, unreadable_policy(key, error))
    for statement in live.statements:
        name = f"statement {statement.sid}"
        for principal in statement.principals or ():
            if _UNIQUE_ID.fullmatch(principal.value):
                detail = f"{principal.value} in {name}: that principal was deleted"
                found.append(Finding("unique-id", name, detail))
    found += policy_differences(expected, live)
    if expected.id is not None and key.decision != decision_tag(expected.id):
        says = f"is {key.decision}" if key.decision is not None else "is missing"
        wanted = decision_tag(expected.id)
        detail = f"tag {DECISION_TAG} {says}, not {wanted}"
        found.append(Finding("decision-tag", DECISION_TAG, detail, wanted, key.decision))
    if aliases:
        missing, more = set(aliases) - set(key.aliases), set(key.aliases) - set(aliases)
        found += [Finding("alias-missing", name, f"{name} is not this key's") for name in sorted(missing)]
        found += [Finding("alias-extra", name, f"{name} is one of this key's") for name in sorted(more)]
    return tuple(found)


def unreadable_policy(key: KeyState, error: PolicyError) -> Finding:
    """That a key's policy does not parse."""
    return Finding("policy-unreadable", key.arn, f"the live policy cannot be read: {error}")


def replaced(key: KeyState, expected: Policy) -> tuple[Finding, ...]:
    """Every difference of a key's policy from the one that is to replace it."""
    try:
        return policy_differences(expected, parse_policy(key.policy))
    except PolicyError as error:
        return (unreadable_policy(key, error),)


def images(policy: Policy) -> frozenset[str]:
    """The images that a policy's Allows of Decrypt name, in lower-case hex."""
    return frozenset(
        ascii_lower(value)
        for statement in policy.statements
        if statement.allow and statement.has_effect and action_matches(statement, "kms:Decrypt")
        for condition in statement.conditions
        if ascii_lower(condition.key) in _IMAGE_KEYS and condition.operator in _EQUAL
        for value in condition.values
    )


def requires_instance(policy: Policy) -> bool:
    """Whether any statement compares PCR4, which each parent instance has its own of."""
    return any(
        ascii_lower(condition.key) == _INSTANCE_KEY and condition.operator != "Null"
        for statement in policy.statements
        for condition in statement.conditions
    )


def severed(key: KeyState, expected: Policy) -> tuple[Finding, ...]:
    """Whether a policy lets in none of the images that the live one lets in.

    The enclaves that run now could not decrypt any more, and the new ones do not run yet. Of a policy that
    cannot be read nobody knows.
    """
    try:
        now = images(parse_policy(key.policy))
    except PolicyError as error:
        found = unreadable_policy(key, error)
        return (replace(found, detail=f"{found.detail} (to replace it all the same, say --retire-all)"),)
    if not now or now & images(expected):
        return ()
    return (
        Finding(
            "no-overlap",
            key.arn,
            "no release that decrypts now would still decrypt: add the next one with another --release, "
            "and retire the old one when the service has moved (or say --retire-all)",
        ),
    )


def preflight(
    expected: Policy,
    *,
    caller_arn: str,
    key_arn: str,
    administrators: Sequence[str],
    break_glass: str | None,
    missing: Sequence[str],
    key: KeyState | None,
    retire_all: bool = False,
) -> None:
    """Check that a policy is safe to put. Raises FoundFalse with every finding, and the first one's code.

    The caller stays an administrator, every principal exists (``missing`` are those that do not), and there
    are two administrators or one and a named break-glass principal. Unless ``retire_all``, a release that
    decrypts now stays.
    """
    found = [
        Finding(
            "principal-missing",
            arn,
            f"{arn} does not exist: KMS refuses such a policy, or somebody creates that principal later",
        )
        for arn in missing
    ]
    if not may(expected, caller_arn, "kms:PutKeyPolicy", key_arn):
        detail = f"{caller_arn} would not be an administrator under the policy that it puts"
        found.append(Finding("lock-out", caller_arn, detail))
    if len(set(administrators)) < 2 and break_glass is None:
        detail = "one administrator and no --break-glass: losing that one loses the key"
        found.append(Finding("one-administrator", key_arn, detail))
    if key is not None:
        found += unfit(key)
        found += () if retire_all else severed(key, expected)
    if found:
        what = "; ".join(finding.detail for finding in found)
        raise FoundFalse(what, code=found[0].code, findings=found)


def may(policy: Policy, caller_arn: str, action: str, key_arn: str) -> bool:
    """Whether the policy itself lets a caller do something on a key of its own account, without any
    conditions met.
    """
    principal = principal_of(caller_arn, policy)
    request = Request(principal, action, key_arn)
    return authorize(request, owner=key_arn.split(":")[4], resource_policy=policy).allowed


def principal_of(caller_arn: str, policy: Policy) -> Principal:
    """The principal behind an ARN of GetCallerIdentity. A session's ARN leaves out its role's path, so the
    role is looked up among those that the policy names. Raises UsageError for anything but a caller's ARN.
    """
    parts = caller_arn.split(":", 5)
    if len(parts) != 6:
        raise UsageError(f"{caller_arn!r} is not the ARN of a caller")
    account, name = parts[4], parts[5]
    role = None
    if name.startswith("assumed-role/"):
        wanted = name.split("/")[1]
        named = [
            principal.value
            for statement in policy.statements
            for principal in statement.principals or ()
            if f":{account}:role/" in principal.value and principal.value.rsplit("/", 1)[-1] == wanted
        ]
        role = named[0] if named else f"arn:{parts[1]}:iam::{account}:role/{wanted}"
    return Principal(caller_arn, account, role_arn=role, partition=parts[1])


def missing_principals(iam: Any, policy: Policy, account: str) -> tuple[str, ...]:
    """The roles and users of the key's account that a policy names and that do not exist.

    Those of other accounts cannot be looked up from here; KMS refuses unknown ones itself when the policy is
    put.
    """
    arns = sorted(
        {
            principal.value
            for statement in policy.statements
            for principal in statement.principals or ()
            if f":iam::{account}:" in principal.value and not principal.is_account
        }
    )
    return tuple(arn for arn in arns if not _exists(iam, arn))


def _exists(iam: Any, arn: str) -> bool:
    kind, _, name = arn.split(":", 5)[5].partition("/")
    name = name.rsplit("/", 1)[-1]
    found = None
    try:
        with aws_errors(arn, "NoSuchEntity"):
            if kind == "role":
                found = iam.get_role(RoleName=name)["Role"]["Arn"]
            else:
                found = iam.get_user(UserName=name)["User"]["Arn"]
    except AwsFailure as error:
        raise EnvironmentFailure(
            str(error), hint="the preflight needs iam:GetRole and iam:GetUser", code="preflight-impossible"
        ) from error
    return bool(found == arn)


def put_policy(kms: Any, key_id: str, text: str, decision: str) -> None:
    """Put the policy, and tag the key with its decision and as an enclave's. The lock-out check stays on."""
    with aws_errors(key_id):
        kms.put_key_policy(KeyId=key_id, PolicyName="default", Policy=text)
        kms.tag_resource(KeyId=key_id, Tags=_tags(decision))


def create_key(kms: Any, text: str, decision: str, description: str) -> str:
    """Create a symmetric single-Region key with this policy, rotated yearly; returns its ARN."""
    with aws_errors("new key"):
        metadata = kms.create_key(
            Policy=text,
            Description=description,
            KeySpec="SYMMETRIC_DEFAULT",
            KeyUsage="ENCRYPT_DECRYPT",
            Tags=_tags(decision),
        )["KeyMetadata"]
    with aws_errors(metadata["Arn"]):  # the key is there by now
        kms.enable_key_rotation(KeyId=metadata["KeyId"])
    return str(metadata["Arn"])


def _tags(decision: str) -> list[dict[str, str]]:
    pairs = ((DECISION_TAG, decision_tag(decision)), ENCLAVE_TAG)
    return [{"TagKey": name, "TagValue": value} for name, value in pairs]
