"""A stack whose creation waits for signals (CreationPolicy), and what becomes of one that fails. moto knows
neither.

Sources: CloudFormation User Guide, "CreationPolicy attribute", "Stack failure options", "DeletionPolicy
attribute"; API Reference, "SignalResource" (a FAILURE ends the creation at once; an id counts once). The
texts of reasons are those of CloudFormation's own events, as users report them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import Event, cloudformation_backends
from moto.cloudformation.parsing import OutputMap

STACK = "AWS::CloudFormation::Stack"


@dataclass(slots=True)
class Waiting:
    """A resource of a stack that is being made: how many signals it needs, and until when."""

    logical: str
    count: int
    until: datetime
    heard: set[str] = field(default_factory=set)


def hold(stack: Any, now: datetime) -> None:
    """Take back that a creation is complete, if a resource of it waits for signals."""
    for logical, resource in stack.template_dict["Resources"].items():
        policy = resource.get("CreationPolicy", {}).get("ResourceSignal")
        if policy is None:
            continue
        given = policy.get("Count", 1)
        count = int(stack.parameters[given["Ref"]] if isinstance(given, dict) else given)
        minutes = re.fullmatch(r"PT(\d+)M", policy.get("Timeout", "PT5M"))
        if minutes is None:
            raise ValidationError(message=f"Timeout of {logical} is not of the form PT20M")
        stack.events = [item for item in stack.events if item.resource_status != "CREATE_COMPLETE"]
        stack.status = "CREATE_IN_PROGRESS"
        stack.coattest_waiting = Waiting(logical, count, now + timedelta(minutes=int(minutes[1])))
        add_event(stack, logical, "CREATE_IN_PROGRESS", "Resource creation Initiated")
        _complete(stack)


def signal(stack: Any, logical: str, identifier: str, status: str) -> None:
    """SignalResource. Raises ValidationError where nothing waits for it."""
    waiting: Waiting | None = getattr(stack, "coattest_waiting", None)
    if waiting is None or logical != waiting.logical:
        raise ValidationError(
            message=f"Stack {stack.name} is in {stack.status} state, or no resource of it waits for signals"
        )
    if status not in ("SUCCESS", "FAILURE") or not 1 <= len(identifier) <= 64:
        raise ValidationError(message="Status is SUCCESS or FAILURE, UniqueId has 1 to 64 characters")
    add_event(stack, logical, "CREATE_IN_PROGRESS", f"Received {status} signal with UniqueId {identifier}")
    if status == "SUCCESS":
        waiting.heard.add(identifier)
        _complete(stack)
        return
    lacks = "Unable to satisfy 100% MinSuccessfulInstancesPercent requirement"
    _failed(stack, f"Received 1 FAILURE signal(s) out of {waiting.count}. {lacks}")


def overdue(now: datetime) -> None:
    """Fail every creation whose time is over."""
    every = [backend for regions in list(cloudformation_backends.values()) for backend in regions.values()]
    for stack in [stack for backend in every for stack in backend.stacks.values()]:
        end_overdue(stack, now)


def end_overdue(stack: Any, now: datetime) -> None:
    """Fail the stack's creation if its time is over."""
    waiting: Waiting | None = getattr(stack, "coattest_waiting", None)
    if waiting is not None and now >= waiting.until:
        lacking = waiting.count - len(waiting.heard)
        _failed(stack, f"Failed to receive {lacking} resource signal(s) within the specified duration")


def _complete(stack: Any) -> None:
    waiting: Waiting = stack.coattest_waiting
    if len(waiting.heard) >= waiting.count:
        stack.coattest_waiting = None
        add_event(stack, waiting.logical, "CREATE_COMPLETE", None)
        set_status(stack, "CREATE_COMPLETE", None)


def _failed(stack: Any, reason: str) -> None:
    logical, stack.coattest_waiting = stack.coattest_waiting.logical, None
    add_event(stack, logical, "CREATE_FAILED", reason)
    set_status(stack, "ROLLBACK_IN_PROGRESS", f"{which('create', logical)}Rollback requested by user.")
    roll_back_creation(stack, ())


def roll_back_creation(stack: Any, kept: Iterable[str]) -> None:
    """Remove what a creation made, but for what is ``kept``; the stack itself stays, and can only be
    deleted.
    """
    for name in kept:
        add_event(stack, name, "DELETE_SKIPPED", None)
    remove(stack, set(stack.resource_map._resource_json_map) - set(kept))
    # What is looked up in the map would be made again by moto: it has to be empty.
    stack.resource_map._resource_json_map = {}
    set_status(stack, "ROLLBACK_COMPLETE", None)
    stack.output_map = OutputMap(stack.resource_map, {}, stack.stack_id)


def remove(stack: Any, names: set[str]) -> None:
    """Delete these resources, also those that a deletion of the stack would retain."""
    held = stack.resource_map
    every = held._resource_json_map
    held._resource_json_map = {name: {**every[name], "DeletionPolicy": "Delete"} for name in names}
    held.delete()
    held._resource_json_map = every


def which(verb: str, logical: str) -> str:
    """CloudFormation's words for a resource that failed."""
    return f"The following resource(s) failed to {verb}: [{logical}]. "


def set_status(stack: Any, status: str, reason: str | None) -> None:
    """The stack's status, with its event."""
    stack.status, stack.status_reason = status, reason
    add_event(stack, None, status, reason)


def add_event(stack: Any, logical: str | None, status: str, reason: str | None) -> None:
    """One more event of a resource of the stack, or of the stack itself."""
    resources = stack.template_dict.get("Resources", {})
    kind = resources.get(logical, {}).get("Type", STACK)
    physical = "" if logical else stack.stack_id
    named = logical or stack.name
    stack.events.append(Event(stack.stack_id, stack.name, named, physical, kind, status, reason, None))
