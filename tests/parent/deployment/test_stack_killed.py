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
    done = subprocess.run(
        [
            *bench.world.forks.command("support.parent.killed:killed"),
            *(str(point), "apply", "--target", "aws"),
            *("--plan", str(folder), "--image", str(release.image), *release.deciding),
            *("--endpoint-url", bench.world.services.endpoint),
            *("--ca-bundle", str(bench.world.services.ca_bundle)),
            *("--state", str(bench.host.directory.parent)),
        ],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(bench.host.directory.parent),
            **bench.world.services.environment("service"),
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode in (-9, 0), done.stderr
    return done.returncode


def written(plan: Any, release: Any, folder: Path) -> Path:
    """A plan's folder."""
    reports = {f"{name}.json": release.report(name, role=plan.settings.role_arn) for name in BUYERS}
    for name, content in planning.plan_files(plan, reports).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


POINTS = 7
"""Change set and execution of phase 1, the image, both of phase 2, the enclave's start before and after."""


@pytest.mark.parametrize("point", range(1, POINTS + 1))
def test_an_apply_that_was_killed_is_finished_by_the_next(bench: Bench, tmp_path: Path, point: int) -> None:
    """SIGKILL after each change that it makes: status tells, apply goes on, one instance and one enclave."""
    world = bench.world
    folder = written(bench.plan, world.first, tmp_path / "plan")
    assert command(bench, world.first, folder, point) == -9
    assert bench.status()["findings"] or point == POINTS
    assert command(bench, world.first, folder, 0) == 0
    assert bench.status()["findings"] == []
    assert len(bench.instances()) == 1
    assert len(bench.buckets()) == 2
    assert list(bench.host.running()) == [bench.plan.release_id]


def test_an_upgrade_that_was_killed_never_leaves_less_than_one_release(bench: Bench, tmp_path: Path) -> None:
    """SIGKILL at each step of it: before the new release is verified the old one runs, after it the new."""
    world = bench.world
    first = written(bench.plan, world.first, tmp_path / "first")
    following = bench.following()
    second = written(following, world.second, tmp_path / "second")
    bench.apply()
    old, new = bench.plan.release_id, following.release_id
    # The image, the start before and after, the old one's end before and after.
    for point, running in enumerate(({old}, {old}, {old, new}, {old, new}, {new}), 1):
        assert command(bench, world.second, second, point) == -9, point
        assert set(bench.host.running()) == running, point
        assert command(bench, world.second, second, 0) == 0
        assert set(bench.host.running()) == {new}
        assert command(bench, world.first, first, 0) == 0
        s3 = world.services.client("s3", "service")
        for bucket in bench.buckets():
            s3.delete_object(Bucket=bucket, Key=following.artifact.key)
