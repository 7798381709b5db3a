"""The service's two CloudFormation templates. Pure: settings, a decision and reports in, canonical JSON out.

``base`` is what all releases share. Without reports it makes what must exist before a buyer can write a key
policy: the role (KMS refuses a policy that names a principal that does not exist), buckets, log groups. With
them it gives the role its rights on the buyers' keys and bids. ``parents`` is one release with its settings:
never changed but for its capacity. docs/deployment.md says what each right is for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from coattest_parent.deployment.stack.alarms import TOPIC, alarm_resources, request_metrics
from coattest_parent.deployment.stack.configuration import user_data
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.link.job_listing import CLAIM, FAILED, RESULT
from coattest_verify.keypolicy.report import BuyerReport
from coattest_verify.keypolicy.snippets import bucket_policy, private_bucket

VERSION = "2010-09-09"
BUCKETS = ("Artifacts", "Results")
TEMPLATE_MAX = 51_200
"""Bytes of a TemplateBody (CloudFormation API Reference, "CreateChangeSet")."""

GROUP = "Parents"
"""The Auto Scaling group's logical name: what signals are for."""

CAPACITY = "Capacity"
BOOT_MINUTES = 20
"""Minutes in which an instance must have been verified; then its stack is rolled back (CreationPolicy)."""

FROM_BASE = {
    "ArtifactBucket": "[a-z0-9][a-z0-9.-]+",
    "ResultBucket": "[a-z0-9][a-z0-9.-]+",
    "Profile": "arn:aws[a-z-]*:iam::[0-9]{12}:instance-profile/[A-Za-z0-9+=,.@_/-]+",
    "SecurityGroup": "sg-[0-9a-f]+",
}
"""Parameters of a stack of parents that are outputs of the base, and their patterns."""

_INSTANCES = "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:instance/*"
ROOT_VOLUME_GIB = 30
RETENTION_DAYS = 365
JOBS = "jobs"
"""Below it the bucket of results has a spool for each release."""

LIVE_DAYS = 7
"""Days that the last document of an instance that is gone stays; older versions go after one."""


def template_text(template: Mapping[str, Any]) -> str:
    """The template as text: sorted keys, no spaces, so that equal templates are equal texts."""
    return json.dumps(template, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def base_template(settings: Settings, reports: Sequence[BuyerReport] = ()) -> dict[str, Any]:
    """Role, profile, security group, buckets, log groups, alarms; with reports also the role's rights on what
    the buyers own.
    """
    resources: dict[str, Any] = {
        "ParentRole": _role(settings),
        "Profile": {"Type": "AWS::IAM::InstanceProfile", "Properties": {"Roles": [_ref("ParentRole")]}},
        "Closed": _security_group(settings),
    }
    if reports:
        resources["Carry"] = _carry(reports)
    for bucket in BUCKETS:
        resources[bucket] = private_bucket()
        resources[f"{bucket}Policy"] = bucket_policy(bucket, [])
    resources["Results"]["Properties"] |= {
        "LifecycleConfiguration": _live_only(),
        "MetricsConfigurations": request_metrics(),
    }
    for name in settings.log_groups:
        resources[_logical(name)] = {
            "Type": "AWS::Logs::LogGroup",
            "DeletionPolicy": "Delete",
            "UpdateReplacePolicy": "Retain",
            "Properties": {"LogGroupName": name, "RetentionInDays": RETENTION_DAYS},
        }
    resources |= alarm_resources(settings, serving=bool(reports))
    return {
        "AWSTemplateFormatVersion": VERSION,
        "Description": f"coattest {settings.name}: what all its releases share",
        "Resources": resources,
        "Outputs": {
            "RoleArn": {"Value": _attribute("ParentRole", "Arn")},
            "ArtifactBucket": {"Value": _ref("Artifacts")},
            "ResultBucket": {"Value": _ref("Results")},
            # Its ARN: a profile's name in a template comes back as an ARN, and then looks changed by hand.
            "Profile": {"Value": _attribute("Profile", "Arn")},
            "SecurityGroup": {"Value": _attribute("Closed", "GroupId")},
            "AlarmTopic": {"Value": _ref(TOPIC)},
        },
    }


def parents_template(settings: Settings, configuration: str, release: str) -> dict[str, Any]:
    """A launch template and a group over the subnets; ``configuration`` is the archive's digest, and the
    release an output: whose jobs these parents take.

    Its creation waits until as many instances as the capacity were signalled for, one by one, by ``apply``.
    """
    return {
        "AWSTemplateFormatVersion": VERSION,
        "Description": f"coattest {settings.name}: parents of one release",
        "Parameters": {
            **{name: {"Type": "String", "AllowedPattern": pattern} for name, pattern in FROM_BASE.items()},
            CAPACITY: {"Type": "Number", "MinValue": 0, "MaxValue": 100},
        },
        "Resources": {"Launch": _launch_template(settings, configuration), GROUP: _group(settings)},
        "Outputs": {"Release": {"Value": release}},
    }


def parents_name(settings: Settings, template: str) -> str:
    """The stack of this template: its name is part of what it is, so another release is another stack.

    What the parameters are is left out: the base's outputs are the same for as long as it exists, and the
    capacity may change.
    """
    return f"coattest-{settings.name}-{hashlib.sha256(template.encode()).hexdigest()[:12]}"


def inline_size(settings: Settings, reports: Sequence[BuyerReport]) -> int:
    """Characters of the role's inline policies (IAM User Guide, "IAM and AWS STS quotas": without spaces)."""
    resources = base_template(settings, reports)["Resources"]
    documents = [each["PolicyDocument"] for each in resources["ParentRole"]["Properties"]["Policies"]]
    documents += [resources["Carry"]["Properties"]["PolicyDocument"]] if reports else []
    return sum(len(template_text(_longest(each))) for each in documents)


def _longest(value: Any) -> Any:
    """A document of a template as IAM may get it: CloudFormation names a bucket with up to 63 characters."""
    arn = "arn:aws-us-gov:s3:::".ljust(20 + 63, "x")
    if isinstance(value, list):
        return [_longest(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "Fn::GetAtt" in value:
        return arn
    if "Fn::Sub" in value:
        return re.sub(r"\$\{\w+\.Arn\}", arn, value["Fn::Sub"])
    return {name: _longest(each) for name, each in value.items()}


def _role(settings: Settings) -> dict[str, Any]:
    statements = [
        # What Session Manager's agent needs, for people (Systems Manager User Guide, "Reference: ec2messages,
        # ssmmessages"). These actions know no resource; one of them knows whose instance asks.
        _allow(
            "Agent",
            [
                "ssm:UpdateInstanceInformation",
                "ssmmessages:CreateDataChannel",
                "ssmmessages:OpenControlChannel",
                "ssmmessages:OpenDataChannel",
            ],
            "*",
        ),
        _allow(
            "AgentOfOurs",
            ["ssmmessages:CreateControlChannel"],
            "*",
            {"ArnLike": {"ec2:SourceInstanceARN": _sub(_INSTANCES)}},
        ),
        _allow(
            "FetchByDigest",
            ["s3:GetObject"],
            [_sub(f"${{Artifacts.Arn}}/{folder}/*") for folder in ("releases", "parents", "programs")],
        ),
        # An object that is there already is read and compared, never replaced (ADR 150).
        _allow("StoreResults", ["s3:GetObject", "s3:PutObject"], _sub("${Results.Arn}/results/*")),
        # What couriers do in their spool; they delete nothing. A job is put there by the service.
        _allow(
            "ListJobs",
            ["s3:ListBucket"],
            _attribute("Results", "Arn"),
            {"StringLike": {"s3:prefix": f"{JOBS}/*"}},
        ),
        _allow("ReadJobs", ["s3:GetObject"], _sub(f"${{Results.Arn}}/{JOBS}/*")),
        _allow(
            "EndJobs",
            ["s3:PutObject"],
            [_sub(f"${{Results.Arn}}/{JOBS}/*/{file}") for file in (CLAIM, FAILED, RESULT)],
        ),
        # A put without If-None-Match has no s3:if-none-match (Amazon S3 User Guide, "Enforce conditional
        # writes on Amazon S3 buckets").
        {
            "Sid": "NeverReplaceResults",
            "Effect": "Deny",
            "Action": ["s3:PutObject"],
            "Resource": [
                _sub("${Results.Arn}/results/*"),
                _sub(f"${{Results.Arn}}/{JOBS}/*/{RESULT}"),
            ],
            "Condition": {"Null": {"s3:if-none-match": "true"}},
        },
        # Documents prove themselves: who may write here can cause silence, never acceptance.
        _allow("PutDocuments", ["s3:PutObject"], _sub("${Results.Arn}/live/*")),
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


def _carry(reports: Sequence[BuyerReport]) -> dict[str, Any]:
    """The role's side of the cross-account rights; the buyers' side is in each buyer's own stack."""
    return {
        "Type": "AWS::IAM::Policy",
        "Properties": {
            "PolicyName": "carry",
            "Roles": [_ref("ParentRole")],
            "PolicyDocument": _carried(
                sorted({report.kms for report in reports}),
                sorted({report.objects for report in reports}),
                sorted({report.account for report in reports}),
            ),
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
            "VpcId": settings.vpc,
            # HTTPS to S3, KMS and CloudWatch Logs. Without any rule here EC2 lets everything out.
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


def _launch_template(settings: Settings, configuration: str) -> dict[str, Any]:
    return {
        "Type": "AWS::EC2::LaunchTemplate",
        "Properties": {
            "LaunchTemplateData": {
                "ImageId": settings.ami,
                "InstanceType": settings.instance_type,
                "SecurityGroupIds": [_ref("SecurityGroup")],
                "IamInstanceProfile": {"Arn": _ref("Profile")},
                "EnclaveOptions": {"Enabled": True},
                # A parent whose enclave stays dead powers itself off: then it goes, and another comes.
                "InstanceInitiatedShutdownBehavior": "terminate",
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
                "UserData": user_data(configuration),
            },
        },
    }


def _group(settings: Settings) -> dict[str, Any]:
    """The parents. A group's own health check replaces what does not run; whether an enclave is the decided
    one is for ``apply`` and ``status`` to say.
    """
    capacity = _ref(CAPACITY)
    return {
        "Type": "AWS::AutoScaling::AutoScalingGroup",
        "CreationPolicy": {"ResourceSignal": {"Count": capacity, "Timeout": f"PT{BOOT_MINUTES}M"}},
        "Properties": {
            "AutoScalingGroupName": _ref("AWS::StackName"),
            "MinSize": capacity,
            "MaxSize": capacity,
            "DesiredCapacity": capacity,
            "HealthCheckType": "EC2",
            "HealthCheckGracePeriod": 0,
            "VPCZoneIdentifier": list(settings.subnets),
            "LaunchTemplate": {
                "LaunchTemplateId": _ref("Launch"),
                "Version": _attribute("Launch", "LatestVersionNumber"),
            },
            "Tags": [{"Key": "Name", "Value": _ref("AWS::StackName"), "PropagateAtLaunch": True}],
        },
    }


def _live_only() -> dict[str, Any]:
    """Documents are put each minute: their old versions go, results stay."""
    rule = {
        "Id": "live",
        "Prefix": "live/",
        "Status": "Enabled",
        "ExpirationInDays": LIVE_DAYS,
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
    }
    return {"Rules": [rule]}


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
