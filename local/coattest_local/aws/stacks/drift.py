"""What was changed by hand, which moto does not look for.

Source: CloudFormation User Guide, "Detect unmanaged configuration changes with drift detection".
"""

from __future__ import annotations

import json
from typing import Any

from moto.iam.models import iam_backends

from coattest_local.aws.accounts import PARTITION


def drifted(stack: Any) -> dict[str, str]:
    """The types of resources that are not as their template says, by logical name: a role's policies, inbound
    rules, a group's capacity.
    """
    return {
        each.logical_resource_id: each.cf_resource_type
        for each in filter(None, stack.stack_resources)
        if _changed(stack, each.cf_resource_type, each)
    }


def _changed(stack: Any, kind: str, resource: Any) -> bool:
    if kind == "AWS::EC2::SecurityGroup":
        return bool(resource.ingress_rules)
    if kind == "AWS::AutoScaling::AutoScalingGroup":
        return str(resource.desired_capacity) != str(stack.parameters.get("Capacity"))
    return kind == "AWS::IAM::Role" and _role_changed(stack, resource)


def _role_changed(stack: Any, role: Any) -> bool:
    """A policy of the same stack that is attached to the role is no change, while it is as it was."""
    resources = stack.template_dict["Resources"]
    found = iam_backends[stack.account_id][PARTITION].get_role(role.name).policies
    own = resources[role.logical_resource_id]["Properties"]["Policies"]
    others = [each["Properties"] for each in resources.values() if each["Type"] == "AWS::IAM::Policy"]
    attached = {each["PolicyName"]: each["PolicyDocument"] for each in others}
    known = {*attached, *(each["PolicyName"] for each in own)}
    return set(found) != known or any(_parsed(found[name]) != document for name, document in attached.items())


def _parsed(document: Any) -> Any:
    return json.loads(document) if isinstance(document, str) else document
