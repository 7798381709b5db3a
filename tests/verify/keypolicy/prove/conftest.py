"""The prover's command judges files, so it does not run in the checkout that it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in a folder that no checkout is around."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command has ten seconds; here a busy machine decides no answer."""
    pytest.importorskip("z3")
    from coattest_verify.keypolicy.prove import prove

    monkeypatch.setitem(prove.__kwdefaults__, "deadline", 300.0)
