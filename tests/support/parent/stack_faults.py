"""Requests that are throttled and stacks that fail halfway, as CloudFormation leaves them; moto's never fail.

A file ``throttle`` in the services' directory has names of services or of their actions
(``cloudformation:CreateChangeSet``): such requests are refused, each as often as a number after the name says
(``ec2=2``). A file ``stack-faults.json`` there says, by stack name, what happens:

- ``{"fail": {"resource": "Carry", "reason": "..", "rollback": "complete" or "failed"}}``: a change that makes
  or alters that resource fails at it and is rolled back, or cannot be. With ``"delete": "failed"`` the stack
  cannot be deleted while the file says so.
- ``{"capacity": "..."}``: EC2 has no instance for the group of that stack, for this reason.
- ``{"launch": "debug"}``, ``{"launch": "image=PATH"}``, ``{"launch": "instance=ID"}``: somebody on the
  instances starts the enclave in debug mode, another image, or as another instance's.
- ``{"busy": {"status": "UPDATE_IN_PROGRESS", "looks": 3}}``: somebody's operation is in progress for as many
  looks at the stack, and changes are refused meanwhile.

Sources: CloudFormation User Guide, "Stack status codes", "Stack failure options", "Continue rolling back an
update", "DeletionPolicy attribute"; API Reference, StackEvent, ExecuteChangeSet (RetainExceptOnCreate). The
texts of reasons are those of CloudFormation's own events, as users report them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moto.cloudformation.parsing import OutputMap

from coattest.files import write_atomic
from coattest_local.aws.faults import Faults
from coattest_local.aws.stacks.creation import (
    add_event,
    remove,
    roll_back_creation,
    set_status,
    which,
)
from coattest_parent.deployment.runner import Enclave, LocalRunner

FILE = "stack-faults.json"
THROTTLE = "throttle"


@dataclass(frozen=True, slots=True)
class Before:
    """A stack as it was before an update: what its roll-back brings it to."""

    template: Any
    template_dict: dict[str, Any]
    parameters: dict[str, str]
    tags: dict[str, str]


class LyingRunner(LocalRunner):
    """A launcher that starts something else than it is told to."""

    lie = ""

    def run(self, image: Path, *, role_arn: str, instance_id: str) -> Enclave:
        word, _, value = self.lie.partition("=")
        other = {"image": Path(value)} if word == "image" else {}
        name = value if word == "instance" else instance_id
        return super().run(other.get("image", image), role_arn=role_arn, instance_id=name)

    def _call(self, timeout: float, verb: str, *arguments: str) -> None:
        debug = ["--debug-mode"] if verb == "run-enclave" and self.lie == "debug" else []
        super()._call(timeout, verb, *arguments, *debug)


class FileFaults(Faults):
    """What the two files say; without them nothing fails."""

    document_seconds = 1.0
    dead_seconds = 0.2

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._throttle = directory / THROTTLE
        self._lock = threading.Lock()
        self._unfinished: dict[str, Before] = {}

    def throttled(self, service: str, action: str) -> bool:
        """Whether the file has the request's service or action; a number after it counts down."""
        with self._lock:
            if not self._throttle.exists():
                return False
            words = self._throttle.read_text().split()
            for index, word in enumerate(words):
                name, counted, number = word.partition("=")
                if name in (service, f"{service}:{action}") and number != "0":
                    words[index] = f"{name}={int(number) - 1}" if counted else name
                    write_atomic(self._throttle, " ".join(words).encode())
                    return True
        return False

    def _all(self) -> dict[str, Any]:
        if not self._path.exists():
            return {}
        found: dict[str, Any] = json.loads(self._path.read_bytes())
        return found

    def fault(self, stack: Any) -> Mapping[str, Any] | None:
        """How a change of the stack fails, if it does."""
        found: Mapping[str, Any] | None = self._all().get(stack.name, {}).get("fail")
        return found

    def no_capacity(self, group: str) -> str | None:
        """Why EC2 launches no instance for the group now."""
        found: str | None = self._all().get(group, {}).get("capacity")
        return found

    def launcher(self, group: str, folder: Path) -> LocalRunner:
        """What starts the enclaves of a group's instances."""
        lie = self._all().get(group, {}).get("launch")
        if lie is None:
            return LocalRunner(folder)
        runner = LyingRunner(folder)
        runner.lie = lie
        return runner

    def busy(self, stack: Any) -> str | None:
        """The status of somebody else's operation on the stack, while one is in progress."""
        found = self._all().get(stack.name, {}).get("busy")
        return found["status"] if found and found["looks"] > 0 else None

    def looked(self, stack: Any) -> None:
        """One look at the stack less until the operation ends."""
        every = self._all()
        every[stack.name]["busy"]["looks"] -= 1
        write_atomic(self._path, json.dumps(every).encode())

    def execute(self, change_set: Any, *, keep: bool) -> Callable[[], None]:
        """Note the stack and what the change set alters; the answer lets the change fail if it should."""
        before = before_update(change_set.stack)
        resources = changed_resources(change_set, before)
        return lambda: self._executed(change_set.stack, before, resources, keep=keep)

    def _executed(self, stack: Any, before: Before | None, resources: set[str], *, keep: bool) -> None:
        """After moto made a change of ``resources``: let it fail if it should.

        ``keep`` is whether what the template retains stays when its creation fails.
        """
        fault = self.fault(stack)
        if fault is None or fault["resource"] not in resources or "rollback" not in fault:
            return
        logical = fault["resource"]
        word, verb = ("CREATE", "create") if before is None else ("UPDATE", "update")
        # moto has said that all went well; CloudFormation's log has the stack's start, then the failure.
        stack.events = [item for item in stack.events if item.resource_status != f"{word}_COMPLETE"]
        add_event(stack, logical, f"{word}_IN_PROGRESS", None)
        add_event(stack, logical, f"{word}_FAILED", fault["reason"])
        for other in sorted(resources - {logical})[:1]:
            add_event(stack, other, f"{word}_FAILED", f"Resource {verb[:-1]}ion cancelled")
        rolling = "ROLLBACK" if before is None else "UPDATE_ROLLBACK"
        told = which(verb, logical)
        set_status(stack, f"{rolling}_IN_PROGRESS", told + ("Rollback requested by user." * (before is None)))
        if before is None:
            self._roll_back_creation(stack, logical, fault, keep=keep)
        elif fault["rollback"] == "failed":
            self._unfinished[stack.stack_id] = before
            add_event(stack, logical, "UPDATE_FAILED", "the roll-back of this resource failed too")
            set_status(stack, "UPDATE_ROLLBACK_FAILED", which("update", logical))
        else:
            self._roll_back_update(stack, before)

    def _roll_back_creation(self, stack: Any, logical: str, fault: Mapping[str, Any], *, keep: bool) -> None:
        resources = stack.resource_map._resource_json_map
        remove(stack, {logical})
        if fault["rollback"] == "failed":
            stuck = next(name for name in stack.template_dict["Resources"] if name != logical)
            add_event(stack, stuck, "DELETE_FAILED", "the resource is in use")
            set_status(stack, "ROLLBACK_FAILED", which("delete", stuck))
            stack.output_map = OutputMap(stack.resource_map, {}, stack.stack_id)
        else:
            retained = {name for name, item in resources.items() if item.get("DeletionPolicy") == "Retain"}
            roll_back_creation(stack, retained if keep else ())

    def _roll_back_update(self, stack: Any, before: Before) -> None:
        stack.resource_map.update(before.template_dict, before.parameters)
        stack.template, stack.template_dict = before.template, before.template_dict
        stack.parameters, stack.tags = before.parameters, before.tags
        stack.output_map = stack._create_output_map()
        set_status(stack, "UPDATE_ROLLBACK_COMPLETE", None)

    def continue_rollback(self, stack: Any) -> None:
        """ContinueUpdateRollback: it works once the fault is gone."""
        fault = self.fault(stack)
        set_status(stack, "UPDATE_ROLLBACK_IN_PROGRESS", "User Initiated")
        if fault and fault.get("rollback") == "failed":
            logical = fault["resource"]
            add_event(stack, logical, "UPDATE_FAILED", fault["reason"])
            set_status(stack, "UPDATE_ROLLBACK_FAILED", which("update", logical))
        else:
            self._roll_back_update(stack, self._unfinished.pop(stack.stack_id))

    def stays(self, stack: Any) -> bool:
        """Whether the stack cannot be deleted; if so, it is in DELETE_FAILED now."""
        fault = self.fault(stack)
        if not fault or fault.get("delete") != "failed":
            return False
        logical = fault["resource"]
        set_status(stack, "DELETE_IN_PROGRESS", "User Initiated")
        add_event(stack, logical, "DELETE_FAILED", fault["reason"])
        set_status(stack, "DELETE_FAILED", which("delete", logical))
        return True


def before_update(stack: Any) -> Before | None:
    """The stack as it is, if a change set would update it; None where one would create it."""
    if stack.status == "REVIEW_IN_PROGRESS":
        return None
    return Before(stack.template, stack.template_dict, dict(stack.parameters), dict(stack.tags))


def changed_resources(change_set: Any, before: Before | None) -> set[str]:
    """The logical names that a change set adds or alters; with changed parameters: all that may differ."""
    if before is None:
        return set(change_set.template_dict["Resources"])
    held = change_set.stack.resource_map
    difference = held.build_resource_diff(change_set.template_dict, change_set.parameters)
    return {logical for action in ("Add", "Modify") for logical in difference[action]}
