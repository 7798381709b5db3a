"""Why a stack is where it is, from CloudFormation's events. Pure.

DescribeStackEvents (CloudFormation API Reference) gives the newest event first. The operation that ran last
begins with the stack's own ``.._IN_PROGRESS`` that is no roll-back; what failed first since is the cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

STACK = "AWS::CloudFormation::Stack"

STARTS = frozenset({"REVIEW_IN_PROGRESS", "CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"})
"""Status of the stack itself with which an operation begins (User Guide, "Stack status codes")."""

SHOWN = 3
"""Failures named in one line: the first is the cause, the others mostly follow from it."""

REASON_MAX = 300
"""Characters of a reason that are shown; the rest stays in the stack's events."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A resource that failed: its logical name and type, the status it got, and the reason given."""

    logical: str
    kind: str
    status: str
    reason: str

    def __str__(self) -> str:
        return f"{self.logical} ({self.kind}) {self.status}: {self.reason[:REASON_MAX] or 'no reason given'}"


def failures(events: Iterable[Mapping[str, Any]]) -> tuple[Failure, ...]:
    """What failed in the last operation, the cause first; ``events`` are newest first, as they are listed.

    What was cancelled because something else failed is left out.
    """
    found: list[Failure] = []
    for event in events:
        status, kind = str(event.get("ResourceStatus")), str(event.get("ResourceType"))
        reason = str(event.get("ResourceStatusReason") or "")
        # A nested stack would have another physical id; there are none in these templates.
        if kind == STACK:
            if status in STARTS:
                break
            continue
        if status.endswith("_FAILED") and "cancelled" not in reason.lower():
            found.append(Failure(str(event.get("LogicalResourceId")), kind, status, reason))
    return tuple(reversed(found))


def summary(found: Iterable[Failure], otherwise: str) -> str:
    """The failures in one line, or ``otherwise`` where the events name none."""
    return "; ".join(map(str, list(found)[:SHOWN])) or otherwise
