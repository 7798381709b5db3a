"""Key policies that look safe and are not, or look odd and are safe, each with the words of AWS that decide.

The statements stand beside an administrator's and an encrypter's (``support.verify.keypolicy.prover.ask``).
``PARENT`` decrypts with the decided enclave where ``GOOD`` is among them. Pages: IAM and KMS are the User and
Developer Guide, API is the KMS API Reference, SAR the Service Authorization Reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

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
    exactly,
)

YES, NO, OPEN = "proved", "refuted", "unknown"
EVE = f"arn:aws:iam::{ACCOUNT}:user/eve"
SERVICE_ROOT = f"arn:aws:iam::{SERVICE}:root"
GOOD = allow(Condition=exactly(A))
CONTEXT = "kms:EncryptionContext:buyer"
TAG = "aws:PrincipalTag/team"


@dataclass(frozen=True)
class Adversarial:
    """A policy's statements, the goals that are not simply proved, and the sentence."""

    name: str
    statements: tuple[dict[str, Any], ...]
    source: str
    plaintext: str = YES
    power: str = YES
    encryption: str = YES
    decryption: str = YES
    key: str | None = field(default=None)
    now: datetime | None = None


def without(statement: dict[str, Any], *names: str, **more: Any) -> dict[str, Any]:
    """A statement without some elements and with others."""
    return {name: value for name, value in statement.items() if name not in names} | more


NO_EFFECT = (
    'API PutKeyPolicy, Policy: "If either of the required Resource or Action elements are missing from a key '
    'policy statement, the policy statement has no effect."'
)
BEYOND = (
    'IAM Resource: "If the * wildcard is the last character of a resource ARN segment, it can expand to '
    'match beyond the colon boundaries."'
)
ACCOUNT_TOO = (
    'IAM NotPrincipal: "you must also specify the account ARN of the not-denied principal. Otherwise, the '
    'policy might deny access to the entire account containing the principal."'
)
SET_OPERATOR = 'IAM Multivalued context keys: "Multivalued context keys require a condition set operator."'
ALL_VALUES = (
    'IAM Set operators: "The ForAllValues set operator also returns true if there are no context keys in the '
    'request."'
)
NOT_THERE = (
    'IAM Condition operators: "If the key that you specify in a policy condition is not present in the '
    'request context, the values do not match and the condition is false"; negated operators: true.'
)
IF_EXISTS = 'IAM ...IfExists: "If the condition key is not present, evaluate the condition element as true."'
LOWER_HEX = (
    'KMS Condition keys for Nitro Enclaves: "The PCR value must be a lower-case hexadecimal string of up to '
    '96 bytes."'
)
UNRESOLVED = (
    'IAM Variables and tags: "If AWS cannot resolve a variable this might cause the entire statement to be '
    'invalid."'
)
SAR = "SAR Actions, resources, and condition keys for AWS Key Management Service"
ARN_PARTS = (
    'IAM ARN condition operators: "Each of the six colon-delimited components of the ARN is checked '
    "separately and each can include multi-character match wildcards (*) or single-character match wildcards "
    '(?)."'
)
DENY_WINS = 'IAM Policy evaluation logic: "An explicit deny in any policy overrides any allows."'
OTHER_KEYS = 'KMS Key policies: in a key policy, the value of the Resource element is "*", "this KMS key".'
SEVERAL = (
    'IAM Conditions with multiple context keys or values: "If a single condition operator includes multiple '
    'values for a context key, those values are evaluated using a logical OR."'
)

SESSION_OF = (
    "IAM Session policies: \"the permissions from the resource-based policy are added to the role or user's "
    'identity-based policy before the session is created", for GetFederationToken too.'
)
FEDERATED = (
    'KMS Key policies, Principal: "You can specify AWS accounts, IAM users, IAM roles, and some AWS services '
    'as principals in a key policy"; nothing says what another kind does.'
)

POLICIES = (
    # Elements that are missing.
    Adversarial("deny-without-resource", (allow(), without(deny(), "Resource")), NO_EFFECT, plaintext=NO),
    Adversarial("deny-without-action", (allow(), without(deny(), "Action")), NO_EFFECT, plaintext=NO),
    Adversarial("allow-without-resource", (without(allow(EVE, "kms:*"), "Resource"), GOOD), NO_EFFECT),
    Adversarial("allow-without-action", (without(allow(EVE), "Action"), GOOD), NO_EFFECT),
    Adversarial(
        "only-allow-without-resource",
        (without(GOOD, "Resource"),),
        NO_EFFECT,
        decryption=NO,
    ),
    Adversarial(
        "deny-notaction-without-resource",
        (allow(), without(deny(), "Action", "Resource", NotAction="kms:Encrypt")),
        NO_EFFECT,
        plaintext=NO,
    ),
    # Resources.
    Adversarial(
        "star-for-region-and-account",
        (GOOD, allow(EVE, Resource="arn:aws:kms:*:key/*")),
        BEYOND,
        plaintext=NO,
    ),
    Adversarial(
        "deny-that-needs-the-star",
        (allow(), deny(Resource="arn:aws:kms:*:key/*")),
        f"{BEYOND} It can; nothing says that it does.",
        plaintext=OPEN,
        decryption=OPEN,
        key=KEY,
    ),
    Adversarial(
        "notresource-that-needs-the-star",
        (GOOD, without(allow(EVE), "Resource", NotResource="arn:aws:kms:*:key/*")),
        f"{BEYOND} It can; nothing says that it does.",
        plaintext=OPEN,
        key=KEY,
    ),
    Adversarial(
        "star-for-everything-after-kms", (GOOD, allow(EVE, Resource="arn:aws:kms:*")), BEYOND, plaintext=NO
    ),
    Adversarial(
        "star-inside-a-part",
        (GOOD, allow(EVE, Resource="arn:aws:kms:eu*4:key/*")),
        'IAM Resource: wildcards "within the individual segments of an ARN"; this one would have to cross.',
        plaintext=OPEN,
        key=KEY,
    ),
    Adversarial(
        "incomplete-arn",
        (GOOD, allow(EVE, Resource="arn:aws:kms")),
        'IAM Resource, Incomplete ARNs: "AWS completes the ARN with wildcards for all missing fields."',
        plaintext=NO,
    ),
    Adversarial("another-service", (GOOD, allow(EVE, Resource="arn:aws:s3:::*")), OTHER_KEYS),
    Adversarial("deny-on-another-key", (allow(), deny(Resource=KEY)), OTHER_KEYS, plaintext=NO),
    Adversarial(
        "deny-on-this-key", (GOOD, allow(EVE), deny(Resource=KEY)), DENY_WINS, decryption=NO, key=KEY
    ),
    Adversarial(
        "resource-in-other-case",
        (allow(), deny(Resource=KEY.replace(":key/", ":KEY/"))),
        'IAM Resource: "ARNs are case sensitive" except where a service says otherwise.',
        plaintext=NO,
        key=KEY,
    ),
    Adversarial(
        "variable-in-resource",
        (allow(), deny(Resource="arn:aws:kms:*:${aws:PrincipalAccount}:key/*")),
        "IAM Variables and tags: a variable stands for the request's value; here that of any account.",
        plaintext=NO,
    ),
    # Principals.
    Adversarial(
        "notprincipal-user-alone",
        (allow(EVE), without(deny(), "Principal", NotPrincipal={"AWS": EVE}), GOOD),
        ACCOUNT_TOO,
        plaintext=OPEN,
        decryption=OPEN,
    ),
    Adversarial(
        "notprincipal-with-account",
        (allow(EVE), without(deny(), "Principal", NotPrincipal={"AWS": [EVE, ROOT]})),
        ACCOUNT_TOO,
        plaintext=NO,
    ),
    Adversarial(
        "notprincipal-without-the-session",
        (GOOD, without(deny(), "Principal", NotPrincipal={"AWS": [PARENT, SERVICE_ROOT]})),
        'Knowledge Center, NotPrincipal with an explicit Deny: "you must list the role session name of every '
        'user and every instance ID"; IAM NotPrincipal speaks of role and account alone.',
        decryption=OPEN,
    ),
    Adversarial(
        "notprincipal-allow",
        (without(allow(), "Principal", NotPrincipal={"AWS": [PARENT, SERVICE_ROOT]}), GOOD),
        'IAM NotPrincipal (Allow): "allows all principals except the one named in the NotPrincipal element".',
        plaintext=NO,
    ),
    Adversarial(
        "principal-is-the-account",
        (GOOD, allow(ROOT, "kms:Decrypt")),
        'KMS Default key policy: it "gives the AWS account full access" and "enables IAM policies".',
        plaintext=NO,
    ),
    Adversarial(
        "principal-is-a-number",
        (GOOD, allow(ACCOUNT, "kms:Decrypt")),
        'IAM Principal: an account "is a shortened form" of its root ARN.',
        plaintext=NO,
    ),
    Adversarial(
        "deny-for-the-account",
        (allow(), deny(Principal={"AWS": SERVICE_ROOT})),
        'IAM Principal: when you specify an account in a Deny, it covers "all principals in the account".',
        decryption=NO,
    ),
    Adversarial(
        "deny-for-one-session",
        (allow(), deny(Principal={"AWS": f"arn:aws:sts::{SERVICE}:assumed-role/parent/one"})),
        'IAM Principal: a role session principal is one session "with the role session name".',
        plaintext=NO,
    ),
    Adversarial(
        "session-of-a-role",
        (GOOD, allow(f"arn:aws:sts::{SERVICE}:assumed-role/parent/one")),
        "IAM Principal: role session principals are principals of their own.",
        plaintext=NO,
    ),
    Adversarial(
        "same-number-elsewhere",
        (
            allow("*", Condition={"StringEquals": {"aws:PrincipalAccount": SERVICE}}),
            deny(Principal={"AWS": PARENT}),
        ),
        "IAM Principal: a role is one principal; its account has others.",
        plaintext=NO,
    ),
    Adversarial(
        "a-service",
        (GOOD, allow({"Service": "logs.amazonaws.com"})),
        "IAM AWS service principals",
        plaintext=NO,
    ),
    # Actions.
    Adversarial(
        "action-in-other-case",
        (GOOD, allow(EVE, "KMS:dEcRyPt")),
        'IAM Action: "The prefix and the action name are case insensitive."',
        plaintext=NO,
    ),
    Adversarial(
        "action-with-question-mark",
        (GOOD, allow(EVE, "kms:Decryp?")),
        'IAM Action: "multi-character match wildcards (*) and single-character match wildcards (?)".',
        plaintext=NO,
    ),
    Adversarial(
        "everything-but",
        (GOOD, without(allow(EVE), "Action", NotAction="kms:Encrypt")),
        "IAM NotAction: everything except the listed actions.",
        plaintext=NO,
        power=NO,
        encryption=NO,
    ),
    Adversarial(
        "reencrypt-from",
        (GOOD, allow(EVE, "kms:ReEncryptFrom")),
        f"{SAR}: ReEncryptFrom decrypts as part of ReEncrypt.",
        plaintext=NO,
    ),
    Adversarial(
        "reencrypt-to",
        (GOOD, allow(EVE, "kms:ReEncryptTo")),
        f"{SAR}: ReEncryptTo encrypts as part of ReEncrypt.",
        encryption=NO,
    ),
    Adversarial(
        "derive-shared-secret",
        (GOOD, allow(EVE, "kms:DeriveSharedSecret")),
        f"{SAR}: DeriveSharedSecret derives shared secrets.",
        plaintext=NO,
    ),
    Adversarial(
        "data-keys-without-plaintext",
        (GOOD, allow(EVE, "kms:GenerateDataKeyWithoutPlaintext")),
        f"{SAR}: GenerateDataKeyWithoutPlaintext makes ciphertext.",
        encryption=NO,
    ),
    Adversarial(
        "key-pairs",
        (GOOD, allow(EVE, "kms:GenerateDataKeyPair*")),
        f"{SAR}: GenerateDataKeyPair makes an encrypted private key.",
        encryption=NO,
    ),
    Adversarial(
        "import-of-material",
        (GOOD, allow(EVE, "kms:ImportKeyMaterial")),
        f"{SAR}: ImportKeyMaterial imports material into a key.",
        power=NO,
    ),
    Adversarial(
        "deletion-of-material",
        (GOOD, allow(EVE, "kms:DeleteImportedKeyMaterial")),
        f"{SAR}: DeleteImportedKeyMaterial",
        power=NO,
    ),
    Adversarial(
        "deletion-of-the-key",
        (GOOD, allow(EVE, "kms:ScheduleKeyDeletion")),
        f"{SAR}: ScheduleKeyDeletion",
        power=NO,
    ),
    Adversarial(
        "an-alias-moved",
        (GOOD, allow(EVE, "kms:UpdateAlias")),
        'KMS Controlling access to aliases: "changing an alias might affect a KMS key\'s permissions".',
        power=NO,
    ),
    Adversarial(
        "rotation-on-demand",
        (GOOD, allow(EVE, "kms:RotateKeyOnDemand")),
        f"{SAR}: RotateKeyOnDemand",
        power=NO,
    ),
    Adversarial(
        "replicas",
        (GOOD, allow(EVE, "kms:UpdatePrimaryRegion")),
        f"{SAR}: UpdatePrimaryRegion, Write",
        power=NO,
    ),
    Adversarial(
        "grants-for-services",
        (GOOD, allow(EVE, "kms:CreateGrant", Condition={"Bool": {"kms:GrantIsForAWSResource": "true"}})),
        f"{SAR}: CreateGrant, Permissions management",
        power=NO,
    ),
    Adversarial(
        "revoked-grants",
        (GOOD, allow(EVE, "kms:RevokeGrant")),
        f"{SAR}: RevokeGrant, Permissions management",
        power=NO,
    ),
    Adversarial(
        "tags-that-nothing-looks-at",
        (GOOD, allow(EVE, "kms:TagResource")),
        "KMS ABAC: tags control access where a policy has aws:ResourceTag.",
    ),
    Adversarial(
        "tags-that-a-condition-looks-at",
        (
            allow(Condition={**exactly(A), "StringEquals": {"aws:ResourceTag/open": "yes"}}),
            allow(EVE, "kms:TagResource"),
        ),
        'KMS ABAC: "changing a tag ... can allow or deny permission to a KMS key".',
        power=NO,
    ),
    Adversarial(
        "public-half",
        (GOOD, allow(EVE, "kms:Get*")),
        "KMS GetPublicKey: with it, data can be encrypted outside of AWS KMS.",
        encryption=OPEN,
    ),
    Adversarial(
        "signatures",
        (GOOD, allow(EVE, ["kms:Sign", "kms:GenerateMac", "kms:Verify*"])),
        "KMS KeyUsage: SIGN_VERIFY and GENERATE_VERIFY_MAC keys do not encrypt or decrypt.",
    ),
    Adversarial(
        "reading-about-the-key",
        (GOOD, allow(EVE, ["kms:DescribeKey", "kms:List*", "kms:GetKeyPolicy"])),
        f"{SAR}: access levels Read and List.",
    ),
    Adversarial(
        "an-action-that-is-none",
        (GOOD, allow(EVE, "kms:DecryptEverything")),
        f"{SAR}: has no such action.",
        plaintext=OPEN,
        power=OPEN,
        encryption=OPEN,
    ),
    Adversarial(
        "a-pattern-of-no-action",
        (GOOD, allow(EVE, "kms:Unwrap*")),
        f"{SAR}: has no such action.",
        plaintext=OPEN,
        power=OPEN,
        encryption=OPEN,
    ),
    # Registers.
    Adversarial("merged-releases", (allow(Condition=exactly(A, B)),), SEVERAL, plaintext=NO),
    Adversarial(
        "short-register",
        (GOOD, allow(EVE, Condition={"StringEquals": {SHA: "ab"}})),
        LOWER_HEX,
        plaintext=OPEN,
    ),
    Adversarial(
        "register-in-capitals",
        (GOOD, allow(EVE, Condition={"StringEquals": {SHA: "AB" * 48}})),
        LOWER_HEX,
        plaintext=OPEN,
    ),
    Adversarial(
        "capitals-ignored",
        (allow(Condition=exactly(tuple(item.upper() for item in A))),),
        'IAM StringEqualsIgnoreCase: "Exact matching, ignoring case".',
    ),
    Adversarial(
        "register-with-0x",
        (GOOD, allow(EVE, Condition={"StringLike": {SHA: "0x*"}})),
        "KMS Condition keys for Nitro Enclaves: an example's value begins with 0x.",
        plaintext=OPEN,
    ),
    Adversarial(
        "register-that-is-none",
        (GOOD, allow(EVE, Condition={"StringEquals": {f"{PCR}32": A[0]}})),
        f"{SAR}: the keys end with kms:RecipientAttestation:PCR31.",
    ),
    Adversarial(
        "deny-by-a-key-that-is-none",
        (allow(), deny(Condition={"Null": {f"{PCR}32": "true"}})),
        f"{SAR}: the keys end with kms:RecipientAttestation:PCR31.",
        decryption=NO,
    ),
    Adversarial(
        "a-number-for-a-register",
        (GOOD, allow(EVE, Condition={"NumericNotEquals": {SHA: "1"}})),
        f"{SAR}: the key's type is String.",
        plaintext=NO,
    ),
    Adversarial(
        "a-number-for-a-register-that-is-there",
        (GOOD, allow(EVE, Condition={"NumericNotEquals": {SHA: "1"}, "Null": {SHA: "false"}})),
        f"{SAR}: the key's type is String.",
        plaintext=OPEN,
    ),
    Adversarial(
        "reencrypt-attested",
        (GOOD, allow(EVE, "kms:ReEncryptFrom", Condition=exactly(A))),
        f"{SAR}: ReEncryptFrom has no key of an attestation document.",
    ),
    # Conditions.
    Adversarial(
        "forallvalues-of-nothing",
        (GOOD, allow(EVE, Condition={"ForAllValues:StringEquals": {LISTED: "x"}})),
        ALL_VALUES,
        plaintext=NO,
    ),
    Adversarial(
        "forallvalues-on-a-register",
        (allow(Condition={"ForAllValues:StringEquals": exactly(A)["StringEqualsIgnoreCase"]}),),
        ALL_VALUES,
        plaintext=NO,
    ),
    Adversarial(
        "plain-operator-on-many",
        (GOOD, allow(EVE, Condition={"StringEquals": {LISTED: "x"}})),
        SET_OPERATOR,
        plaintext=OPEN,
    ),
    Adversarial(
        "plain-deny-on-many",
        (allow(), deny(Condition={"StringNotEquals": {"aws:PrincipalOrgPaths": "o-1/r/x"}})),
        SET_OPERATOR,
        plaintext=OPEN,
        decryption=OPEN,
    ),
    Adversarial(
        "foranyvalue-negated",
        (allow(), deny(Condition={"ForAnyValue:StringNotEquals": {LISTED: "buyer"}})),
        "IAM ForAnyValue: true if any value of the request matches; none is there to match.",
        plaintext=NO,
    ),
    Adversarial(
        "negated-without-key",
        (GOOD, allow(EVE, Condition={"StringNotEquals": {TAG: "red"}})),
        NOT_THERE,
        plaintext=NO,
    ),
    Adversarial(
        "if-exists",
        (allow(Condition={"StringEqualsIfExists": exactly(A)["StringEqualsIgnoreCase"]}),),
        IF_EXISTS,
        plaintext=NO,
    ),
    Adversarial(
        "null-false-alone",
        (allow(Condition={"Null": {SHA: "false"}}),),
        "IAM Null: false when the key exists, whatever its value.",
        plaintext=NO,
    ),
    Adversarial(
        "null-true-and-false",
        (allow(), deny(Condition={"Null": {SHA: ["true", "false"]}})),
        SEVERAL,
        decryption=NO,
    ),
    Adversarial(
        "letters-beyond-ascii",
        (
            allow(EVE, Condition={"StringLike": {TAG: "?"}}),
            deny(Condition={"StringLike": {TAG: ["[ -~]", *map(chr, range(97, 123))]}}),
            GOOD,
        ),
        "IAM StringLike: ? is any single character.",
        plaintext=NO,
    ),
    Adversarial(
        "umlaut",
        (GOOD, allow(EVE, Condition={"StringEquals": {TAG: "\u00fc"}})),
        'IAM StringEquals: "Exact matching, case sensitive".',
        plaintext=NO,
    ),
    Adversarial(
        "kelvin",
        (
            allow(EVE, Condition={"StringEquals": {CONTEXT: "\u212a"}}),
            deny(Principal={"AWS": EVE}, Condition={"StringEqualsIgnoreCase": {CONTEXT: "k"}}),
            GOOD,
        ),
        "IAM StringEqualsIgnoreCase: nothing on letters outside ASCII.",
        plaintext=OPEN,
    ),
    Adversarial(
        "variable-in-pattern",
        (
            GOOD,
            allow(
                "*",
                "kms:CreateGrant",
                Condition={
                    "StringLike": {"aws:PrincipalArn": "arn:aws:iam::${aws:PrincipalAccount}:role/x*"}
                },
            ),
        ),
        "IAM Variables and tags: in String and ARN operators.",
        power=NO,
    ),
    Adversarial(
        "variable-without-value",
        (allow(), deny(Condition={"StringNotEquals": {TAG: "${aws:PrincipalTag/other}"}})),
        UNRESOLVED,
        plaintext=NO,
        decryption=YES,
    ),
    Adversarial(
        "variable-that-leaves-a-deny-open",
        (allow(), deny(Condition={"StringNotEquals": {"aws:PrincipalAccount": "${aws:username}"}})),
        UNRESOLVED,
        plaintext=OPEN,
        decryption=OPEN,
    ),
    Adversarial(
        "default-of-a-variable",
        (allow(), deny(Condition={"StringNotEquals": {"aws:PrincipalAccount": "${aws:username, 'x'}"}})),
        "IAM Variables and tags, Specifying default values",
        decryption=NO,
    ),
    Adversarial(
        "arn-crosses-no-colon",
        (
            GOOD,
            allow(
                "*",
                "kms:PutKeyPolicy",
                Condition={"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/eve"}},
            ),
        ),
        ARN_PARTS,
        power=NO,
    ),
    Adversarial(
        "arn-with-four-parts",
        (
            GOOD,
            allow("*", "kms:PutKeyPolicy", Condition={"ArnLike": {"aws:PrincipalArn": "arn:aws:*:user/eve"}}),
        ),
        ARN_PARTS,
        power=OPEN,
    ),
    Adversarial(
        "empty-interval",
        (
            GOOD,
            allow(
                EVE,
                Condition={
                    "NumericLessThan": {"aws:MultiFactorAuthAge": "5"},
                    "NumericGreaterThan": {"aws:MultiFactorAuthAge": "9"},
                },
            ),
        ),
        "IAM Numeric condition operators",
    ),
    Adversarial(
        "small-interval",
        (
            GOOD,
            allow(
                EVE,
                Condition={
                    "NumericLessThan": {"aws:MultiFactorAuthAge": "5"},
                    "NumericGreaterThan": {"aws:MultiFactorAuthAge": "4"},
                },
            ),
        ),
        "IAM Numeric condition operators",
        plaintext=NO,
    ),
    Adversarial(
        "networks-that-cover-all",
        (allow(), deny(Condition={"IpAddress": {"aws:SourceIp": ["0.0.0.0/1", "128.0.0.0/1", "::/0"]}})),
        f"{NOT_THERE} A request through a VPC endpoint has no aws:SourceIp.",
        plaintext=NO,
    ),
    Adversarial(
        "networks-that-cover-all-and-null",
        (
            allow(),
            deny(Condition={"IpAddressIfExists": {"aws:SourceIp": ["0.0.0.0/1", "128.0.0.0/1", "::/0"]}}),
        ),
        IF_EXISTS,
        decryption=OPEN,
        plaintext=OPEN,
    ),
    Adversarial(
        "an-end",
        (allow(Condition={**exactly(A), "DateLessThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}),),
        "IAM Date condition operators; without a clock some time will do.",
    ),
    Adversarial(
        "an-asymmetric-key",
        (GOOD, allow(EVE, Condition={"StringEquals": {"kms:KeySpec": "RSA_2048"}})),
        "KMS kms:KeySpec: the assumption says SYMMETRIC_DEFAULT.",
        plaintext=OPEN,
    ),
    Adversarial(
        "keys-of-a-context-differ-in-case",
        (GOOD, allow(EVE, Condition={"StringEquals": {CONTEXT: "a"}, "StringLike": {CONTEXT.upper(): "b"}})),
        'KMS kms:EncryptionContext: "The condition key name is not case sensitive"; single-valued.',
        plaintext=OPEN,
    ),
    Adversarial(
        "context-keys-closed",
        (
            allow(
                EVE,
                Condition={
                    "StringEquals": {CONTEXT: "eve"},
                    "ForAllValues:StringEquals": {LISTED: "auction"},
                },
            ),
            GOOD,
        ),
        "KMS kms:EncryptionContextKeys: the keys of all pairs of the request.",
    ),
    Adversarial(
        "a-key-of-another-action",
        (GOOD, allow(EVE, Condition={"StringEquals": {"kms:GranteePrincipal": EVE}})),
        f"{SAR}: Decrypt does not have kms:GranteePrincipal.",
        plaintext=OPEN,
    ),
    Adversarial(
        "a-key-of-nobody",
        (GOOD, allow(EVE, Condition={"StringEquals": {"corp:Clearance": "high"}})),
        f"{SAR}: no such key; other services' keys may reach a request.",
        plaintext=OPEN,
    ),
    Adversarial("only-denies", (deny("kms:*"),), DENY_WINS, decryption=NO),
    Adversarial(
        "role-of-nobody",
        (allow(Condition={**exactly(A), "ArnEquals": {"aws:PrincipalArn": EVE}}),),
        "IAM aws:PrincipalArn: the ARN of the principal that made the request.",
        decryption=NO,
    ),
    # Sessions and principals that are no users or roles.
    Adversarial(
        "federated-session-of-a-user",
        (
            GOOD,
            allow(EVE),
            deny(Condition={"ArnEquals": {"aws:PrincipalArn": EVE}}),
        ),
        f"{SESSION_OF} aws:PrincipalArn is then the session's.",
        plaintext=NO,
    ),
    Adversarial(
        "federated-session-past-an-arn-pattern",
        (
            GOOD,
            allow(EVE),
            deny(Condition={"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:*"}}),
        ),
        f"{SESSION_OF} aws:PrincipalArn is then the session's.",
        plaintext=NO,
    ),
    Adversarial(
        "deny-for-the-user-of-a-federated-session",
        (GOOD, allow(EVE), deny(Principal={"AWS": EVE})),
        f"{SESSION_OF} Nothing is said of what is denied to the user.",
        plaintext=OPEN,
    ),
    Adversarial(
        "named-federated-session",
        (
            GOOD,
            allow(EVE),
            deny(Principal={"AWS": f"arn:aws:sts::{ACCOUNT}:federated-user/eve"}),
            deny(Condition={"ArnEquals": {"aws:PrincipalArn": EVE}}),
        ),
        f"{SESSION_OF} Its name is the caller's choice.",
        plaintext=NO,
    ),
    Adversarial(
        "federated-sessions-of-the-administrator",
        (GOOD, allow(ADMIN, "kms:CreateGrant")),
        f"{SESSION_OF} They are the administrator's.",
    ),
    Adversarial(
        "session-by-an-identity-provider",
        (
            GOOD,
            allow({"Federated": "cognito-identity.amazonaws.com"}),
            deny(Condition={"Null": {"aws:PrincipalArn": "true"}}),
        ),
        FEDERATED,
        plaintext=OPEN,
    ),
    Adversarial(
        "saml-provider",
        (
            GOOD,
            allow(
                {"Federated": f"arn:aws:iam::{ACCOUNT}:saml-provider/x"},
                Condition={"StringEquals": {"aws:PrincipalAccount": ACCOUNT}},
            ),
        ),
        FEDERATED,
        plaintext=OPEN,
    ),
    Adversarial(
        "deny-for-an-identity-provider",
        (GOOD, allow(EVE), deny(Principal={"Federated": "cognito-identity.amazonaws.com"})),
        FEDERATED,
        plaintext=NO,
    ),
    Adversarial(
        "all-but-an-identity-provider",
        (
            allow(),
            without(deny(), "Principal", NotPrincipal={"Federated": "cognito-identity.amazonaws.com"}),
        ),
        FEDERATED,
        plaintext=OPEN,
        decryption=OPEN,
    ),
    Adversarial(
        "canonical-user",
        (GOOD, allow({"CanonicalUser": "79a59df900b949e55d96a1e698fbaced" * 2})),
        FEDERATED,
        plaintext=OPEN,
    ),
    Adversarial(
        "service-with-two-names",
        (
            GOOD,
            allow({"Service": "logs.eu-central-1.amazonaws.com"}),
            without(deny(), "Principal", NotPrincipal={"Service": "logs.amazonaws.com"}),
        ),
        'IAM aws:PrincipalServiceNamesList: "a list of all service principal names that belong to the '
        'service".',
        plaintext=OPEN,
        decryption=NO,
    ),
    Adversarial(
        "notprincipal-everybody",
        (
            GOOD,
            allow({"Service": "logs.amazonaws.com"}),
            without(deny(), "Principal", NotPrincipal={"AWS": "*"}),
        ),
        'IAM Principal: "*" and {"AWS": "*"} mean everyone; all but everyone is nobody.',
        plaintext=NO,
    ),
    # Values and names that are compared in another way than they look.
    Adversarial(
        "numbers-of-forty-digits",
        (
            GOOD,
            allow(
                EVE,
                Condition={
                    "NumericGreaterThan": {"aws:MultiFactorAuthAge": f"1{'0' * 38}0"},
                    "NumericLessThan": {"aws:MultiFactorAuthAge": f"1{'0' * 38}2"},
                },
            ),
        ),
        "IAM Numeric condition operators: integer or decimal values, of any length.",
        plaintext=NO,
    ),
    Adversarial(
        "number-above-forty-nines",
        (GOOD, allow(EVE), deny(Condition={"NumericLessThanEqualsIfExists": {"aws:Age": "9" * 40}})),
        "IAM Numeric condition operators: integer or decimal values, of any length.",
        plaintext=OPEN,
        decryption=OPEN,
    ),
    Adversarial(
        "epoch-of-forty-digits",
        (
            GOOD,
            allow(
                EVE,
                Condition={
                    "DateGreaterThan": {"aws:EpochTime": f"1{'0' * 38}0"},
                    "DateLessThan": {"aws:EpochTime": f"1{'0' * 38}2"},
                },
            ),
        ),
        "IAM Date condition operators: ISO 8601 or epoch time.",
        plaintext=NO,
    ),
    Adversarial(
        "kelvin-in-a-condition-key",
        (allow(), deny(Condition={"Null": {SHA.replace("k", "\u212a", 1): "true"}})),
        f"{SAR}: the keys begin with kms:, in ASCII; other services' keys may reach a request.",
        plaintext=OPEN,
        decryption=OPEN,
    ),
    Adversarial(
        "kelvin-in-a-variable",
        (
            GOOD,
            allow(
                "*",
                Condition={
                    "StringEquals": {"aws:username": "${aws:PrincipalTag/\u212a}", "aws:PrincipalTag/k": "k"},
                    "StringNotEquals": {"aws:username": "k"},
                },
            ),
        ),
        "IAM Variables and tags: the tag of another name has another value.",
        plaintext=NO,
    ),
    Adversarial(
        "empty-value",
        (
            GOOD,
            allow(
                EVE,
                Condition={
                    "Null": {TAG: "false"},
                    "ForAllValues:StringLike": {TAG: "?*"},
                    "StringNotLike": {TAG: "?*"},
                },
            ),
        ),
        'IAM Set operators: ForAllValues is true if a key "resolves to a null data set, such as an empty '
        'string"; IAM Null says only that the key exists and its value is not null.',
        plaintext=OPEN,
    ),
    Adversarial(
        "tags-that-differ-in-case",
        (
            GOOD,
            allow(
                EVE,
                Condition={
                    "ForAnyValue:StringEquals": {"aws:ResourceTag/a": "x"},
                    "ForAnyValue:StringLike": {"aws:ResourceTag/A": "y"},
                },
            ),
        ),
        "KMS Tags: tag keys are case-sensitive; IAM Condition: names of condition keys are not.",
        plaintext=OPEN,
    ),
    Adversarial(
        "a-key-of-nobody-with-two-values",
        (allow(), deny(Condition={"StringLikeIfExists": {"corp:Clearance": "*"}})),
        f"{SET_OPERATOR} What a plain one does with two values is not said, nor whether this key has two.",
        plaintext=OPEN,
        decryption=OPEN,
    ),
    Adversarial(
        "context-without-a-name",
        (GOOD, allow(EVE, Condition={"StringEquals": {"kms:EncryptionContext:": "x"}})),
        "API Decrypt, EncryptionContext: a map of strings to strings, without a least length of a key.",
        plaintext=OPEN,
    ),
    Adversarial(
        "star-as-a-character-in-resource",
        (GOOD, allow(EVE), deny(Resource="arn:aws:kms:*:*:key/${*}")),
        'IAM Variables and tags: "${*} - use where you need an * (asterisk) character".',
        plaintext=NO,
        key=KEY,
    ),
    Adversarial(
        "replicas-have-no-caller-account",
        (
            GOOD,
            allow(EVE, ["kms:CancelKeyDeletion", "kms:SynchronizeMultiRegionKey"]),
            deny("kms:*", Condition={"Null": {"kms:CallerAccount": "false"}}),
        ),
        f"{SAR}: SynchronizeMultiRegionKey has no condition keys.",
        power=NO,
        decryption=NO,
    ),
    Adversarial("administrators-decrypt", (GOOD, allow(ADMIN)), DENY_WINS, plaintext=NO),
    Adversarial(
        "encrypters-decrypt",
        (GOOD, allow(BIDDER, "kms:*Crypt")),
        "IAM Action: case insensitive.",
        plaintext=NO,
    ),
)
