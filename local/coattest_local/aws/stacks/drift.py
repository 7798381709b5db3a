"""Drift detection, which moto lacks. It has finished as soon as it is asked for; its id is the stack's name.

Source: CloudFormation User Guide, "Detect unmanaged configuration changes with drift detection".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape

from moto.iam.models import iam_backends

from coattest_local.aws.accounts import PARTITION
from coattest_local.aws.http import HttpResponse, ServiceError, cloudformation_answer
from coattest_local.aws.stacks.additions import stack_named

DRIFT_ACTIONS = ("DetectStackDrift", "DescribeStackDriftDetectionStatus", "DescribeStackResourceDrifts")


def answer_drift(action: str, form: Mapping[str, str], account: str, region: str) -> HttpResponse:
    """The answer to one of ``DRIFT_ACTIONS``. Raises ServiceError for a stack that does not exist."""
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
    return cloudformation_answer(action, inner)


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
