"""What an audit comes to: one sentence and an exit code. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from coattest_verify.audit.coverage import Coverage
from coattest_verify.audit.judge import AuditReport
from coattest_verify.audit.operations import DECRYPT

KEEP = "keep the logs with the receipts, and audit again after the next auction"
EXPLAIN = "encrypt nothing more under this key before each finding above is explained"
MORE_LOGS = "audit again with what the findings above lack"
LOOK_ELSEWHERE = "check --key, --since, --until and the source; --allow-none if none"
"""What to do next, by outcome."""


class AuditOutcome(enum.IntEnum):
    """The exit codes of an audit."""

    AS_DECIDED = 0
    FOUND_FALSE = 1
    UNDECIDED = 3


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """The outcome, its sentence, what to do next, and the code of the error where it is one."""

    outcome: AuditOutcome
    sentence: str
    next: str
    code: str | None = None

    def __bool__(self) -> bool:
        return self.outcome is AuditOutcome.AS_DECIDED


def conclude(report: AuditReport, coverage: Coverage, *, none_expected: bool) -> AuditVerdict:
    """The verdict. Without an event of the key nothing was looked at, unless none are expected."""
    if report.found_false:
        count = len(report.found_false)
        sentence = (
            f"{count} finding(s) in {report.events} event(s) of the key: not every use of it is as decided"
        )
        return AuditVerdict(AuditOutcome.FOUND_FALSE, sentence, EXPLAIN, "not-as-decided")
    if report.undecided:
        sentence = f"undecided: these logs cannot show {len(report.undecided)} thing(s) named above"
        return AuditVerdict(AuditOutcome.UNDECIDED, sentence, MORE_LOGS, "undecided")
    if not coverage.records and coverage.source != "lookup-events":
        return AuditVerdict(
            AuditOutcome.UNDECIDED,
            "nothing was looked at: there are no records",
            LOOK_ELSEWHERE,
            "no-records",
        )
    if not report.events and not none_expected:
        outside = f" ({report.outside} outside the window)" if report.outside else ""
        sentence = f"nothing was looked at: no event of the key{outside} in {coverage.told}"
        return AuditVerdict(AuditOutcome.UNDECIDED, sentence, LOOK_ELSEWHERE, "no-events")
    return AuditVerdict(AuditOutcome.AS_DECIDED, _verified(report, coverage), KEEP)


def _verified(report: AuditReport, coverage: Coverage) -> str:
    decrypts = sum(group.count for group in report.groups)
    parts = [
        f"verified: {decrypts} Decrypt(s), each attested by a decided enclave"
        if decrypts
        else f"verified: no successful {DECRYPT}",
        f"{report.events} event(s) of the key in {coverage.told}",
        f"{len(report.denied)} refused by KMS" if report.denied else "",
        f"{len(report.notable)} change(s) of the key, shown above" if report.notable else "",
        f"{coverage.pages} page(s) in files of their own were taken for one answer with the last one"
        if coverage.pages
        else "",
        coverage.complete,
        "the event history was asked for what names the key: a call that names its alias alone is not in it"
        if coverage.source == "lookup-events"
        else "",
    ]
    return "; ".join(filter(None, parts))
