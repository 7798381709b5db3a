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
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from moto.cloudformation.models import Stack, cloudformation_backends
from moto.core.common_models import CloudFormationModel
from moto.iam.access_control import PermissionResult
from moto.iam.models import iam_backends
from moto.kms.models import Key, kms_backends
from moto.s3.models import FakeBucket, s3_backends

from coattest_local.aws.accounts import PARTITION, Caller
from coattest_local.aws.http import HttpRequest, HttpResponse, ServiceError
from coattest_local.aws.kms import keys
from coattest_local.aws.stack_faults import StackFaults, before_update, changed_resources, stack_named

Forward = Callable[[str, HttpRequest, str], HttpResponse]

ACTIONS = {
    "cloudformation": (
        "CreateChangeSet",
        "DeleteChangeSet",
        "DeleteStack",
        "DescribeChangeSet",
        "DescribeStackEvents",
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
#: Answered here: moto's CloudFormation has no such operation.
OURS = (*DRIFT, "ContinueUpdateRollback")
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
    # Its tag_resource takes KMS's list in one release of moto and a map in another.
    tags = [{"TagKey": tag["Key"], "TagValue": tag["Value"]} for tag in properties.get("Tags", [])]
    backend.tagger.tag_resource(original_resource.id, tags)
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


def _parameter_list(self: Stack) -> list[dict[str, str]]:
    """A stack's parameters as they were given: moto shows a list as Python would."""
    every = self.resource_map.resolved_parameters.items()
    return [
        {"ParameterKey": key, "ParameterValue": ",".join(value) if isinstance(value, list) else str(value)}
        for key, value in every
    ]


def extend_moto() -> None:
    """Teach moto's CloudFormation what it lacks; once a process. It finds BucketPolicy by itself."""
    # moto's reading of a bucket policy knows no conditions; the gate has decided before moto is asked.
    FakeBucket.get_permission = _permitted
    shown: Any = Stack
    shown.parameter_list = property(_parameter_list)
    Key.create_from_cloudformation_json = staticmethod(_create_key)
    Key.update_from_cloudformation_json = staticmethod(_update_key)


class ManagementService:
    """Answers authenticated requests to CloudFormation and EC2."""

    def __init__(
        self,
        service: str,
        forward: Forward,
        clock: Callable[[], datetime],
        directory: Path | None = None,
    ) -> None:
        """``directory`` may hold the file of stacks' faults; see ``stack_faults``."""
        self._service = service
        self._forward = forward
        self._clock = clock
        self._faults = StackFaults(directory)

    def handle(self, request: HttpRequest, caller: Caller, region: str) -> HttpResponse:
        """The answer. Raises ServiceError."""
        form = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
        action = form.get("Action", "")
        ours = self._service == "cloudformation" and action in OURS
        if not ours and action not in (*ACTIONS[self._service], *BY_HAND.get(self._service, ())):
            raise ServiceError("InvalidAction", f"{self._service}:{action} is not emulated")
        self._authorize(request, caller, region, action)
        account = caller.principal.account
        if action in DRIFT:
            return _drift(action, form, account, region)
        if self._service != "cloudformation":
            return self._forward(self._service, request, account)
        return self._stack(action, form, request, account, region)

    def _stack(
        self, action: str, form: Mapping[str, str], request: HttpRequest, account: str, region: str
    ) -> HttpResponse:
        name, change_set = form.get("StackName", ""), form.get("ChangeSetName", "")
        stack = stack_named(name, account, region)
        self._faults.refuse(action, form, stack)
        if action == "ContinueUpdateRollback":
            if stack is None:
                raise ServiceError("ValidationError", f"Stack [{name}] does not exist")
            self._faults.continue_rollback(stack)
            return _answer(action, "")
        if action == "DescribeStacks" and stack is not None and (busy := self._faults.busy(stack.name)):
            self._faults.looked(stack.name)
            status, stack.status = stack.status, busy
            try:
                return self._forward(self._service, request, account)
            finally:
                stack.status = status
        if action == "DeleteStack" and stack is not None and self._faults.stays(stack):
            return _answer(action, "")
        if action != "ExecuteChangeSet":
            return self._forward(self._service, request, account)
        before = before_update(stack)
        resources = changed_resources(change_set, account, region, before)
        answer = self._forward(self._service, request, account)
        if answer.status == 200:
            _settle(name, change_set, account, region)
            keep = form.get("RetainExceptOnCreate") != "true"
            self._faults.executed(stack, before, resources, keep=keep)
        return answer

    def _authorize(self, request: HttpRequest, caller: Caller, region: str, action: str) -> None:
        answer = keys.by_own_policies(
            request, caller, region, f"{self._service}:{action}", "*", now=self._clock()
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
    stack: Any = stack_named(name, account, region)
    changed = [item for item in backend.change_sets.values() if change_set == item.change_set_name]
    stack.parameters = changed[-1].parameters
    stack.tags = {**stack.tags, **(changed[-1].tags or {})}
    stack.template_dict = changed[-1].template_dict
    stack.status_reason = None
    stack.output_map = stack._create_output_map()


def _answer(action: str, inner: str) -> HttpResponse:
    text = (
        f'<{action}Response xmlns="{_NAMESPACE}"><{action}Result>{inner}</{action}Result>'
        f"<ResponseMetadata><RequestId>{uuid.uuid4()}</RequestId></ResponseMetadata></{action}Response>"
    )
    return HttpResponse(200, text.encode(), {"Content-Type": "text/xml"})


def _drift(action: str, form: Mapping[str, str], account: str, region: str) -> HttpResponse:
    """Drift detection that has finished as soon as it was asked for; its id is the stack's name."""
    name = form.get("StackName") or form.get("StackDriftDetectionId", "")
    stack = stack_named(name, account, region)
    if stack is None:
        raise ServiceError("ValidationError", f"Stack with id {name} does not exist")
    drifted = {logical: (kind, differences) for logical, kind, differences in _drifted(stack, account)}
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
            f"</StackResourceDriftStatus><PropertyDifferences>{differences}</PropertyDifferences>"
            "<Timestamp>2026-01-01T00:00:00Z</Timestamp></member>"
            for logical, (kind, differences) in drifted.items()
        )
        inner = f"<StackResourceDrifts>{members}</StackResourceDrifts>"
    return _answer(action, inner)


def _drifted(stack: Any, account: str) -> Iterator[tuple[str, str, str]]:
    """Resources that are not as their template says: a role's policies, inbound rules, instances.

    Each with the differences of its properties where there are some to tell. A policy that another stack
    attaches to a role is one: CloudFormation looks for those within a stack only.
    """
    for resource in filter(None, stack.stack_resources):
        kind, logical = resource.cf_resource_type, resource.logical_resource_id
        if kind == "AWS::IAM::Role":
            role = iam_backends[account][PARTITION].get_role(resource.name)
            wanted = {item["PolicyName"] for item in _properties(stack, logical).get("Policies", [])}
            more = sorted(set(role.policies) - wanted)
            differences = [
                _difference(f"/Policies/{len(wanted) + index}", "ADD", _policy(name, role.policies[name]))
                for index, name in enumerate(more)
            ]
            differences += [_difference("/Policies/0", "REMOVE", None) for _ in wanted - set(role.policies)]
            if differences:
                yield logical, kind, "".join(differences)
        elif (kind == "AWS::EC2::SecurityGroup" and resource.ingress_rules) or (
            kind == "AWS::EC2::Instance" and resource.state != "running"
        ):
            yield logical, kind, ""


def _policy(name: str, document: Any) -> str:
    parsed = json.loads(document) if isinstance(document, str) else document
    return json.dumps({"PolicyDocument": parsed, "PolicyName": name})


def _difference(path: str, kind: str, actual: str | None) -> str:
    """The API's PropertyDifference: an added value is "null" in the template, a removed one in the role."""
    expected = "null" if kind == "ADD" else "{}"
    return (
        f"<member><PropertyPath>{path}</PropertyPath><ExpectedValue>{expected}</ExpectedValue>"
        f"<ActualValue>{escape(actual or 'null')}</ActualValue><DifferenceType>{kind}</DifferenceType>"
        "</member>"
    )


def _properties(stack: Any, logical: str) -> dict[str, Any]:
    found: dict[str, Any] = stack.template_dict["Resources"][logical]["Properties"]
    return found
