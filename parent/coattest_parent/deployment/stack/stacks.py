"""The deployment's CloudFormation stacks: every change is a change set that is shown first and can be undone.

What exists is read from the cloud at every run; nothing of it is stored in a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import EnvironmentFailure, FoundFalse
from coattest.findings import Finding
from coattest_verify.quorum.statements.claim import RELEASE

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

TEMPLATE_TAG = "coattest:template"
"""Tag with the SHA-256 of the template that was put; a stack changed by hand has another template."""

WAIT_SECONDS = 30 * 60
"""Longest wait for a stack, in seconds: instances have 20 minutes to be verified, then they are removed."""

POLL_SECONDS = 2.0
"""Seconds between two polls of a stack or of its instances."""

LAG_POLLS = 5
"""Polls after which a stack's status shows what was asked of it."""

NO_CHANGE = ("didn't contain changes", "No updates are to be performed")
"""CloudFormation's two messages for a change set that would change nothing."""

STACK = "AWS::CloudFormation::Stack"

STARTS = frozenset({"REVIEW_IN_PROGRESS", "CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"})
"""Status of the stack itself with which an operation begins (User Guide, "Stack status codes")."""

SHOWN = 3
"""Failures shown in one line: the first is the cause, the others mostly follow from it."""

REASON_MAX = 300
"""Characters of a reason that are shown; the rest stays in the stack's events."""

OUTPUTS = {
    "ArtifactBucket": r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
    "ResultBucket": r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
    "Profile": r"arn:aws[a-z-]*:iam::\d{12}:instance-profile/[\w+=,.@/-]+",
    "SecurityGroup": r"sg-[0-9a-f]{8,17}",
    "Release": RELEASE.pattern,
}
"""Outputs that are used further, and their form (S3 User Guide, "Bucket naming rules"; ids of EC2, IAM)."""

Say = Callable[[str], None]
Found = TypeVar("Found")


def stack_failed(what: str, where: str, hint: str | None = None) -> EnvironmentFailure:
    """The error for a stack that CloudFormation did not bring to the state it should be in."""
    return EnvironmentFailure(what, where=where, hint=hint, code="stack-failed")


@dataclass(frozen=True, slots=True)
class StackState:
    """A stack as it is now; ``reason`` is what CloudFormation says of its status, if anything, ``updated``
    when it was changed last, if ever.
    """

    name: str
    status: str
    outputs: Mapping[str, str] = field(default_factory=dict, hash=False)
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    reason: str | None = None
    updated: datetime | None = None

    def output(self, name: str) -> str:
        """An output, of the form that it must have; raises EnvironmentFailure (stack-failed) where it is
        missing or has another form.
        """
        value = self.outputs.get(name)
        if value is None or not re.fullmatch(OUTPUTS[name], value, re.ASCII):
            what = f"the output {name} is {'missing' if value is None else repr(value[:80])}"
            raise stack_failed(what, self.name, "run 'status': is the stack half-finished, or not ours?")
        return value


STEPS = {
    "create": (None, "DELETE_COMPLETE"),
    # One that was reviewed but never made, or was rolled back in its creation, can only be deleted.
    "remove": ("REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED"),
    "update": ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"),
    "continue": ("UPDATE_ROLLBACK_FAILED",),
}
"""What to do with a stack, by its status (CloudFormation User Guide, "Stack status codes")."""


def next_step(status: str | None) -> str:
    """The step of STEPS for a stack of that status, or ``wait``, or ``stop``."""
    known = [step for step, statuses in STEPS.items() if status in statuses]
    return known[0] if known else "wait" if str(status).endswith("_IN_PROGRESS") else "stop"


def failed_resources(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """What failed in the last operation and why, the cause first; ``events`` are newest first, as
    DescribeStackEvents lists them (CloudFormation API Reference). What was cancelled because something else
    failed is left out. Pure.
    """
    found: list[str] = []
    for event in events:
        status, kind = str(event.get("ResourceStatus")), event.get("ResourceType")
        reason = str(event.get("ResourceStatusReason") or "no reason given")
        # A nested stack would have another physical id; there are none in these templates.
        if kind == STACK and status in STARTS:
            break
        if kind != STACK and status.endswith("_FAILED") and "cancelled" not in reason.lower():
            found.insert(0, f"{event.get('LogicalResourceId')} ({kind}) {status}: {reason[:REASON_MAX]}")
    return found


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
                answer = self.client.describe_stacks(StackName=name)["Stacks"]
                if not answer:
                    return None
                found: Any = answer[0]
                outputs = {item["OutputKey"]: item["OutputValue"] for item in found.get("Outputs", [])}
                tags = {tag["Key"]: tag["Value"] for tag in found.get("Tags", [])}
                reason, updated = found.get("StackStatusReason"), found.get("LastUpdatedTime")
                return StackState(name, found["StackStatus"], outputs, tags, reason, updated)
        except AwsFailure as error:
            if error.service_code == "ValidationError" and "does not exist" in str(error):
                return None
            raise

    def named(self, pattern: re.Pattern[str]) -> tuple[str, ...]:
        """The names of the stacks that are there and match, sorted."""
        with aws_errors(pattern.pattern):
            pages = self.client.get_paginator("describe_stacks").paginate()
            names = [stack["StackName"] for page in pages for stack in page["Stacks"]]
        return tuple(sorted(name for name in names if pattern.fullmatch(name)))

    def drift(self, name: str) -> tuple[str, ...]:
        """What was changed by hand, by logical name; empty when nothing was."""
        state = self.find(name)
        if state is None or next_step(state.status) != "update":
            return ()
        with aws_errors(name):
            template = _text(self.client.get_template(StackName=name).get("TemplateBody"))
            known = state.tags.get(TEMPLATE_TAG) == hashlib.sha256(template.encode()).hexdigest()
            # An update that was rolled back may leave the tag of the template that was not reached.
            known = known or state.status == "UPDATE_ROLLBACK_COMPLETE"
            by_hand = [] if known else ["the template"]
            asked = self.client.detect_stack_drift(StackName=name)["StackDriftDetectionId"]
            answer = self._awaited(
                lambda: self.client.describe_stack_drift_detection_status(StackDriftDetectionId=asked),
                lambda found: found["DetectionStatus"] != "DETECTION_IN_PROGRESS",
            )
            if answer["DetectionStatus"] != "DETECTION_COMPLETE":
                why = answer.get("DetectionStatusReason", "no answer")
                raise stack_failed(f"drift detection: {why}", where=name)
            if answer.get("StackDriftStatus") == "DRIFTED":
                drifts = self.client.describe_stack_resource_drifts(
                    StackName=name, StackResourceDriftStatusFilters=["MODIFIED", "DELETED"]
                )
                by_hand += [each["LogicalResourceId"] for each in drifts["StackResourceDrifts"]]
        return tuple(by_hand)

    def require_untouched(self, name: str) -> None:
        """Raise FoundFalse (stack-changed) when somebody changed it by hand; see ``drift``."""
        self.ready(name)
        if drifts := self.drift(name):
            raise FoundFalse(
                f"changed by hand: {', '.join(drifts)}",
                where=name,
                hint="undo that change, or destroy and apply",
                code="stack-changed",
                findings=[Finding("stack-changed", f"{name} {each}", "changed by hand") for each in drifts],
            )

    def put(
        self,
        name: str,
        template: str,
        parameters: Mapping[str, str],
        making: Callable[[], object] | None = None,
    ) -> StackState:
        """Create the stack or change it to this template and these parameters, and return it once it is so. A
        half-finished one is removed first; ``making`` is called at each look at one that is being made.

        Raises EnvironmentFailure (stack-failed) with what failed in it and why, and AwsFailure.
        """
        state = self.ready(name, making)
        if state is not None and next_step(state.status) == "stop":
            raise self.failure(name, state, hint="destroy it, and apply again")
        if state is not None and next_step(state.status) == "remove":
            self.say(f"{name}: half-finished ({state.status}), removing it first")
            self.delete(name)
            state = None
        if not self._change(name, template, parameters, state) and state is not None:
            self.say(f"{name}: up to date")
            return state
        made = self.settled(name, making)
        if made is None or made.status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise self.failure(name, made)
        return made

    def failure(
        self, name: str, state: StackState | None, hint: str = "fix the cause, then apply again"
    ) -> EnvironmentFailure:
        """The error for a stack that is not as it should be, with what failed in it first."""
        what = f"in {state.status}: {self.reason(state)}" if state else "gone"
        return stack_failed(f"the stack is {what}", name, hint)

    def delete(self, name: str) -> None:
        """Delete the stack and wait; does nothing when there is none. A creation in progress is ended by it,
        another operation is waited for.
        """
        state = self.find(name)
        if state is not None and state.status != "CREATE_IN_PROGRESS":
            state = self.settled(name)
        if state is None:
            return
        with aws_errors(name):
            self.client.delete_stack(StackName=name)
        self._await_taken(name, state)
        left = self.settled(name)
        if left is not None and left.status != "DELETE_COMPLETE":
            what = f"not deleted: {left.status}: {self.reason(left)}"
            raise stack_failed(what, name, "fix the cause, then destroy again")

    def ready(self, name: str, making: Callable[[], object] | None = None) -> StackState | None:
        """The stack once nothing is in progress and no roll-back is half-finished."""
        state = self.settled(name, making)
        if state is None or next_step(state.status) != "continue":
            return state
        self.say(f"{name}: {state.status}: continuing its roll-back")
        with aws_errors(name):
            self.client.continue_update_rollback(StackName=name)
        self._await_taken(name, state)
        state = self.settled(name)
        if state is not None and next_step(state.status) == "continue":
            raise self.failure(name, state, "fix the cause and apply again, or destroy")
        return state

    def settled(self, name: str, making: Callable[[], object] | None = None) -> StackState | None:
        """The stack once no operation on it is in progress, whoever began it; ``making`` is called at each
        look at one that is being made, whose failure is raised (EnvironmentFailure, stack-failed).
        """
        said: set[str] = set()

        def over(state: StackState | None) -> bool:
            if state is None or next_step(state.status) != "wait":
                return True
            if making is not None and state.status == "CREATE_IN_PROGRESS":
                making()
            elif state.status not in said:
                self.say(f"{name}: {state.status}, waiting")
            said.add(state.status)
            return False

        state = self._awaited(lambda: self.find(name), over)
        if state is not None and next_step(state.status) == "wait":
            what = f"still {state.status} after {WAIT_SECONDS} s"
            raise stack_failed(what, name, "apply again once it has ended")
        if making and "CREATE_IN_PROGRESS" in said and (state is None or next_step(state.status) == "remove"):
            raise self.failure(name, state)
        return state

    def _await_taken(self, name: str, before: StackState | None) -> None:
        """Wait until the stack is another than before, if only by its time: what was asked shows late."""
        self._awaited(lambda: self.find(name), lambda state: state != before, LAG_POLLS)

    def _awaited(
        self, look: Callable[[], Found], over: Callable[[Found], bool], polls: int | None = None
    ) -> Found:
        """What a look finds once it is over, or at the last of the polls."""
        found = look()
        for _ in range(int(WAIT_SECONDS / POLL_SECONDS) if polls is None else polls):
            if over(found):
                break
            self.sleep(POLL_SECONDS)
            found = look()
        return found

    def events(self, name: str) -> list[Mapping[str, Any]]:
        """What happened to the stack, newest first."""
        with aws_errors(name):
            listed = self.client.get_paginator("describe_stack_events").paginate(StackName=name)
            return [dict(event) for page in listed for event in page["StackEvents"]]

    def reason(self, state: StackState) -> str:
        """Why the stack is in its state, in one line: what failed in its last operation."""
        failed = failed_resources(self.events(state.name))
        return "; ".join(failed[:SHOWN]) or state.reason or "its events show no failure"

    def _change(
        self, name: str, template: str, parameters: Mapping[str, str], state: StackState | None
    ) -> bool:
        """Execute a change set on the stack as it is; whether it changed anything."""
        create, digest = state is None, hashlib.sha256(template.encode()).hexdigest()
        label = f"coattest-{digest[:16]}-{time.time_ns()}"
        change: Any = {"StackName": name, "ChangeSetName": label}
        with aws_errors(name), contextlib.ExitStack() as discard:
            self.client.create_change_set(
                **change,
                ClientToken=label,
                ChangeSetType="CREATE" if create else "UPDATE",
                TemplateBody=template,
                Parameters=[{"ParameterKey": key, "ParameterValue": parameters[key]} for key in parameters],
                Capabilities=["CAPABILITY_NAMED_IAM"],
                Tags=[{"Key": TEMPLATE_TAG, "Value": digest}],
            )
            discard.callback(self._discard, change, create=create)
            found = self._awaited(
                lambda: self.client.describe_change_set(**change),
                lambda found: found["Status"] not in ("CREATE_PENDING", "CREATE_IN_PROGRESS"),
            )
            if found["Status"] != "CREATE_COMPLETE":
                reason = found.get("StatusReason", found["Status"])
                if any(words in reason for words in NO_CHANGE):
                    return False
                raise stack_failed(f"change set: {reason}", where=name)
            for each in found["Changes"]:
                item = each.get("ResourceChange", {})
                new = " (replaced)" if item.get("Replacement") == "True" else ""
                what = f"{item.get('LogicalResourceId')} {item.get('ResourceType')}"
                self.say(f"{name}: {item.get('Action')} {what}{new}")
            before = state or self.find(name)
            # What a deleted stack retains goes when the creation fails: it was never used.
            self.client.execute_change_set(**change, RetainExceptOnCreate=True, ClientRequestToken=label)
            discard.pop_all()
        self._await_taken(name, before)
        return True

    def _discard(self, change: Any, *, create: bool) -> None:
        """Delete a change set that will not be executed, and the empty stack that was made for it."""
        with contextlib.suppress(AwsFailure), aws_errors(change["StackName"]):
            self.client.delete_change_set(**change)
            if create:
                self.client.delete_stack(StackName=change["StackName"])


def _text(body: Any) -> str:
    """A template as one text. Somebody else's may be YAML: then it is returned as it is, and is not ours."""
    return body if isinstance(body, str) else json.dumps(body, sort_keys=True, separators=(",", ":"))
