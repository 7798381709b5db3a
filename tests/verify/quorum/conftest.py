"""A quorum of three with threshold 2, and a report that everybody can reproduce.

With COATTEST_SENTENCES set (``tox -e hostile``) the run ends with what its tests defend, a sentence each.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from support.verify.members import Members, report_json


@pytest.fixture
def report() -> dict[str, Any]:
    return report_json()


@pytest.fixture
def three(tmp_path: Path, report: dict[str, Any]) -> Members:
    """buyer-1 and buyer-2 agree, buyer-3 is silent, dissent is reported."""
    quorum = Members.make(tmp_path, ["buyer-1", "buyer-2", "buyer-3"], threshold=2, dissent="report")
    quorum.claim(report)
    quorum.sign("buyer-1", report)
    quorum.sign("buyer-2", report)
    return quorum


@pytest.fixture
def blocking(tmp_path: Path, report: dict[str, Any]) -> Members:
    """All three agree, dissent blocks."""
    quorum = Members.make(tmp_path, ["buyer-1", "buyer-2", "buyer-3"], threshold=2, dissent="block")
    quorum.claim(report)
    for name in quorum.signers:
        quorum.sign(name, report)
    return quorum


_sentences: dict[str, str] = {}


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Remember each test's sentence."""
    for item in items:
        function = getattr(item, "function", None)
        _sentences[item.nodeid] = " ".join((getattr(function, "__doc__", None) or item.name).split())


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each sentence, with the number of its cases; failures are marked."""
    if not os.environ.get("COATTEST_SENTENCES"):
        return
    cases: dict[str, list[str]] = {}
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            if outcome != "passed" or report.when == "call":
                cases.setdefault(_sentences.get(report.nodeid, report.nodeid), []).append(outcome)
    terminalreporter.section("what is defended")
    for sentence, outcomes in cases.items():
        bad = [outcome for outcome in outcomes if outcome != "passed"]
        mark = f"{bad[0].upper()} " if bad else ""
        count = f" ({len(outcomes)} cases)" if len(outcomes) > 1 else ""
        terminalreporter.write_line(f"{mark}{sentence}{count}")
