"""What a buyer's tool checks before it seals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import FoundFalse, Rejected
from coattest_enclave.protocol import cose
from coattest_verify.auction import messages
from coattest_verify.auction.certify import Certified
from coattest_verify.auction.checks import Opening
from coattest_verify.auction.journal import AlreadySealed, SealJournal
from coattest_verify.auction.sealing import SealPlan, plan_seal, sign_seal
from support.auction.auctions import ARN, KEYS, certified, manifest, own, spki

OWN = b"own bid file"
BIDS = {"buyer-1": messages.bid_digest(OWN), "buyer-2": b"2" * 48}


RELEASE, IMAGE = b"d" * 32, b"i" * 48


def plan(tmp_path: Path, auction: messages.Manifest | None = None, **changes: Any) -> SealPlan:
    arguments: dict[str, Any] = {
        "opening": Opening(RELEASE, IMAGE),
        "bids": BIDS,
        "own_bid": OWN,
        "check_certificate": certified,
        "journal": SealJournal(tmp_path / "seals"),
        "now": 1_800_000_001,
    }
    arguments |= changes
    auction = auction or manifest()
    mine = replace(own(auction, "buyer-1"), **arguments.pop("mine", {}))
    # The buyer's tool made this bid file for this manifest.
    arguments["journal"].record_bid(messages.bid_digest(OWN), auction.digest)
    return plan_seal(auction, mine, **arguments)


def test_a_good_auction_is_sealed(tmp_path: Path) -> None:
    """The seal is the payload every buyer signs, recorded, and verifies with the manifest's key."""
    auction, journal = manifest(), SealJournal(tmp_path / "seals")
    planned = plan(tmp_path)
    signed = sign_seal(planned, KEYS["buyer-1"], journal)
    payload = cose.verify1(signed, messages.named_buyer(auction, "buyer-1").key, kid=b"buyer-1")
    assert payload == planned.payload == journal.sealed(auction.digest)
    seal = messages.Seal.decode(payload)
    assert (seal.manifest, seal.release, seal.image) == (auction.digest, RELEASE, IMAGE)
    assert dict(seal.bids) == BIDS
    assert seal.digest == planned.digest


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mine": {"name": "buyer-3"}}, "not-a-buyer"),
        ({"mine": {"seal_key": spki(KEYS["buyer-2"].public_key())}}, "wrong-auction-key"),
        ({"mine": {"kms": ARN.format(account="999999999999")}}, "wrong-kms-key"),
        ({"mine": {"bids": "s3://bids-buyer-1/elsewhere/"}}, "wrong-bids-place"),
        ({"known": ()}, "wrong-buyers"),
        ({"known": ("buyer-2", "buyer-3")}, "wrong-buyers"),
        ({"bids": {"buyer-1": BIDS["buyer-1"]}}, "missing-bid"),
        ({"bids": {**BIDS, "mallory": b"m" * 48}}, "not-a-buyer"),
        ({"now": 1_800_003_601}, "too-late"),
    ],
)
def test_a_wrong_auction_is_refused_with_its_reason(tmp_path: Path, changes: Any, reason: str) -> None:
    """Each rule that is broken alone is the one reason, and nothing is recorded."""
    with pytest.raises(FoundFalse) as caught:
        plan(tmp_path, **changes)
    assert [finding.code for finding in caught.value.findings] == [reason]
    assert caught.value.code == reason
    assert caught.value.exit_code == 1
    assert not list((tmp_path / "seals").glob("*.seal"))


@pytest.mark.parametrize("made_for", ["another manifest", "unknown"])
def test_a_bid_file_of_another_manifest_is_refused_before_anything_is_recorded(
    tmp_path: Path, made_for: str
) -> None:
    """The buyer's tool knows for which manifest it made a bid: the journal's one place stays free."""
    journal, own = SealJournal(tmp_path / "seals"), b"the bid file of last week"
    if made_for == "another manifest":
        journal.record_bid(messages.bid_digest(own), manifest("last-week").digest)
    bids = {**BIDS, "buyer-1": messages.bid_digest(own)}
    with pytest.raises(FoundFalse) as caught:
        plan(tmp_path, own_bid=own, bids=bids)
    assert [finding.code for finding in caught.value.findings] == ["wrong-manifest"]
    assert journal.sealed(manifest().digest) is None
    assert sign_seal(plan(tmp_path), KEYS["buyer-1"], journal)


def test_all_findings_are_reported_at_once(tmp_path: Path) -> None:
    """Three broken rules are three reasons; a look-alike buyer is named by its missing certificate."""

    def only_first(buyer: messages.Buyer, auction: messages.Manifest) -> Certified:
        if buyer.name != "buyer-1":
            raise Rejected("not certified by a buyer of the quorum", code="bad-certificate")
        return certified(buyer, auction)

    with pytest.raises(FoundFalse) as caught:
        plan(tmp_path, check_certificate=only_first, own_bid=b"x", now=1_900_000_000)
    assert [finding.code for finding in caught.value.findings] == [
        "bad-certificate",
        "own-bid-missing",
        "wrong-manifest",
        "too-late",
    ]
    assert "'buyer-2'" in str(caught.value)


def test_a_second_different_seal_is_refused(tmp_path: Path) -> None:
    """The search for an amount: the same manifest with another bid set or release is never sealed again."""
    journal = SealJournal(tmp_path / "seals")
    sign_seal(plan(tmp_path), KEYS["buyer-1"], journal)
    for changes in ({"bids": {**BIDS, "buyer-2": b"3" * 48}}, {"opening": Opening(b"e" * 32, IMAGE)}):
        with pytest.raises(AlreadySealed):
            plan(tmp_path, **changes)
        planned = plan(tmp_path / "elsewhere", **changes)
        with pytest.raises(AlreadySealed):
            sign_seal(planned, KEYS["buyer-1"], journal)
    assert sign_seal(plan(tmp_path), KEYS["buyer-1"], journal)


def test_the_record_comes_before_the_signature(tmp_path: Path) -> None:
    """When nothing can be recorded, nothing is signed."""
    (tmp_path / "seals").write_text("in the way")
    with pytest.raises(OSError, match="seals"):
        sign_seal(
            plan(tmp_path, journal=SealJournal(tmp_path / "empty")),
            KEYS["buyer-1"],
            SealJournal(tmp_path / "seals"),
        )


def test_lots_sealed_before_and_what_the_rule_reveals_are_said(tmp_path: Path) -> None:
    """They need the buyer's word, and the plan carries both warnings for it to read."""
    sign_seal(plan(tmp_path), KEYS["buyer-1"], SealJournal(tmp_path / "seals"))
    with pytest.raises(FoundFalse) as caught:
        plan(tmp_path, manifest("again", rule="second-price"))
    assert [finding.code for finding in caught.value.findings] == ["overlapping-lots"]
    again = plan(tmp_path, manifest("again", rule="second-price"), again=True)
    assert [overlap.auction for overlap in again.looked.overlaps] == ["spring"]
    assert [other.member for other in again.looked.others("buyer-1")] == ["buyer-2"]
    assert again.disclosure == messages.DISCLOSURE["second-price"]
