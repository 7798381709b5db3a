"""The services of a deployment: authorised here by the caller's own policies, answered by moto.

A stack's resources are made in the caller's account without a look at the caller's rights on each of them
(AWS does look): docs/emulation.md says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from moto.cloudformation import urls as cloudformation_urls
from moto.ec2.models import ec2_backends

from coattest_local.aws.accounts import SignedCaller
from coattest_local.aws.faults import Faults
from coattest_local.aws.http import Forward, HttpRequest, HttpResponse, ServiceError, json_answer
from coattest_local.aws.stacks.cloudformation import CloudFormation

ACTIONS = {
    "autoscaling": ("DescribeAutoScalingGroups", "DescribeScalingActivities"),
    "cloudformation": (
        "ContinueUpdateRollback", "CreateChangeSet", "DeleteChangeSet", "DeleteStack", "DescribeChangeSet",
        "DescribeStackDriftDetectionStatus", "DescribeStackEvents", "DescribeStackResourceDrifts",
        "DescribeStackResources", "DescribeStacks", "DetectStackDrift", "ExecuteChangeSet", "GetTemplate",
        "GetTemplateSummary", "ListChangeSets", "ListStackResources", "ListStacks", "SignalResource",
        "ValidateTemplate",
    ),
    "ec2": (
        "DescribeImages", "DescribeInstanceTypeOfferings", "DescribeInstanceTypes", "DescribeInstances",
        "DescribeRouteTables", "DescribeSecurityGroups", "DescribeSubnets", "DescribeVpcEndpoints",
        "DescribeVpcs",
        # What a person does by hand: drift, and instances that die.
        "AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress", "StopInstances", "TerminateInstances",
    ),
    "servicequotas": ("GetServiceQuota",),
}  # fmt: skip

INSTEAD = {"CreateStack": "deploy", "UpdateStack": "deploy"}
"""What the AWS CLI's ``aws cloudformation`` does by change sets, by an operation that is not emulated."""

QUOTA = 64.0
"""vCPUs that an account may run, whichever the quota: enough for an upgrade of eight small parents."""


def services(forward: Forward, clock: Callable[[], datetime], faults: Faults) -> dict[str, Any]:
    """Who answers for each of the services; once a process."""
    CloudFormation.faults, CloudFormation.clock = faults, staticmethod(clock)
    cloudformation_urls.url_paths["{0}/$"] = CloudFormation.dispatch
    return {name: partial(_answer, name, forward) for name in ACTIONS}


def _answer(service: str, forward: Forward, request: HttpRequest, caller: SignedCaller) -> HttpResponse:
    """The answer of one of the services in ``ACTIONS``. Raises ServiceError."""
    action = request.action
    named = f"{service}:{action}"
    if action not in ACTIONS[service]:
        instead = f" (use `aws cloudformation {INSTEAD[action]}`)" if action in INSTEAD else ""
        raise ServiceError("InvalidAction", f"{named} is not emulated{instead}")
    if not caller.may(named, "*").allowed:
        code = "UnauthorizedOperation" if service == "ec2" else "AccessDenied"
        said = f"User: {caller.principal.arn} is not authorized to perform: {named}"
        raise ServiceError(code, said, 403)
    if service == "servicequotas":
        return json_answer({"Quota": {**json.loads(request.body), "Value": QUOTA}})
    if service == "ec2":
        _lead_out(caller.principal.account, caller.arrival.region)
    return forward(service, request, caller.principal.account)


def _lead_out(account: str, region: str) -> None:
    """Give the region's default VPC its internet gateway and route, which moto's lacks (VPC User Guide,
    "Default VPC components").
    """
    backend: Any = ec2_backends[account][region]
    (vpc,) = [each for each in backend.vpcs.values() if each.is_default]
    if any(each.vpc and each.vpc.id == vpc.id for each in backend.internet_gateways.values()):
        return
    gateway = backend.create_internet_gateway()
    backend.attach_internet_gateway(gateway.id, vpc.id)
    (table,) = [each for each in backend.route_tables.values() if each.vpc_id == vpc.id]
    backend.create_route(table.id, "0.0.0.0/0", gateway_id=gateway.id)
