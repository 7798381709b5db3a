"""A quorum of three in a repository, with a decided release and a log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.verify.history.commits import History
from support.verify.history.shared import NEXT, SharedHistory
from support.verify.members import Members, report_json


@pytest.fixture
def upcoming() -> dict[str, Any]:
    """The report of the next release."""
    return report_json("next", release=NEXT, source="next")


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SharedHistory:
    """Release 0.1.0, on which buyer-1 and buyer-2 agree, with a log; and the claim of 0.2.0."""
    monkeypatch.setenv("COATTEST_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("COATTEST_STATE", str(tmp_path / "state"))
    quorum = Members.make(tmp_path / "desk", ["buyer-1", "buyer-2", "buyer-3"], threshold=2)
    made = SharedHistory(quorum, History(tmp_path / "repository"), "")
    report = report_json()
    quorum.claim(report)
    for name in ("buyer-1", "buyer-2"):
        made.rebuilt(name, report)
        made.log(name)
    quorum.claim(report_json("next", release=NEXT, source="next"))
    made.base = made.history.commit(made.files)
    return made
