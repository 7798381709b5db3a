"""The policy in the notations of CloudFormation and Terraform. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from coattest_verify.keypolicy.generate import (
    DECISION_TAG,
    ENCLAVE_TAG,
    decision_tag,
    policy_statement,
    policy_text,
)

BIDS_PREFIX = "bids/"
"""Where a buyer's bid files are in its bucket."""


def cloudformation(policy: Mapping[str, Any], description: str) -> str:
    """A template with one AWS::KMS::Key, which outlives its stack: losing the key loses the bids."""
    return json.dumps(_template({"CoattestKey": _key(policy, description)}), indent=2, sort_keys=True)


def stack(
    policy: Mapping[str, Any], description: str, parent_roles: Sequence[str], encrypters: Sequence[str]
) -> str:
    """A buyer's whole stack: the key with its policy, and a private bucket whose bids the roles may read and
    the encrypters may put, each where there is none.

    Canonical JSON. The bucket's own encryption is SSE-S3, not the key: what protects a bid is its own
    encryption.
    """
    bids = {"Fn::Sub": f"${{Bids.Arn}}/{BIDS_PREFIX}*"}
    reading = policy_statement("ParentReads", "Allow", sorted(set(parent_roles)), "s3:GetObject", bids)
    resources = {
        "CoattestKey": _key(policy, description),
        "Bids": private_bucket(),
        "BidsPolicy": bucket_policy("Bids", [reading, *put_once_statements(encrypters, bids)]),
    }
    template = _template(resources)
    template["Outputs"]["Bids"] = {"Value": {"Fn::Sub": f"s3://${{Bids}}/{BIDS_PREFIX}"}}
    return json.dumps(template, sort_keys=True, separators=(",", ":"))


def put_once_statements(writers: Sequence[str], objects: Any) -> list[dict[str, Any]]:
    """Statements of a bucket policy by which writers put objects only where there is none, and nobody
    overwrites one; writers delete none.

    Amazon S3 User Guide, "Enforce conditional writes on Amazon S3 buckets": a put without If-None-Match has
    no s3:if-none-match.
    """
    who, put, delete = sorted(set(writers)), "s3:PutObject", ["s3:DeleteObject", "s3:DeleteObjectVersion"]
    conditional, unconditional = ({"Null": {"s3:if-none-match": missing}} for missing in ("false", "true"))
    return [
        policy_statement("PutWhereThereIsNone", "Allow", who, put, objects, conditional),
        policy_statement("DenyOverwriting", "Deny", "*", put, objects, unconditional),
        policy_statement("DenyDeleting", "Deny", who, delete, objects),
    ]


def private_bucket() -> dict[str, Any]:
    """A bucket without public access or ACLs, encrypted by S3, versioned, which outlives its stack."""
    return {
        "Type": "AWS::S3::Bucket",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": {
            "BucketEncryption": {
                "ServerSideEncryptionConfiguration": [
                    {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
                ]
            },
            "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
            "PublicAccessBlockConfiguration": {
                "BlockPublicAcls": True,
                "BlockPublicPolicy": True,
                "IgnorePublicAcls": True,
                "RestrictPublicBuckets": True,
            },
            "VersioningConfiguration": {"Status": "Enabled"},
        },
    }


def bucket_policy(bucket: str, statements: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A bucket policy with these statements that also requires TLS."""
    arn = {"Fn::GetAtt": [bucket, "Arn"]}
    both = [arn, {"Fn::Sub": f"${{{bucket}.Arn}}/*"}]
    plain = {"Bool": {"aws:SecureTransport": "false"}}
    no_tls = policy_statement("DenyWithoutTls", "Deny", "*", "s3:*", both, plain)
    return {
        "Type": "AWS::S3::BucketPolicy",
        # A bucket that outlives its stack needs its policy.
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": {
            "Bucket": {"Ref": bucket},
            "PolicyDocument": {"Version": "2012-10-17", "Statement": [*statements, no_tls]},
        },
    }


def _template(resources: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": dict(resources),
        "Outputs": {"KeyArn": {"Value": {"Fn::GetAtt": ["CoattestKey", "Arn"]}}},
    }


def _key(policy: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {
        "Type": "AWS::KMS::Key",
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "Properties": {
            "Description": description,
            "KeySpec": "SYMMETRIC_DEFAULT",
            "KeyUsage": "ENCRYPT_DECRYPT",
            "MultiRegion": False,
            "EnableKeyRotation": True,
            "BypassPolicyLockoutSafetyCheck": False,
            "KeyPolicy": policy,
            "Tags": [{"Key": name, "Value": value} for name, value in _tags(policy)],
        },
    }


def _tags(policy: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(DECISION_TAG, decision_tag(policy["Id"])), ENCLAVE_TAG]


def terraform(policy: Mapping[str, Any], description: str) -> str:
    """An aws_kms_key resource."""
    text = _escaped(policy_text(policy))
    tags = ", ".join(f'"{name}" = "{value}"' for name, value in _tags(policy))
    return "\n".join(
        [
            'resource "aws_kms_key" "coattest" {',
            f"  description                        = {_escaped(json.dumps(description))}",
            '  customer_master_key_spec           = "SYMMETRIC_DEFAULT"',
            '  key_usage                          = "ENCRYPT_DECRYPT"',
            "  multi_region                       = false",
            "  enable_key_rotation                = true",
            "  bypass_policy_lockout_safety_check = false",
            f"  tags                               = {{ {tags} }}",
            "  policy                             = <<-POLICY",
            f"    {text}",
            "  POLICY",
            "}",
        ]
    )


def _escaped(text: str) -> str:
    """Text without HCL's interpolations and directives (Terraform language, "Strings and Templates")."""
    return text.replace("${", "$${").replace("%{", "%%{")
