"""Stacks that fail halfway, as CloudFormation leaves them; moto's never fail.

A file ``stack-faults.json`` in the services' directory says, by stack name, what happens:

- ``{"fail": {"resource": "Carry", "reason": "..", "rollback": "complete" or "failed"}}``: a change that makes
  or alters that resource fails at it and is rolled back, or cannot be. With ``"delete": "failed"`` the stack
  cannot be deleted while the file says so.
- ``{"busy": {"status": "UPDATE_IN_PROGRESS", "looks": 3}}``: somebody's operation is in progress for as many
  looks at the stack, and changes are refused meanwhile.

Sources: CloudFormation User Guide, "Stack status codes", "Stack failure options", "Continue rolling back an
update", "DeletionPolicy attribute"; API Reference, StackEvent, ExecuteChangeSet (RetainExceptOnCreate). The
texts of reasons are those that CloudFormation's events are seen with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moto.cloudformation.models import Event, cloudformation_backends
from moto.cloudformation.parsing import OutputMap

from coattest.files import write_atomic
from coattest_local.aws.http import ServiceError

FILE = "stack-faults.json"
UPDATABLE = frozenset({"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"})
_STACK = "AWS::CloudFormation::Stack"


@dataclass(frozen=True, slots=True)
class Before:
    """A stack as it was before an update: what its roll-back brings it to."""

    template: Any
    template_dict: dict[str, Any]
    parameters: dict[str, str]
    tags: dict[str, str]


class StackFaults:
    """What the file says; without a directory nothing ever fails."""

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / FILE if directory else None
        self._unfinished: dict[str, Before] = {}

    def _all(self) -> dict[str, Any]:
        if self._path is None or not self._path.exists():
            return {}
        found: dict[str, Any] = json.loads(self._path.read_bytes())
        return found

    def fault(self, stack: Any) -> Mapping[str, Any] | None:
        """How a change of the stack fails, if it does."""
        found: Mapping[str, Any] | None = self._all().get(stack.name, {}).get("fail")
        return found

    def busy(self, name: str) -> str | None:
        """The status of somebody else's operation on the stack, while one is in progress."""
        found = self._all().get(name, {}).get("busy")
        return found["status"] if found and found["looks"] > 0 else None

    def looked(self, name: str) -> None:
        """One look at the stack less until the operation ends."""
        every = self._all()
        if self._path is not None and self.busy(name):
            every[name]["busy"]["looks"] -= 1
            write_atomic(self._path, json.dumps(every).encode())

    def refuse(self, action: str, form: Mapping[str, str], stack: Any | None) -> None:
        """Raise what CloudFormation answers to a change that the stack's status does not allow."""
        if stack is None or action not in ("CreateChangeSet", "ExecuteChangeSet", "DeleteStack"):
            return
        status = self.busy(stack.name) or stack.status
        if status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
            raise ServiceError(
                "ValidationError", f"Stack:{stack.stack_id} is in {status} state and can not be updated."
            )
        if action != "CreateChangeSet":
            return
        if form.get("ChangeSetType", "UPDATE") == "CREATE":
            if status != "REVIEW_IN_PROGRESS":
                raise ServiceError(
                    "ValidationError",
                    f"Stack [{stack.name}] already exists and cannot be created again with the changeSet "
                    f"[{form.get('ChangeSetName')}].",
                )
        elif status not in UPDATABLE:
            raise ServiceError(
                "ValidationError", f"Stack:{stack.stack_id} is in {status} state and can not be updated."
            )

    def executed(self, stack: Any, before: Before | None, resources: set[str], *, keep: bool) -> None:
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
        if stack.status != "UPDATE_ROLLBACK_FAILED":
            raise ServiceError(
                "ValidationError", f"Stack [{stack.name}] is not in the UPDATE_ROLLBACK_FAILED state"
            )
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


def stack_named(name: str, account: str, region: str) -> Any | None:
    """moto's stack of that name or id."""
    every: Iterator[Any] = iter(cloudformation_backends[account][region].stacks.values())
    return next((item for item in every if name in (item.name, item.stack_id)), None)


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
            except Exception:  # noqa: S112 - moto's dependency violations have no common class
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
