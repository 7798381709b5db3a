"""The policy as it is pasted into CloudFormation or Terraform. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from coattest_verify.policy import DECISION_TAG, canonical, decision_tag


def cloudformation(policy: Mapping[str, Any], description: str) -> str:
    """A template with one AWS::KMS::Key, kept when the stack is deleted: losing the key loses the bids."""
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": {
            "CoattestKey": {
                "Type": "AWS::KMS::Key",
                "DeletionPolicy": "Retain",
                "UpdateReplacePolicy": "Retain",
                "Properties": {
                    "Description": description,
                    "KeySpec": "SYMMETRIC_DEFAULT",
                    "KeyUsage": "ENCRYPT_DECRYPT",
                    "MultiRegion": False,
                    "BypassPolicyLockoutSafetyCheck": False,
                    "KeyPolicy": policy,
                    "Tags": [{"Key": DECISION_TAG, "Value": decision_tag(policy["Id"])}],
                },
            }
        },
        "Outputs": {"KeyArn": {"Value": {"Fn::GetAtt": ["CoattestKey", "Arn"]}}},
    }
    return json.dumps(template, indent=2, sort_keys=True)


def terraform(policy: Mapping[str, Any], description: str) -> str:
    """An aws_kms_key resource."""
    text = _escaped(canonical(policy))
    return "\n".join(
        [
            'resource "aws_kms_key" "coattest" {',
            f"  description                        = {_escaped(json.dumps(description))}",
            '  customer_master_key_spec           = "SYMMETRIC_DEFAULT"',
            '  key_usage                          = "ENCRYPT_DECRYPT"',
            "  multi_region                       = false",
            "  bypass_policy_lockout_safety_check = false",
            f'  tags                               = {{ "{DECISION_TAG}" = "{decision_tag(policy["Id"])}" }}',
            "  policy                             = <<-POLICY",
            f"    {text}",
            "  POLICY",
            "}",
        ]
    )


def _escaped(text: str) -> str:
    """Text without HCL's interpolations and directives (Terraform language, "Strings and Templates")."""
    return text.replace("${", "$${").replace("%{", "%%{")
