"""A few runs on the software host for every day; ``tox -e faults`` has more."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from coattest_verify.auction import messages
from coattest_verify.auction.journal import SealJournal
from faults.host import World, world
from faults.host_run import HostRun, attempt, describe
from faults.invariants import Broken, one_right_result, right_outcomes
from faults.link import Frames
from faults.schedule import HOST_OTHER, VICTIMS, HostSchedule
from support.build.python_image import make_python_image


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The parties of all runs, with the enclave program in an image of this machine's Python."""
    with world(make_python_image(tmp_path_factory.mktemp("image") / "image.eif")) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7])
def test_the_real_host_loses_nothing_and_decides_nothing_twice(here: World, seed: int) -> None:
    """Whoever is killed at the seed's step: a result or one clear line, and a retry that finishes the job."""
    run, broken = attempt(here, seed)
    assert not broken, f"{broken}\n{describe(run)}"
    assert run.fired == list(run.schedule.kills)


@pytest.fixture(scope="module")
def throttled(here: World) -> HostRun:
    """A run in which KMS refuses every buyer's key once, and nothing else happens."""
    calm = dataclasses.replace(HostSchedule.of(1), kills=(), command="open", own_proxy=False, seconds=60.0)
    run = HostRun(here, dataclasses.replace(calm, seed=3001, other="throttled", throttled=(1, 1, 1)))
    run.go()
    assert here.steps.total["throttled"] == 3
    return run


@pytest.mark.slow
def test_throttling_of_all_keys_at_once_is_waited_out_by_one_call(throttled: HostRun) -> None:
    """One ``auction open`` ends in the result, with no more attempts than refusals beside its first."""
    assert [outcome.kind for outcome in throttled.outcomes] == ["result"] * len(throttled.outcomes)
    assert throttled.attempts <= 3 + len(throttled.outcomes)


@pytest.mark.slow
def test_the_host_harness_notices(here: World, throttled: HostRun, tmp_path: Path) -> None:
    """A bid that was replaced, another result, a seal that is not in the journal, a key for another image."""
    run = copy.copy(throttled)
    run.files = {**run.files, "buyer-3": b"another"}
    with pytest.raises(Broken, match="a bid was lost"):
        run._check()
    doubled = {**run.amounts, "buyer-1": [2 * amount for amount in run.amounts["buyer-1"]]}
    with pytest.raises(Broken, match="not the right result"):
        one_right_result(run.results, right_outcomes(doubled, run.schedule.rule))
    run = copy.copy(throttled)
    run.journals = {**run.journals, "buyer-2": SealJournal(tmp_path)}
    with pytest.raises(Broken, match="record of its seal is gone"):
        run._journals()
    run = copy.copy(throttled)
    run.world = copy.copy(here)
    run.world.pcr0 = bytes(48)
    with pytest.raises(Broken, match="a key for another image"):
        run._keys()
    run.out = tmp_path / "result.cbor"
    file = messages.ResultFile.decode(throttled.out.read_bytes())
    damaged = file.receipt[:-1] + bytes([file.receipt[-1] ^ 1])
    run.out.write_bytes(dataclasses.replace(file, receipt=damaged).encode())
    with pytest.raises(Broken, match="the receipt does not verify"):
        run._verify()


def test_a_host_schedule_is_its_seeds_alone_and_together_they_have_every_kill() -> None:
    """The same seed gives the same schedule; 40 seeds kill everybody and have all that happens beside it."""
    schedules = [HostSchedule.of(seed) for seed in range(40)]
    assert schedules == [HostSchedule.of(seed) for seed in range(40)]
    kills = list(itertools.chain.from_iterable(schedule.kills for schedule in schedules))
    assert {kill.victim for kill in kills} == {*VICTIMS}
    assert {kill.kind for kill in kills} == {*itertools.chain.from_iterable(VICTIMS.values())}
    assert {schedule.other for schedule in schedules} == {"", *HOST_OTHER}
    assert {schedule.command for schedule in schedules} == {"open", "serve"}


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_frames_are_found_in_a_stream_cut_anywhere(size: int) -> None:
    """Whatever the pieces are, each frame begins once and no byte is lost."""
    bodies = (b"", b"a", b"bb" * 9, b"", b"c" * 40)
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    frames, begun, moved = Frames(), [], b""
    for start in range(0, len(stream), size):
        for begins, piece in frames.cut(stream[start : start + size]):
            if begins:
                begun.append(len(moved))
            moved += piece
    assert moved == stream
    assert begun == [0, 4, 9, 31, 35]
