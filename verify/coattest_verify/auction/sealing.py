"""What a buyer checks before it seals an auction, and the seal itself.

The seal binds a buyer to one manifest, one decision (which code may open) and one bid set. All checks run,
and everything that is wrong is reported at once. Nothing is recorded or signed unless all of them pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coattest.errors import CoattestError, FoundFalse
from coattest.findings import Finding
from coattest_enclave.protocol import cose, messages
from coattest_verify.auction.journal import Overlap, SealJournal

CertificateCheck = Callable[[messages.Buyer], None]
"""Checks that a buyer's key and KMS ARN are certified by that member's quorum key; raises CoattestError."""


@dataclass(frozen=True, slots=True)
class SealPlan:
    """A seal that passed every check and is not signed yet."""

    manifest: messages.Manifest
    buyer: str
    payload: bytes
    overlaps: tuple[Overlap, ...]

    @property
    def digest(self) -> bytes:
        """SHA-384 of the payload: the nonce of the receipt."""
        return hashlib.sha384(self.payload).digest()

    @property
    def disclosure(self) -> str:
        """What the manifest's rule will reveal."""
        return messages.DISCLOSURE[self.manifest.rule]

    @property
    def reveals_a_losing_amount(self) -> bool:
        """Whether a losing buyer's amount may be published, as the winner's price."""
        return self.manifest.rule == messages.SECOND_PRICE


def certificate_findings(manifest: messages.Manifest, check_certificate: CertificateCheck) -> list[Finding]:
    """A finding for each buyer of the manifest whose key and KMS ARN its member did not certify."""
    findings = []
    for buyer in manifest.buyers:
        try:
            check_certificate(buyer)
        except CoattestError as error:
            findings.append(Finding("bad-certificate", f"buyer {buyer.name!r}", error.what))
    return findings


def plan_seal(
    manifest: messages.Manifest,
    *,
    name: str,
    public_key: ec.EllipticCurvePublicKey,
    decision: bytes,
    bids: Mapping[str, bytes],
    own_bid: bytes,
    check_certificate: CertificateCheck,
    journal: SealJournal,
    now: int,
) -> SealPlan:
    """The seal of ``manifest`` over ``bids`` (buyer to SHA-384 of its bid file).

    ``decision`` is the 32-byte digest of the decision that this buyer recomputed; ``own_bid`` the bytes of
    the bid file that it made; ``now`` is in Unix seconds. Raises FoundFalse with every finding; its code is
    that of the first. Raises AlreadySealed when the journal has a different seal for the manifest.
    """
    findings: list[Finding] = []
    names = [buyer.name for buyer in manifest.buyers]
    spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    own = next((buyer for buyer in manifest.buyers if buyer.name == name), None)
    if own is None:
        findings.append(Finding("not-a-buyer", "manifest", f"{name!r} is not one of its buyers"))
    elif own.key != spki:
        detail = "the manifest has a different auction key"
        findings.append(Finding("wrong-auction-key", f"buyer {name!r}", detail, own.key.hex(), spki.hex()))
    findings += certificate_findings(manifest, check_certificate)
    findings += [
        Finding("missing-bid", f"buyer {name!r}", "no bid file") for name in names if name not in bids
    ]
    findings += [
        Finding("not-a-buyer", "bid files", f"{name!r} is not a buyer of this manifest")
        for name in sorted(bids)
        if name not in names
    ]
    if name in bids and bids[name] != (digest := messages.bid_digest(own_bid)):
        detail = "the bid file of your name is not the one that you made"
        findings.append(Finding("own-bid-missing", "bid files", detail, digest.hex(), bids[name].hex()))
    if (made_for := journal.manifest_of(messages.bid_digest(own_bid))) != manifest.digest:
        detail = (
            f"it was made for another manifest, {made_for.hex()}"
            if made_for
            else "this machine has no record of making it; 'auction bid' makes one that it knows"
        )
        findings.append(Finding("wrong-manifest", "your own bid file", detail, manifest.digest.hex()))
    if now > manifest.publish_by:
        detail = "the publication deadline has passed, so no result could verify"
        findings.append(Finding("too-late", "manifest", detail))
    if findings:
        texts = "; ".join(f"{finding.where}: {finding.detail}" for finding in findings)
        raise FoundFalse(texts, code=findings[0].code, findings=findings)
    payload = messages.Seal(
        manifest=manifest.digest, decision=decision, bids=tuple((name, bids[name]) for name in names)
    ).encode()
    journal.check(manifest.digest, payload)
    return SealPlan(manifest, name, payload, journal.overlaps(manifest))


def sign_seal(plan: SealPlan, key: ec.EllipticCurvePrivateKey, journal: SealJournal) -> bytes:
    """The COSE_Sign1 of a plan, which the journal records durably before it is signed.

    Raises AlreadySealed when a different seal for this manifest was recorded before, under any key.
    """
    journal.record(plan.manifest.encode(), plan.payload)
    return cose.sign1(plan.payload, key, plan.buyer.encode("utf-8"))
