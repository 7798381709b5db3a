"""Policies that turn on what every request has, on the key that they are on, on tags, and on other documents.

As in ``adversarial``: the answers, and the words of AWS that decide. KEYS is "AWS global condition context
keys" of the IAM User Guide.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

from support.verify.keypolicy.adversarial import (
    BEYOND,
    CONTEXT,
    DENY_WINS,
    EVE,
    GOOD,
    NO,
    OPEN,
    OTHER_KEYS,
    SAR,
    TAG,
    UNRESOLVED,
    Adversarial,
    without,
)
from support.verify.keypolicy.prover import (
    ACCOUNT,
    KEY,
    LISTED,
    NULL,
    PCR,
    ROOT,
    SERVICE,
    SHA,
    A,
    allow,
    deny,
    exactly,
)

NOW = datetime(2026, 11, 29, tzinfo=timezone.utc)
TPM = "kms:RecipientAttestation:NitroTPMPCR4"
IN_REGION = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/"
ALWAYS = 'KEYS: "This key is always included in the request context."'
OF_ALL = 'KEYS, aws:PrincipalType and aws:userid: "included in the request context for all requests".'
SIGNED = 'KEYS, aws:PrincipalIsAWSService: "present in the request context for all signed API requests".'
ARN_OF_A_SERVICE = (
    'KEYS, aws:PrincipalArn: "included in the request context for all signed requests"; it lists '
    "roles, users, federated and root users."
)
TABLE = (
    "IAM Variables and tags, Principal key values: a user's aws:PrincipalType is User, a role's AssumedRole."
)
OWNER = (
    'KEYS, aws:ResourceAccount: "equal to the AWS account ID for the account with the resources evaluated in '
    'the request".'
)
REGION = 'KEYS, aws:RequestedRegion: "the AWS Region that was called in the request"; a key is in one Region.'
ABAC = 'KMS ABAC: "changing a tag ... can allow or deny permission to a KMS key".'
TIMES = 'KEYS: aws:CurrentTime is "the date and time of the request", aws:EpochTime the same "in epoch".'
BY_SEGMENT = "IAM Resource: an ARN names one resource; a key policy is on one key."
TPM_KEYS = (
    "KMS Condition keys for NitroTPM: these are of a NitroTPM document, which has no registers of an enclave."
)


def mine(**more: object) -> dict[str, object]:
    """The decided enclave's Allow, with a further condition."""
    return allow(Condition={**exactly(A), **more})


def each(operator: str) -> tuple[dict[str, object], ...]:
    """A Deny for each register that is not as decided."""
    return tuple(
        deny(Condition={operator: {name: value}})
        for name, value in zip((SHA, f"{PCR}1", f"{PCR}2"), A, strict=True)
    )


_POLICIES = (
    # Documents that are no enclave's.
    Adversarial(
        "nitrotpm-document",
        (GOOD, allow(EVE, Condition={"StringEquals": {TPM: "ab" * 48}})),
        TPM_KEYS,
        plaintext=NO,
    ),
    Adversarial(
        "nitrotpm-of-any-kind", (GOOD, allow(EVE, Condition={"Null": {TPM: "false"}})), TPM_KEYS, plaintext=NO
    ),
    Adversarial(
        "nitrotpm-denied-by-the-image",
        (GOOD, allow(EVE, Condition={"Null": {TPM: "false"}}), NULL, *each("StringNotEqualsIgnoreCase")),
        TPM_KEYS,
    ),
    Adversarial(
        "one-deny-for-all-registers",
        (
            allow(),
            deny(Condition={"StringNotEquals": dict(zip((SHA, f"{PCR}1", f"{PCR}2"), A, strict=True))}),
        ),
        "IAM Conditions with multiple context keys: they are evaluated using a logical AND.",
        plaintext=NO,
    ),
    Adversarial(
        "a-deny-for-each-register",
        (allow(), *each("StringNotEquals")),
        "IAM negated operators: true without the key.",
    ),
    Adversarial(
        "foranyvalue-for-one-register",
        (allow(), deny(Condition={"ForAnyValue:StringNotEquals": {SHA: A[0]}}), *each("StringNotEquals")[1:]),
        "IAM ForAnyValue: false without the key; KMS does not say that a document always has PCR0.",
        plaintext=OPEN,
    ),
    Adversarial(
        "one-digit-open",
        (allow(Condition={"StringLike": {SHA: f"{A[0][:95]}?", f"{PCR}1": A[1], f"{PCR}2": A[2]}}),),
        "IAM StringLike: ? is any single character.",
        plaintext=NO,
    ),
    Adversarial(
        "image-by-the-callers-tag",
        (
            allow(
                Condition={
                    "StringEquals": {SHA: "${aws:PrincipalTag/image}", f"{PCR}1": A[1], f"{PCR}2": A[2]}
                }
            ),
        ),
        "IAM Variables and tags: the variable is what the caller's tag says.",
        plaintext=NO,
    ),
    # What every request has.
    Adversarial(
        "times-before-and-after",
        (GOOD, deny(Condition={"DateGreaterThan": {"aws:EpochTime": "0"}})),
        ALWAYS,
        decryption=NO,
    ),
    Adversarial(
        "an-end-in-epoch-seconds",
        (mine(NumericLessThan={"aws:EpochTime": "1700000000"}),),
        ALWAYS,
        decryption=NO,
    ),
    Adversarial(
        "an-end-in-epoch-as-a-date",
        (mine(DateLessThan={"aws:EpochTime": "1700000000"}),),
        ALWAYS,
        decryption=NO,
    ),
    Adversarial(
        "a-window-that-is-none",
        (
            GOOD,
            allow(
                EVE,
                Condition={
                    "DateLessThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"},
                    "NumericGreaterThan": {"aws:EpochTime": "1700000000"},
                },
            ),
        ),
        TIMES,
    ),
    Adversarial(
        "a-window-by-two-keys",
        (
            GOOD,
            allow(
                EVE,
                Condition={
                    "DateLessThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"},
                    "NumericGreaterThan": {"aws:EpochTime": "1700000000"},
                },
            ),
        ),
        TIMES,
        plaintext=NO,
    ),
    Adversarial(
        "credentials-of-the-future",
        (mine(DateGreaterThan={"aws:TokenIssueTime": "2099-01-01T00:00:00Z"}),),
        'KEYS, aws:TokenIssueTime: "the date and time that temporary security credentials were issued".',
        decryption=NO,
    ),
    Adversarial(
        "credentials-since-a-day",
        (mine(DateGreaterThan={"aws:TokenIssueTime": "2024-01-01T00:00:00Z"}),),
        TIMES,
    ),
    Adversarial(
        "a-time-as-a-number",
        (GOOD, allow(EVE, Condition={"NumericLessThan": {"aws:CurrentTime": "4000000000"}})),
        'KEYS, aws:CurrentTime: "Works with date operators"; of aws:EpochTime alone "or numeric operators".',
        plaintext=OPEN,
    ),
    Adversarial(
        "neither-secure-nor-not",
        (GOOD, allow(EVE), deny(Condition={"Bool": {"aws:SecureTransport": ["true", "false"]}})),
        ALWAYS,
        decryption=NO,
    ),
    Adversarial(
        "secure-transport-only", (GOOD, deny(Condition={"Bool": {"aws:SecureTransport": "false"}})), ALWAYS
    ),
    Adversarial(
        "without-secure-transport", (mine(Null={"aws:SecureTransport": "true"}),), ALWAYS, decryption=NO
    ),
    Adversarial("without-a-region", (mine(Null={"aws:RequestedRegion": "true"}),), ALWAYS, decryption=NO),
    Adversarial("without-a-userid", (mine(Null={"aws:userid": "true"}),), OF_ALL, decryption=NO),
    Adversarial(
        "by-a-service-or-not",
        (GOOD, deny(Condition={"Bool": {"aws:ViaAWSService": ["true", "false"]}})),
        ALWAYS,
        decryption=NO,
    ),
    Adversarial(
        "services-only",
        (GOOD, allow(EVE), deny(Condition={"Bool": {"aws:PrincipalIsAWSService": "false"}})),
        SIGNED,
        decryption=NO,
    ),
    Adversarial(
        "no-services",
        (
            GOOD,
            allow({"Service": "s3.amazonaws.com"}),
            deny(Condition={"Bool": {"aws:PrincipalIsAWSService": "true"}}),
        ),
        SIGNED,
    ),
    Adversarial(
        "services-without-an-arn",
        (
            GOOD,
            allow({"Service": "s3.amazonaws.com"}),
            deny(Condition={"Null": {"aws:PrincipalArn": "true"}}),
        ),
        ARN_OF_A_SERVICE,
        plaintext=OPEN,
    ),
    Adversarial(
        "services-with-some-arn",
        (GOOD, allow({"Service": "s3.amazonaws.com"}, Condition={"StringLike": {"aws:PrincipalArn": "*"}})),
        ARN_OF_A_SERVICE,
        plaintext=OPEN,
    ),
    Adversarial(
        "services-with-the-arn-of-a-role",
        (
            GOOD,
            allow("*", Condition={"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/-"}, **exactly(A)}),
        ),
        ARN_OF_A_SERVICE,
    ),
    Adversarial(
        "roles-only",
        (GOOD, allow(EVE), deny(Condition={"StringNotEquals": {"aws:PrincipalType": "AssumedRole"}})),
        TABLE,
    ),
    Adversarial(
        "a-user-that-is-a-role",
        (GOOD, allow(EVE, Condition={"StringEquals": {"aws:PrincipalType": "AssumedRole"}})),
        TABLE,
    ),
    Adversarial(
        "root-users",
        (GOOD, allow("*", Condition={"StringEquals": {"aws:PrincipalType": "Account"}})),
        TABLE,
        plaintext=NO,
    ),
    Adversarial(
        "root-users-that-are-users",
        (
            GOOD,
            allow(
                "*",
                Condition={
                    "StringEquals": {"aws:PrincipalType": "Account"},
                    "ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/*"},
                },
            ),
        ),
        TABLE,
    ),
    # The key that the policy is on.
    Adversarial(
        "called-in-another-region",
        (GOOD, allow(EVE, Condition={"StringEquals": {"aws:RequestedRegion": "us-west-1"}})),
        REGION,
        key=KEY,
    ),
    Adversarial(
        "the-enclave-in-another-region",
        (mine(StringEquals={"aws:RequestedRegion": "us-west-1"}),),
        REGION,
        decryption=NO,
        key=KEY,
    ),
    Adversarial(
        "some-region",
        (GOOD, allow(EVE, Condition={"StringLike": {"aws:RequestedRegion": "eu-*"}})),
        REGION,
        plaintext=NO,
    ),
    Adversarial(
        "a-key-of-another-account",
        (GOOD, allow(EVE, Condition={"StringEquals": {"aws:ResourceAccount": "999999999999"}})),
        OWNER,
        key=KEY,
    ),
    Adversarial(
        "the-enclave-on-another-key",
        ({**GOOD, "Resource": f"{IN_REGION}0"},),
        BY_SEGMENT,
        decryption=NO,
        key=KEY,
    ),
    Adversarial("the-enclave-on-a-named-key", ({**GOOD, "Resource": KEY},), BY_SEGMENT, decryption=OPEN),
    Adversarial("the-enclave-on-keys-of-a-place", ({**GOOD, "Resource": f"{IN_REGION}*"},), BEYOND),
    Adversarial("the-enclave-on-all-keys-but-one", (without(GOOD, "Resource", NotResource=KEY),), BY_SEGMENT),
    Adversarial(
        "the-enclave-on-an-alias",
        ({**GOOD, "Resource": f"arn:aws:kms:eu-central-1:{ACCOUNT}:alias/x"},),
        OTHER_KEYS,
        decryption=NO,
    ),
    Adversarial(
        "aliases-denied",
        (GOOD, allow(EVE), deny(Resource="arn:aws:kms:*:*:alias/*")),
        OTHER_KEYS,
        plaintext=NO,
    ),
    Adversarial(
        "a-symmetric-key-denied",
        (GOOD, deny(Condition={"StringEquals": {"kms:KeySpec": "SYMMETRIC_DEFAULT"}})),
        "KMS kms:KeySpec: the assumption says SYMMETRIC_DEFAULT.",
        decryption=NO,
    ),
    # Tags of the key.
    Adversarial(
        "tags-in-a-variable",
        (mine(StringEquals={TAG: "${ aws:ResourceTag/team }"}), allow(EVE, "kms:TagResource")),
        f"{ABAC} {UNRESOLVED}",
        power=NO,
    ),
    Adversarial(
        "tags-in-a-resource",
        (
            GOOD,
            allow(EVE, "kms:UntagResource"),
            deny(Resource="arn:aws:kms:*:*:key/${aws:ResourceTag/id, '1'}"),
        ),
        ABAC,
        power=NO,
    ),
    Adversarial(
        "a-tag-of-another-script",
        (GOOD, allow(EVE, Condition={"StringEquals": {TAG: "\u4e2d\u0434\u03b1"}})),
        "IAM Tags, naming: letters, which are not of one script.",
        plaintext=NO,
    ),
    # Others.
    Adversarial(
        "role-sessions-by-their-own-arn",
        (mine(ArnLike={"aws:PrincipalArn": f"arn:aws:sts::{SERVICE}:assumed-role/parent/*"}),),
        'KEYS, aws:PrincipalArn: "For IAM roles, the request context returns the ARN of the role".',
        decryption=NO,
    ),
    Adversarial(
        "context-that-must-not-be-there",
        (mine(Null={LISTED: "true"}, StringEquals={CONTEXT: "x"}),),
        "KMS kms:EncryptionContextKeys: the keys of all pairs of the request.",
        decryption=NO,
    ),
    Adversarial(
        "by-a-service-for-the-account",
        (
            GOOD,
            allow(
                "*",
                Condition={
                    "StringEquals": {
                        "kms:ViaService": "s3.eu-central-1.amazonaws.com",
                        "kms:CallerAccount": ACCOUNT,
                    }
                },
            ),
        ),
        "KMS kms:ViaService: the caller's request comes through the service, whoever the caller is.",
        plaintext=NO,
    ),
    Adversarial(
        "an-account-in-another-partition",
        (GOOD, allow(EVE), deny(Principal={"AWS": ROOT.replace("arn:aws:", "arn:aws-cn:")})),
        "IAM ARNs: a partition is part of the ARN.",
        plaintext=NO,
    ),
    Adversarial(
        "a-question-mark-beyond-the-name",
        (GOOD, allow(EVE), deny("kms:Decrypt?")),
        "IAM Action: ? is one character, not none.",
        plaintext=NO,
    ),
    Adversarial(
        "deny-notaction-that-leaves-it",
        (GOOD, allow(EVE, "kms:*Crypt"), without(deny(), "Action", NotAction="kms:decrypt")),
        DENY_WINS,
        plaintext=NO,
        decryption="proved",
    ),
    Adversarial(
        "custom-key-stores",
        (
            GOOD,
            allow(EVE, ["kms:ConnectCustomKeyStore", "kms:GetParametersForImport", "kms:GetKeyLastUsage"]),
        ),
        f"{SAR}: no resource, or access level Read.",
    ),
)
POLICIES_OF_REQUESTS = tuple(replace(case, now=NOW) for case in _POLICIES)
