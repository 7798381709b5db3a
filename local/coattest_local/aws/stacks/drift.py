"""Drift detection, which moto lacks. It has finished as soon as it is asked for; its id is the stack's name.

Source: CloudFormation User Guide, "Detect unmanaged configuration changes with drift detection".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from moto.iam.models import iam_backends

from coattest_local.aws.accounts import PARTITION
from coattest_local.aws.http import HttpResponse, ServiceError, cloudformation_answer
from coattest_local.aws.stacks.additions import stack_named

DRIFT_ACTIONS = ("DetectStackDrift", "DescribeStackDriftDetectionStatus", "DescribeStackResourceDrifts")
_AT = "<Timestamp>2026-01-01T00:00:00Z</Timestamp>"


def answer_drift(action: str, form: Mapping[str, str], account: str, region: str) -> HttpResponse:
    """The answer to one of ``DRIFT_ACTIONS``. Raises ServiceError for a stack that does not exist."""
    name = form.get("StackName") or form.get("StackDriftDetectionId", "")
    stack = stack_named(name, account, region)
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
            f"</StackDriftStatus>{_AT}"
        )
    else:
        members = "".join(
            f"<member><StackId>{stack.stack_id}</StackId><LogicalResourceId>{logical}</LogicalResourceId>"
            f"<ResourceType>{kind}</ResourceType><StackResourceDriftStatus>MODIFIED"
            f"</StackResourceDriftStatus>{_AT}</member>"
            for logical, kind in drifted.items()
        )
        inner = f"<StackResourceDrifts>{members}</StackResourceDrifts>"
    return cloudformation_answer(action, inner)


def _drifted(stack: Any, account: str) -> Iterator[tuple[str, str]]:
    """Resources that are not as their template says, with their types: a role's policies, inbound rules, a
    group's capacity.
    """
    resources = stack.template_dict["Resources"]
    for resource in filter(None, stack.stack_resources):
        kind, logical = resource.cf_resource_type, resource.logical_resource_id
        if kind == "AWS::IAM::Role":
            found = iam_backends[account][PARTITION].get_role(resource.name).policies
            inline = {item["PolicyName"]: None for item in resources[logical]["Properties"]["Policies"]}
            # A policy of the same stack that is attached to the role is no change, while it is as it was.
            attached = {
                each["Properties"]["PolicyName"]: each["Properties"]["PolicyDocument"]
                for each in resources.values()
                if each["Type"] == "AWS::IAM::Policy"
            }
            if set(found) != {*inline, *attached} or any(
                _parsed(found[name]) != document for name, document in attached.items()
            ):
                yield logical, kind
        elif (kind == "AWS::EC2::SecurityGroup" and resource.ingress_rules) or (
            kind == "AWS::AutoScaling::AutoScalingGroup"
            and str(resource.desired_capacity) != str(stack.parameters.get("Capacity"))
        ):
            yield logical, kind


def _parsed(document: Any) -> Any:
    return json.loads(document) if isinstance(document, str) else document
