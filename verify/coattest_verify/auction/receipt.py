"""An auction's result against its receipt: what was decided, by which code, on whose bids.

The checks, all of them run and every failure reported:

1. The files parse, and are the canonical encoding of what they say.
2. The result is this manifest's: digest, auction, currency, rule, lots in order, buyers, reserves.
3. Every buyer of the manifest sealed the same payload, once each; the payload names this manifest, the
   decision that this verifier recomputed, and one bid file per buyer. The result names that seal.
4. The attestation document was signed under the profile's root by an enclave with the decided PCRs, carries
   this result's digest under the purpose of a result, the seal's digest as nonce, and no public key.
5. Its time lies between the closing time and the publication deadline, and not in the future.

Which clock. An attestation document's certificates live for hours; a receipt is kept for years. So the chain
is judged *at the document's own time*, as a signed mail is judged at the time it was signed, and not at the
verifier's. What keeps that from being the enclave's word alone: the time is inside the signed document, and
has to lie in the window that every buyer sealed. What remains is that a leaf key stolen from the hypervisor
*later* could sign a backdated document; whoever can do that can already forge fresh ones within its hours of
life (ADR 80).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from coattest.errors import CoattestError
from coattest_enclave.protocol import cose, messages
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
from coattest_verify.auction.sealing import CertificateCheck
from coattest_verify.quorum.decision import Decision

SKEW = timedelta(minutes=5)
"""How far a verifier's clock may be behind the document's: the tolerance of SigV4, which AWS clocks live
by.
"""


LOTS_NAMED = 20
"""Lots named one by one when a result is wrong about them; a hostile one may be wrong about a million."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One reason why a result is not believed."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Check:
    """One link of the chain of checks: what holds if it passed, and why it did not.

    ``ran`` is False when an earlier failure left nothing to look at.
    """

    name: str
    says: str
    failures: tuple[Failure, ...] = ()
    ran: bool = True

    @property
    def outcome(self) -> str:
        """``ok``, ``failed`` or ``not run``."""
        if self.failures:
            return "failed"
        return "ok" if self.ran else "not run"


@dataclass(frozen=True, slots=True)
class ReceiptVerdict:
    """What a result file is worth. ``result`` is set as soon as it parses: look at ``ok`` first."""

    checks: tuple[Check, ...]
    result: messages.Result | None
    module_id: str | None
    time: datetime | None
    sealed_by: tuple[str, ...]

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every reason why the result is not believed."""
        return tuple(failure for check in self.checks for failure in check.failures)

    @property
    def ok(self) -> bool:
        """Whether every check ran and passed."""
        return all(check.outcome == "ok" for check in self.checks)


def receipt_time(result_file: bytes) -> datetime | None:
    """The time a receipt claims, unverified; None when there is no document to read it from."""
    try:
        document = parse_unverified(messages.ResultFile.decode(result_file).receipt)
        return _time(document.timestamp_ms)
    except (MessageError, CoattestError, OverflowError):
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
    """The verdict on ``result_file`` for ``manifest``; hostile input gives failures, never another exception.

    ``root`` is the decided profile's, ``check_certificate`` the quorum's word on a buyer's key, ``now`` the
    verifier's clock (aware).
    """
    try:
        auction = messages.Manifest.decode(manifest)
        if auction.encode() != manifest:
            raise MessageError("not canonical")
    except MessageError as error:
        return _unreadable("bad-manifest", f"manifest: {error}")
    try:
        parsed = messages.ResultFile.decode(result_file)
        result = messages.Result.decode(parsed.result)
    except MessageError as error:
        return _unreadable("malformed", f"result file: {error}")
    seals, payload, sealed_by = _seal_failures(parsed.seals, auction)
    sealed = [] if payload is None else _payload_failures(payload, auction, decision)
    if payload is not None and hashlib.sha384(payload).digest() != result.seal:
        sealed.append(Failure("other-seal", "the result names another seal than the one in the file"))
    document, module_id, time = _document_failures(parsed, result, decision, root)
    found: dict[str, list[Failure] | None] = {
        "files": [],
        "result": _result_failures(result, auction),
        "certificates": _certificate_failures(auction, check_certificate),
        "seals": seals,
        "sealed": None if payload is None else sealed,
        "document": document,
        "time": None if time is None else _time_failures(time, auction, now),
    }
    return ReceiptVerdict(_checks(found), result, module_id, time, sealed_by)


CHECKS = {
    "files": "The files parse, and are the canonical encoding of what they say.",
    "result": "The result is this manifest's: its auction, rule, currency, lots, buyers and reserves.",
    "certificates": "Each buyer's seal key and KMS key are certified by that member's quorum key.",
    "seals": "Every buyer sealed, once each, and all of them the same.",
    "sealed": "What they sealed is this manifest, the decision recomputed here, and one bid file per buyer.",
    "document": "The hypervisor, under the pinned root, says that the decided code made exactly this result.",
    "time": "It was made after the bids closed, before the publication deadline, and not in the future.",
}
"""The chain of checks in order: name, and what holds when it passed."""


def _checks(found: Mapping[str, list[Failure] | None]) -> tuple[Check, ...]:
    """Every check with its failures; None, or nothing at all, where it could not run."""
    return tuple(
        Check(name, says, tuple(failures) if (failures := found.get(name)) else (), failures is not None)
        for name, says in CHECKS.items()
    )


def _unreadable(code: str, detail: str) -> ReceiptVerdict:
    return ReceiptVerdict(_checks({"files": [Failure(code, detail)]}), None, None, None, ())


def _result_failures(result: messages.Result, auction: messages.Manifest) -> list[Failure]:
    failures = []
    if result.manifest != auction.digest:
        failures.append(Failure("other-manifest", "the result is of another manifest"))
    for name in ("auction", "currency", "rule"):
        if getattr(result, name) != getattr(auction, name):
            failures.append(
                Failure(
                    "other-manifest",
                    f"{name} is {getattr(result, name)!r}, the manifest says {getattr(auction, name)!r}",
                )
            )
    if list(result.lots.buyers) != [buyer.name for buyer in auction.buyers]:
        failures.append(Failure("other-buyers", "the buyers are not the manifest's"))
    if result.lots.ids != auction.lots.ids:
        failures.append(Failure("other-lots", "the lots are not the manifest's, in its order"))
        return failures
    # The shape of an outcome is the parser's business; the reserve is in the manifest only.
    low = 0
    for (lot, outcome), reserve in zip(result.lots, auction.lots.reserves, strict=True):
        if isinstance(outcome, messages.Won) and outcome.price is not None and outcome.price < reserve:
            low += 1
            if low <= LOTS_NAMED:
                failures.append(Failure("bad-outcome", f"lot {lot!r}: a price under the reserve"))
    if low > LOTS_NAMED:
        failures.append(Failure("bad-outcome", f"a price under the reserve on {low - LOTS_NAMED} more lots"))
    return failures


def _certificate_failures(auction: messages.Manifest, check_certificate: CertificateCheck) -> list[Failure]:
    failures = []
    for buyer in auction.buyers:
        try:
            check_certificate(buyer)
        except CoattestError as error:
            failures.append(Failure("bad-certificate", f"buyer {buyer.name!r}: {error.what}"))
    return failures


def _seal_failures(
    seals: Sequence[bytes], auction: messages.Manifest
) -> tuple[list[Failure], bytes | None, tuple[str, ...]]:
    """Failures, the payload all buyers signed (None when they did not), and whose signature was good."""
    failures, signed = _signatures(seals, auction)
    for buyer in auction.buyers:
        if buyer.name not in signed:
            failures.append(Failure("missing-seal", f"{buyer.name!r} did not seal"))
    payloads = set(signed.values())
    if len(payloads) > 1:
        failures.append(Failure("different-seals", "the buyers sealed different things"))
    return failures, payloads.pop() if len(payloads) == 1 else None, tuple(sorted(signed))


def _signatures(seals: Sequence[bytes], auction: messages.Manifest) -> tuple[list[Failure], dict[str, bytes]]:
    """Which buyer signed which payload; a seal that no buyer signed, or a buyer's second one, is a
    failure.
    """
    failures = []
    signed: dict[str, bytes] = {}
    for number, data in enumerate(seals, 1):
        found = [(b.name, payload) for b in auction.buyers if (payload := _signed_by(b, data))]
        if not found:
            failures.append(Failure("bad-seal", f"seal {number} is not signed by a buyer of the manifest"))
        for name, payload in found:
            if name in signed:
                failures.append(Failure("double-seal", f"{name!r} sealed more than once"))
            signed[name] = payload
    return failures, signed


def _payload_failures(payload: bytes, auction: messages.Manifest, decision: Decision) -> list[Failure]:
    try:
        seal = messages.Seal.decode(payload)
    except MessageError as error:
        return [Failure("bad-seal", f"seal: {error}")]
    failures = []
    if seal.manifest != auction.digest:
        failures.append(Failure("other-manifest", "the seal is of another manifest"))
    if seal.decision != decision.digest:
        own = decision.digest.hex()
        failures.append(
            Failure("other-decision", f"the buyers sealed decision {seal.decision.hex()}, not {own}")
        )
    if [name for name, _ in seal.bids] != [buyer.name for buyer in auction.buyers]:
        failures.append(Failure("bad-seal", "the seal does not list one bid file per buyer"))
    return failures


def _signed_by(buyer: messages.Buyer, data: bytes) -> bytes | None:
    try:
        return cose.verify1(data, buyer.key, kid=buyer.name.encode())
    except MessageError:
        return None


def _document_failures(
    parsed: messages.ResultFile, result: messages.Result, decision: Decision, root: Root
) -> tuple[list[Failure], str | None, datetime | None]:
    try:
        claimed = parse_unverified(parsed.receipt)
        time = _time(claimed.timestamp_ms)
    except (CoattestError, OverflowError) as error:
        return [Failure("bad-document", f"receipt: {error}")], None, None
    failures = []
    if claimed.user_data == messages.alive_user_data():
        failures.append(
            Failure(
                "liveness-document",
                "the receipt is a liveness document: it shows that the enclave ran, not what it decided",
            )
        )
    verdict = verify_document(
        parsed.receipt,
        [
            ExpectPcrs({index: bytes.fromhex(value) for index, value in decision.pcrs.items()}),
            ExpectUserData(messages.receipt_user_data(parsed.result)),
            ExpectNonce(result.seal),
            ExpectPublicKey(None),
        ],
        now=time,
        root=root,
    )
    failures += [
        Failure(
            failure.code,
            f"receipt: {failure.field} is {failure.found}, expected {failure.expected}",
        )
        for failure in verdict.failures
    ]
    return failures, claimed.module_id, time


def _time_failures(time: datetime, auction: messages.Manifest, now: datetime) -> list[Failure]:
    failures = []
    seconds = time.timestamp()
    if seconds < auction.closes:
        failures.append(Failure("too-early", "the receipt is older than the closing time"))
    if seconds > auction.publish_by:
        failures.append(Failure("too-late", "the receipt is younger than the publication deadline"))
    if time > now + SKEW:
        failures.append(Failure("from-the-future", "the receipt is younger than this machine's clock"))
    return failures


def _time(timestamp_ms: int) -> datetime:
    """Milliseconds after 1970 as a time; exact, where a float would round. Raises OverflowError."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=timestamp_ms)
