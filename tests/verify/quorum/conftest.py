"""A quorum of three with threshold 2, and a report that everybody can reproduce."""

from __future__ import annotations

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
