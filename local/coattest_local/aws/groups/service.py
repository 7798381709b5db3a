"""Auto Scaling's and Service Quotas' few actions: authorised here; the groups are moto's."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from moto.autoscaling.models import autoscaling_backends

from coattest_local.aws.accounts import SignedCaller
from coattest_local.aws.groups.controller import activities
from coattest_local.aws.http import (
    Forward,
    HttpRequest,
    HttpResponse,
    ServiceError,
    json_answer,
    query_answer,
)
from coattest_local.aws.kms import keys

QUOTA = 64.0
"""vCPUs that an account may run, whichever the quota: enough for an upgrade of eight small parents."""

_NAMESPACE = "http://autoscaling.amazonaws.com/doc/2011-01-01/"
_STARTED = "2026-01-01T00:00:00Z"


class GroupService:
    """Answers authenticated requests to Auto Scaling and Service Quotas."""

    def __init__(self, forward: Forward, clock: Callable[[], datetime]) -> None:
        self._forward = forward
        self._clock = clock

    def handle(self, request: HttpRequest, caller: SignedCaller, region: str) -> HttpResponse:
        """An answer of Auto Scaling. Raises ServiceError."""
        form = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
        action = form.get("Action", "")
        if action not in ("DescribeAutoScalingGroups", "DescribeScalingActivities"):
            raise ServiceError("InvalidAction", f"autoscaling:{action} is not emulated")
        self._authorize(request, caller, region, f"autoscaling:{action}")
        account = caller.principal.account
        if action == "DescribeAutoScalingGroups":
            return self._forward("autoscaling", request, account)
        name = form.get("AutoScalingGroupName", "")
        group = autoscaling_backends[account][region].autoscaling_groups.get(name)
        if group is None:
            raise ServiceError("ValidationError", f"AutoScalingGroup name not found - {name}")
        members = "".join(
            f"<member>{''.join(f'<{key}>{escape(value)}</{key}>' for key, value in each.items())}"
            f"<AutoScalingGroupName>{escape(name)}</AutoScalingGroupName><Cause>capacity</Cause>"
            f"<StartTime>{_STARTED}</StartTime></member>"
            for each in activities(group)
        )
        return query_answer(action, f"<Activities>{members}</Activities>", _NAMESPACE)

    def handle_quotas(self, request: HttpRequest, caller: SignedCaller, region: str) -> HttpResponse:
        """GetServiceQuota. Raises ServiceError."""
        action = request.headers.get("x-amz-target", "").rpartition(".")[2]
        if action != "GetServiceQuota":
            raise ServiceError("UnknownOperationException", f"servicequotas:{action} is not emulated")
        self._authorize(request, caller, region, f"servicequotas:{action}")
        return json_answer({"Quota": {**json.loads(request.body), "Value": QUOTA}})

    def _authorize(self, request: HttpRequest, caller: SignedCaller, region: str, action: str) -> None:
        answer = keys.by_own_policies(request, caller, region, action, "*", now=self._clock())
        if not answer.allowed:
            raise ServiceError(
                "AccessDenied",
                f"User: {caller.principal.arn} is not authorized to perform: {action}",
                403,
            )
