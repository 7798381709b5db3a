"""Reports of real hardware, as they lie in the repository."""

from __future__ import annotations

from pathlib import Path

from coattest_verify.fleet.hardware import hardware_findings, read_hardware
from coattest_verify.signatures.keys import load_public

HARDWARE = Path(__file__).parents[3] / "attestations/hardware"


def test_every_report_of_hardware_is_judged_again() -> None:
    """Those in attestations/hardware, each with the key beside it; the page there says when there is none."""
    reports = sorted(HARDWARE.glob("*.json"))
    for path in reports:
        report = read_hardware(path.read_bytes(), [load_public(path.with_suffix(".pub"))])
        assert hardware_findings(report) == (), path.name
    assert ("**There is none yet.**" in (HARDWARE / "README.md").read_text()) is not reports
