"""CloudFormation and EC2 for a deployment: authorised here, answered by moto.

A stack's resources are made in the caller's account without a look at the caller's rights on each of them
(AWS does look): docs/emulation.md says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

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
from coattest_local.aws.stacks.additions import (
    change_set_named,
    drop_unmade,
    lead_out,
    settle,
    stack_named,
)
from coattest_local.aws.stacks.creation import hold, signal
from coattest_local.aws.stacks.drift import DRIFT_ACTIONS, answer_drift
from coattest_local.aws.stacks.rules import check_status
from coattest_local.aws.stacks.templates import answer_validation, check_template, check_values

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
        "GetTemplateSummary",
        "ListChangeSets",
        "ListStackResources",
        "ListStacks",
        "ValidateTemplate",
    ),
    "ec2": (
        "DescribeImages",
        "DescribeInstanceTypeOfferings",
        "DescribeInstanceTypes",
        "DescribeInstances",
        "DescribeRouteTables",
        "DescribeSecurityGroups",
        "DescribeSubnets",
        "DescribeVpcEndpoints",
        "DescribeVpcs",
    ),
}
BY_HAND = {
    "ec2": (
        "AuthorizeSecurityGroupIngress",
        "RevokeSecurityGroupIngress",
        "StopInstances",
        "TerminateInstances",
    )
}
"""What a person does to a deployment's resources by hand: drift, and instances that die."""

INSTEAD = {"CreateStack": "deploy", "UpdateStack": "deploy"}
"""What the AWS CLI's ``aws cloudformation`` does by change sets, by an operation that is not emulated."""

OF_A_CHANGE_SET = ("DeleteChangeSet", "DescribeChangeSet", "ExecuteChangeSet")

ANSWERED_HERE = (*DRIFT_ACTIONS, "ContinueUpdateRollback", "SignalResource")
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
            instead = f" (use `aws cloudformation {INSTEAD[action]}`)" if action in INSTEAD else ""
            raise ServiceError("InvalidAction", f"{self._service}:{action} is not emulated{instead}")
        self._authorize(request, caller, region, action)
        account = caller.principal.account
        if action in DRIFT_ACTIONS:
            return answer_drift(action, form, account, region)
        if action == "ValidateTemplate":
            return answer_validation(check_template(form))
        if action in ("ContinueUpdateRollback", "SignalResource"):
            return self._of_stack(action, form, stack_named(form.get("StackName", ""), account, region))
        if self._service != "cloudformation":
            lead_out(account, region)
            return self._forward(self._service, request, account)
        return self._stack(action, form, request, account, region)

    def _stack(
        self, action: str, form: Mapping[str, str], request: HttpRequest, account: str, region: str
    ) -> HttpResponse:
        stack = stack_named(form.get("StackName", ""), account, region)
        changes: Any = None
        if action in OF_A_CHANGE_SET:
            changes = change_set_named(
                form.get("ChangeSetName", ""), form.get("StackName", ""), account, region
            )
            if changes is None and action == "DeleteChangeSet":
                return cloudformation_answer(action, "")
            if changes is None:
                where = form.get("ChangeSetName", "")
                raise ServiceError("ChangeSetNotFound", f"ChangeSet [{where}] does not exist", 404)
            stack = changes.stack
            # By its id: moto takes the last of all change sets with a name, whatever their stacks.
            form = {**form, "ChangeSetName": changes.change_set_id, "StackName": stack.name}
            request = replace(request, body=urlencode(form).encode())
        busy = self._faults.busy(stack) if stack is not None else None
        check_status(action, form, stack, busy or getattr(stack, "status", None))
        if action == "CreateChangeSet":
            check_values(check_template(form), form)
            if stack is not None and form.get("ChangeSetType") == "CREATE":
                drop_unmade(stack, account, region)
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
            settle(changes)
            executed()
            if changes.stack.status == "CREATE_COMPLETE":
                hold(changes.stack, self._clock())
        return answer

    def _of_stack(self, action: str, form: Mapping[str, str], stack: Any) -> HttpResponse:
        """What moto's CloudFormation has no operation for, and changes a stack."""
        if action == "SignalResource":
            return signal(stack, form)
        check_status(action, form, stack, getattr(stack, "status", None))
        self._faults.continue_rollback(stack)
        return cloudformation_answer(action, "")

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
