"""What each enclave of a source is, by its document and what was decided. No clock, no I/O.

A document is accepted by the library's verifier alone, under the registers of a decided release. Only for one
that it refused is looked for why: whether it is genuine, and of which release.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from coattest.errors import CoattestError, Rejected
from coattest.findings import Finding
from coattest.strictjson import shown
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
    Verdict,
    parse_unverified,
)
from coattest_verify.attestation.batch import Steps, together
from coattest_verify.attestation.expectations import Demands
from coattest_verify.attestation.verify import verify_under
from coattest_verify.fleet.file import FleetSource, InBucket, InFiles
from coattest_verify.fleet.live import DOCUMENT, LISTED_MAX, LOG, STALE, alive_expectations
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

STRANGE: Final = "strange"
MANY: Final = "many"
"""The places of objects in a bucket that no instance puts, and of more than are listed."""

STRAYS_MAX: Final = 1000
"""Rows of instances that a group does not name: a writer to the bucket makes no state too large to read."""

_OBJECT = re.compile(rf"(i-[0-9a-f]{{8,17}})/(?:{re.escape(DOCUMENT)}|{re.escape(LOG)})")


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

    def __bool__(self) -> bool:
        return self.status == VERIFIED

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


@dataclass(frozen=True, slots=True)
class SourceJudge:
    """Says what is at each place of a source. ``releases`` are those that may run there."""

    source: FleetSource
    releases: Sequence[ExpectedRelease]
    root: Root
    cache: ChainCache
    usual: Demands | None = field(init=False)
    """What is asked of a document without a nonce; made once, as it is the same for a thousand files."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "usual", self._demands("", None))

    def __call__(self, answers: Iterable[tuple[str, FetchedDocument | CoattestError]]) -> list[Judged]:
        """What is at each place, by its answer at its own time, or by the reason why there is none."""
        return together(self._judge(place, answer) for place, answer in answers)

    def _judge(self, place: str, answer: FetchedDocument | CoattestError) -> Steps[Judged]:
        name = self.source.name
        if isinstance(answer, CoattestError):
            status = INVALID if isinstance(answer, Rejected) and answer.code != "absent" else SILENT
            return Judged(name, place, status, findings=(Finding(answer.code, place, answer.what),))
        own = answer.nonce is not None or isinstance(self.source.reach, InBucket)
        demands = self._demands(place, answer.nonce) if own else self.usual
        findings: tuple[Finding, ...] = ()
        if demands is not None:
            verdict = yield from self._verdict(demands, answer.document, answer.at)
            if verdict.ok:
                return self._genuine(place, verdict.document, ())
            findings = verdict.findings
        beside = Demands.of([UnsafeAnyMeasurement(), *self._beside(answer.nonce)])
        looked = yield from self._verdict(beside, answer.document, answer.at)
        if looked.ok:
            return self._genuine(place, looked.document, findings, accepted=False)
        codes = {finding.code for finding in looked.findings}
        if "too-old" in codes and codes <= STALE:
            # All but its age was verified; its certificates' at its own time.
            stale = parse_unverified(answer.document)
            anything = Demands.of([UnsafeAnyMeasurement()])
            if (yield from self._verdict(anything, answer.document, stale.timestamp)).ok:
                return Judged(name, place, SILENT, stale.module_id, "", stale.timestamp, looked.findings)
        return Judged(name, place, INVALID, findings=looked.findings)

    def _verdict(self, demands: Demands, document: bytes, now: datetime) -> Steps[Verdict]:
        return verify_under(demands, document, now=now, root=self.root, cache=self.cache, strict=False)

    def _demands(self, place: str, nonce: bytes | None) -> Demands | None:
        """A decided release's registers and all else; None where no release is decided."""
        role = self.source.role_arn
        bound = {3: binding_pcrs(role, "")[3]} if role else {}
        if isinstance(self.source.reach, InBucket):
            bound = binding_pcrs(role, place)
        decided = [each.pcrs for each in self.releases if each.answer == DECIDED and each.pcrs]
        sets = [ExpectPcrs({**pcrs, **bound}) for pcrs in decided]
        return Demands.of([ExpectAnyPcrs(sets), *self._beside(nonce)]) if sets else None

    def _beside(self, nonce: bytes | None) -> list[Expectation]:
        """What is asked of a document beside its registers."""
        source = self.source
        beside: list[Expectation] = [MaxAge(source.max_age_ms, skew_ms=source.skew_ms)]
        if nonce is not None:
            beside.append(ExpectNonce(nonce))
        if source.user_data is not None:
            beside.append(ExpectUserData(source.user_data or None))
        if isinstance(source.reach, InBucket):
            beside += alive_expectations()
        return beside

    def _genuine(
        self, place: str, document: Document, findings: tuple[Finding, ...], *, accepted: bool = True
    ) -> Judged:
        """A genuine document by its release. A revocation goes first: it says that these bytes are bad."""
        found = {
            each.answer: each
            for each in reversed(self.releases)
            if each.pcrs and each.pcrs.items() <= document.pcrs.items()
        }
        release = next((found[answer] for answer in (REVOKED, DECIDED, REFUSED) if answer in found), None)
        release = release or next(iter(found.values()), None)
        status = ANSWERS.get(release.answer, UNDECIDED) if release else DRIFTED
        if status == VERIFIED and not accepted:
            status = DRIFTED  # the release's registers, and PCR3 or PCR4 of another role or instance
        if status == VERIFIED:
            findings = ()
        elif status != DRIFTED and release is not None:
            findings = release.reasons
        elif not findings:
            findings = (
                Finding("measurement", place, "PCR0 to PCR2 are of no release that is expected here"),
            )
        name = release.name if release else ""
        return Judged(self.source.name, place, status, document.module_id, name, document.timestamp, findings)


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
    places = isinstance(source.reach, InBucket)  # each id is one, and has a row
    lacking = set() if places else set(source.ids) - _names(verified)
    if not lacking and len(verified) >= source.count and isinstance(source.reach, InFiles):
        # Files of enclaves that were replaced: nobody waits for these.
        return [row for row in rows if row.status != SILENT or not row.module_id]
    listed, there = all(row.place for row in rows), len(rows)
    for name in sorted(lacking - _names(row.module_id for row in rows)):
        rows.append(_missing(source, f"no document of {name}", name))
    if listed and len(rows) < source.count:  # of ids too: an instance can have more enclaves than one
        which = (
            "instances are in service" if isinstance(source.reach, InBucket) else "enclaves have a document"
        )
        rows.append(_missing(source, f"{there} of {source.count} {which}"))
    return rows


def _missing(source: FleetSource, detail: str, module_id: str = "") -> Judged:
    finding = Finding("fleet-missing", source.name, detail)
    return Judged(source.name, "", SILENT, module_id, findings=(finding,))


def judge_objects(
    source: FleetSource, objects: Iterable[tuple[str, datetime]], named: Container[str], *, now: datetime
) -> list[Judged]:
    """What lies in an Auto Scaling group's bucket and should not, by each object's name and when it was put.

    That is whatever no instance puts, and what was put lately for an instance that the group does not name:
    older ones are of instances that were replaced, and nobody waits for these.
    """
    strays, strange, odd, count = dict[str, None](), "", 0, 0
    lately = now - timedelta(milliseconds=source.max_age_ms)
    for name, put in objects:
        count += 1
        found = _OBJECT.fullmatch(name)
        if found is None:
            strange, odd = strange or shown(name), odd + 1
        elif found[1] not in named and put > lately:
            strays[found[1]] = None
    rows = [
        _unexpected(source, each, each, "puts documents, and its group does not name it")
        for each in list(strays)[:STRAYS_MAX]
    ]
    if odd:
        rows.append(
            _unexpected(source, STRANGE, "", f"{odd} object(s) that no instance puts, like {strange}")
        )
    if len(strays) > STRAYS_MAX or count >= LISTED_MAX:
        detail = (
            f"{count} objects, of {len(strays)} instances that the group does not name: not all are shown"
        )
        rows.append(_unexpected(source, MANY, "", detail))
    return rows


def _unexpected(source: FleetSource, place: str, instance: str, detail: str) -> Judged:
    finding = Finding("fleet-unexpected", place, detail)
    return Judged(source.name, place, UNEXPECTED, instance, findings=(finding,))


def _names(module_ids: Iterable[str]) -> set[str]:
    """Each module id, and the id of the instance that it begins with."""
    return {name for each in module_ids for name in (each, each.partition("-enc")[0])}


def settled(row: Judged, since: datetime | None, *, now: datetime, wait: Mapping[str, int]) -> Judged:
    """What is silent is waited for while it may still boot: ``wait`` is milliseconds, by status.

    ``since`` is when the last look began to wait; one that is yet to come, by a clock that was wrong, is now.
    """
    if row.status not in wait:
        return row
    since = min(since or now, now)
    waiting = now - since < timedelta(milliseconds=wait[row.status])
    return replace(row, status=WAITING if waiting else row.status, since=since)


def exit_code(rows: Iterable[Judged], releases: Iterable[ExpectedRelease]) -> int:
    """1 when something was found false, 3 when something is not there or not decided, else 0."""
    found = {row.status for row in rows} | {ANSWERS.get(each.answer, UNDECIDED) for each in releases}
    if found & set(FALSE):
        return 1
    return 3 if found & set(OPEN) or not found else 0
