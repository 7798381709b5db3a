"""Fixtures of the deployment's tests.

Those that bring up stacks take minutes: collected only when COATTEST_RUN names them, as ``tox -e deploy``
does. Plans, templates and programs are tested everywhere.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.parent.stack_world import Bench, World, running_bench, running_world

_wanted = "deploy" in os.environ.get("COATTEST_RUN", "").split()
_stacks = ("deploy", "failures", "hostile", "remote", "upgrade")
collect_ignore = [] if _wanted else [f"test_stack_{name}.py" for name in _stacks]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Three accounts, two releases; whatever enclave is left ends with the module."""
    yield from running_world(tmp_path_factory.mktemp("deploy"))


@pytest.fixture
def bench(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A plan with both buyers' reports; everything of it ends with the test."""
    yield from running_bench(world, tmp_path, f"t{zlib.crc32(request.node.name.encode()):08x}")
