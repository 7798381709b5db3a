"""What each enclave of a source is, by its document and what was decided. No clock, no I/O.

A document is accepted by the library's verifier alone, under the registers of a decided release. Only for one
that it refused is looked for why: whether it is genuine, and of which release.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from coattest.errors import CoattestError, Rejected
from coattest.findings import Finding
from coattest_verify.attestation import (
    ChainCache,
    Document,
    ExpectAnyPcrs,
    Expectation,
    ExpectNonce,
    ExpectPcrs,
    ExpectUserData,
    MaxAge,
    Root,
    UnsafeAnyMeasurement,
    parse_unverified,
    verify_document,
)
from coattest_verify.fleet.file import FleetSource, InFiles
from coattest_verify.rebuild.remeasure import binding_pcrs

VERIFIED: Final = "verified"
DRIFTED: Final = "drifted"
REVOKED: Final = "revoked"
REFUSED: Final = "refused"
UNDECIDED: Final = "undecided"
INVALID: Final = "invalid"
REPEATED: Final = "repeated"
UNEXPECTED: Final = "unexpected"
SILENT: Final = "silent"
WAITING: Final = "waiting"

FALSE: Final = (REVOKED, REFUSED, DRIFTED, INVALID, REPEATED, UNEXPECTED)
"""Found false: exit code 1."""

OPEN: Final = (UNDECIDED, SILENT, WAITING)
"""Not verified, and nothing found false: exit code 3. ``waiting`` is silent within its boot time."""

STATUSES: Final = (VERIFIED, *FALSE, *OPEN)
DECIDED: Final = "decided"
ANSWERS: Final = {DECIDED: VERIFIED, REVOKED: REVOKED, REFUSED: REFUSED, "pending": UNDECIDED}
"""What an enclave of a release is, by what `verify release which` says of that release."""

MISSING: Final = "*"
"""The key of all that a source lacks of its count."""


@dataclass(frozen=True, slots=True)
class ExpectedRelease:
    """A release that sources name: what the quorum says of it, and PCR0 to PCR2 (none: no claim is there)."""

    name: str
    answer: str
    pcrs: Mapping[int, bytes]
    expires: datetime | None = None
    reasons: tuple[Finding, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Name, answer, expiry and reasons; registers in hex."""
        return {
            "release": self.name,
            "answer": self.answer,
            "expires": self.expires.isoformat() if self.expires else None,
            "pcrs": {f"PCR{index}": value.hex() for index, value in sorted(self.pcrs.items())},
            "reasons": [reason.to_json() for reason in self.reasons],
        }


@dataclass(frozen=True, slots=True)
class FetchedDocument:
    """A document, the nonce that was asked for (None for a file), and when it was there."""

    document: bytes
    nonce: bytes | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Judged:
    """One enclave, or one place without any. ``module_id`` and ``time`` are empty unless a genuine document
    said so; ``since`` is when it fell silent.
    """

    source: str
    place: str
    status: str
    module_id: str = ""
    release: str = ""
    time: datetime | None = None
    findings: tuple[Finding, ...] = ()
    since: datetime | None = None

    @property
    def key(self) -> str:
        """What stays the same from look to look: the place, or what is missing."""
        return self.place or self.module_id or MISSING

    def to_json(self) -> dict[str, Any]:
        """Every field; times in ISO 8601."""
        return {
            "place": self.place,
            "status": self.status,
            "module_id": self.module_id,
            "release": self.release,
            "time": self.time.isoformat(timespec="milliseconds") if self.time else None,
            "since": self.since.isoformat(timespec="seconds") if self.since else None,
            "findings": [finding.to_json() for finding in self.findings],
        }


def judge_answer(
    source: FleetSource,
    place: str,
    answer: FetchedDocument | CoattestError,
    *,
    releases: Sequence[ExpectedRelease],
    root: Root,
    cache: ChainCache,
) -> Judged:
    """What is at a place, by its answer at its own time, or by the reason why there is none.

    ``releases`` are those that may run in this source.
    """
    if isinstance(answer, CoattestError):
        status = INVALID if isinstance(answer, Rejected) and answer.code != "absent" else SILENT
        return Judged(source.name, place, status, findings=(Finding(answer.code, place, answer.what),))
    document, nonce, now = answer.document, answer.nonce, answer.at
    beside: list[Expectation] = [MaxAge(source.max_age_ms, skew_ms=source.skew_ms)]
    if nonce is not None:
        beside.append(ExpectNonce(nonce))
    if source.user_data is not None:
        beside.append(ExpectUserData(source.user_data or None))
    bound = {3: binding_pcrs(source.role_arn, "")[3]} if source.role_arn else {}
    sets = [ExpectPcrs({**each.pcrs, **bound}) for each in releases if each.answer == DECIDED and each.pcrs]
    findings: tuple[Finding, ...] = ()
    if sets:
        verdict = verify_document(document, [ExpectAnyPcrs(sets), *beside], now=now, root=root, cache=cache)
        if verdict.ok:
            return _genuine(source, place, verdict.document, releases, ())
        findings = verdict.findings
    looked = verify_document(document, [UnsafeAnyMeasurement(), *beside], now=now, root=root, cache=cache)
    if looked.ok:
        return _genuine(source, place, looked.document, releases, findings, accepted=False)
    codes = {finding.code for finding in looked.findings}
    if "too-old" in codes and codes <= {"too-old", "certificate-dates"}:
        stale = parse_unverified(document)  # all but its age was verified; its certificates' at its own time
        own = verify_document(document, [UnsafeAnyMeasurement()], now=stale.timestamp, root=root, cache=cache)
        if own.ok:
            return Judged(source.name, place, SILENT, stale.module_id, "", stale.timestamp, looked.findings)
    return Judged(source.name, place, INVALID, findings=looked.findings)


def _genuine(
    source: FleetSource,
    place: str,
    document: Document,
    releases: Sequence[ExpectedRelease],
    findings: tuple[Finding, ...],
    *,
    accepted: bool = True,
) -> Judged:
    """A genuine document by its release. A revocation goes first: it says that these bytes are bad."""
    found = {
        each.answer: each
        for each in reversed(releases)
        if each.pcrs and all(document.pcrs.get(index) == value for index, value in each.pcrs.items())
    }
    release = next((found[answer] for answer in (REVOKED, DECIDED, REFUSED) if answer in found), None)
    release = release or next(iter(found.values()), None)
    status = ANSWERS.get(release.answer, UNDECIDED) if release else DRIFTED
    if status == VERIFIED and not accepted:
        status = DRIFTED  # the release's registers, and another role's PCR3
    if status == VERIFIED:
        findings = ()
    elif status != DRIFTED and release is not None:
        findings = release.reasons
    elif not findings:
        findings = (Finding("measurement", place, "PCR0 to PCR2 are of no release that is expected here"),)
    name = release.name if release else ""
    return Judged(source.name, place, status, document.module_id, name, document.timestamp, findings)


def judge_source(source: FleetSource, answers: Iterable[Judged]) -> list[Judged]:
    """The answers of a source as a whole: each enclave once, those that are expected, and what is missing."""
    rows, seen, wanted = [], dict[str, str](), frozenset(source.ids)
    for each in answers:
        row = each
        if row.status == VERIFIED:
            other = seen.setdefault(row.module_id, row.place)
            if other != row.place:
                detail = f"{other} shows the same enclave"
                row = replace(row, status=REPEATED, findings=(Finding("fleet-repeated", row.place, detail),))
            elif source.ids and not _names([row.module_id]) & wanted:
                detail = "is not among the ids of its source"
                finding = Finding("fleet-unexpected", row.place, detail, found=row.module_id)
                row = replace(row, status=UNEXPECTED, findings=(finding,))
        rows.append(row)
    verified = {row.module_id for row in rows if row.status == VERIFIED}
    lacking = set(source.ids) - _names(verified)
    if not lacking and len(verified) >= source.count and isinstance(source.reach, InFiles):
        # Files of enclaves that were replaced: nobody waits for these.
        return [row for row in rows if row.status != SILENT or not row.module_id]
    listed, there = all(row.place for row in rows), len(rows)
    for name in sorted(lacking - _names(row.module_id for row in rows)):
        finding = Finding("fleet-missing", source.name, f"no document of {name}")
        rows.append(Judged(source.name, "", SILENT, name, findings=(finding,)))
    if listed and len(rows) < source.count:  # of ids too: an instance can have more enclaves than one
        detail = f"{there} of {source.count} enclaves have a document"
        rows.append(
            Judged(source.name, "", SILENT, findings=(Finding("fleet-missing", source.name, detail),))
        )
    return rows


def _names(module_ids: Iterable[str]) -> set[str]:
    """Each module id, and the id of the instance that it begins with."""
    return {name for each in module_ids for name in (each, each.partition("-enc")[0])}


def settled(row: Judged, silent_since: datetime | None, *, now: datetime, boot_ms: int) -> Judged:
    """A silent enclave is waited for while it may still boot; ``silent_since`` is what the last look said."""
    if row.status != SILENT:
        return row
    since = silent_since or now
    waiting = now - since < timedelta(milliseconds=boot_ms)
    return replace(row, status=WAITING if waiting else SILENT, since=since)


def exit_code(rows: Iterable[Judged], releases: Iterable[ExpectedRelease]) -> int:
    """1 when something was found false, 3 when something is not there or not decided, else 0."""
    found = {row.status for row in rows} | {ANSWERS.get(each.answer, UNDECIDED) for each in releases}
    if found & set(FALSE):
        return 1
    return 3 if found & set(OPEN) or not found else 0
