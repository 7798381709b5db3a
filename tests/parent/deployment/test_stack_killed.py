"""An apply that is killed after any of its changes, and what the next one makes of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from coattest_parent.deployment.stack import planning
from support.parent.stack_world import BUYERS, Bench


def command(bench: Bench, release: Any, folder: Path, point: int) -> int:
    """Apply a plan's folder in a process that is killed at the ``point``-th step; its exit code."""
    done = verb(bench, folder, point, "apply", "--image", str(release.image), *release.deciding)
    assert done.returncode in (-9, 0), done.stderr
    return done.returncode


def verb(bench: Bench, folder: Path, point: int, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process that is killed at the ``point``-th step."""
    return subprocess.run(
        [
            *bench.world.forks.command("support.parent.killed:killed"),
            *(str(point), name, "--target", "aws", "--plan", str(folder), *words),
            *("--endpoint-url", bench.world.services.endpoint),
            *("--ca-bundle", str(bench.world.services.ca_bundle)),
        ],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder.parent),
            **bench.world.services.environment("service"),
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def written(plan: Any, release: Any, folder: Path) -> Path:
    """A plan's folder."""
    reports = {f"{name}.json": release.report(name, role=plan.settings.role_arn) for name in BUYERS}
    for name, content in planning.plan_files(plan, reports).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


POINTS = 7
"""Change set and execution of the base, image and configuration, both of the parents, the signal."""


@pytest.mark.parametrize("point", range(1, POINTS + 1))
def test_an_apply_that_was_killed_is_finished_by_the_next(bench: Bench, tmp_path: Path, point: int) -> None:
    """SIGKILL after each change that it makes: status tells, apply goes on, one instance and one enclave."""
    folder = written(bench.plan, bench.world.first, tmp_path / "plan")
    assert command(bench, bench.world.first, folder, point) == -9
    assert bench.status()["findings"] or point == POINTS
    assert command(bench, bench.world.first, folder, 0) == 0
    assert bench.status()["findings"] == []
    assert len(bench.buckets()) == 2
    (instance,) = bench.instances()
    assert instance in bench.enclaves()


def test_an_upgrade_that_was_killed_never_touches_what_serves_before_its_time(
    bench: Bench, tmp_path: Path
) -> None:
    """SIGKILL at each step of it: until the new parents are verified the old ones are as they were."""
    world = bench.world
    following = bench.following()
    second = written(following, world.second, tmp_path / "second")
    served = bench.apply().parents
    before = bench.stack(bench.plan.parents_stack)
    old = [parent.instance for parent in served]
    # The base's reports, image and configuration, change set and execution, the signal.
    for point in range(1, 9):
        ended = command(bench, world.second, second, point)
        assert bench.stack(bench.plan.parents_stack) == before, point
        assert bench.instances() == old, point
        if ended == 0:
            break
        bench.world.services.client("cloudformation", "service").delete_stack(
            StackName=following.parents_stack
        )
    else:
        pytest.fail("it was never finished")
    assert bench.apply(following, retire=True).retired == (bench.plan.parents_stack,)
    assert bench.stack(bench.plan.parents_stack) is None
    assert bench.instances(following.parents_stack)


def test_a_destroy_that_is_killed_again_and_again_leaves_no_data(bench: Bench, tmp_path: Path) -> None:
    """SIGKILL after each change, each time the first of the next call: what is left is found every time."""
    folder = written(bench.plan, bench.world.first, tmp_path / "plan")
    bench.apply()
    assert len(bench.buckets()) == 2
    ended = []
    while not ended or ended[-1] == -9:
        done = verb(bench, folder, 1, "destroy", "--delete-data")
        ended.append(done.returncode)
        assert len(ended) < 30, done.stderr
    # The last change is the base's deletion: the call after it finds nothing.
    assert len(ended) > 6
    assert "no stack of" in done.stderr
    assert bench.buckets() == []
    assert bench.stack(bench.plan.parents_stack) is None
    assert bench.stack(bench.plan.settings.base_stack) is None
