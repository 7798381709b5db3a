"""What AWS surprises a deployment with: stacks that fail halfway, other hands, missing rights."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from coattest.aws import AwsFailure
from coattest.errors import EnvironmentFailure
from coattest_parent.deployment.stack import rollout, stacks, templates
from coattest_parent.link.aws import ATTEMPTS
from support.parent.stack_faults import FILE
from support.parent.stack_world import Bench
from support.raises import raises_code

LIMIT = "Your quota allows for 0 more running instance(s)"
GROUP = "Parents (AWS::AutoScaling::AutoScalingGroup) CREATE_FAILED"
OTHER_BIDS = {"bids": "s3://other-bids/bids/"}


def at(bench: Bench, stack: str) -> str:
    """A stack's name: the base's or the parents'."""
    return bench.plan.settings.base_stack if stack == "base" else bench.plan.parents_stack


@pytest.mark.parametrize("rollback", ["complete", "failed"])
def test_a_stack_that_fails_in_its_creation_is_named_removed_and_made_again(
    bench: Bench, rollback: str
) -> None:
    """The resource and CloudFormation's reason in one line; no instance and no stack stay; then it works."""
    parents = bench.plan.parents_stack
    bench.fault(parents, fail={"resource": "Parents", "reason": LIMIT, "rollback": rollback})
    with raises_code(EnvironmentFailure, "stack-failed") as failed:
        bench.apply()
    text = str(failed.value)
    assert f"{parents}: the stack is in ROLLBACK_{rollback.upper()}" in text
    assert f"Parents (AWS::AutoScaling::AutoScalingGroup) CREATE_FAILED: {LIMIT}" in text
    assert "cancelled" not in text
    assert "\n" not in text
    assert failed.value.exit_code == 3
    assert bench.stack(parents) is None
    assert bench.instances() == []
    bench.fault(parents)
    assert bench.apply().parents


def test_what_a_failed_creation_made_is_not_kept(bench: Bench) -> None:
    """Buckets outlive their stack, but not a creation that failed: tries would leave two each time."""
    base = bench.plan.settings.base_stack
    bench.fault(base, fail={"resource": "ResultsPolicy", "reason": "denied", "rollback": "complete"})
    with raises_code(
        EnvironmentFailure,
        "stack-failed",
        match=r"ResultsPolicy .AWS::S3::BucketPolicy. CREATE_FAILED: denied",
    ):
        bench.apply()
    assert bench.buckets() == []
    left = bench.stack(base)
    assert left
    assert left.status == "ROLLBACK_COMPLETE"
    (said,) = [finding["detail"] for finding in bench.status()["findings"] if finding["where"] == base]
    assert said.startswith("the stack is in ROLLBACK_COMPLETE (ResultsPolicy")
    assert "apply deletes and recreates it" in said
    bench.fault(base)
    assert bench.apply().parents
    assert len(bench.buckets()) == 2


def half_created(bench: Bench, rollback: str) -> None:
    """The parents as an apply leaves them that was killed while their creation failed."""
    bench.apply(dataclasses.replace(bench.plan, reports=()))
    base = bench.stack(at(bench, "base"))
    assert base
    parameters = {**{name: base.output(name) for name in templates.FROM_BASE}, templates.CAPACITY: "1"}
    fail = {"resource": "Parents", "reason": LIMIT, "rollback": rollback}
    bench.fault(at(bench, "parents"), fail=fail)
    with raises_code(EnvironmentFailure, "stack-failed"):
        bench.stacks().put(at(bench, "parents"), bench.plan.parents_text, parameters)


def half_updated(bench: Bench, rollback: str) -> None:
    """The base as an apply leaves it that was killed while its update failed; the parents serve."""
    bench.apply()
    fail = {"resource": "Carry", "reason": "denied", "rollback": rollback}
    bench.fault(at(bench, "base"), fail=fail)
    other = bench.of(bench.world.first, bench.plan.settings, **OTHER_BIDS)
    with raises_code(EnvironmentFailure, "stack-failed"):
        bench.stacks().put(at(bench, "base"), other.base_text, {})


def half_deleted(bench: Bench, _: str) -> None:
    """The parents after a deletion that failed."""
    bench.apply()
    fail = {"resource": "Launch", "reason": "in use", "delete": "failed"}
    bench.fault(at(bench, "parents"), fail=fail)
    with raises_code(
        EnvironmentFailure,
        "stack-failed",
        match=r"not deleted: DELETE_FAILED: Launch .* DELETE_FAILED: in use",
    ):
        bench.stacks().delete(at(bench, "parents"))


HALVES: dict[str, tuple[Callable[[Bench, str], None], str, str, str]] = {
    "ROLLBACK_COMPLETE": (half_created, "complete", "parents", GROUP),
    "ROLLBACK_FAILED": (half_created, "failed", "parents", GROUP),
    "UPDATE_ROLLBACK_COMPLETE": (half_updated, "complete", "base", ""),
    "UPDATE_ROLLBACK_FAILED": (half_updated, "failed", "base", "Carry (AWS::IAM::Policy) UPDATE_FAILED"),
    "DELETE_FAILED": (half_deleted, "", "parents", "Launch (AWS::EC2::LaunchTemplate) DELETE_FAILED"),
}


@pytest.mark.parametrize("state", sorted(HALVES))
def test_every_half_finished_state_is_told_taken_up_again_and_destroyed(bench: Bench, state: str) -> None:
    """status names state, resource and reason; apply goes on or says to destroy; destroy leaves nothing."""
    make, how, stack, why = HALVES[state]
    make(bench, how)
    name = at(bench, stack)
    served = bench.instances()
    found = bench.status()
    assert found["stacks"][name] == state
    of_it = [finding["detail"] for finding in found["findings"] if finding["where"] == name]
    told = [detail for detail in of_it if detail.startswith(f"the stack is in {state}")]
    assert bool(told) == bool(why)
    assert all(why in detail for detail in told)
    bench.fault(name)
    if state == "DELETE_FAILED":
        with raises_code(
            EnvironmentFailure, "stack-failed", match=r"DELETE_FAILED: Launch .*destroy it, and apply again"
        ):
            bench.apply()
        assert bench.instances() == served
    else:
        assert bench.apply().parents
        assert bench.status()["findings"] == []
    gone = rollout.destroy_stacks(bench.plan.settings, bench.cloud(), delete_data=True)["gone"]
    assert f"stack {name}" in gone
    assert bench.stack(bench.plan.parents_stack) is None
    assert bench.stack(bench.plan.settings.base_stack) is None
    assert bench.instances() == []
    assert bench.buckets() == []


@pytest.mark.parametrize("rollback", ["complete", "failed"])
def test_an_upgrade_whose_base_fails_leaves_what_serves_alone(bench: Bench, rollback: str) -> None:
    """The parents and their stack go on; the same upgrade works once the cause is gone."""
    served = [parent.instance for parent in bench.apply().parents]
    base, before = bench.plan.settings.base_stack, bench.stack(bench.plan.parents_stack)
    bench.fault(base, fail={"resource": "Carry", "reason": "denied", "rollback": rollback})
    following = bench.following(**OTHER_BIDS)
    with raises_code(
        EnvironmentFailure, "stack-failed", match=r"Carry .AWS::IAM::Policy. UPDATE_FAILED: denied"
    ):
        bench.apply(following)
    assert bench.instances() == served
    assert bench.stack(bench.plan.parents_stack) == before
    after = bench.stack(base)
    assert after
    assert after.status == f"UPDATE_ROLLBACK_{rollback.upper()}"
    bench.fault(base)
    assert bench.apply(following, retire=True).retired == (bench.plan.parents_stack,)


def test_a_roll_back_that_still_fails_stops_apply_and_nothing_else_happens(bench: Bench) -> None:
    """It is taken up again, fails again, and is told with its cause; what serves is not touched."""
    half_updated(bench, "failed")
    served = bench.instances()
    with raises_code(
        EnvironmentFailure, "stack-failed", match=r"UPDATE_ROLLBACK_FAILED: Carry .* denied .*or destroy"
    ):
        bench.apply()
    assert bench.instances() == served


def quick(monkeypatch: pytest.MonkeyPatch, wait: float = 60) -> None:
    """Looks follow each other at once."""
    monkeypatch.setattr(stacks, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(stacks, "WAIT_SECONDS", wait)


def test_somebody_elses_operation_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """apply says what it waits for, and goes on when that has ended; status says so and does not wait."""
    bench.apply()
    quick(monkeypatch)
    main = bench.plan.parents_stack
    said: list[str] = []
    bench.fault(main, busy={"status": "UPDATE_IN_PROGRESS", "looks": 4})
    state = bench.status()
    assert state["stacks"][main] == "UPDATE_IN_PROGRESS"
    assert any("another change is in progress" in finding["detail"] for finding in state["findings"])
    bench.fault(main, busy={"status": "UPDATE_IN_PROGRESS", "looks": 4})
    assert bench.apply(say=said.append).parents
    assert said.count(f"{main}: UPDATE_IN_PROGRESS, waiting") == 1


def test_an_operation_that_does_not_end_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the wait: exit 3, nothing was changed, what ran runs."""
    served = [parent.instance for parent in bench.apply().parents]
    quick(monkeypatch, 0.3)
    bench.fault(bench.plan.parents_stack, busy={"status": "UPDATE_IN_PROGRESS", "looks": 10**6})
    with raises_code(EnvironmentFailure, "stack-failed", match=r"still UPDATE_IN_PROGRESS after 0.3 s"):
        bench.apply()
    assert bench.instances() == served


def test_an_operation_that_begins_in_between_is_left_alone(bench: Bench) -> None:
    """CloudFormation refuses the change set; the other's operation goes on, and so do the parents."""
    served = [parent.instance for parent in bench.apply().parents]
    base, cloud = bench.plan.settings.base_stack, bench.cloud()

    class Interrupted(stacks.Stacks):
        def _change(self, name: str, *args: Any, **options: Any) -> bool:
            bench.fault(base, busy={"status": "UPDATE_IN_PROGRESS", "looks": 2})
            return super()._change(name, *args, **options)

    class Between(rollout.Cloud):
        def stacks(self, settings: Any) -> stacks.Stacks:
            return Interrupted(self.aws.cloudformation(settings.region), self.say)

    between = Between(cloud.aws, cloud.say, cloud.clock)
    with pytest.raises(AwsFailure, match="is in UPDATE_IN_PROGRESS state and can not be updated"):
        rollout.apply_stacks(bench.following(**OTHER_BIDS), bench.world.second.image, between)
    assert bench.instances() == served


def test_throttling_that_ends_is_waited_out(bench: Bench, waits: list[float]) -> None:
    """Describe and create calls are tried again with back-off; the apply succeeds."""
    words = ["DescribeStacks=2", "CreateChangeSet=1", "ExecuteChangeSet=1", "DescribeChangeSet=1"]
    throttle = bench.world.services.directory / "throttle"
    throttle.write_text(" ".join(f"cloudformation:{word}" for word in words))
    assert bench.apply().parents
    assert len(waits) == 5
    assert throttle.read_text() == " ".join(f"cloudformation:{word.split('=')[0]}=0" for word in words)


@pytest.mark.parametrize("action", ["CreateChangeSet", "ExecuteChangeSet"])
def test_throttling_of_a_change_is_one_line_with_what_to_do(
    bench: Bench, waits: list[float], action: str
) -> None:
    """botocore's attempts are used up: exit 3, nothing is half-made, and the next apply goes on."""
    throttle = bench.world.services.directory / "throttle"
    throttle.write_text(f"cloudformation:{action}")
    with pytest.raises(AwsFailure, match=f"{action}: Throttling: .*wait and try again") as refused:
        bench.apply()
    assert refused.value.exit_code == 3
    assert len(waits) == ATTEMPTS - 1
    throttle.unlink()
    assert bench.stack(bench.plan.settings.base_stack) is None
    assert bench.apply().parents


RIGHTS = {
    "cloudformation:CreateChangeSet": "cloudformation:CreateChangeSet",
    "cloudformation:ExecuteChangeSet": "cloudformation:ExecuteChangeSet",
    "cloudformation:DetectStackDrift": "cloudformation:DetectStackDrift",
    "s3:PutObject": "s3:PutObject",
    "s3:GetObject": "s3:GetObject and s3:ListBucket",
    "autoscaling:DescribeAutoScalingGroups": "DescribeAutoScalingGroups",
    "autoscaling:DescribeScalingActivities": "DescribeScalingActivities",
    "cloudformation:SignalResource": "cloudformation:SignalResource",
}


@pytest.mark.parametrize("missing", sorted(RIGHTS))
def test_a_missing_right_is_named_and_leaves_what_was(bench: Bench, missing: str) -> None:
    """Everything is allowed but one action: exit 3, one line with the action; who has it finishes."""
    bench.apply(dataclasses.replace(bench.plan, reports=()))
    iam = bench.world.services.client("iam", "service")
    user = f"lacks-{bench.plan.settings.name}"
    iam.create_user(UserName=user)
    statements = [
        {"Effect": "Allow", "Action": "*", "Resource": "*"},
        {"Effect": "Deny", "Action": missing, "Resource": "*"},
    ]
    text = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam.put_user_policy(UserName=user, PolicyName="most", PolicyDocument=text)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    with pytest.raises(AwsFailure) as refused:
        bench.apply(keys=(key["AccessKeyId"], key["SecretAccessKey"]))
    assert RIGHTS[missing] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 3
    assert bench.apply().parents


def event(logical: str, status: str, reason: str | None = None, kind: str = "AWS::S3::Bucket") -> Any:
    """An event of DescribeStackEvents."""
    found = {"LogicalResourceId": logical, "ResourceStatus": status, "ResourceType": kind}
    return {**found, "ResourceStatusReason": reason} if reason else found


def test_the_cause_is_the_first_failure_of_the_last_operation() -> None:
    """Older operations, cancelled resources and the stack's own words are not it; later failures follow."""
    newest_first = [
        event("name", "ROLLBACK_FAILED", "failed to delete: [B]", stacks.STACK),
        event("B", "DELETE_FAILED", "not empty"),
        event("name", "ROLLBACK_IN_PROGRESS", "failed to create: [A]", stacks.STACK),
        event("C", "CREATE_FAILED", "Resource creation cancelled"),
        event("A", "CREATE_FAILED", "no\nright"),
        event("B", "CREATE_COMPLETE"),
        event("name", "CREATE_IN_PROGRESS", "User Initiated", stacks.STACK),
        event("Old", "DELETE_FAILED", "older"),
    ]
    assert stacks.failed_resources(newest_first) == [
        "A (AWS::S3::Bucket) CREATE_FAILED: no\nright",
        "B (AWS::S3::Bucket) DELETE_FAILED: not empty",
    ]
    (long,) = stacks.failed_resources([event("A", "CREATE_FAILED", "x" * 9999)])
    assert long.endswith("xx")
    assert len(long) < 400
    (silent,) = stacks.failed_resources([event("A", "CREATE_FAILED")])
    assert silent.endswith("CREATE_FAILED: no reason given")


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (
            [event(name, "CREATE_FAILED", "no\nright") for name in "DCBA"],
            "A .*: no right; B .*; C .*no right",
        ),
        ([], "what the stack says"),
    ],
)
def test_a_reason_is_one_line(monkeypatch: pytest.MonkeyPatch, listed: list[Any], said: str) -> None:
    """The first three failures, or what the stack itself says where there are none."""
    monkeypatch.setattr(stacks.Stacks, "events", lambda _, name: listed)
    client: Any = None
    failed = stacks.StackState("s", "ROLLBACK_COMPLETE", reason="what the stack says")
    error = stacks.Stacks(client, print).failure("s", failed)
    assert re.search(f"s: the stack is in ROLLBACK_COMPLETE: {said}", str(error))
    assert "\n" not in str(error)
    assert "D (" not in str(error)


def test_the_simulators_file_of_faults_lies_in_the_services_directory(bench: Bench) -> None:
    """A fault for another stack changes nothing here."""
    bench.fault("other", fail={"resource": "Parents", "reason": LIMIT, "rollback": "complete"})
    assert (bench.world.services.directory / FILE).exists()
    assert bench.apply().parents
