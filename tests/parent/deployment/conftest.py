"""Fixtures of the deployment's tests.

Those that bring up stacks take minutes: collected only when COATTEST_RUN names them, as ``tox -e deploy``
does. Plans, templates and programs are tested everywhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING

import botocore.endpoint
import pytest

from support.only_in import runs_in

if TYPE_CHECKING:
    from support.parent.stack_world import Bench, World

# The fixtures import moto's models, which takes a second or two: not where nothing needs them.
_stacks = ("deploy", "failures", "fleet", "hostile", "killed", "upgrade")
collect_ignore = [] if runs_in("deploy") else [f"test_stack_{name}.py" for name in _stacks]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Three accounts, two releases; whatever enclave is left ends with the module."""
    from support.parent.stack_world import running_world

    yield from running_world(tmp_path_factory.mktemp("deploy"))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that botocore waits before it tries again, one for each try; the waits themselves are left
    out.
    """
    seconds: list[float] = []
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


@pytest.fixture
def bench(world: World, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A plan with both buyers' reports; everything of it ends with the test."""
    from support.parent.stack_world import running_bench

    yield from running_bench(world, f"t{zlib.crc32(request.node.name.encode()):08x}")
