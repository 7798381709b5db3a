"""Attacks on a quorum: each test has a machine of its own that remembers nothing yet."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine remembers, apart for each test."""
    monkeypatch.setenv("COATTEST_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("COATTEST_CONFIG", str(tmp_path / "config"))
