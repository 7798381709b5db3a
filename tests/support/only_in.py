"""What takes long runs in an environment of its own, which names itself in COATTEST_RUN (tox.ini)."""

from __future__ import annotations

import os

import pytest


def runs_in(environment: str) -> bool:
    """Whether this run is that environment's."""
    return environment in os.environ.get("COATTEST_RUN", "").split()


def only_in(environment: str) -> None:
    """Skip the running test, or the module that is being imported, anywhere but there."""
    if not runs_in(environment):
        pytest.skip(f"tox -e {environment} runs it", allow_module_level=True)
