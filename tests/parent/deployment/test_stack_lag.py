"""CloudFormation's answers lag behind: a status that is not what was asked for yet is waited for."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from coattest.errors import EnvironmentFailure
from coattest_parent.deployment.stack.stacks import LAG_POLLS, Stacks
from support.raises import raises_code

GONE = ""


class Lagging:
    """CloudFormation that shows these statuses, one at each look, and the last one for ever; what comes after
    an @ is when the stack was changed last.
    """

    def __init__(self, *statuses: str) -> None:
        self.statuses = list(statuses)
        self.asked: list[str] = []

    def describe_stacks(self, **_: Any) -> Any:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status == GONE:
            error = {"Error": {"Code": "ValidationError", "Message": "Stack with id s does not exist"}}
            raise ClientError(error, "DescribeStacks")
        status, _, updated = status.partition("@")
        return {"Stacks": [{"StackName": "s", "StackStatus": status, "LastUpdatedTime": updated}]}

    def get_template(self, **_: Any) -> Any:
        return {"TemplateBody": "{}"}

    def describe_change_set(self, **_: Any) -> Any:
        return {"Status": "CREATE_COMPLETE", "Changes": []}

    def get_paginator(self, _: str) -> Any:
        return self

    def paginate(self, **_: Any) -> Any:
        return [{"StackEvents": []}]

    def __getattr__(self, name: str) -> Any:
        return lambda **_: self.asked.append(name)


def stacks_of(*statuses: str) -> tuple[Stacks, Lagging, list[float]]:
    """Stacks of that CloudFormation, and the seconds that they waited."""
    waited: list[float] = []
    client: Any = Lagging(*statuses)
    return Stacks(client, lambda _: None, waited.append), client, waited


def test_a_creation_that_does_not_show_yet_is_waited_for() -> None:
    """Right after its change set was executed a stack is still only reviewed: it is not removed for that."""
    review = "REVIEW_IN_PROGRESS"
    stacks, client, waited = stacks_of(GONE, review, review, "CREATE_IN_PROGRESS", "CREATE_COMPLETE")
    assert stacks.put("s", "{}", {}).status == "CREATE_COMPLETE"
    assert client.asked == ["create_change_set", "execute_change_set"]
    assert waited


def test_a_change_whose_answer_was_lost_is_not_asked_for_twice() -> None:
    """botocore asks again; by its token CloudFormation knows that it did it. Otherwise the second answer is
    an error, and the new stack would be deleted for it.
    """
    stacks, client, _ = stacks_of(GONE, "CREATE_IN_PROGRESS", "CREATE_COMPLETE")
    given: list[dict[str, str]] = []
    for name in ("create_change_set", "execute_change_set"):
        setattr(client, name, lambda **arguments: given.append(arguments))
    stacks.put("s", "{}", {})
    made, executed = given
    assert made["ClientToken"] == executed["ClientRequestToken"] == made["ChangeSetName"]


def test_an_update_shows_by_its_time_where_its_status_is_as_before() -> None:
    """One after another ends in UPDATE_COMPLETE: the stack is not waited for once it has a newer time."""
    done = "UPDATE_COMPLETE"
    stacks, client, waited = stacks_of(f"{done}@1", f"{done}@1", f"{done}@2")
    assert stacks.put("s", "{}", {}).status == done
    assert client.asked == ["create_change_set", "execute_change_set"]
    assert len(waited) == 1


def test_a_roll_back_that_goes_on_and_does_not_show_yet_is_waited_for() -> None:
    """It has not failed again for that."""
    failed = "UPDATE_ROLLBACK_FAILED"
    stacks, client, _ = stacks_of(failed, failed, "UPDATE_ROLLBACK_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE")
    found = stacks.ready("s")
    assert found
    assert found.status == "UPDATE_ROLLBACK_COMPLETE"
    assert client.asked == ["continue_update_rollback"]


def test_a_deletion_that_does_not_show_yet_is_waited_for() -> None:
    """The stack is as it was for a while, then it goes."""
    done = "CREATE_COMPLETE"
    stacks, client, _ = stacks_of(done, done, done, done, "DELETE_IN_PROGRESS", GONE)
    stacks.delete("s")
    assert client.asked == ["delete_stack"]


@pytest.mark.parametrize("status", ["CREATE_COMPLETE", "DELETE_FAILED"])
def test_what_is_never_deleted_is_an_error(status: str) -> None:
    """After some looks: nothing waits for ever."""
    stacks, _, waited = stacks_of(status)
    with raises_code(EnvironmentFailure, "stack-failed", match=f"not deleted: {status}"):
        stacks.delete("s")
    assert len(waited) == LAG_POLLS
