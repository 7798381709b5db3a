"""What ``auction bid`` and ``auction seal`` check and show alike, before they do what cannot be undone."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from coattest.errors import Rejected, UsageError
from coattest.shell import err
from coattest_parent.auction.live_key import live_key_findings
from coattest_parent.link.aws import Aws
from coattest_verify.auction import messages
from coattest_verify.auction.buyers import load_buyer
from coattest_verify.auction.certify import (
    CertificateCheck,
    Own,
    certificate_check,
    check_buyer_certificate,
)
from coattest_verify.auction.checks import Looked, Opening, lots_digest, refuse
from coattest_verify.auction.outcomes import moment_text
from coattest_verify.auction.withdrawal import read_withdrawals
from coattest_verify.quorum.authority import Authority, authority_from, evidence_from
from coattest_verify.quorum.decision import Decision
from coattest_verify.quorum.members.file import utc

REFUSED_SHOWN = 20
"""Files that only look like withdrawals which are named one by one; whoever hosts them can put thousands."""


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a buyer's own machine knows of itself and of the quorum: nothing in it is from the manifest."""

    own: Own
    authority: Authority
    check_certificate: CertificateCheck

    @property
    def opening(self) -> Opening:
        """The release and image that may open, from the decision recomputed here."""
        decision = self.authority.decision
        return Opening(decision.release_digest, bytes.fromhex(decision.pcrs[0]))


def grounds(
    decision: Mapping[str, Any],
    manifest: messages.Manifest,
    *,
    name: str,
    seal_key: bytes,
    record: Path,
    now: datetime,
) -> Grounds:
    """The decision with the buyer's own statement, the buyer from its own record and key file, and the check
    of everybody's certificates with the withdrawals of the manifest's among the attestations.

    Raises FoundFalse without a decision, UsageError for a record of somebody else or of another key.
    """
    authority = authority_from(decision, now, own=name)
    own = load_buyer(record)
    if own.name != name or own.key != seal_key:
        what = "of another buyer" if own.name != name else "of another auction key"
        raise UsageError(
            f"this record is {what}",
            where=str(record),
            hint="give the record that you made with 'auction certify' from this auction key",
            code="bad-buyer-record",
        )
    certified = []
    for buyer in manifest.buyers:
        with contextlib.suppress(Rejected):  # ``check`` says what is wrong with it
            certified.append(check_buyer_certificate(buyer, authority.members))
    with evidence_from(decision) as evidence:
        withdrawn, refused = read_withdrawals(evidence, authority.members, certified)
    for finding in refused[:REFUSED_SHOWN]:
        err().print(f"not counted: {finding.where}: {finding.detail}", style="yellow")
    if len(refused) > REFUSED_SHOWN:
        err().print(f"not counted: {len(refused) - REFUSED_SHOWN} more files", style="yellow")
    check = certificate_check(authority, now=now, withdrawn=withdrawn)
    return Grounds(Own(name, seal_key, own.kms, own.bids), authority, check)


def look_at_key(aws: Aws, manifest: messages.Manifest, found: Grounds) -> str:
    """Refuse a key whose live policy leaves a way past the decided enclave; what could be looked at.

    Raises FoundFalse (``key-policy``) with every way.
    """
    leaks = live_key_findings(aws, manifest, found.own, found.authority.decision)
    if leaks is None:
        told = (
            "not checked: these credentials may not read it; 'verify policy check' by an administrator does"
        )
    else:
        refuse(leaks)
        told = "leaves no way past the decided enclave under your own seal"
    err().print(f"key policy  {told}")
    return "not readable" if leaks is None else "looked at"


def known_buyers(known: tuple[str, ...], manifest: messages.Manifest, name: str) -> tuple[str, ...] | None:
    """The other buyers that ``--with`` names, None where a person will look at them; raises UsageError."""
    others = [buyer.name for buyer in manifest.buyers if buyer.name != name]
    if known or not others:
        return known
    if sys.stdin.isatty() and sys.stderr.isatty():
        return None
    raise UsageError(
        "there is no terminal on which somebody could look at the other buyers",
        hint="name each that you expect: --with NAME",
        code="not-confirmed",
    )


def show_auction(manifest: messages.Manifest, looked: Looked, own: Own, decision: Decision) -> None:
    """Show what the buyer is about to bind itself to."""
    console = err()

    def line(name: str, value: str) -> None:
        console.print(f"{name:11} {value}")

    console.print(f"{manifest.auction}: {manifest.rule}, {manifest.currency}")
    line("manifest", manifest.digest.hex())
    line("lots", f"{len(manifest.lots)}, SHA-384 of their ids {lots_digest(manifest)}")
    line("release", decision.release_digest.hex())
    agreed = ", ".join(decision.agreed)
    line("code", f"{decision.release}, {decision.profile} profile, rebuilt and signed by {agreed}")
    line("PCR0", decision.pcrs[0])
    line("KMS key", own.kms)
    line("bids", own.bids)
    line("closes", moment_text(manifest.closes))
    line("publish by", moment_text(manifest.publish_by))
    line("discloses", messages.DISCLOSURE[manifest.rule])
    if manifest.rule == messages.SECOND_PRICE:
        line("", "a losing buyer's amount may become public, as the winner's price")
    console.show_rows(
        ("other buyer", "certified by", "until", "with key"),
        [
            (each.member, each.member, utc(each.life.ends), list(each.signers))
            for each in looked.others(own.name)
        ],
    )
    if len(manifest.buyers) == 2 and manifest.rule == messages.SECOND_PRICE:
        line("", "with two buyers each price is the other's bid or the reserve")
    for overlap in looked.overlaps:
        shown = ", ".join(overlap.lots[:5]) + (" .." if len(overlap.lots) > 5 else "")
        console.print(
            f"warning: {len(overlap.lots)} of these lots were sealed before, in {overlap.auction} ({shown}): "
            "both results together may reveal more than either",
            style="yellow",
        )


def looked_json(manifest: messages.Manifest, looked: Looked, own: Own) -> dict[str, Any]:
    """The other buyers and the overlaps as JSON."""
    return {
        "lots_sha384": lots_digest(manifest),
        "kms": own.kms,
        "place": own.bids,
        "others": [
            {"name": each.member, "certified_by": list(each.signers), "until": utc(each.life.ends)}
            for each in looked.others(own.name)
        ],
        "overlaps": [
            {"auction": overlap.auction, "manifest": overlap.manifest.hex(), "lots": list(overlap.lots)}
            for overlap in looked.overlaps
        ],
    }
