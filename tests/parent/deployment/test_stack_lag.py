"""What is of before: a status that is not what was asked for yet is waited for, a document that was verified
while the stack was made is no success, and a stack that is not there any more takes no jobs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from coattest.aws import AwsFailure
from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse
from coattest.findings import Finding
from coattest_parent.deployment.stack import parents, rollout
from coattest_parent.deployment.stack.stacks import LAG_POLLS, NO_CHANGE, Stacks, StackState
from coattest_verify.fleet.live import IN_SERVICE
from support.parent.deployments import SETTINGS
from support.raises import raises_code

GONE = ""
MAKING, MADE = "CREATE_IN_PROGRESS", "CREATE_COMPLETE"
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
BAD = b"bad"


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


def test_a_creation_that_fails_while_it_is_watched_is_an_error_and_not_made_again() -> None:
    """One that another apply began, timed out: its cause is told, and nothing waits as long once more."""
    stacks, client, _ = stacks_of(MAKING, "ROLLBACK_IN_PROGRESS", "ROLLBACK_COMPLETE")
    with raises_code(EnvironmentFailure, "stack-failed", match="in ROLLBACK_COMPLETE"):
        stacks.put("s", "{}", {}, lambda: None)
    assert client.asked == []


class Apply:
    """An apply that found its stack being made: the statuses it sees, and each instance's documents, one at
    each look and the last one for ever. A document is the minute of its signing, or BAD.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *statuses: str, **documents: list[bytes | None]
    ) -> None:
        self.said: list[str] = []
        self.signals: list[tuple[str, str]] = []
        found, self.client, _ = stacks_of(*statuses)
        self.client.describe_change_set = lambda **_: {"Status": "FAILED", "StatusReason": NO_CHANGE[0]}
        self.client.signal_resource = lambda **given: self.signals.append(
            (given["UniqueId"], given["Status"])
        )
        monkeypatch.setattr(parents, "judge_live", self.judge)

        def read(instance: str) -> bytes | None:
            left = documents[instance]
            return left.pop(0) if len(left) > 1 else left[0]

        class Shown(parents.Parents):
            objects: Any = SimpleNamespace(read=read, failed_boot=lambda _: None)

            def listed(self) -> tuple[parents.Parent, ...]:
                return tuple(parents.Parent(name, IN_SERVICE) for name in documents)

        group = SimpleNamespace(describe_scaling_activities=lambda **_: {"Activities": []})
        aws: Any = SimpleNamespace(autoscaling=lambda _: group)
        decision: Any = SimpleNamespace(expires=START + timedelta(minutes=10))
        settings = dataclasses.replace(SETTINGS, capacity=len(documents))
        stacks = dataclasses.replace(found, say=self.said.append)
        self.parents = Shown(aws, settings, decision, "s", "b", stacks, self.clock)
        self.late = timedelta()

    def clock(self) -> datetime:
        """The start; once the stack is made, as much later as the test says."""
        return START + (self.late if self.client.statuses == [MADE] else timedelta())

    def judge(self, _: Any, document: bytes, **__: Any) -> Any:
        """BAD is of another image, all else is as decided."""
        if document == BAD:
            return SimpleNamespace(ok=False, findings=(Finding("measurement", "PCR0", "differs"),))
        signed = SimpleNamespace(module_id="m", timestamp=START + timedelta(minutes=int(document)))
        return SimpleNamespace(ok=True, document=signed)

    def run(self) -> tuple[parents.Parent, ...]:
        """Bring the stack to its template; the parents that are verified."""
        return self.parents.bring_to("{}", {}, since=START)


def test_success_is_about_now_and_not_about_when_the_stack_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instances that were verified and signalled for, and are silent then: all must show themselves in one
    look. Each is told and signalled for once.
    """
    one, two = [b"0", None, b"2", b"3"], [b"0", b"1", None, b"3"]
    apply = Apply(monkeypatch, MAKING, MAKING, MADE, i1=one, i2=two)
    assert [each.time for each in apply.run()] == [START + timedelta(minutes=3)] * 2
    assert apply.signals == [("i1", "SUCCESS"), ("i2", "SUCCESS")]
    assert sum("matches the decision" in line for line in apply.said) == 2


def test_no_success_with_what_changed_or_expired_while_the_stack_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An enclave that is another one now, and a decision that was in force in the beginning."""
    with raises_code(FoundFalse, "live-document", match="PCR0"):
        Apply(monkeypatch, MAKING, MAKING, MADE, i1=[b"0", BAD]).run()
    apply = Apply(monkeypatch, MAKING, MAKING, MADE, i1=[b"0"])
    apply.late = timedelta(minutes=10)
    with raises_code(FoundFalse, "no-decision", match="expired at"):
        apply.run()


def test_a_refused_instance_takes_a_stack_down_that_was_complete_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others had signals enough, so FAILURE comes too late: the stack is deleted all the same."""
    apply = Apply(monkeypatch, MAKING, MAKING, MADE, i1=[b"0"], i2=[BAD])

    def deleted(**_: Any) -> None:
        apply.client.statuses = [GONE]

    apply.client.delete_stack = deleted
    with raises_code(FoundFalse, "live-document", match="PCR0"):
        apply.run()
    assert apply.client.statuses == [GONE]
    assert apply.signals[-1] == ("i2", "FAILURE")


@pytest.mark.parametrize("action", ["signal_resource", "describe_stacks", "delete_stack"])
def test_what_fails_in_cleaning_up_does_not_hide_why(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    """The error stays what was found false; what could not be undone is said."""
    apply = Apply(monkeypatch, MAKING, MAKING, "ROLLBACK_COMPLETE", i1=[BAD])

    def denied(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, action)

    if action == "describe_stacks":
        apply.client.signal_resource = lambda **_: setattr(apply.client, action, denied)
    else:
        setattr(apply.client, action, denied)
    with raises_code(FoundFalse, "live-document", match="PCR0"):
        apply.run()
    assert [line for line in apply.said if "left as it is" in line and f"{action}: AccessDenied" in line]


def untaken(monkeypatch: pytest.MonkeyPatch, statuses: Mapping[str, str], jobs: Mapping[str, Any]) -> Any:
    """What status finds in the spools: stacks by name with their statuses and, as an output, their names as
    releases; each release's open jobs, or the error of listing them. The plan's stack and release are "own".
    """

    def listed(_: Any, uri: str) -> Any:
        found = jobs[uri.rpartition("/")[2]] if uri != "s3://b/jobs" else jobs.get("", list(jobs))
        if isinstance(found, CoattestError):
            raise found
        return found

    for name in ("list_spools", "open_jobs"):
        monkeypatch.setattr(rollout, name, listed)
    states = {
        name: StackState(name, status, {} if status == MAKING else {"Release": name})
        for name, status in statuses.items()
    }
    cloud: Any = SimpleNamespace(aws=SimpleNamespace(s3=lambda _: None))
    plan: Any = SimpleNamespace(
        settings=SETTINGS, parents_stack="own", decision=SimpleNamespace(release="own")
    )
    return [(each.code, each.where) for each in rollout._untaken(plan, cloud, "b", states.values())]


@pytest.mark.parametrize(
    ("status", "serves"),
    [
        (MADE, True),
        (MAKING, True),
        ("UPDATE_IN_PROGRESS", True),
        ("UPDATE_ROLLBACK_FAILED", True),
        ("UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS", True),
        ("DELETE_FAILED", False),
        ("DELETE_IN_PROGRESS", False),
        ("ROLLBACK_FAILED", False),
    ],
)
def test_a_stack_takes_jobs_by_its_status(monkeypatch: pytest.MonkeyPatch, status: str, serves: bool) -> None:
    """One that could not be deleted keeps its outputs, and one that is being made has none yet."""
    found = untaken(monkeypatch, {"own": status, "old": MADE}, {"own": ["job"], "old": ["other"]})
    assert found == ([] if serves else [("open-jobs", "job")])


def test_a_spool_that_cannot_be_listed_is_a_finding_and_the_rest_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With its place; so is a bucket that is gone."""
    jobs = {"a": AwsFailure("over 1 objects", code="too-many-files"), "b": ["job"]}
    assert untaken(monkeypatch, {}, jobs) == [("too-many-files", "s3://b/jobs/a"), ("open-jobs", "job")]
    gone = {"": AwsFailure("ListObjectsV2: NoSuchBucket", where="s3://b/jobs")}
    assert untaken(monkeypatch, {}, gone) == [("aws", "s3://b/jobs")]
