"""An upgrade, a rollback and a retirement, watched at every step: KMS decrypts for a release that runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from coattest.errors import FoundFalse
from coattest_parent.deployment.runner import Enclave as Running
from coattest_parent.deployment.runner import LocalRunner
from coattest_parent.deployment.stack import planning, rollout
from coattest_parent.deployment.stack.hosts import LocalHost
from support.local.kms_world import Enclave
from support.parent.deployments import Release
from support.parent.stack_world import BUYERS, Bench, Debug, World, encrypted
from support.raises import raises_code


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """One step: what happened, which releases ran then, and which of those KMS decrypted for."""

    step: str
    running: frozenset[str]
    able: frozenset[str]


@dataclasses.dataclass
class Watch:
    """Looks at the whole deployment whenever something happens: who runs, and for whom KMS decrypts."""

    world: World
    ciphertexts: dict[str, bytes]
    seen: list[Seen] = dataclasses.field(default_factory=list)

    def __call__(self, step: str) -> None:
        """Every buyer's ciphertext counts: an opening needs them all."""
        running = frozenset(self.world.running())
        able = frozenset(
            name
            for name, release in self.releases().items()
            if name in running and all(self.world.decrypted(release, self.ciphertexts).values())
        )
        self.seen.append(Seen(step, running, able))

    def releases(self) -> Mapping[str, Release]:
        """Both releases by name."""
        both = (self.world.first, self.world.second)
        return {planning.release_id(each.authority.decision): each for each in both}

    def take(self) -> list[Seen]:
        """What was seen since the last time: at none of it was there nobody who could."""
        found, self.seen = self.seen, []
        assert found
        assert all(step.able for step in found), [step for step in found if not step.able]
        return found


class Watched(LocalHost):
    """Each start, end and switch is looked at, before and after."""

    watch: Watch
    lies = False

    def run(self, release: str, image: Path, *, role_arn: str, instance_id: str) -> Running:
        self.watch("before the start")
        found = super().run(release, image, role_arn=role_arn, instance_id=instance_id)
        self.watch("after the start")
        return found

    def attend(self, release: str) -> None:
        self.watch("before the switch")
        super().attend(release)
        self.watch("after the switch")

    def terminate(self, release: str) -> None:
        self.watch("before the end")
        super().terminate(release)
        self.watch("after the end")

    def _runner(self, release: str) -> LocalRunner:
        return Debug(self.directory / release) if self.lies else super()._runner(release)


def roll_out(world: World, release: Release, watch: Watch, *, lies: bool = False) -> rollout.Applied:
    """Apply a release with the reports that the buyers gave last."""
    reports = {name: (world.folder / f"{name}.report.json").read_bytes() for name in BUYERS}
    plan = planning.make_stack_plan(release.authority, release.image, world.settings, reports)
    host = Watched(world.folder / "state" / "enclaves")
    host.watch, host.lies = watch, lies
    cloud = Bench(world, plan, host).cloud()
    return rollout.apply_stacks(plan, release.image, dataclasses.replace(cloud, say=watch))


@pytest.fixture
def watch(world: World) -> Iterator[Watch]:
    """The first release runs, for both buyers."""
    first = world.first
    world.plan(first)
    world.apply(first)
    world.plan(first, *(world.stack_of(name, first) for name in BUYERS))
    world.apply(first)
    yield Watch(world, encrypted(world))
    world.deploy("destroy", "--plan", "plan", *world.place)


def test_at_no_step_can_neither_release_decrypt(world: World, watch: Watch) -> None:
    """Admission, an upgrade that fails, the upgrade, a rollback, the upgrade again, retirement: by real
    policies and documents, buyer by buyer."""
    first, second = world.first, world.second
    one, two = watch.releases()
    for name in BUYERS:
        world.stack_of(name, first, second)
        watch(f"{name} admits the second")
        assert world.decrypted(second, watch.ciphertexts)[name]
    assert {step.running for step in watch.take()} == {frozenset({one})}

    with raises_code(FoundFalse, "live-document", match="PCR0"):
        roll_out(world, second, watch, lies=True)
    watch("it was rolled back")
    assert watch.take()[-1] == Seen("it was rolled back", frozenset({one}), frozenset({one}))

    for release, old, new in ((second, one, two), (first, two, one), (second, one, two)):
        assert roll_out(world, release, watch).retired == (old,)
        steps = watch.take()
        assert steps[0].able == {old}
        assert steps[-1].able == steps[-1].running == {new}
        # Both run and can, from before the switch until the old one ends.
        switched = [step for step in steps if step.step.endswith(("the switch", "before the end"))]
        assert len(switched) == 3
        assert all(step.able == {old, new} for step in switched)

    kept = Enclave(first.authority.decision.pcrs, role=world.settings.role_arn)
    document = kept.recipient()
    assert all(world.decrypted(first, watch.ciphertexts, (kept, document)).values())
    for index, name in enumerate(BUYERS, 1):
        world.stack_of(name, second)
        watch(f"{name} retires the first")
        answers = world.decrypted(first, watch.ciphertexts)
        assert answers == {buyer: buyer not in BUYERS[:index] for buyer in BUYERS}
    assert {step.able for step in watch.take()} == {frozenset({two})}
    # Neither a new document of the old release nor one from before the retirement opens anything.
    assert not world.decrypts(first, watch.ciphertexts)
    assert not any(world.decrypted(first, watch.ciphertexts, (kept, document)).values())
    with raises_code(FoundFalse, "policy-first", match="does not admit"):
        roll_out(world, first, watch)
    assert world.running() == [two]
