"""Why a stack is in its state, from CloudFormation's events. Pure.

DescribeStackEvents (CloudFormation API Reference) lists the newest event first. The last operation begins at
the newest event of the stack itself that starts one (STARTS); what failed first since then is the cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

STACK = "AWS::CloudFormation::Stack"

STARTS = frozenset({"REVIEW_IN_PROGRESS", "CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"})
"""Status of the stack itself with which an operation begins (User Guide, "Stack status codes")."""

SHOWN = 3
"""Failures shown in one line: the first is the cause, the others mostly follow from it."""

REASON_MAX = 300
"""Characters of a reason that are shown; the rest stays in the stack's events."""


def failed_resources(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """What failed in the last operation and why, the cause first; ``events`` are newest first, as
    CloudFormation lists them. What was cancelled because something else failed is left out.
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


def event_line(event: Mapping[str, Any]) -> str:
    """One event as progress: what, its state, and why if there is a reason."""
    reason = str(event.get("ResourceStatusReason") or "")[:REASON_MAX]
    return f"{event.get('LogicalResourceId')} {event.get('ResourceStatus')} {reason}".rstrip()
