"""The parents of one release: who they are by Auto Scaling, and whether each one's document is the decided
one.

A document is believed for its signature alone. Who can write to the bucket can cause silence, never
acceptance: PCR3 and PCR4 bind it to the role and to one instance, and its signed time to now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse
from coattest_parent.deployment.live import judge_live, not_the_decided, require_in_force
from coattest_parent.deployment.stack import events
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.deployment.stack.stacks import Stacks, StackState
from coattest_parent.deployment.stack.templates import BOOT_MINUTES, GROUP
from coattest_parent.link.aws import Aws
from coattest_verify.fleet.live import IN_SERVICE, LIVE_MAX_AGE_MS, STALE, LiveObjects, group_of
from coattest_verify.quorum.decision import Decision

POLL_SECONDS = 2.0
"""Seconds between two looks at the instances."""


@dataclass(frozen=True, slots=True)
class Parent:
    """An instance of the group, and its verified document: the module id and the signed time."""

    instance: str
    lifecycle: str
    module_id: str = ""
    time: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """Every field; the time in ISO 8601."""
        return {
            "instance": self.instance,
            "lifecycle": self.lifecycle,
            "module_id": self.module_id,
            "time": self.time.isoformat() if self.time else None,
        }


@dataclass(frozen=True, slots=True)
class Parents:
    """The stack of parents of one decision: ``name`` is the stack's and its group's."""

    aws: Aws
    settings: Settings
    decision: Decision
    name: str
    bucket: str
    stacks: Stacks
    clock: Callable[[], datetime]

    def listed(self) -> tuple[Parent, ...]:
        """The instances that the group has now, by id; none where there is no group yet."""
        found = group_of(self.aws.autoscaling(self.settings.region), self.name)
        return tuple(Parent(instance, state) for instance, state in found.instances.items())

    @property
    def objects(self) -> LiveObjects:
        """What the instances put into the bucket."""
        s3 = self.aws.s3(self.settings.region)
        return LiveObjects(s3, self.bucket, self.settings.account, self.name)

    def look(self, parent: Parent, *, since: datetime | None = None) -> Parent | None:
        """The parent with its verified document; None while there is none, or one of before ``since``.

        Raises FoundFalse (live-document) for a document that is not of the decided enclave on that instance,
        and once the decision has expired (no-decision); EnvironmentFailure (boot-failed) with the log of an
        instance that gave up; AwsFailure.
        """
        objects = self.objects
        document, now = objects.read(parent.instance), self.clock()
        require_in_force(self.decision, now)
        if document is not None:
            verdict = judge_live(
                self.decision,
                document,
                role_arn=self.settings.role_arn,
                instance_id=parent.instance,
                now=now,
                max_age_ms=LIVE_MAX_AGE_MS,
            )
            if not verdict.ok and not {finding.code for finding in verdict.findings} <= STALE:
                raise not_the_decided(parent.instance, verdict.findings)
            if verdict.ok and (since is None or verdict.document.timestamp >= since):
                found = verdict.document
                return Parent(parent.instance, parent.lifecycle, found.module_id, found.timestamp)
            if verdict.ok:
                return None
        failed = objects.failed_boot(parent.instance)
        if failed is not None:
            raise failed
        return None

    def progress(self) -> Progress:
        """What will be new from now on: everything, where there is no stack yet or it is being made."""
        state = self.stacks.find(self.name)
        return Progress(self, fresh=state is None or state.status == "CREATE_IN_PROGRESS")

    def follow_creation(self, told: Progress, *, since: datetime) -> StackState:
        """Verify each instance and signal for it until the stack is made; returns it.

        The first that is not the decided one, or gives up, ends the creation: CloudFormation rolls back.
        Raises what was wrong then, or EnvironmentFailure (stack-failed).
        """
        signalled: set[str] = set()
        while (state := self.stacks.find(self.name)) and state.status == "CREATE_IN_PROGRESS":
            told.tell()
            for parent in self.listed():
                if parent.instance not in signalled and self._signalled(parent, since):
                    signalled.add(parent.instance)
            self.stacks.sleep(POLL_SECONDS)
        state = self.stacks.settled(self.name)
        if state is None or state.status != "CREATE_COMPLETE":
            failed = self.stacks.failure(self.name, state)
            self.stacks.delete(self.name)
            raise told.with_cause(failed)
        return state

    def _signalled(self, parent: Parent, since: datetime) -> bool:
        """Whether the instance was verified, and signalled for."""
        try:
            found = self.look(parent, since=since)
        except AwsFailure:
            raise
        except (FoundFalse, EnvironmentFailure) as error:
            self.stacks.say(f"{parent.instance}: {error.what}: rolling back")
            self._signal(parent.instance, "FAILURE")
            self.stacks.settled(self.name)
            self.stacks.delete(self.name)
            raise
        if found is None:
            return False
        self._say_verified(found)
        self._signal(parent.instance, "SUCCESS")
        return True

    def _say_verified(self, parent: Parent) -> None:
        self.stacks.say(f"{parent.instance}: {parent.module_id}: the document matches the decision")

    def _signal(self, instance: str, status: str) -> None:
        """SignalResource; a stack that is no longer being made takes none, and that is no error."""
        try:
            with aws_errors(self.name):
                self.stacks.client.signal_resource(
                    StackName=self.name,
                    LogicalResourceId=GROUP,
                    UniqueId=instance,
                    Status=status,  # type: ignore[arg-type]
                )
        except AwsFailure as error:
            if error.service_code != "ValidationError":
                raise
            self.stacks.say(f"{instance}: not signalled: {error}")

    def await_verified(self, capacity: int, told: Progress, *, since: datetime) -> tuple[Parent, ...]:
        """Every instance, once all are in service and verified. One that gave up is waited for: its group
        makes another.

        Raises FoundFalse (live-document), EnvironmentFailure (not-running) after BOOT_MINUTES.
        """
        until = self.clock() + timedelta(minutes=BOOT_MINUTES)
        verified: dict[str, Parent] = {}
        while True:
            told.tell()
            listed = self.listed()
            for parent in listed:
                if parent.instance in verified:
                    continue
                try:
                    found = self.look(parent, since=since)
                except EnvironmentFailure as error:
                    if error.code != "boot-failed":
                        raise
                    told.note(f"{parent.instance}: {error.what}")
                    continue
                if found is not None:
                    verified[parent.instance] = found
                    self._say_verified(found)
            serving = [each for each in listed if each.lifecycle == IN_SERVICE]
            if len(serving) == len(listed) == capacity and all(each.instance in verified for each in serving):
                return tuple(verified[each.instance] for each in serving)
            if self.clock() > until:
                lacking = ", ".join(each.instance for each in listed if each.instance not in verified)
                failed = EnvironmentFailure(
                    f"{capacity} wanted, {len(serving)} in service; not verified: {lacking or 'none'}",
                    where=self.name,
                    hint="apply again; the instances' logs are in the log groups",
                    code="not-running",
                )
                raise told.with_cause(failed)
            self.stacks.sleep(POLL_SECONDS)

    def activities(self) -> Sequence[Mapping[str, Any]]:
        """What the group did last, newest first; none where there is no group yet."""
        try:
            with aws_errors(self.name):
                answer = self.aws.autoscaling(self.settings.region).describe_scaling_activities(
                    AutoScalingGroupName=self.name, MaxRecords=20
                )
        except AwsFailure as error:
            if error.service_code == "ValidationError":
                return ()
            raise
        return tuple(answer["Activities"])


class Progress:
    """Says what is new in a stack's events and its group's activities, each once."""

    def __init__(self, parents: Parents, *, fresh: bool) -> None:
        self._parents = parents
        self._cause = ""
        self._seen = set() if fresh else {identifier for identifier, _, _ in self._new()}

    def tell(self) -> None:
        """Say it; the newest failed activity is kept as a cause: a capacity error shows nowhere else."""
        for identifier, text, failed in self._new():
            if identifier in self._seen:
                continue
            self._seen.add(identifier)
            self._parents.stacks.say(f"{self._parents.name}: {text}")
            self._cause = text if failed else self._cause

    def note(self, text: str) -> None:
        """Say once what may be the cause of a failure."""
        if text not in self._seen:
            self._seen.add(text)
            self._parents.stacks.say(text)
            self._cause = text

    def _new(self) -> Iterator[tuple[str, str, bool]]:
        for event in reversed(self._parents.stacks.events(self._parents.name)):
            yield str(event["EventId"]), events.event_line(event), False
        for each in reversed(self._parents.activities()):
            status = str(each["StatusCode"])
            text = f"{each['Description']}: {status} {each.get('StatusMessage', '')}".rstrip()
            yield f"{each['ActivityId']} {status}", text[: events.REASON_MAX], status == "Failed"

    def with_cause(self, error: CoattestError) -> CoattestError:
        """The error, with the last failed activity in its text."""
        if not self._cause:
            return error
        return EnvironmentFailure(
            f"{error.what}; {self._cause}", where=error.where, hint=error.hint, code=error.code
        )
