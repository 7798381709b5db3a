"""Checks an auction's result against its receipt: what was decided, by which code, on whose bids.

All checks run, and everything that is wrong is reported:

1. The files parse and are encoded canonically.
2. The result is this manifest's: digest, auction, currency, rule, lots in order, buyers, reserves.
3. Every buyer of the manifest sealed the same payload, once each; the payload names this manifest, the
   release and image that this verifier decided, and one bid file per buyer. The result names that seal.
4. The attestation document was signed under the profile's root by an enclave with the decided PCRs, carries
   this result's digest under the purpose of a result, the seal's digest as nonce, and no public key.
5. Its time is between the closing time and the publication deadline, and not in the future.

Which clock: an attestation document's certificates live for hours, but a receipt is kept for years. So the
chain is judged *at the document's own time*, as a signed mail is, and not at the verifier's. That time is not
merely the enclave's word: it is inside the signed document, and must be in the window that every buyer
sealed. The remaining risk is that a leaf key stolen from the hypervisor *later* could sign a backdated
document; but whoever can steal it can also forge new documents during its hours of life (ADR 80).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from coattest.errors import CoattestError, require_aware, require_kind
from coattest.findings import Finding
from coattest_enclave.protocol import cose
from coattest_enclave.protocol.errors import MessageError
from coattest_verify.attestation import (
    ExpectNonce,
    ExpectPcrs,
    ExpectPublicKey,
    ExpectUserData,
    Root,
    parse_unverified,
    verify_document,
)
from coattest_verify.auction import messages
from coattest_verify.auction.certify import CertificateCheck
from coattest_verify.auction.checks import certificates_of
from coattest_verify.quorum.decision import Decision

SKEW = timedelta(minutes=5)
"""How far the verifier's clock may be behind the document's: as much as AWS tolerates in signed requests (IAM
User Guide, "Elements of an AWS API request signature").
"""

LOTS_NAMED = 20
"""Wrong lots that are reported one by one; a hostile result may be wrong about a million."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: ``says`` is what holds if it passed, ``findings`` why it did not.

    ``ran`` is False when an earlier finding left nothing to check.
    """

    name: str
    says: str
    findings: tuple[Finding, ...] = ()
    ran: bool = True

    @property
    def outcome(self) -> str:
        """``ok``, ``failed`` or ``not run``."""
        if self.findings:
            return "failed"
        return "ok" if self.ran else "not run"


@dataclass(frozen=True, slots=True)
class ReceiptVerdict:
    """Whether a result file verifies: true only then. ``result`` is set if the file parses, so look first."""

    checks: tuple[Check, ...]
    result: messages.Result | None
    module_id: str | None
    time: datetime | None
    sealed_by: tuple[str, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is wrong with the result."""
        return tuple(finding for check in self.checks for finding in check.findings)

    @property
    def ok(self) -> bool:
        """Whether every check ran and passed."""
        return bool(self.checks) and all(check.outcome == "ok" for check in self.checks)

    def __bool__(self) -> bool:
        return self.ok


def receipt_time(result_file: bytes) -> datetime | None:
    """The time in a receipt's document, unverified; None when the document cannot be read."""
    try:
        return parse_unverified(messages.ResultFile.decode(result_file).receipt).timestamp
    except (MessageError, CoattestError):
        return None


def verify_receipt(
    result_file: bytes,
    manifest: bytes,
    decision: Decision,
    *,
    root: Root,
    check_certificate: CertificateCheck,
    now: datetime,
) -> ReceiptVerdict:
    """The verdict on ``result_file`` for ``manifest``; hostile input gives findings and raises nothing.

    ``root`` is the decided profile's, ``check_certificate`` checks a buyer's key against the quorum, ``now``
    is the verifier's clock (aware). Raises UsageError for an argument of another kind.
    """
    require_kind(result_file, bytes, "result_file")
    require_kind(manifest, bytes, "manifest")
    require_kind(decision, Decision, "decision")
    require_kind(root, Root, "root")
    require_aware(now)
    try:
        auction = messages.Manifest.decode(manifest)
        if auction.encode() != manifest:
            raise MessageError("not encoded canonically")
    except MessageError as error:
        return _unreadable(Finding("bad-manifest", "manifest", str(error)))
    try:
        parsed = messages.ResultFile.decode(result_file)
        result = messages.Result.decode(parsed.result)
    except MessageError as error:
        return _unreadable(Finding("malformed", "result file", str(error)))
    seals, payload, sealed_by = _seal_findings(parsed.seals, auction)
    sealed = [] if payload is None else _payload_findings(payload, auction, decision)
    if payload is not None and hashlib.sha384(payload).digest() != result.seal:
        sealed.append(Finding("wrong-seal", "result", "it does not name the seal in this file"))
    pcrs = {index: bytes.fromhex(value) for index, value in decision.pcrs.items()}
    document, module_id, time = _document_findings(parsed, result, pcrs, root)
    found: dict[str, list[Finding] | None] = {
        "files": [],
        "result": _result_findings(result, auction),
        "certificates": certificates_of(auction, check_certificate)[1],
        "seals": seals,
        "sealed": None if payload is None else sealed,
        "document": document,
        "time": None if time is None else _time_findings(time, auction, now),
    }
    return ReceiptVerdict(_checks(found), result, module_id, time, sealed_by)


CHECKS = {
    "files": "The files parse and are encoded canonically.",
    "result": "The result is this manifest's: its auction, rule, currency, lots, buyers and reserves.",
    "certificates": "Each buyer's keys and place are certified by its member, for the auction's time.",
    "seals": "Every buyer sealed, once each, and all of them the same.",
    "sealed": "What they sealed is this manifest, the release decided here, and one bid file per buyer.",
    "document": "A document under the pinned root says that the decided code made exactly this result.",
    "time": "It was made after the bids closed, before the publication deadline, and not in the future.",
}
"""Every check in order: its name, and what holds when it passed."""


def verify_opened(
    result_file: bytes, manifest: messages.Manifest, *, root: Root, now: datetime
) -> tuple[Finding, ...]:
    """What is wrong with a result for whoever has no decision, as the service: the image is the sealed one.

    Empty when every buyer sealed the same, and a document under ``root`` says that the sealed image made
    exactly this result under that seal, in the auction's time. Hostile input gives findings.
    """
    try:
        parsed = messages.ResultFile.decode(result_file)
        result = messages.Result.decode(parsed.result)
        seal = messages.check_seals(manifest, parsed.seals)
    except MessageError as error:
        return (Finding("malformed", "result file", str(error)),)
    findings = _result_findings(result, manifest)
    if seal.digest != result.seal:
        findings.append(Finding("wrong-seal", "result", "it does not name the seal in this file"))
    document, _, time = _document_findings(parsed, result, {0: seal.image}, root)
    findings += document
    if time is not None:
        findings += _time_findings(time, manifest, now)
    return tuple(findings)


def _checks(found: Mapping[str, list[Finding] | None]) -> tuple[Check, ...]:
    """Every check with its findings; a check whose name is missing or maps to None did not run."""
    return tuple(
        Check(name, says, tuple(findings) if (findings := found.get(name)) else (), findings is not None)
        for name, says in CHECKS.items()
    )


def _unreadable(finding: Finding) -> ReceiptVerdict:
    return ReceiptVerdict(_checks({"files": [finding]}), None, None, None, ())


def _result_findings(result: messages.Result, auction: messages.Manifest) -> list[Finding]:
    findings = []
    if result.manifest != auction.digest:
        findings.append(
            Finding(
                "wrong-manifest",
                "result",
                "it is for a different manifest",
                auction.digest.hex(),
                result.manifest.hex(),
            )
        )
    for name in ("auction", "currency", "rule"):
        expected, found = getattr(auction, name), getattr(result, name)
        if found != expected:
            findings.append(
                Finding("wrong-manifest", "result", f"{name} is not the manifest's", expected, found)
            )
    if list(result.lots.buyers) != [buyer.name for buyer in auction.buyers]:
        findings.append(Finding("wrong-buyers", "result", "its buyers are not the manifest's"))
    if result.lots.ids != auction.lots.ids:
        findings.append(Finding("wrong-lots", "result", "its lots are not the manifest's, in the same order"))
        return findings
    # The parser has checked each outcome; only the manifest has the reserves.
    low = 0
    for (lot, outcome), reserve in zip(result.lots, auction.lots.reserves, strict=True):
        if isinstance(outcome, messages.Won) and outcome.price is not None and outcome.price < reserve:
            low += 1
            if low <= LOTS_NAMED:
                findings.append(Finding("bad-outcome", f"lot {lot!r}", "the price is under the reserve"))
    if low > LOTS_NAMED:
        more = f"the price is under the reserve on {low - LOTS_NAMED} more lots"
        findings.append(Finding("bad-outcome", "result", more))
    return findings


def _seal_findings(
    seals: Sequence[bytes], auction: messages.Manifest
) -> tuple[list[Finding], bytes | None, tuple[str, ...]]:
    """Findings, the payload that all buyers signed (else None), and the buyers whose signature verifies."""
    findings, signed = _signatures(seals, auction)
    for buyer in auction.buyers:
        if buyer.name not in signed:
            findings.append(Finding("missing-seal", f"buyer {buyer.name!r}", "did not seal"))
    payloads = set(signed.values())
    if len(payloads) > 1:
        findings.append(Finding("different-seals", "seals", "the buyers did not all sign the same seal"))
    return findings, payloads.pop() if len(payloads) == 1 else None, tuple(sorted(signed))


def _signatures(seals: Sequence[bytes], auction: messages.Manifest) -> tuple[list[Finding], dict[str, bytes]]:
    """The payload that each buyer signed; a seal of nobody, or a buyer's second one, is a finding."""
    findings = []
    signed: dict[str, bytes] = {}
    for number, data in enumerate(seals, 1):
        found = [(b.name, payload) for b in auction.buyers if (payload := _signed_by(b, data))]
        if not found:
            findings.append(Finding("bad-seal", f"seal {number}", "no buyer of the manifest signed it"))
        for name, payload in found:
            if name in signed:
                findings.append(Finding("double-seal", f"buyer {name!r}", "sealed more than once"))
            signed[name] = payload
    return findings, signed


def _payload_findings(payload: bytes, auction: messages.Manifest, decision: Decision) -> list[Finding]:
    try:
        seal = messages.Seal.decode(payload)
    except MessageError as error:
        return [Finding("bad-seal", "seal", str(error))]
    findings = []
    for code, what, expected, found in (
        ("wrong-manifest", "manifest", auction.digest, seal.manifest),
        ("wrong-decision", "release", decision.release_digest, seal.release),
        ("wrong-image", "image", bytes.fromhex(decision.pcrs[0]), seal.image),
    ):
        if found != expected:
            findings.append(
                Finding(code, "seal", f"it names a different {what}", expected.hex(), found.hex())
            )
    if [name for name, _ in seal.bids] != [buyer.name for buyer in auction.buyers]:
        findings.append(Finding("bad-seal", "seal", "it does not list one bid file per buyer"))
    return findings


def _signed_by(buyer: messages.Buyer, data: bytes) -> bytes | None:
    try:
        return cose.verify1(data, buyer.key, kid=buyer.name.encode())
    except MessageError:
        return None


def _document_findings(
    parsed: messages.ResultFile, result: messages.Result, pcrs: Mapping[int, bytes], root: Root
) -> tuple[list[Finding], str | None, datetime | None]:
    try:
        claimed = parse_unverified(parsed.receipt)
    except CoattestError as error:
        return [Finding("bad-document", "receipt", str(error))], None, None
    findings, time = [], claimed.timestamp
    if claimed.user_data == messages.alive_user_data():
        findings.append(
            Finding(
                "liveness-document",
                "receipt",
                "it is a liveness document, which shows that the enclave ran and not what it decided",
            )
        )
    verdict = verify_document(
        parsed.receipt,
        [
            ExpectPcrs(pcrs),
            ExpectUserData(messages.receipt_user_data(parsed.result)),
            ExpectNonce(result.seal),
            ExpectPublicKey(None),
        ],
        now=time,
        root=root,
    )
    for failure in verdict.findings:
        detail = f"{failure.where} is {failure.found}, expected {failure.expected}"
        findings.append(
            Finding(failure.code, "receipt", detail, failure.expected, failure.found, failure.rule)
        )
    return findings, claimed.module_id, time


def _time_findings(time: datetime, auction: messages.Manifest, now: datetime) -> list[Finding]:
    findings = []
    seconds = time.timestamp()
    if seconds < auction.closes:
        findings.append(Finding("too-early", "receipt", "it is from before the closing time"))
    if seconds > auction.publish_by:
        findings.append(Finding("too-late", "receipt", "it is from after the publication deadline"))
    if time > now + SKEW:
        findings.append(Finding("from-the-future", "receipt", "its time is ahead of this machine's clock"))
    return findings
