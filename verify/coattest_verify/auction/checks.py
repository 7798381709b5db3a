"""What a buyer checks before it binds itself to an auction: the same before it encrypts and before it seals.

Encrypting and uploading cannot be undone, so ``auction bid`` looks at everything that ``auction seal`` would
refuse. What belongs to the buyer itself comes from its own files, never from the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from coattest.errors import CoattestError, FoundFalse
from coattest.findings import Finding
from coattest_verify.auction import messages
from coattest_verify.auction.certify import CertificateCheck, Certified, Own
from coattest_verify.auction.journal import Overlap, SealJournal


@dataclass(frozen=True, slots=True)
class Opening:
    """Who may open: the release digest (32 bytes) of the buyer's decision, and its PCR0 (48 bytes)."""

    release: bytes
    image: bytes


@dataclass(frozen=True, slots=True)
class Looked:
    """What was looked at: who certified each buyer, and manifests with the same lots that were sealed."""

    certified: tuple[Certified, ...]
    overlaps: tuple[Overlap, ...]

    def others(self, name: str) -> tuple[Certified, ...]:
        """Every buyer but that one."""
        return tuple(each for each in self.certified if each.member != name)


def certificates_of(
    manifest: messages.Manifest, check: CertificateCheck
) -> tuple[list[Certified], list[Finding]]:
    """Who certified the manifest's buyers, and a finding for each whose certificate does not hold."""
    certified, findings = [], []
    for buyer in manifest.buyers:
        try:
            certified.append(check(buyer, manifest))
        except CoattestError as error:
            findings.append(Finding(error.code, f"buyer {buyer.name!r}", error.what))
    return certified, findings


def look_at(
    manifest: messages.Manifest,
    own: Own,
    *,
    check_certificate: CertificateCheck,
    journal: SealJournal,
    again: bool,
    known: Collection[str] | None = None,
) -> tuple[Looked, list[Finding]]:
    """Everything that is wrong with ``manifest`` for its buyer ``own``, whenever it is.

    ``again`` allows lots that this buyer sealed before in a different manifest. ``known`` are the other
    buyers as the caller expects them, None when a person looks at them.
    """
    findings = _own_findings(manifest, own)
    certified, wrong = certificates_of(manifest, check_certificate)
    findings += wrong
    if known is not None:
        findings += _buyers_findings(manifest, own, known)
    overlaps = journal.overlaps(manifest)
    if not again:
        findings += [
            Finding(
                "overlapping-lots",
                "manifest",
                f"{len(each.lots)} of its lots were sealed before, in {each.auction}: both results together "
                "may reveal more than either; --again if that is what you mean",
            )
            for each in overlaps
        ]
    return Looked(tuple(certified), overlaps), findings


def refuse(findings: Collection[Finding]) -> None:
    """Raise FoundFalse with all findings, and with the code of the first; nothing when there are none."""
    if findings:
        texts = "; ".join(f"{finding.where}: {finding.detail}" for finding in findings)
        raise FoundFalse(texts, code=next(iter(findings)).code, findings=list(findings))


def lots_digest(manifest: messages.Manifest) -> str:
    """SHA-384 (hex) of the lot ids as the manifest has them: the same lots under other ids have another."""
    return hashlib.sha384(manifest.lots.ids.encode()).hexdigest()


def _own_findings(manifest: messages.Manifest, own: Own) -> list[Finding]:
    entry = next((buyer for buyer in manifest.buyers if buyer.name == own.name), None)
    if entry is None:
        return [Finding("not-a-buyer", "manifest", f"{own.name!r} is not one of its buyers")]
    found = []
    for code, what, theirs, mine in (
        ("wrong-auction-key", "auction key", entry.key.hex(), own.seal_key.hex()),
        ("wrong-kms-key", "KMS key", entry.kms, own.kms),
        ("wrong-bids-place", "place for your bid files", entry.bids, own.bids),
    ):
        if theirs != mine:
            detail = f"the manifest has a different {what}"
            found.append(Finding(code, f"buyer {own.name!r}", detail, mine, theirs))
    return found


def _buyers_findings(manifest: messages.Manifest, own: Own, known: Collection[str]) -> list[Finding]:
    others = {buyer.name for buyer in manifest.buyers} - {own.name}
    found = []
    if strange := sorted(others - set(known)):
        detail = f"bidders that --with does not name: {', '.join(strange)}"
        found.append(Finding("wrong-buyers", "manifest", detail))
    if missing := sorted(set(known) - others):
        detail = f"not among the other buyers: {', '.join(missing)}"
        found.append(Finding("wrong-buyers", "manifest", detail))
    return found
