"""Why a stack is in its state, from CloudFormation's events. Pure.

DescribeStackEvents (CloudFormation API Reference) lists the newest event first. The last operation begins at
the newest event of the stack itself that starts one (STARTS); what failed first since then is the cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from coattest.findings import Finding

STACK = "AWS::CloudFormation::Stack"

STARTS = frozenset({"REVIEW_IN_PROGRESS", "CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"})
"""Status of the stack itself with which an operation begins (User Guide, "Stack status codes")."""

SHOWN = 3
"""Failures shown in one line: the first is the cause, the others mostly follow from it."""

REASON_MAX = 300
"""Characters of a reason that are shown; the rest stays in the stack's events."""


def failed_resources(events: Iterable[Mapping[str, Any]]) -> tuple[Finding, ...]:
    """What failed in the last operation, the cause first; ``events`` are newest first, as CloudFormation
    lists them.

    A finding's ``where`` is the resource's logical name with its type, ``found`` its status. What was
    cancelled because something else failed is left out.
    """
    found: list[Finding] = []
    for event in events:
        status, kind = str(event.get("ResourceStatus")), str(event.get("ResourceType"))
        reason = str(event.get("ResourceStatusReason") or "")
        # A nested stack would have another physical id; there are none in these templates.
        if kind == STACK:
            if status in STARTS:
                break
            continue
        if status.endswith("_FAILED") and "cancelled" not in reason.lower():
            where = f"{event.get('LogicalResourceId')} ({kind})"
            detail = f"{status}: {reason[:REASON_MAX] or 'no reason given'}"
            found.append(Finding("stack-failed", where, detail, found=status))
    return tuple(reversed(found))


def summary(failed: Iterable[Finding], otherwise: str) -> str:
    """The first failures in one line, or ``otherwise`` when there are none."""
    return "; ".join(f"{each.where} {each.detail}" for each in list(failed)[:SHOWN]) or otherwise


def event_line(event: Mapping[str, Any]) -> str:
    """One event as progress: what, its state, and why if there is a reason."""
    reason = str(event.get("ResourceStatusReason") or "")[:REASON_MAX]
    return f"{event.get('LogicalResourceId')} {event.get('ResourceStatus')} {reason}".rstrip()
