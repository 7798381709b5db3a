"""The service's two CloudFormation templates. Pure: settings, a decision and reports in, canonical JSON out.

Phase 1 makes what must exist before a buyer can write a key policy: the role (KMS refuses a policy that names
a principal that does not exist), the buckets and the log groups. Phase 2 makes the rest, once the keys exist:
a role's policy that names no key would have to name all. docs/deployment.md says what each right is for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.deployment.stack.userdata import at_every_boot, boot_script
from coattest_verify.keypolicy.report import BuyerReport
from coattest_verify.keypolicy.snippets import bucket_policy, private_bucket

VERSION = "2010-09-09"
BUCKETS = ("Artifacts", "Results")
TEMPLATE_MAX = 51_200
"""Bytes of a TemplateBody (CloudFormation API Reference, "CreateChangeSet")."""

CARRY = "parent-carry"
"""The policy that phase 2 attaches to phase 1's role. Its name sorts after the role's own, "operate":
policies that are compared as a list then differ at the end only.
"""

ROOT_VOLUME_GIB = 30
RETENTION_DAYS = 365

_ACCOUNT = "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:instance/*"
_PARAMETERS: dict[str, dict[str, Any]] = {
    "RoleName": {"Type": "String", "AllowedPattern": "[A-Za-z0-9-]+"},
    "ArtifactBucket": {"Type": "String", "AllowedPattern": "[a-z0-9][a-z0-9.-]+"},
    "ResultBucket": {"Type": "String", "AllowedPattern": "[a-z0-9][a-z0-9.-]+"},
    "VpcId": {"Type": "AWS::EC2::VPC::Id"},
    "SubnetId": {"Type": "AWS::EC2::Subnet::Id"},
    "ImageId": {"Type": "AWS::EC2::Image::Id"},
    "InstanceType": {"Type": "String", "AllowedPattern": "[a-z0-9-]+\\.[0-9]+xlarge"},
    # A pattern of a list holds for each of its items (User Guide, "Parameters section").
    "BuyerAccounts": {"Type": "CommaDelimitedList", "AllowedPattern": "[0-9]{12}"},
    "BuyerKeys": {
        "Type": "CommaDelimitedList",
        "AllowedPattern": "arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[0-9A-Za-z-]+",
    },
    "BidObjects": {
        "Type": "CommaDelimitedList",
        "AllowedPattern": "arn:aws[a-z-]*:s3:::[a-z0-9.-]+/[A-Za-z0-9!_.'()/-]*\\*",
    },
    "KmsRegions": {"Type": "String", "AllowedPattern": "[a-z0-9-]+( [a-z0-9-]+)*"},
    "AutoRecovery": {"Type": "String", "AllowedValues": ["no", "yes"]},
}


def template_text(template: Mapping[str, Any]) -> str:
    """The template as text: sorted keys, no spaces, so that equal templates are equal texts."""
    return json.dumps(template, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def base_template(settings: Settings) -> dict[str, Any]:
    """Phase 1: role, buckets, log groups."""
    resources: dict[str, Any] = {"ParentRole": _role(settings)}
    for bucket in BUCKETS:
        resources[bucket] = private_bucket()
        resources[f"{bucket}Policy"] = bucket_policy(bucket, [])
    for name in settings.log_groups:
        resources[_logical(name)] = {
            "Type": "AWS::Logs::LogGroup",
            "DeletionPolicy": "Delete",
            "UpdateReplacePolicy": "Retain",
            "Properties": {"LogGroupName": name, "RetentionInDays": RETENTION_DAYS},
        }
    return {
        "AWSTemplateFormatVersion": VERSION,
        "Description": f"coattest {settings.name}, phase 1: role, buckets, log groups",
        "Resources": resources,
        "Outputs": {
            "RoleArn": {"Value": _attribute("ParentRole", "Arn")},
            "ArtifactBucket": {"Value": _ref("Artifacts")},
            "ResultBucket": {"Value": _ref("Results")},
        },
    }


def main_template(settings: Settings) -> dict[str, Any]:
    """Phase 2: the parent instance and what it may do. Keys, buckets and accounts are parameters."""
    return {
        "AWSTemplateFormatVersion": VERSION,
        "Description": f"coattest {settings.name}, phase 2: the parent instance",
        "Parameters": _parameters(settings),
        "Conditions": {"Recovers": {"Fn::Equals": [_ref("AutoRecovery"), "yes"]}},
        "Resources": {
            "Closed": _security_group(settings),
            "Carry": _carry(),
            "Profile": {"Type": "AWS::IAM::InstanceProfile", "Properties": {"Roles": [_ref("RoleName")]}},
            "Parent": _instance(settings),
            "Recovery": _recovery(),
        },
        "Outputs": {
            "InstanceId": {"Value": _ref("Parent")},
            "BuyerAccounts": {"Value": {"Fn::Join": [",", _ref("BuyerAccounts")]}},
        },
    }


def main_parameters(
    settings: Settings, reports: Sequence[BuyerReport], base: Mapping[str, str]
) -> dict[str, str]:
    """Values of phase 2's parameters; ``base`` are the outputs of phase 1. Sorted, so that they compare
    equal.
    """
    values = {
        "RoleName": settings.role_name,
        "ArtifactBucket": base["ArtifactBucket"],
        "ResultBucket": base["ResultBucket"],
        "VpcId": settings.vpc,
        "SubnetId": settings.subnet,
        "ImageId": settings.ami,
        "InstanceType": settings.instance_type,
        "BuyerAccounts": ",".join(sorted({report.account for report in reports})),
        "BuyerKeys": ",".join(sorted({report.kms for report in reports})),
        "BidObjects": ",".join(sorted({report.objects for report in reports})),
        "KmsRegions": " ".join(sorted({report.region for report in reports})),
        "AutoRecovery": "yes" if settings.auto_recovery else "no",
    }
    return {name: values[name] for name in _parameters(settings)}


def _parameters(settings: Settings) -> dict[str, dict[str, Any]]:
    # The programs come from one bucket and publish to the other; nothing else in the template names them.
    unused = set() if settings.programs else {"ArtifactBucket", "ResultBucket", "KmsRegions"}
    return {name: value for name, value in _PARAMETERS.items() if name not in unused}


def _role(settings: Settings) -> dict[str, Any]:
    statements = [
        # All that the SSM agent needs for RunCommand (Systems Manager User Guide, "Reference: ec2messages,
        # ssmmessages"). They take no resource, so they are bound to instances of this account.
        _allow(
            "Agent",
            [
                "ssm:UpdateInstanceInformation",
                "ssmmessages:CreateControlChannel",
                "ssmmessages:CreateDataChannel",
                "ssmmessages:OpenControlChannel",
                "ssmmessages:OpenDataChannel",
            ],
            "*",
            {"ArnLike": {"ec2:SourceInstanceARN": _sub(_ACCOUNT)}},
        ),
        _allow("FetchReleases", ["s3:GetObject"], _sub("${Artifacts.Arn}/releases/*")),
        # An object that is there already is read and compared, never replaced (ADR 150).
        _allow("StoreResults", ["s3:GetObject", "s3:PutObject"], _sub("${Results.Arn}/results/*")),
        _allow(
            "WriteLogs",
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            [
                _sub(
                    "arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:"
                    f"{name}:log-stream:*"
                )
                for name in settings.log_groups
            ],
        ),
    ]
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "RoleName": settings.role_name,
            "AssumeRolePolicyDocument": _policy(
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "ec2.amazonaws.com"},
                    "Action": "sts:AssumeRole",
                }
            ),
            "MaxSessionDuration": 3600,
            "Policies": [{"PolicyName": "operate", "PolicyDocument": _policy(*statements)}],
        },
    }


def attached(parameters: Mapping[str, str]) -> list[dict[str, Any]]:
    """The policies that phase 2 with these parameters attaches to phase 1's role, as drift detection shows
    them.
    """
    if not {"BuyerKeys", "BidObjects", "BuyerAccounts"} <= set(parameters):
        return []
    given = (parameters[name].split(",") for name in ("BuyerKeys", "BidObjects", "BuyerAccounts"))
    return [{"PolicyName": CARRY, "PolicyDocument": _carried(*given)}]


def _carry() -> dict[str, Any]:
    """The role's side of the cross-account rights; the buyers' side is in each buyer's own stack."""
    return {
        "Type": "AWS::IAM::Policy",
        "Properties": {
            "PolicyName": CARRY,
            "Roles": [_ref("RoleName")],
            "PolicyDocument": _carried(_ref("BuyerKeys"), _ref("BidObjects"), _ref("BuyerAccounts")),
        },
    }


def _carried(keys: Any, objects: Any, accounts: Any) -> dict[str, Any]:
    return _policy(
        _allow(
            "DecryptAttested",
            ["kms:Decrypt"],
            keys,
            {"Null": {"kms:RecipientAttestation:ImageSha384": "false"}},
        ),
        # A bucket's name does not show its owner: a buyer that reports one of the service's own, or of a
        # third party's, must not get it read (IAM User Guide, "The confused deputy problem").
        _allow("FetchBids", ["s3:GetObject"], objects, {"StringEquals": {"aws:ResourceAccount": accounts}}),
    )


def _security_group(settings: Settings) -> dict[str, Any]:
    return {
        "Type": "AWS::EC2::SecurityGroup",
        "Properties": {
            "GroupDescription": f"coattest {settings.name}: nothing comes in",
            "VpcId": _ref("VpcId"),
            # HTTPS to S3, KMS, SSM and CloudWatch Logs. Without any rule here EC2 lets everything out.
            "SecurityGroupEgress": [
                {
                    "IpProtocol": "tcp",
                    "FromPort": 443,
                    "ToPort": 443,
                    "CidrIp": "0.0.0.0/0",
                    "Description": "HTTPS",
                }
            ],
        },
    }


def _instance(settings: Settings) -> dict[str, Any]:
    script = at_every_boot(boot_script(settings))
    return {
        "Type": "AWS::EC2::Instance",
        # The agent, and with it user data, needs its rights at the first start.
        "DependsOn": ["Carry"],
        "Properties": {
            "ImageId": _ref("ImageId"),
            "InstanceType": _ref("InstanceType"),
            "SubnetId": _ref("SubnetId"),
            "SecurityGroupIds": [_attribute("Closed", "GroupId")],
            "IamInstanceProfile": _ref("Profile"),
            "EnclaveOptions": {"Enabled": True},
            "MetadataOptions": {
                "HttpEndpoint": "enabled",
                "HttpTokens": "required",
                "HttpPutResponseHopLimit": 1,
                "InstanceMetadataTags": "disabled",
            },
            "BlockDeviceMappings": [
                {
                    "DeviceName": "/dev/xvda",
                    "Ebs": {
                        "VolumeSize": ROOT_VOLUME_GIB,
                        "VolumeType": "gp3",
                        "Encrypted": True,
                        "DeleteOnTermination": True,
                    },
                }
            ],
            "Tags": [{"Key": "Name", "Value": settings.main_stack}],
            "UserData": {"Fn::Base64": _sub(script) if "${" in script else script},
        },
    }


def _recovery() -> dict[str, Any]:
    """On a failed host the instance moves; its enclave unit then starts the same release again."""
    return {
        "Type": "AWS::CloudWatch::Alarm",
        "Condition": "Recovers",
        "Properties": {
            "AlarmDescription": "the parent's host failed: recover the instance",
            "Namespace": "AWS/EC2",
            "MetricName": "StatusCheckFailed_System",
            "Dimensions": [{"Name": "InstanceId", "Value": _ref("Parent")}],
            "Statistic": "Maximum",
            "Period": 60,
            "EvaluationPeriods": 2,
            "Threshold": 1,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            "AlarmActions": [_sub("arn:${AWS::Partition}:automate:${AWS::Region}:ec2:recover")],
        },
    }


def _logical(log_group: str) -> str:
    return "Logs" + log_group.rsplit("/", 1)[-1].capitalize()


def _allow(
    sid: str, actions: Sequence[str], resource: Any, condition: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    statement = {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resource}
    return statement | ({"Condition": condition} if condition else {})


def _policy(*statements: Mapping[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _ref(name: str) -> dict[str, str]:
    return {"Ref": name}


def _sub(text: str) -> dict[str, str]:
    return {"Fn::Sub": text}


def _attribute(resource: str, name: str) -> dict[str, list[str]]:
    return {"Fn::GetAtt": [resource, name]}
