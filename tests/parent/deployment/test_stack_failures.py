"""What AWS surprises a deployment with: stacks that fail halfway, other hands, missing rights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from coattest.aws import AwsFailure
from coattest.errors import EnvironmentFailure
from coattest_parent.deployment.stack import events, rollout, stacks, templates
from coattest_parent.link.aws import ATTEMPTS
from support.parent.stack_faults import FILE
from support.parent.stack_world import Bench
from support.raises import raises_code

LIMIT = "Your quota allows for 0 more running instance(s)"
OTHER_BIDS = {"bids": "s3://other-bids/bids/"}


def parameters(bench: Bench) -> dict[str, str]:
    """Phase 2's parameters as they would be."""
    base = bench.stack(bench.plan.settings.base_stack)
    assert base
    return templates.main_parameters(bench.plan.settings, bench.plan.reports, base.outputs)


@pytest.mark.parametrize("rollback", ["complete", "failed"])
def test_a_stack_that_fails_in_its_creation_is_named_removed_and_made_again(
    bench: Bench, rollback: str
) -> None:
    """The resource and CloudFormation's reason in one line; no instance and no stack stay; then it works."""
    main = bench.plan.settings.main_stack
    bench.fault(main, fail={"resource": "Parent", "reason": LIMIT, "rollback": rollback})
    with raises_code(EnvironmentFailure, "stack-failed") as failed:
        bench.apply()
    text = str(failed.value)
    assert f"{main}: the stack is in ROLLBACK_{rollback.upper()}" in text
    assert f"Parent (AWS::EC2::Instance) CREATE_FAILED: {LIMIT}" in text
    assert "cancelled" not in text
    assert "\n" not in text
    assert failed.value.exit_code == 3
    assert bench.stack(main) is None
    assert bench.instances() == []
    assert bench.host.running() == {}
    bench.fault(main)
    assert bench.apply().live


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
    assert bench.apply().live
    assert len(bench.buckets()) == 2


def half_created(bench: Bench, rollback: str) -> None:
    """Phase 2 as an apply leaves it that was killed while its creation failed."""
    only = dataclasses.replace(bench.plan, reports=())
    rollout.apply_stacks(only, bench.world.first.image, bench.cloud())
    main = bench.plan.settings.main_stack
    bench.stacks().delete(main)
    bench.fault(main, fail={"resource": "Parent", "reason": LIMIT, "rollback": rollback})
    with raises_code(EnvironmentFailure, "stack-failed"):
        bench.stacks().put(main, bench.plan.main_text, parameters(bench))


def half_updated(bench: Bench, rollback: str) -> None:
    """Phase 2 as an apply leaves it that was killed while its update failed; the release runs."""
    bench.apply()
    main = bench.plan.settings.main_stack
    bench.fault(main, fail={"resource": "Carry", "reason": "denied", "rollback": rollback})
    changed = {**parameters(bench), "BidObjects": "arn:aws:s3:::other/bids/*"}
    with raises_code(EnvironmentFailure, "stack-failed"):
        bench.stacks().put(main, bench.plan.main_text, changed)


def half_deleted(bench: Bench, _: str) -> None:
    """Phase 2 after a deletion that failed."""
    bench.apply()
    main = bench.plan.settings.main_stack
    bench.fault(main, fail={"resource": "Closed", "reason": "in use", "delete": "failed"})
    with raises_code(
        EnvironmentFailure,
        "stack-failed",
        match=r"not deleted: DELETE_FAILED: Closed .* DELETE_FAILED: in use",
    ):
        bench.stacks().delete(main)


HALVES: dict[str, tuple[Callable[[Bench, str], None], str, str]] = {
    "ROLLBACK_COMPLETE": (half_created, "complete", "Parent (AWS::EC2::Instance) CREATE_FAILED"),
    "ROLLBACK_FAILED": (half_created, "failed", "Parent (AWS::EC2::Instance) CREATE_FAILED"),
    "UPDATE_ROLLBACK_COMPLETE": (half_updated, "complete", ""),
    "UPDATE_ROLLBACK_FAILED": (half_updated, "failed", "Carry (AWS::IAM::Policy) UPDATE_FAILED"),
    "DELETE_FAILED": (half_deleted, "", "Closed (AWS::EC2::SecurityGroup) DELETE_FAILED"),
}


@pytest.mark.parametrize("state", sorted(HALVES))
def test_every_half_finished_state_is_told_taken_up_again_and_destroyed(bench: Bench, state: str) -> None:
    """status names state, resource and reason; apply goes on or says to destroy; destroy leaves nothing."""
    make, how, why = HALVES[state]
    make(bench, how)
    main = bench.plan.settings.main_stack
    ran = list(bench.host.running())
    found = bench.status()
    assert found["stacks"][main] == state
    of_main = [finding["detail"] for finding in found["findings"] if finding["where"] == main]
    told = [detail for detail in of_main if detail.startswith(f"the stack is in {state}")]
    assert bool(told) == bool(why)
    assert all(why in detail for detail in told)
    bench.fault(main)
    if state == "DELETE_FAILED":
        with raises_code(
            EnvironmentFailure, "stack-failed", match=r"DELETE_FAILED: Closed .*destroy it, and apply again"
        ):
            bench.apply()
        assert list(bench.host.running()) == ran
    else:
        assert bench.apply().live
        assert bench.status()["findings"] == []
        assert [*bench.host.running()] == [bench.plan.release_id]
        make(bench, how)
        bench.fault(main)
    gone = rollout.destroy_stacks(bench.plan.settings, bench.cloud(), delete_data=True)["gone"]
    assert f"stack {main}" in gone
    assert bench.stack(main) is None
    assert bench.stack(bench.plan.settings.base_stack) is None
    assert bench.instances() == []
    assert bench.host.running() == {}
    assert bench.buckets() == []


@pytest.mark.parametrize("rollback", ["complete", "failed"])
def test_an_upgrade_whose_stack_fails_leaves_the_running_release_alone(bench: Bench, rollback: str) -> None:
    """The old release, its instance and its stack go on; the same upgrade works once the cause is gone."""
    first = bench.apply()
    main = bench.plan.settings.main_stack
    before = bench.stack(main)
    assert before
    assert first.live
    bench.fault(main, fail={"resource": "Carry", "reason": "denied", "rollback": rollback})
    following = bench.following(**OTHER_BIDS)
    with raises_code(
        EnvironmentFailure, "stack-failed", match=r"Carry .AWS::IAM::Policy. UPDATE_FAILED: denied"
    ):
        rollout.apply_stacks(following, bench.world.second.image, bench.cloud())
    assert list(bench.host.running()) == [bench.plan.release_id]
    assert bench.instances() == [first.instance_id]
    after = bench.stack(main)
    assert after
    assert after.status == f"UPDATE_ROLLBACK_{rollback.upper()}"
    if rollback == "complete":
        assert dataclasses.replace(after, status=before.status) == before
    bench.fault(main)
    upgraded = rollout.apply_stacks(following, bench.world.second.image, bench.cloud())
    assert upgraded.retired == (bench.plan.release_id,)
    assert upgraded.instance_id == first.instance_id


def test_a_roll_back_that_still_fails_stops_apply_and_nothing_else_happens(bench: Bench) -> None:
    """It is taken up again, fails again, and is told with its cause; the running release is not touched."""
    half_updated(bench, "failed")
    with raises_code(
        EnvironmentFailure, "stack-failed", match=r"UPDATE_ROLLBACK_FAILED: Carry .* denied .*or destroy"
    ):
        bench.apply()
    assert list(bench.host.running()) == [bench.plan.release_id]
    assert len(bench.instances()) == 1


def quick(monkeypatch: pytest.MonkeyPatch, wait: float = 60) -> None:
    """Looks follow each other at once."""
    monkeypatch.setattr(stacks, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(stacks, "WAIT_SECONDS", wait)


def test_somebody_elses_operation_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """apply says what it waits for, and goes on when that has ended; status says so and does not wait."""
    bench.apply()
    quick(monkeypatch)
    main = bench.plan.settings.main_stack
    said: list[str] = []
    bench.fault(main, busy={"status": "UPDATE_IN_PROGRESS", "looks": 4})
    state = bench.status()
    assert state["stacks"][main] == "UPDATE_IN_PROGRESS"
    assert any("another change is in progress" in finding["detail"] for finding in state["findings"])
    bench.fault(main, busy={"status": "UPDATE_IN_PROGRESS", "looks": 4})
    assert rollout.apply_stacks(
        bench.plan, bench.world.first.image, dataclasses.replace(bench.cloud(), say=said.append)
    ).live
    assert said.count(f"{main}: UPDATE_IN_PROGRESS, waiting") == 1


def test_an_operation_that_does_not_end_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the wait: exit 3, nothing was changed, what ran runs."""
    bench.apply()
    quick(monkeypatch, 0.3)
    bench.fault(bench.plan.settings.main_stack, busy={"status": "UPDATE_IN_PROGRESS", "looks": 10**6})
    with raises_code(EnvironmentFailure, "stack-failed", match=r"still UPDATE_IN_PROGRESS after 0.3 s"):
        bench.apply()
    assert list(bench.host.running()) == [bench.plan.release_id]


def test_an_operation_that_begins_in_between_is_not_undone_by_us(bench: Bench) -> None:
    """CloudFormation refuses the change set; the other's operation is left alone, and so is the stack."""
    bench.apply()
    main = bench.plan.settings.main_stack
    cloud, deleted = bench.cloud(), []

    class Interrupted(stacks.Stacks):
        def _change(self, name: str, *args: Any, **options: Any) -> bool:
            bench.fault(main, busy={"status": "UPDATE_IN_PROGRESS", "looks": 2})
            return super()._change(name, *args, **options)

        def undo(self, name: str, before: stacks.StackState | None) -> None:
            deleted.append(name)

    class Between(rollout.Cloud):
        def stacks(self, settings: Any) -> stacks.Stacks:
            return Interrupted(self.aws.cloudformation(settings.region), self.say)

    between = Between(cloud.aws, cloud.host, cloud.say, cloud.clock)
    with pytest.raises(AwsFailure, match="is in UPDATE_IN_PROGRESS state and can not be updated"):
        rollout.apply_stacks(bench.following(**OTHER_BIDS), bench.world.second.image, between)
    assert deleted == []
    assert list(bench.host.running()) == [bench.plan.release_id]


def test_throttling_that_ends_is_waited_out(bench: Bench, waits: list[float]) -> None:
    """Describe and create calls are tried again with back-off; the apply succeeds."""
    words = ["DescribeStacks=2", "CreateChangeSet=1", "ExecuteChangeSet=1", "DescribeChangeSet=1"]
    throttle = bench.world.services.directory / "throttle"
    throttle.write_text(" ".join(f"cloudformation:{word}" for word in words))
    assert bench.apply().live
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
    assert bench.apply().live


RIGHTS = {
    "cloudformation:CreateChangeSet": "cloudformation:CreateChangeSet",
    "cloudformation:ExecuteChangeSet": "cloudformation:ExecuteChangeSet",
    "cloudformation:DetectStackDrift": "cloudformation:DetectStackDrift",
    "s3:PutObject": "s3:PutObject",
    "s3:GetObject": "s3:GetObject and s3:ListBucket",
    "ec2:DescribeInstances": "ec2:DescribeInstances",
}


@pytest.mark.parametrize("missing", sorted(RIGHTS))
def test_a_missing_right_is_named_and_leaves_what_was(bench: Bench, missing: str) -> None:
    """Everything is allowed but one action: exit 3, one line with the action, the same state as before."""
    rollout.apply_stacks(dataclasses.replace(bench.plan, reports=()), bench.world.first.image, bench.cloud())
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
    assert bench.stack(bench.plan.settings.main_stack) is None
    assert bench.instances() == []
    assert bench.host.running() == {}


def event(logical: str, status: str, reason: str | None = None, kind: str = "AWS::S3::Bucket") -> Any:
    """An event of DescribeStackEvents."""
    found = {"LogicalResourceId": logical, "ResourceStatus": status, "ResourceType": kind}
    return {**found, "ResourceStatusReason": reason} if reason else found


def test_the_cause_is_the_first_failure_of_the_last_operation() -> None:
    """Older operations, cancelled resources and the stack's own words are not it; later failures follow."""
    newest_first = [
        event("name", "ROLLBACK_FAILED", "failed to delete: [B]", events.STACK),
        event("B", "DELETE_FAILED", "not empty"),
        event("name", "ROLLBACK_IN_PROGRESS", "failed to create: [A]", events.STACK),
        event("C", "CREATE_FAILED", "Resource creation cancelled"),
        event("A", "CREATE_FAILED", "no\nright"),
        event("B", "CREATE_COMPLETE"),
        event("name", "CREATE_IN_PROGRESS", "User Initiated", events.STACK),
        event("Old", "DELETE_FAILED", "older"),
    ]
    found = events.failed_resources(newest_first)
    assert [item.where for item in found] == ["A (AWS::S3::Bucket)", "B (AWS::S3::Bucket)"]
    text = events.summary(found, "else")
    assert text.startswith("A (AWS::S3::Bucket) CREATE_FAILED: no\nright; B ")
    assert str(stacks.stack_failed(text, "")) == " ".join(text.split())
    assert events.summary(events.failed_resources([event("A", "CREATE_FAILED", "x" * 9999)]), "")[-2:] == "xx"
    assert len(events.summary(events.failed_resources([event("A", "CREATE_FAILED", "x" * 9999)]), "")) < 400
    assert events.summary((), "else") == "else"


def test_the_simulators_file_of_faults_lies_in_the_services_directory(bench: Bench) -> None:
    """A fault for another stack changes nothing here."""
    bench.fault("other", fail={"resource": "Parent", "reason": LIMIT, "rollback": "complete"})
    assert (bench.world.services.directory / FILE).exists()
    assert bench.apply().live
