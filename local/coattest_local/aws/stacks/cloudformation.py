"""CloudFormation: moto's, with the operations that it lacks, and no kinder than AWS's.

Sources: CloudFormation User Guide, "Stack status codes", "Continue rolling back an update", "Detect unmanaged
configuration changes with drift detection"; API Reference, "CreateChangeSet". The texts are those of
CloudFormation's own answers, as users report them.
"""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any, ClassVar

from moto.cloudformation.exceptions import CloudFormationError, ValidationError
from moto.cloudformation.responses import CloudFormationResponse
from moto.core.responses import ActionResult, EmptyResult
from moto.iam.models import iam_backends

from coattest_local.aws.accounts import PARTITION
from coattest_local.aws.faults import Faults
from coattest_local.aws.stacks import creation
from coattest_local.aws.stacks.templates import check_template, check_values, parameters_of

UPDATABLE = frozenset({"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"})
REVIEWED = "REVIEW_IN_PROGRESS"


class CloudFormation(CloudFormationResponse):  # type: ignore[misc]
    """moto makes one for each request, calls the method of its operation, and serializes what that returns.

    Every one raises moto's ValidationError, or what says so.
    """

    faults: ClassVar[Faults]
    clock: ClassVar[Any]

    def create_change_set(self) -> Any:
        """A change set, for a template and a status that allow one."""
        stack, creates = self._found(), self._get_param("ChangeSetType") == "CREATE"
        if stack is not None:
            status = self._quiet(stack, REVIEWED)
            if creates and status != REVIEWED:
                name = self._get_param("ChangeSetName")
                raise ValidationError(
                    message=f"Stack [{stack.name}] already exists and cannot be created again with the "
                    f"changeSet [{name}]."
                )
            if not creates and status not in UPDATABLE:
                raise _not_now(stack, status)
        template = self._template()
        check_values(template, {each["ParameterKey"] for each in self._get_param("Parameters", [])})
        if stack is not None and creates:
            # A new change set takes the place of a stack that was never made: moto would make another.
            self.cloudformation_backend.stacks.pop(stack.stack_id)
        return super().create_change_set()

    def describe_change_set(self) -> Any:
        """That of the stack: moto takes the last of all with a name."""
        return ActionResult(self._change_set())

    def delete_change_set(self) -> Any:
        """No error where there is none."""
        with contextlib.suppress(CloudFormationError):
            del self.cloudformation_backend.change_sets[self._change_set().change_set_id]
        return EmptyResult()

    def execute_change_set(self) -> Any:
        """The stack gets its parameters, tags and outputs too, which moto leaves as they were."""
        change_set = self._change_set()
        stack = change_set.stack
        self._quiet(stack, REVIEWED)
        keep = not self._get_bool_param("RetainExceptOnCreate", False)
        executed = self.faults.execute(change_set, keep=keep)
        self.cloudformation_backend.execute_change_set(change_set.change_set_id)
        stack.parameters, stack.template_dict = change_set.parameters, change_set.template_dict
        stack.tags = {**stack.tags, **(change_set.tags or {})}
        stack.status_reason, stack.output_map = None, stack._create_output_map()
        stack.last_updated_time = self.clock()
        executed()
        if stack.status == "CREATE_COMPLETE":
            creation.hold(stack, self.clock())
        return EmptyResult()

    def describe_stacks(self) -> Any:
        """With the status of somebody else's operation, while one is in progress."""
        stack = self._found()
        if stack is None or not self.faults.busy(stack):
            return super().describe_stacks()
        shown = copy.copy(stack)
        shown.status = self.faults.busy(stack)
        self.faults.looked(stack)
        return ActionResult({"Stacks": [shown]})

    def delete_stack(self) -> Any:
        """One that is being made may be deleted; one that is not there is."""
        stack = self._found()
        if stack is not None:
            self._quiet(stack, REVIEWED, "CREATE_IN_PROGRESS")
            if self.faults.stays(stack):
                return EmptyResult()
        return super().delete_stack()

    def signal_resource(self) -> Any:
        """SignalResource."""
        given = (self._get_param(name) for name in ("LogicalResourceId", "UniqueId", "Status"))
        creation.signal(self._existing(), *given)
        return EmptyResult()

    def continue_update_rollback(self) -> Any:
        """ContinueUpdateRollback."""
        stack = self._existing()
        if (self.faults.busy(stack) or stack.status) != "UPDATE_ROLLBACK_FAILED":
            raise ValidationError(message=f"Stack [{stack.name}] is not in the UPDATE_ROLLBACK_FAILED state")
        self.faults.continue_rollback(stack)
        return EmptyResult()

    def detect_stack_drift(self) -> Any:
        """It has finished as soon as it is asked for; its id is the stack's name."""
        return ActionResult({"StackDriftDetectionId": self._existing().name})

    def describe_stack_drift_detection_status(self) -> Any:
        """Whether anything drifted."""
        stack = self.cloudformation_backend.get_stack(self._get_param("StackDriftDetectionId"))
        found = {"StackDriftDetectionId": stack.name, "DetectionStatus": "DETECTION_COMPLETE"}
        found["StackDriftStatus"] = "DRIFTED" if drifted(stack) else "IN_SYNC"
        return ActionResult(self._seen(stack) | found)

    def describe_stack_resource_drifts(self) -> Any:
        """What drifted."""
        stack = self._existing()
        seen = {**self._seen(stack), "StackResourceDriftStatus": "MODIFIED"}
        found = drifted(stack).items()
        drifts = [{**seen, "LogicalResourceId": name, "ResourceType": kind} for name, kind in found]
        return ActionResult({"StackResourceDrifts": drifts})

    def _seen(self, stack: Any) -> dict[str, Any]:
        return {"StackId": stack.stack_id, "Timestamp": self.clock()}

    def validate_template(self) -> Any:
        """The parameters too, which moto leaves out."""
        template = self._template()
        found = [
            {
                "ParameterKey": name,
                "DefaultValue": str(each.get("Default", "")),
                "NoEcho": bool(each.get("NoEcho")),
            }
            for name, each in parameters_of(template).items()
        ]
        return ActionResult({"Parameters": found, "Description": str(template.get("Description", ""))})

    def _template(self) -> Any:
        if self._get_param("TemplateURL"):
            raise ValidationError(message="TemplateURL is not emulated: send the template itself")
        text = self._get_param("TemplateBody")
        return {} if text is None else check_template(text)

    def _existing(self) -> Any:
        return self.cloudformation_backend.get_stack(self._get_param("StackName"))

    def _found(self) -> Any:
        name, every = self._get_param("StackName"), self.cloudformation_backend.stacks.values()
        return next((stack for stack in every if name in (stack.name, stack.stack_id)), None)

    def _change_set(self) -> Any:
        name, stack = self._get_param("ChangeSetName"), self._get_param("StackName")
        backend = self.cloudformation_backend
        for each in backend.change_sets.values():
            named = each.change_set_name == name and stack in (each.stack_name, each.stack_id)
            if each.stack_id in backend.stacks and (named or each.change_set_id == name):
                return each
        raise CloudFormationError("ChangeSetNotFound", f"ChangeSet [{name}] does not exist")

    def _quiet(self, stack: Any, *allowed: str) -> str:
        """The stack's status, if no operation is in progress."""
        status: str = self.faults.busy(stack) or stack.status
        if status.endswith("_IN_PROGRESS") and status not in allowed:
            raise _not_now(stack, status)
        return status


def _not_now(stack: Any, status: str) -> Any:
    return ValidationError(message=f"Stack:{stack.stack_id} is in {status} state and can not be updated.")


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
    # By hand they come as text.
    there = {name: json.loads(each) if isinstance(each, str) else each for name, each in found.items()}
    known = {*attached, *(each["PolicyName"] for each in own)}
    return set(there) != known or any(there[name] != document for name, document in attached.items())
