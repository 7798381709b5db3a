"""CloudFormation as it is used here: every change is a change set that is shown first, and can be undone.

What exists is read from the cloud at every run; nothing of it is kept in a file.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coattest_parent.aws import AwsFailure, aws_errors
from coattest_verify.shell import EnvironmentFailure, FoundFalse

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

TEMPLATE_TAG = "coattest:template"
"""Tag with the SHA-256 of the template that was put here; a stack changed by hand has another."""

WAIT_SECONDS = 20 * 60
"""Longest wait for a stack: an instance takes two minutes, a role and buckets one."""

POLL_SECONDS = 2.0

NO_CHANGE = ("didn't contain changes", "No updates are to be performed")
"""CloudFormation's two ways to say that a change set would change nothing."""

Say = Callable[[str], None]


class StackChanged(FoundFalse):
    """Somebody changed the stack, or what it made, by hand."""

    default_reason = "stack-changed"


class StackFailed(EnvironmentFailure):
    """CloudFormation did not bring the stack where it should be."""

    default_reason = "stack-failed"


@dataclass(frozen=True, slots=True)
class StackState:
    """A stack as it is now; ``template`` is canonical JSON."""

    name: str
    status: str
    outputs: Mapping[str, str] = field(hash=False)
    parameters: Mapping[str, str] = field(hash=False)
    template: str
    tagged: str | None


def next_step(status: str | None) -> str:
    """What to do with a stack of that status: create, update, wait, remove (and create), or stop.

    Source: CloudFormation User Guide, "Stack status codes".
    """
    if status is None or status == "DELETE_COMPLETE":
        return "create"
    # A stack that was reviewed but never made, or was rolled back in its creation, can only be deleted.
    if status in ("REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED"):
        return "remove"
    if status.endswith("_IN_PROGRESS"):
        return "wait"
    if status in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"):
        return "update"
    return "stop"


def digest(template: str) -> str:
    """SHA-256 of a template's canonical text, in hex."""
    return hashlib.sha256(template.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Stacks:
    """The stacks of one account and region."""

    client: CloudFormationClient
    say: Say
    sleep: Callable[[float], None] = time.sleep

    def find(self, name: str) -> StackState | None:
        """The stack, or None when there is none."""
        try:
            with aws_errors(name):
                found = self.client.describe_stacks(StackName=name)["Stacks"][0]
                body: Any = self.client.get_template(StackName=name)["TemplateBody"]
        except AwsFailure as error:
            if error.reason == "ValidationError" and "does not exist" in str(error):
                return None
            raise
        parsed = json.loads(body or "{}") if isinstance(body, str) else body
        tags = {tag["Key"]: tag["Value"] for tag in found.get("Tags", [])}
        return StackState(
            name,
            found["StackStatus"],
            {str(item.get("OutputKey")): str(item.get("OutputValue")) for item in found.get("Outputs", [])},
            {
                str(item.get("ParameterKey")): str(item.get("ParameterValue"))
                for item in found.get("Parameters", [])
            },
            json.dumps(parsed, sort_keys=True, separators=(",", ":")),
            tags.get(TEMPLATE_TAG),
        )

    def drift(self, name: str) -> tuple[str, ...]:
        """What was changed by hand, by logical name; empty when all is as it was put."""
        state = self.settled(name)
        if state is None or next_step(state.status) != "update":
            return ()
        by_hand = [] if state.tagged == digest(state.template) else ["the template"]
        with aws_errors(name):
            asked = self.client.detect_stack_drift(StackName=name)["StackDriftDetectionId"]
            answer = self.client.describe_stack_drift_detection_status(StackDriftDetectionId=asked)
            for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):
                if answer["DetectionStatus"] != "DETECTION_IN_PROGRESS":
                    break
                self.sleep(POLL_SECONDS)
                answer = self.client.describe_stack_drift_detection_status(StackDriftDetectionId=asked)
            if answer["DetectionStatus"] != "DETECTION_COMPLETE":
                raise StackFailed(
                    f"drift detection: {answer.get('DetectionStatusReason', 'no answer')}", where=name
                )
            if answer.get("StackDriftStatus") == "DRIFTED":
                drifts = self.client.describe_stack_resource_drifts(StackName=name)["StackResourceDrifts"]
                by_hand += [
                    item["LogicalResourceId"]
                    for item in drifts
                    if item["StackResourceDriftStatus"] in ("MODIFIED", "DELETED")
                ]
        return tuple(by_hand)

    def require_untouched(self, name: str) -> None:
        """Raise StackChanged when somebody changed it by hand."""
        drifts = self.drift(name)
        if drifts:
            raise StackChanged(
                f"changed by hand: {', '.join(drifts)}",
                where=name,
                hint="undo that change, or destroy and apply",
            )

    def put(self, name: str, template: str, parameters: Mapping[str, str]) -> tuple[StackState, bool]:
        """Create the stack or change it to this; the stack, and whether anything was changed."""
        state = self.settled(name)
        step = next_step(state.status if state else None)
        if step == "stop" and state:
            raise StackFailed(
                f"the stack is in {state.status}", where=name, hint="see its events, or destroy and apply"
            )
        if step == "remove":
            self.say(f"{name}: a half-finished stack is removed first")
            self.delete(name)
            state = None
        if state and state.template == template and state.parameters == dict(parameters):
            self.say(f"{name}: as it should be")
            return state, False
        if not self._change(name, template, parameters, create=state is None) and state:
            self.say(f"{name}: as it should be")
            return state, False
        made = self.settled(name)
        if made is None or made.status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise StackFailed(
                f"the stack is in {made.status if made else 'no state'}: {self._reason(name)}", where=name
            )
        return made, True

    def undo(self, name: str, before: StackState | None) -> None:
        """Bring a stack back to what it was before ``put``."""
        if before is None or next_step(before.status) != "update":
            self.delete(name)
        else:
            self.put(name, before.template, before.parameters)

    def delete(self, name: str) -> None:
        """Delete the stack and wait; fine when there is none."""
        with aws_errors(name):
            self.client.delete_stack(StackName=name)
        left = self.settled(name)
        if left is not None and left.status != "DELETE_COMPLETE":
            raise StackFailed(f"not deleted: {left.status}: {self._reason(name)}", where=name)

    def settled(self, name: str) -> StackState | None:
        """The stack once nothing is in progress."""
        for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):
            state = self.find(name)
            if state is None or next_step(state.status) != "wait":
                return state
            self.say(f"{name}: {state.status}")
            self.sleep(POLL_SECONDS)
        raise StackFailed(f"still in progress after {WAIT_SECONDS} s", where=name)

    def _change(self, name: str, template: str, parameters: Mapping[str, str], *, create: bool) -> bool:
        label = f"coattest-{digest(template + json.dumps(dict(parameters)))[:16]}-{time.time_ns()}"
        with aws_errors(name):
            self.client.create_change_set(
                StackName=name,
                ChangeSetName=label,
                ChangeSetType="CREATE" if create else "UPDATE",
                TemplateBody=template,
                Parameters=[{"ParameterKey": key, "ParameterValue": parameters[key]} for key in parameters],
                Capabilities=["CAPABILITY_NAMED_IAM"],
                Tags=[{"Key": TEMPLATE_TAG, "Value": digest(template)}],
            )
            found = self.client.describe_change_set(StackName=name, ChangeSetName=label)
            for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):
                if found["Status"] not in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
                    break
                self.sleep(POLL_SECONDS)
                found = self.client.describe_change_set(StackName=name, ChangeSetName=label)
            if found["Status"] != "CREATE_COMPLETE":
                reason = found.get("StatusReason", found["Status"])
                self.client.delete_change_set(StackName=name, ChangeSetName=label)
                if any(words in reason for words in NO_CHANGE):
                    return False
                raise StackFailed(f"change set: {reason}", where=name)
            for change in found["Changes"]:
                item = change.get("ResourceChange", {})
                self.say(
                    f"{name}: {item.get('Action')} {item.get('LogicalResourceId')} {item.get('ResourceType')}"
                )
            self.client.execute_change_set(StackName=name, ChangeSetName=label)
        return True

    def _reason(self, name: str) -> str:
        with aws_errors(name):
            found = self.client.describe_stacks(StackName=name)["Stacks"][0]
        return str(found.get("StackStatusReason", "see its events"))
