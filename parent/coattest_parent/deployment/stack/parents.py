"""The parents of one release: who they are by Auto Scaling, and whether each one's document is the decided
one; ``coattest_verify.fleet.live`` says what a document is believed for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import EnvironmentFailure, FoundFalse
from coattest_parent.deployment.live import judge_live, not_the_decided, require_in_force
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.deployment.stack.stacks import POLL_SECONDS, REASON_MAX, Stacks, next_step
from coattest_parent.deployment.stack.templates import BOOT_MINUTES, GROUP
from coattest_parent.link.aws import Aws
from coattest_verify.fleet.live import IN_SERVICE, STALE, LiveObjects, group_of
from coattest_verify.quorum.decision import Decision


@dataclass(frozen=True, slots=True)
class Parent:
    """An instance of the group, and its verified document: the module id and the signed time."""

    instance: str
    lifecycle: str
    module_id: str = ""
    time: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """Every field; the time in ISO 8601."""
        return {**asdict(self), "time": self.time.isoformat() if self.time else None}


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
                self.decision, document, role_arn=self.settings.role_arn, instance_id=parent.instance, now=now
            )
            if verdict.ok:
                found = verdict.document
                fresh = since is None or found.timestamp >= since
                return replace(parent, module_id=found.module_id, time=found.timestamp) if fresh else None
            if not {finding.code for finding in verdict.findings} <= STALE:
                raise not_the_decided(parent.instance, verdict.findings)
        if failed := objects.failed_boot(parent.instance):
            raise failed
        return None

    def bring_to(
        self, template: str, parameters: Mapping[str, str], *, since: datetime
    ) -> tuple[Parent, ...]:
        """Make the stack, or change its capacity; every instance, once all are in service and verified.

        While the stack is made each that is verified is signalled for. The first that is not the decided one,
        or gives up, ends it: CloudFormation rolls back, and the stack is deleted. Once it is made, all are
        judged anew, and one that gave up is waited for: its group makes another.

        Raises FoundFalse (live-document), EnvironmentFailure (boot-failed, stack-failed, not-running) with
        what failed last in the group, and AwsFailure.
        """
        watch = Watch(self, since)
        try:
            self.stacks.put(self.name, template, parameters, lambda: watch.look(making=True))
            return self._all_verified(watch)
        except AwsFailure:
            raise
        except (FoundFalse, EnvironmentFailure) as error:
            try:
                if watch.refused:
                    self.signal(watch.refused, "FAILURE")
                    self.stacks.settled(self.name)
                state = self.stacks.find(self.name)
                if state is not None and (watch.refused or next_step(state.status) == "remove"):
                    self.stacks.delete(self.name)
            except EnvironmentFailure as failed:
                self.stacks.say(f"{self.name}: left as it is: {failed}")
            if watch.cause and isinstance(error, EnvironmentFailure):
                error.what += f"; {watch.cause}"
            raise

    def _all_verified(self, watch: Watch) -> tuple[Parent, ...]:
        """Look until all are in one look; at most BOOT_MINUTES."""
        until, capacity = self.clock() + timedelta(minutes=BOOT_MINUTES), self.settings.capacity
        while True:
            found = watch.look()
            serving = [each for each in found if each.lifecycle == IN_SERVICE]
            if len(serving) == len(found) == capacity and all(each.time for each in serving):
                return tuple(serving)
            if self.clock() > until:
                lacking = ", ".join(each.instance for each in found if not each.time)
                raise EnvironmentFailure(
                    f"{capacity} wanted, {len(serving)} in service; not verified: {lacking or 'none'}",
                    where=self.name,
                    hint="apply again; the instances' logs are in the log groups",
                    code="not-running",
                )
            self.stacks.sleep(POLL_SECONDS)

    def signal(self, instance: str, status: Literal["SUCCESS", "FAILURE"]) -> None:
        """SignalResource; a stack that is no longer being made takes none, and that is no error."""
        with aws_errors(self.name, "ValidationError"):
            self.stacks.client.signal_resource(
                StackName=self.name, LogicalResourceId=GROUP, UniqueId=instance, Status=status
            )


class Watch:
    """One apply's looks at its parents: says what is new of stack, group and instances, once.

    ``cause`` is what failed last in the group: a capacity error shows nowhere else. ``refused``
    is the instance that was refused while its stack was being made.
    """

    def __init__(self, parents: Parents, since: datetime) -> None:
        """New is what comes from now on: everything, where there is no stack yet or it is being made."""
        self._parents, self._since, self._say = parents, since, parents.stacks.say
        self.cause = self.refused = ""
        state = parents.stacks.find(parents.name)
        fresh = state is None or state.status == "CREATE_IN_PROGRESS"
        self._seen = set() if fresh else {identifier for identifier, _, _ in self._new()}

    def look(self, *, making: bool = False) -> list[Parent]:
        """The instances now, judged anew; those of a stack that is being made are signalled for, once."""
        for identifier, text, failed in self._new():
            self._tell(identifier, f"{self._parents.name}: {text}", text if failed else self.cause)
        return [self._judged(parent, making=making) for parent in self._parents.listed()]

    def _judged(self, parent: Parent, *, making: bool) -> Parent:
        try:
            found = self._parents.look(parent, since=self._since)
        except (FoundFalse, EnvironmentFailure) as error:
            text = f"{parent.instance}: {error.what}"
            if making and not isinstance(error, AwsFailure):
                self._say(f"{text}: rolling back")
                self.refused = parent.instance
            elif error.code == "boot-failed":
                self._tell(text, text, text)
                return parent
            raise
        if found is None:
            return parent
        text = f"{parent.instance}: {found.module_id}: the document matches the decision"
        if self._tell(parent.instance, text, self.cause) and making:
            self._parents.signal(parent.instance, "SUCCESS")
        return found

    def _tell(self, identifier: str, text: str, cause: str) -> bool:
        """Say it, if it is new, and return whether it was; it may be the cause of a failure."""
        if new := identifier not in self._seen:
            self._seen.add(identifier)
            self._say(text)
            self.cause = cause
        return new

    def _new(self) -> Iterator[tuple[str, str, bool]]:
        name, autoscaling = self._parents.name, self._parents.aws.autoscaling(self._parents.settings.region)
        for each in reversed(self._parents.stacks.events(name)):
            reason = str(each.get("ResourceStatusReason") or "")[:REASON_MAX]
            text = f"{each.get('LogicalResourceId')} {each.get('ResourceStatus')} {reason}"
            yield str(each.get("EventId")), text.rstrip(), False
        with aws_errors(name, "ValidationError"):  # there is no group yet
            did = autoscaling.describe_scaling_activities(AutoScalingGroupName=name, MaxRecords=20)
            for each in reversed(did["Activities"]):
                status = str(each["StatusCode"])
                text = f"{each['Description']}: {status} {each.get('StatusMessage', '')}"
                yield f"{each['ActivityId']} {status}", text.rstrip()[:REASON_MAX], status == "Failed"
