"""A few runs under faults for every day; ``tox -e faults`` has hundreds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from coattest_parent.link.channels import Unix
from coattest_parent.link.enclave import EnclaveClient
from faults.harness import Run, World, attempt, describe, flood, world
from faults.schedule import KMS, LINK, OTHER, PLACES, S3, STS, Schedule


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
