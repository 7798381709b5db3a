"""CloudFormation, EC2 and SSM parameters for a deployment: authorised here, answered by moto.

What moto's CloudFormation lacks is added: bucket policies, updates of key policies, and drift. A stack's
resources are made in the caller's account without a look at the caller's rights on each of them (AWS does
look): docs/emulation.md says so.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from moto.cloudformation.models import cloudformation_backends
from moto.core.common_models import CloudFormationModel
from moto.iam.access_control import PermissionResult
from moto.iam.models import iam_backends
from moto.kms.models import Key, kms_backends
from moto.s3.models import FakeBucket, s3_backends

from coattest_local.kms import keys
from coattest_local.kms.accounts import PARTITION, Caller
from coattest_local.kms.http import HttpRequest, HttpResponse, ServiceError
from coattest_verify.iam import Request, authorize

Forward = Callable[[str, HttpRequest, str], HttpResponse]

ACTIONS = {
    "cloudformation": (
        "CreateChangeSet",
        "DeleteChangeSet",
        "DeleteStack",
        "DescribeChangeSet",
        "DescribeStackResources",
        "DescribeStacks",
        "ExecuteChangeSet",
        "GetTemplate",
        "ListStackResources",
    ),
    "ec2": ("DescribeInstances", "DescribeSecurityGroups", "DescribeSubnets", "DescribeVpcs"),
}
#: Security groups are changed by hand in tests of drift.
BY_HAND = {"ec2": ("AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress", "TerminateInstances")}
DRIFT = ("DetectStackDrift", "DescribeStackDriftDetectionStatus", "DescribeStackResourceDrifts")
_NAMESPACE = "http://cloudformation.amazonaws.com/doc/2010-05-15/"


class BucketPolicy(CloudFormationModel):  # type: ignore[misc]
    """AWS::S3::BucketPolicy, which moto's CloudFormation does not know."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket

    @property
    def physical_resource_id(self) -> str:
        """Its name in the stack: the bucket's."""
        return self.bucket

    @staticmethod
    def cloudformation_name_type() -> str:
        """No property names it."""
        return ""

    @staticmethod
    def cloudformation_type() -> str:
        """The resource type."""
        return "AWS::S3::BucketPolicy"

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
    ) -> BucketPolicy:
        """Put the policy on its bucket."""
        properties = cloudformation_json["Properties"]
        text = json.dumps(properties["PolicyDocument"]).encode()
        s3_backends[account_id][PARTITION].put_bucket_policy(properties["Bucket"], text)
        return cls(properties["Bucket"])

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: Any,
        new_resource_name: str,
        cloudformation_json: Any,
        account_id: str,
        region_name: str,
    ) -> BucketPolicy:
        """Put the new policy."""
        return cls.create_from_cloudformation_json(
            new_resource_name, cloudformation_json, account_id, region_name
        )

    @classmethod
    def delete_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str
    ) -> None:
        """Take the policy away."""
        s3_backends[account_id][PARTITION].delete_bucket_policy(resource_name)


def _update_key(
    original_resource: Any,
    new_resource_name: str,
    cloudformation_json: Any,
    account_id: str,
    region_name: str,
) -> Any:
    """An update of AWS::KMS::Key: its policy and its tags, in place."""
    properties = cloudformation_json["Properties"]
    backend = kms_backends[account_id][region_name]
    backend.put_key_policy(original_resource.id, json.dumps(properties["KeyPolicy"]))
    # moto's annotation says a map; what it takes is KMS's list.
    tags: Any = [{"TagKey": tag["Key"], "TagValue": tag["Value"]} for tag in properties.get("Tags", [])]
    backend.tag_resource(original_resource.id, tags)
    return original_resource


def _create_key(
    resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **_: Any
) -> Any:
    """AWS::KMS::Key with its policy as text and its tags in KMS's words; moto's own takes neither."""
    properties = cloudformation_json["Properties"]
    return kms_backends[account_id][region_name].create_key(
        json.dumps(properties["KeyPolicy"]),
        "ENCRYPT_DECRYPT",
        "SYMMETRIC_DEFAULT",
        properties.get("Description"),
        [{"TagKey": tag["Key"], "TagValue": tag["Value"]} for tag in properties.get("Tags", [])],
    )


def _permitted(self: FakeBucket, action: str, resource: str) -> Any:
    return PermissionResult.PERMITTED


def extend_moto() -> None:
    """Teach moto's CloudFormation what it lacks; once a process. It finds BucketPolicy by itself."""
    # moto's reading of a bucket policy knows no conditions; the gate has decided before moto is asked.
    FakeBucket.get_permission = _permitted
    Key.create_from_cloudformation_json = staticmethod(_create_key)
    Key.update_from_cloudformation_json = staticmethod(_update_key)


class ManagementService:
    """Answers authenticated requests to CloudFormation and EC2."""

    def __init__(self, service: str, forward: Forward, clock: Callable[[], datetime]) -> None:
        self._service = service
        self._forward = forward
        self._clock = clock

    def handle(self, request: HttpRequest, caller: Caller, region: str) -> HttpResponse:
        """The answer. Raises ServiceError."""
        form = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
        action = form.get("Action", "")
        drift = self._service == "cloudformation" and action in DRIFT
        if not drift and action not in (*ACTIONS[self._service], *BY_HAND.get(self._service, ())):
            raise ServiceError("InvalidAction", f"{self._service}:{action} is not emulated")
        self._authorize(request, caller, region, action)
        account = caller.principal.account
        if drift:
            return _drift(action, form, account, region)
        answer = self._forward(self._service, request, account)
        if action == "ExecuteChangeSet" and answer.status == 200:
            _settle(form.get("StackName", ""), form.get("ChangeSetName", ""), account, region)
        return answer

    def _authorize(self, request: HttpRequest, caller: Caller, region: str, action: str) -> None:
        answer = authorize(
            Request(
                caller.principal,
                f"{self._service}:{action}",
                "*",
                keys.caller_keys(caller, region=region, source=request.source, now=self._clock()),
            ),
            owner=caller.principal.account,
            resource_policy=None,
            identity_policies=caller.identity_policies,
            session_policies=caller.session_policies,
            resource_policy_required=False,
        )
        if not answer.allowed:
            raise ServiceError(
                "AccessDenied" if self._service == "cloudformation" else "UnauthorizedOperation",
                f"User: {caller.principal.arn} is not authorized to perform: {self._service}:{action}",
                403,
            )


def _settle(name: str, change_set: str, account: str, region: str) -> None:
    """What moto leaves as it was before the change set: parameters, tags, and the outputs' templates."""
    backend = cloudformation_backends[account][region]
    stack = next(item for item in backend.stacks.values() if name in (item.name, item.stack_id))
    changed = [item for item in backend.change_sets.values() if change_set == item.change_set_name]
    stack.parameters = changed[-1].parameters
    stack.tags = {**stack.tags, **(changed[-1].tags or {})}
    stack.template_dict = changed[-1].template_dict
    stack.output_map = stack._create_output_map()


def _drift(action: str, form: Mapping[str, str], account: str, region: str) -> HttpResponse:
    """Drift detection that has finished as soon as it was asked for; its id is the stack's name."""
    name = form.get("StackName") or form.get("StackDriftDetectionId", "")
    stack = next(
        (
            item
            for item in cloudformation_backends[account][region].stacks.values()
            if name in (item.name, item.stack_id)
        ),
        None,
    )
    if stack is None:
        raise ServiceError("ValidationError", f"Stack with id {name} does not exist")
    drifted = dict(_drifted(stack, account))
    if action == "DetectStackDrift":
        inner = f"<StackDriftDetectionId>{stack.name}</StackDriftDetectionId>"
    elif action == "DescribeStackDriftDetectionStatus":
        status = "DRIFTED" if drifted else "IN_SYNC"
        inner = (
            f"<StackId>{stack.stack_id}</StackId><StackDriftDetectionId>{stack.name}</StackDriftDetectionId>"
            f"<DetectionStatus>DETECTION_COMPLETE</DetectionStatus><StackDriftStatus>{status}"
            f"</StackDriftStatus><Timestamp>2026-01-01T00:00:00Z</Timestamp>"
        )
    else:
        members = "".join(
            f"<member><StackId>{stack.stack_id}</StackId><LogicalResourceId>{logical}</LogicalResourceId>"
            f"<ResourceType>{kind}</ResourceType><StackResourceDriftStatus>MODIFIED"
            "</StackResourceDriftStatus><Timestamp>2026-01-01T00:00:00Z</Timestamp></member>"
            for logical, kind in drifted.items()
        )
        inner = f"<StackResourceDrifts>{members}</StackResourceDrifts>"
    text = (
        f'<{action}Response xmlns="{_NAMESPACE}"><{action}Result>{inner}</{action}Result>'
        f"<ResponseMetadata><RequestId>{uuid.uuid4()}</RequestId></ResponseMetadata></{action}Response>"
    )
    return HttpResponse(200, text.encode(), {"Content-Type": "text/xml"})


def _drifted(stack: Any, account: str) -> Iterator[tuple[str, str]]:
    """Resources that are not as their template says: role and bucket policies, inbound rules, instances."""
    for resource in filter(None, stack.stack_resources):
        kind, logical = resource.cf_resource_type, resource.logical_resource_id
        if kind == "AWS::IAM::Role":
            role = iam_backends[account][PARTITION].get_role(resource.name)
            wanted = {item["PolicyName"] for item in _properties(stack, logical).get("Policies", [])}
            attached = {
                item["Properties"]["PolicyName"]
                for other in cloudformation_backends[account][stack.region_name].stacks.values()
                for item in (other.template_dict or {}).get("Resources", {}).values()
                if item["Type"] == "AWS::IAM::Policy"
            }
            if not wanted <= set(role.policies) or set(role.policies) - wanted - attached:
                yield logical, kind
        elif (kind == "AWS::EC2::SecurityGroup" and resource.ingress_rules) or (
            kind == "AWS::EC2::Instance" and resource.state != "running"
        ):
            yield logical, kind


def _properties(stack: Any, logical: str) -> dict[str, Any]:
    found: dict[str, Any] = stack.template_dict["Resources"][logical]["Properties"]
    return found
