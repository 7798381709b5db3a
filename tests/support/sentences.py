"""With COATTEST_SENTENCES set a run ends with what the tests of attacks defend, a sentence each.

tests/conftest.py calls both functions. The sentence goes with the report of its test, so that
pytest-xdist's workers send it to where the summary is written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
FOLDERS = (TESTS / "hostile", TESTS / "verify" / "quorum")
DEFENDS = "defends"


def give_sentences(items: Sequence[pytest.Item]) -> None:
    """Give each test of an attack its sentence."""
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in FOLDERS):
            function = getattr(item, "function", None)
            sentence = " ".join((getattr(function, "__doc__", None) or item.name).split())
            item.user_properties.append((DEFENDS, sentence))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each sentence, with the number of its cases; failures are marked."""
    if not os.environ.get("COATTEST_SENTENCES"):
        return
    cases: dict[str, list[str]] = {}
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            sentence = dict(getattr(report, "user_properties", ())).get(DEFENDS)
            if sentence and (outcome != "passed" or report.when == "call"):
                cases.setdefault(str(sentence), []).append(outcome)
    if cases:
        terminalreporter.section("what is defended")
    for sentence, outcomes in cases.items():
        bad = [outcome for outcome in outcomes if outcome != "passed"]
        mark = f"{bad[0].upper()} " if bad else ""
        count = f" ({len(outcomes)} cases)" if len(outcomes) > 1 else ""
        terminalreporter.write_line(f"{mark}{sentence}{count}")
