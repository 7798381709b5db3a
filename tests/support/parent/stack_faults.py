"""Requests that are throttled and stacks that fail halfway, as CloudFormation leaves them; moto's never fail.

A file ``throttle`` in the services' directory has names of services or of their actions
(``cloudformation:CreateChangeSet``): such requests are refused, each as often as a number after the name says
(``ec2=2``). A file ``stack-faults.json`` there says, by stack name, what happens:

- ``{"fail": {"resource": "Carry", "reason": "..", "rollback": "complete" or "failed"}}``: a change that makes
  or alters that resource fails at it and is rolled back, or cannot be. With ``"delete": "failed"`` the stack
  cannot be deleted while the file says so.
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

from moto.cloudformation.models import Event, cloudformation_backends
from moto.cloudformation.parsing import OutputMap

from coattest.files import write_atomic
from coattest_local.aws.faults import Faults

FILE = "stack-faults.json"
THROTTLE = "throttle"
_STACK = "AWS::CloudFormation::Stack"


@dataclass(frozen=True, slots=True)
class Before:
    """A stack as it was before an update: what its roll-back brings it to."""

    template: Any
    template_dict: dict[str, Any]
    parameters: dict[str, str]
    tags: dict[str, str]


class FileFaults(Faults):
    """What the two files say; without them nothing fails."""

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

    def busy(self, stack: Any) -> str | None:
        """The status of somebody else's operation on the stack, while one is in progress."""
        found = self._all().get(stack.name, {}).get("busy")
        return found["status"] if found and found["looks"] > 0 else None

    def looked(self, stack: Any) -> None:
        """One look at the stack less until the operation ends."""
        every = self._all()
        every[stack.name]["busy"]["looks"] -= 1
        write_atomic(self._path, json.dumps(every).encode())

    def execute(
        self, stack: Any | None, form: Mapping[str, str], account: str, region: str
    ) -> Callable[[], None]:
        """Note the stack and what the change set alters; the answer lets the change fail if it should."""
        before = before_update(stack)
        resources = changed_resources(form.get("ChangeSetName", ""), account, region, before)
        retains = form.get("RetainExceptOnCreate") != "true"
        return lambda: self._executed(stack, before, resources, keep=retains)

    def _executed(self, stack: Any, before: Before | None, resources: set[str], *, keep: bool) -> None:
        """After moto made a change of ``resources``: let it fail if it should.

        ``keep`` is whether what the template retains stays when its creation fails.
        """
        fault = self.fault(stack)
        if fault is None or fault["resource"] not in resources or "rollback" not in fault:
            return
        logical = fault["resource"]
        kind = stack.template_dict["Resources"][logical]["Type"]
        word, verb = ("CREATE", "create") if before is None else ("UPDATE", "update")
        # moto has said that all went well; CloudFormation's log has the stack's start, then the failure.
        stack.events = [item for item in stack.events if item.resource_status != f"{word}_COMPLETE"]
        _add(stack, logical, kind, f"{word}_IN_PROGRESS", None)
        _add(stack, logical, kind, f"{word}_FAILED", fault["reason"])
        for other in sorted(resources - {logical})[:1]:
            other_kind = stack.template_dict["Resources"][other]["Type"]
            _add(stack, other, other_kind, f"{word}_FAILED", f"Resource {verb[:-1]}ion cancelled")
        rolling = "ROLLBACK" if before is None else "UPDATE_ROLLBACK"
        told = _which(verb, logical)
        _status(stack, f"{rolling}_IN_PROGRESS", told + ("Rollback requested by user." * (before is None)))
        if before is None:
            self._roll_back_creation(stack, logical, fault, keep=keep)
        elif fault["rollback"] == "failed":
            self._unfinished[stack.stack_id] = before
            _add(stack, logical, kind, "UPDATE_FAILED", "the roll-back of this resource failed too")
            _status(stack, "UPDATE_ROLLBACK_FAILED", _which("update", logical))
        else:
            self._roll_back_update(stack, before)

    def _roll_back_creation(self, stack: Any, logical: str, fault: Mapping[str, Any], *, keep: bool) -> None:
        resources = stack.resource_map._resource_json_map
        _remove(stack, {logical})
        if fault["rollback"] == "failed":
            stuck = next(name for name in stack.template_dict["Resources"] if name != logical)
            _add(stack, stuck, resources[stuck]["Type"], "DELETE_FAILED", "the resource is in use")
            _status(stack, "ROLLBACK_FAILED", _which("delete", stuck))
        else:
            retained = {name for name, item in resources.items() if item.get("DeletionPolicy") == "Retain"}
            kept = retained if keep else set()
            for name in kept:
                _add(stack, name, resources[name]["Type"], "DELETE_SKIPPED", None)
            _remove(stack, set(resources) - kept)
            # What is looked up in the map would be made again by moto: it has to be empty.
            stack.resource_map._resource_json_map = {}
            _status(stack, "ROLLBACK_COMPLETE", None)
        stack.output_map = OutputMap(stack.resource_map, {}, stack.stack_id)

    def _roll_back_update(self, stack: Any, before: Before) -> None:
        stack.resource_map.update(before.template_dict, before.parameters)
        stack.template, stack.template_dict = before.template, before.template_dict
        stack.parameters, stack.tags = before.parameters, before.tags
        stack.output_map = stack._create_output_map()
        _status(stack, "UPDATE_ROLLBACK_COMPLETE", None)

    def continue_rollback(self, stack: Any) -> None:
        """ContinueUpdateRollback: it works once the fault is gone."""
        fault = self.fault(stack)
        _status(stack, "UPDATE_ROLLBACK_IN_PROGRESS", "User Initiated")
        if fault and fault.get("rollback") == "failed":
            logical = fault["resource"]
            kind = stack.template_dict["Resources"][logical]["Type"]
            _add(stack, logical, kind, "UPDATE_FAILED", fault["reason"])
            _status(stack, "UPDATE_ROLLBACK_FAILED", _which("update", logical))
        else:
            self._roll_back_update(stack, self._unfinished.pop(stack.stack_id))

    def stays(self, stack: Any) -> bool:
        """Whether the stack cannot be deleted; if so, it is in DELETE_FAILED now."""
        fault = self.fault(stack)
        if not fault or fault.get("delete") != "failed":
            return False
        logical = fault["resource"]
        kind = stack.template_dict.get("Resources", {}).get(logical, {}).get("Type", _STACK)
        _status(stack, "DELETE_IN_PROGRESS", "User Initiated")
        _add(stack, logical, kind, "DELETE_FAILED", fault["reason"])
        _status(stack, "DELETE_FAILED", _which("delete", logical))
        return True


def before_update(stack: Any | None) -> Before | None:
    """The stack as it is, if a change set would update it; None where one would create it."""
    if stack is None or stack.status == "REVIEW_IN_PROGRESS":
        return None
    return Before(stack.template, stack.template_dict, dict(stack.parameters), dict(stack.tags))


def changed_resources(name: str, account: str, region: str, before: Before | None) -> set[str]:
    """The logical names that a change set adds or alters; with changed parameters: all that may differ."""
    every = cloudformation_backends[account][region].change_sets.values()
    (found,) = [item for item in every if name in (item.change_set_name, item.change_set_id)]
    if before is None:
        return set(found.template_dict["Resources"])
    difference = found.stack.resource_map.build_resource_diff(found.template_dict, found.parameters)
    return {logical for action in ("Add", "Modify") for logical in difference[action]}


def _remove(stack: Any, names: set[str]) -> None:
    """Delete these resources, the last one made first, until none depends on another."""
    held = stack.resource_map
    left = {name for name in names if held._parsed_resources.get(name) is not None}
    for _ in range(len(left) + 1):
        for name in [each for each in reversed(held._parsed_resources) if each in left]:
            try:
                held._delete_resource(held._parsed_resources[name], held._resource_json_map[name])
            except Exception:
                continue
            held._parsed_resources.pop(name)
            left.discard(name)
    if left:
        raise RuntimeError(f"the simulator could not delete {sorted(left)}")


def _which(verb: str, logical: str) -> str:
    return f"The following resource(s) failed to {verb}: [{logical}]. "


def _status(stack: Any, status: str, reason: str | None) -> None:
    stack.status, stack.status_reason = status, reason
    _add(stack, stack.name, _STACK, status, reason)


def _add(stack: Any, logical: str, kind: str, status: str, reason: str | None) -> None:
    physical = stack.stack_id if kind == _STACK else ""
    stack.events.append(Event(stack.stack_id, stack.name, logical, physical, kind, status, reason, None))
