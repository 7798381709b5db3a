"""What CloudFormation refuses to do to a stack in its present status.

Sources: CloudFormation User Guide, "Stack status codes", "Continue rolling back an update"; API Reference,
"CreateChangeSet". The texts are those of CloudFormation's own answers, as users report them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coattest_local.aws.http import ServiceError

UPDATABLE = frozenset({"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"})
CHANGES = ("CreateChangeSet", "ExecuteChangeSet", "DeleteStack")


def check_status(action: str, form: Mapping[str, str], stack: Any | None, status: str | None) -> None:
    """Raise ServiceError (ValidationError) for an action that ``status`` does not allow on the stack.

    ``stack`` is moto's, None when there is none; ``form`` are the request's parameters.
    """
    if action == "ContinueUpdateRollback":
        _check_continue(form, stack, status)
    if stack is None or status is None or action not in CHANGES:
        return
    if action == "DeleteStack" and status == "CREATE_IN_PROGRESS":
        return
    if status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
        raise _not_now(stack, status)
    if action != "CreateChangeSet":
        return
    if form.get("ChangeSetType", "UPDATE") != "CREATE":
        if status not in UPDATABLE:
            raise _not_now(stack, status)
    elif status != "REVIEW_IN_PROGRESS":
        raise ServiceError(
            "ValidationError",
            f"Stack [{stack.name}] already exists and cannot be created again with the changeSet "
            f"[{form.get('ChangeSetName')}].",
        )


def _check_continue(form: Mapping[str, str], stack: Any | None, status: str | None) -> None:
    if stack is None:
        raise ServiceError("ValidationError", f"Stack [{form.get('StackName', '')}] does not exist")
    if status != "UPDATE_ROLLBACK_FAILED":
        raise ServiceError(
            "ValidationError", f"Stack [{stack.name}] is not in the UPDATE_ROLLBACK_FAILED state"
        )


def _not_now(stack: Any, status: str) -> ServiceError:
    return ServiceError(
        "ValidationError", f"Stack:{stack.stack_id} is in {status} state and can not be updated."
    )
