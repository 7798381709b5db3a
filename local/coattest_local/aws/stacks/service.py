"""CloudFormation and EC2 for a deployment: authorised here, answered by moto.

A stack's resources are made in the caller's account without a look at the caller's rights on each of them
(AWS does look): docs/emulation.md says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from urllib.parse import parse_qsl

from coattest_local.aws.accounts import SignedCaller
from coattest_local.aws.faults import Faults
from coattest_local.aws.http import (
    Forward,
    HttpRequest,
    HttpResponse,
    ServiceError,
    cloudformation_answer,
)
from coattest_local.aws.kms import keys
from coattest_local.aws.stacks.additions import settle, stack_named
from coattest_local.aws.stacks.drift import DRIFT_ACTIONS, answer_drift
from coattest_local.aws.stacks.rules import check_status

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
BY_HAND = {"ec2": ("AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress", "TerminateInstances")}
"""What a person does to a deployment's resources by hand: drift."""

ANSWERED_HERE = (*DRIFT_ACTIONS, "ContinueUpdateRollback")
"""moto's CloudFormation has no such operation."""


class StackService:
    """Answers authenticated requests to CloudFormation or EC2."""

    def __init__(self, service: str, forward: Forward, clock: Callable[[], datetime], faults: Faults) -> None:
        """``service`` is ``cloudformation`` or ``ec2``."""
        self._service = service
        self._forward = forward
        self._clock = clock
        self._faults = faults

    def handle(self, request: HttpRequest, caller: SignedCaller, region: str) -> HttpResponse:
        """The answer. Raises ServiceError."""
        form = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
        action = form.get("Action", "")
        answered_here = self._service == "cloudformation" and action in ANSWERED_HERE
        if not answered_here and action not in (*ACTIONS[self._service], *BY_HAND.get(self._service, ())):
            raise ServiceError("InvalidAction", f"{self._service}:{action} is not emulated")
        self._authorize(request, caller, region, action)
        account = caller.principal.account
        if action in DRIFT_ACTIONS:
            return answer_drift(action, form, account, region)
        if self._service != "cloudformation":
            return self._forward(self._service, request, account)
        return self._stack(action, form, request, account, region)

    def _stack(
        self, action: str, form: Mapping[str, str], request: HttpRequest, account: str, region: str
    ) -> HttpResponse:
        name = form.get("StackName", "")
        stack = stack_named(name, account, region)
        busy = self._faults.busy(stack) if stack is not None else None
        check_status(action, form, stack, busy or getattr(stack, "status", None))
        if action == "ContinueUpdateRollback":
            self._faults.continue_rollback(stack)
            return cloudformation_answer(action, "")
        if action == "DescribeStacks" and stack is not None and busy:
            self._faults.looked(stack)
            status, stack.status = stack.status, busy
            try:
                return self._forward(self._service, request, account)
            finally:
                stack.status = status
        if action == "DeleteStack" and stack is not None and self._faults.stays(stack):
            return cloudformation_answer(action, "")
        if action != "ExecuteChangeSet":
            return self._forward(self._service, request, account)
        executed = self._faults.execute(stack, form, account, region)
        answer = self._forward(self._service, request, account)
        if answer.status == 200:
            settle(name, form.get("ChangeSetName", ""), account, region)
            executed()
        return answer

    def _authorize(self, request: HttpRequest, caller: SignedCaller, region: str, action: str) -> None:
        answer = keys.by_own_policies(
            request, caller, region, f"{self._service}:{action}", "*", now=self._clock()
        )
        if not answer.allowed:
            raise ServiceError(
                "AccessDenied" if self._service == "cloudformation" else "UnauthorizedOperation",
                f"User: {caller.principal.arn} is not authorized to perform: {self._service}:{action}",
                403,
            )
