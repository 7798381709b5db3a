"""What a buyer checks before it seals an auction, and the seal itself.

The seal binds a buyer to one manifest, one release and image (which code may open) and one bid set. All
checks run, and everything that is wrong is reported at once. Nothing is recorded or signed unless all of them
pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from coattest.findings import Finding
from coattest_verify.auction import messages
from coattest_verify.auction.certify import CertificateCheck, Own
from coattest_verify.auction.checks import Looked, Opening, look_at, refuse
from coattest_verify.auction.journal import SealJournal


@dataclass(frozen=True, slots=True)
class SealPlan:
    """A seal that passed every check and is not signed yet."""

    manifest: messages.Manifest
    own: Own
    payload: bytes
    looked: Looked

    @property
    def digest(self) -> bytes:
        """SHA-384 of the payload: the nonce of the receipt."""
        return hashlib.sha384(self.payload).digest()

    @property
    def disclosure(self) -> str:
        """What the manifest's rule will reveal."""
        return messages.DISCLOSURE[self.manifest.rule]


def plan_seal(
    manifest: messages.Manifest,
    own: Own,
    opening: Opening,
    *,
    bids: Mapping[str, bytes],
    own_bid: bytes,
    check_certificate: CertificateCheck,
    journal: SealJournal,
    now: int,
    again: bool = False,
    known: Collection[str] | None = None,
) -> SealPlan:
    """The seal of ``manifest`` over ``bids`` (buyer to SHA-384 of its bid file).

    ``opening`` is from the decision that this buyer recomputed; ``own_bid`` the bytes of the bid file that it
    made; ``now`` is in Unix seconds; ``again`` and ``known`` as ``look_at`` takes them. Raises FoundFalse
    with every finding; its code is that of the first. Raises AlreadySealed when the journal has a different
    seal for the manifest.
    """
    names = [buyer.name for buyer in manifest.buyers]
    name = own.name
    looked, findings = look_at(
        manifest, own, check_certificate=check_certificate, journal=journal, again=again, known=known
    )
    findings += [
        Finding("missing-bid", f"buyer {each!r}", "no bid file") for each in names if each not in bids
    ]
    findings += [
        Finding("not-a-buyer", "bid files", f"{each!r} is not a buyer of this manifest")
        for each in sorted(bids)
        if each not in names
    ]
    if name in bids and bids[name] != (digest := messages.bid_digest(own_bid)):
        detail = "the bid file of your name is not the one that you made"
        findings.append(Finding("own-bid-missing", "bid files", detail, digest.hex(), bids[name].hex()))
    if (made_for := journal.manifest_of(messages.bid_digest(own_bid))) != manifest.digest:
        detail = (
            f"it was made for a different manifest, {made_for.hex()}"
            if made_for
            else "this machine has no record of making it; 'auction bid' makes one that it knows"
        )
        findings.append(Finding("wrong-manifest", "your own bid file", detail, manifest.digest.hex()))
    if now > manifest.publish_by:
        detail = "the publication deadline has passed, so no result could verify"
        findings.append(Finding("too-late", "manifest", detail))
    refuse(findings)
    payload = messages.Seal(
        manifest=manifest.digest,
        release=opening.release,
        image=opening.image,
        bids=tuple((each, bids[each]) for each in names),
    ).encode()
    journal.check(manifest.digest, payload)
    return SealPlan(manifest, own, payload, looked)


def sign_seal(plan: SealPlan, key: ec.EllipticCurvePrivateKey, journal: SealJournal) -> bytes:
    """The COSE_Sign1 of a plan, which the journal records durably before it is signed.

    Raises AlreadySealed when a different seal for this manifest was recorded before, under any key.
    """
    journal.record(plan.manifest.encode(), plan.payload)
    return messages.sign1(plan.payload, key, plan.own.name.encode("utf-8"))
