"""An upgrade, a rollback and a retirement, watched at every step: KMS decrypts for a release that serves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from coattest.errors import FoundFalse
from coattest_local import records
from coattest_parent.deployment.stack import planning, rollout
from coattest_verify.auction import messages
from support.auction.real_auction import RealAuction
from support.local.kms_world import Enclave
from support.parent.deployments import Release, now
from support.parent.stack_world import BUYERS, Bench, World, client_of, encrypted
from support.raises import raises_code


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """One step: what happened, which releases served then, and which of those KMS decrypted for."""

    step: str
    serving: frozenset[str]
    able: frozenset[str]


@dataclasses.dataclass
class Watch:
    """Looks at the whole deployment whenever something is said: who serves, and for whom KMS decrypts."""

    world: World
    ciphertexts: dict[str, bytes]
    seen: list[Seen] = dataclasses.field(default_factory=list)

    def __call__(self, step: str) -> None:
        """Every buyer's ciphertext counts: an opening needs them all."""
        serving = frozenset(self.serving())
        able = frozenset(
            name
            for name, release in self.releases().items()
            if name in serving and all(self.world.decrypted(release, self.ciphertexts).values())
        )
        self.seen.append(Seen(step, serving, able))

    def serving(self) -> Iterator[str]:
        """The releases with an instance whose enclave runs, in a stack that was made."""
        for release in self.releases().values():
            bench = bench_of(self.world, release)
            state = bench.stack(bench.plan.parents_stack)
            made = state and state.status.endswith("CREATE_COMPLETE")
            if made and set(bench.instances()) & set(bench.enclaves()):
                yield release.name

    def releases(self) -> Mapping[str, Release]:
        """Both releases by name."""
        return {each.name: each for each in (self.world.first, self.world.second)}

    def take(self) -> list[Seen]:
        """What was seen since the last time: at none of it was there nobody who could."""
        found, self.seen = self.seen, []
        assert found
        assert all(step.able for step in found), [step for step in found if not step.able]
        return found


def bench_of(world: World, release: Release) -> Bench:
    """A plan of the release with the reports that the buyers gave last; of its own if they admit another."""
    reports = {name: (world.folder / f"{name}.report.json").read_bytes() for name in BUYERS}
    try:
        plan = planning.make_stack_plan(release.authority, release.image, world.settings, reports)
    except FoundFalse as error:
        if error.code != "policy-first":
            raise
        own = {name: release.report(name, role=world.settings.role_arn) for name in BUYERS}
        plan = planning.make_stack_plan(release.authority, release.image, world.settings, own)
    return Bench(world, plan)


def roll_out(
    world: World, release: Release, say: Callable[[str], None], *, retire: bool = True
) -> rollout.Applied:
    """Apply a release with the reports that the buyers gave last."""
    reports = {name: (world.folder / f"{name}.report.json").read_bytes() for name in BUYERS}
    plan = planning.make_stack_plan(release.authority, release.image, world.settings, reports)
    return Bench(world, plan).apply(say=say, retire=retire)


@pytest.fixture
def watch(world: World) -> Iterator[Watch]:
    """The first release serves, for both buyers."""
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
    assert {step.serving for step in watch.take()} == {frozenset({one})}

    failing = bench_of(world, second)
    failing.fault(failing.plan.parents_stack, launch="debug")
    with raises_code(FoundFalse, "live-document", match="PCR0"):
        roll_out(world, second, watch)
    failing.fault(failing.plan.parents_stack)
    watch("it was rolled back")
    steps = watch.take()
    assert {step.serving for step in steps} == {frozenset({one})}

    for release, old, new in ((second, one, two), (first, two, one), (second, one, two)):
        assert len(roll_out(world, release, watch).retired) == 1
        watch("done")
        steps = watch.take()
        assert steps[0].able == {old}
        assert steps[-1].able == steps[-1].serving == {new}
        # Both serve and can, when the old one is told to go.
        (retiring,) = [step for step in steps if step.step.endswith(": retired")]
        assert retiring.able == {old, new}

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
    assert list(watch.serving()) == [two]


class Told(RealAuction):
    """An auction whose buyers tell each other their bids' digests: their stacks let nobody else read bids."""

    def digests(self, name: str, **chosen: bytes) -> Mapping[str, bytes]:
        """Every bid file's digest."""
        return {each: messages.bid_digest(file) for each, file in {**self.files, **chosen}.items()}


def test_the_old_release_opens_its_job_and_then_goes(world: World, watch: Watch, tmp_path: Path) -> None:
    """Both serve, and --retire refuses, until a parent of the old release has put its result: by the courier,
    in the enclave of its instance, with its role's rights; the receipt verifies.
    """
    for name in BUYERS:
        world.stack_of(name, world.first, world.second)
    old = bench_of(world, world.first)
    auction = Told(world.cloud(), tmp_path, "spring", decided=old.plan.decision, prefix="bids/")
    files = {f"{name}.seal": seal for name, seal in zip(BUYERS, auction.bid_and_seal(), strict=True)}
    s3, job = client_of(world.services, "s3", "service"), f"jobs/{world.first.name}/spring"
    for file, content in {**files, "manifest.cbor": auction.manifest.encode()}.items():
        s3.put_object(Bucket=old.results, Key=f"{job}/{file}", Body=content)
    with raises_code(FoundFalse, "open-jobs", match=f"{job}/"):
        roll_out(world, world.second, print)
    assert list(watch.serving()) == list(watch.releases())
    (instance,) = old.instances()
    assert old.courier(records.running_record(old.enclave_of(instance))["address"]).round(now) == 0
    result = s3.get_object(Bucket=old.results, Key=f"{job}/result.cbor")["Body"].read()
    verdict = auction.verify(messages.ResultFile.decode(result))
    assert verdict.findings == ()
    assert verdict.result
    assert verdict.result.lots[0][1] == messages.Won("buyer-2")
    assert roll_out(world, world.second, print).retired == (old.plan.parents_stack,)
    assert list(watch.serving()) == [world.second.name]
