"""A few runs under faults for every day; ``tox -e faults`` has hundreds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import pytest

from coattest_parent.link.channels import Unix
from coattest_parent.link.enclave import EnclaveClient
from faults import spool_run
from faults.harness import Run, World, attempt, flood, world
from faults.invariants import Broken, describe
from faults.schedule import KMS, LINK, OTHER, PLACES, S3, SPOOL_S3, STS, Schedule, SpoolSchedule


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    """The parties of all runs."""
    with world() as made:
        yield made


@pytest.mark.parametrize("seed", range(1000, 1005))
def test_nothing_is_lost_and_nothing_is_decided_twice(here: World, seed: int) -> None:
    """Whatever the seed's faults are: a result or one clear line, and a retry that finishes the job."""
    run, broken = attempt(here, seed)
    assert not broken, describe(run)


@pytest.fixture(scope="module")
def together() -> Iterator[spool_run.SpoolWorld]:
    """Several parents, and what is theirs together."""
    with spool_run.world() as made:
        yield made


@pytest.mark.parametrize("seed", [1000, 1001])
def test_several_couriers_end_as_one_would(together: spool_run.SpoolWorld, seed: int) -> None:
    """Whoever dies when, and whatever S3 does: every job of the spool has its one result in the end."""
    run, broken = spool_run.attempt(together, seed)
    assert not broken, describe(run)


def test_the_harness_of_a_spool_notices(together: spool_run.SpoolWorld) -> None:
    """A job that was lost, one that was put twice, and one that counts as finished before it is published."""
    calm = dataclasses.replace(
        SpoolSchedule.of(2000),
        auctions=1,
        lots=1,
        couriers=2,
        s3=(),
        kms=(),
        sts=(),
        kills=(),
        jumps=(),
        results=("denied",),
        attempts=1,
        clocks=(),
    )
    run = spool_run.SpoolRun(together, dataclasses.replace(calm, seconds=60.0, publish=True))
    run.go()
    log = b"".join(path.read_bytes() for path in run.directory.glob("log-*"))
    assert b"AccessDenied" in log  # the first publishing failed, and another attempt has published
    stored = together.world.cloud.objects
    ((place, content),) = (each for each in stored.items() if each[0].startswith("/results/"))
    del stored[place]
    with pytest.raises(Broken, match="a put is gone"):
        run._check()
    together.world.cloud.stored.remove((place, content))
    with pytest.raises(Broken, match="finished and not published"):
        run._check()
    stored[place] = content + b"x"
    with pytest.raises(Broken, match="another result was published"):
        run._check()
    stored[place] = content
    together.world.cloud.stored += [(place, content)] * 2
    with pytest.raises(Broken, match="put twice"):
        run._check()
    del stored[next(iter(run.given))]
    with pytest.raises(Broken, match="lost or changed"):
        run._check()


def test_a_spools_schedule_is_its_seeds_alone_and_together_they_have_every_fault() -> None:
    """The same seed gives the same schedule; 500 kill couriers and enclaves, and have every fault of S3."""
    schedules = [SpoolSchedule.of(seed) for seed in range(500)]
    assert schedules == [SpoolSchedule.of(seed) for seed in range(500)]
    assert {fault for schedule in schedules for fault in schedule.s3} >= {*SPOOL_S3}
    assert {fault for schedule in schedules for fault in schedule.results} >= {*SPOOL_S3}
    assert {what for schedule in schedules for what, _ in schedule.kills} == {"courier", "enclave", ""}
    assert {schedule.couriers for schedule in schedules} == {2, 3, 4}
    assert any(schedule.jumps for schedule in schedules)
    assert {clock for schedule in schedules for clock in schedule.clocks} == {0, 20, 7200, -7200}


def test_a_schedule_is_its_seeds_alone_and_together_they_have_every_fault() -> None:
    """The same seed gives the same schedule, and 500 seeds have each fault of each kind."""
    schedules = [Schedule.of(seed) for seed in range(500)]
    assert schedules == [Schedule.of(seed) for seed in range(500)]
    seen = {
        *itertools.chain.from_iterable((s.s3 + s.kms + s.sts + (s.link, s.place, s.other)) for s in schedules)
    }
    assert seen >= {*S3, *KMS, *STS, *LINK, *PLACES, *OTHER}
    assert any(min(schedule.throttled) > 0 for schedule in schedules)


def test_the_harness_notices_a_result_that_was_changed(here: World) -> None:
    """A bid that gets lost, and a result that is not the right one, are called broken."""
    run = Run(here, Schedule.of(2000))
    run.amounts = {
        name: [amount + 10**6 for amount in amounts[::-1]] for name, amounts in run.amounts.items()
    }
    run.amounts["buyer-1"] = [2 * amount for amount in run.amounts["buyer-1"]]
    with pytest.raises(AssertionError, match="not the right result"):
        run.go()
    run = Run(here, Schedule.of(2001))
    run.paths["buyer-3"] = "/lost"
    run.auction.files["buyer-3"] = b"bid"
    with pytest.raises(AssertionError, match="a bid was lost"):
        run.go()


@pytest.mark.slow
def test_the_enclave_answers_after_ten_thousand_connections(here: World) -> None:
    """As many connections as its backlog takes, again and again up to 10,000: then it answers as before."""
    here.cloud.clear()
    here.start_enclave()
    path = here.directory / "in_5005.sock"
    for _ in range(20):
        with flood(path, 500):
            pass
    with EnclaveClient(Unix(path)) as client:
        assert client.alive(bytes(32))
