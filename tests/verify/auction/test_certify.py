"""A buyer's certificate: a member's quorum key vouches for its keys and its place, for some time."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from coattest.errors import Rejected, UsageError
from coattest.files import Folder
from coattest_enclave.protocol.manifest import Buyer
from coattest_verify.auction.certify import (
    MAX_LIFE,
    Life,
    Own,
    certificate_check,
    certify_buyer_key,
    check_buyer_certificate,
)
from coattest_verify.auction.withdrawal import Withdrawal, file_name, read_withdrawals, sign_withdrawal
from coattest_verify.quorum.authority import Authority
from support.auction.auctions import manifest, spki
from support.raises import raises_code
from support.verify.decisions import decision
from support.verify.members import Members

ARN = "arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555"
KEY = spki(ec.generate_private_key(ec.SECP384R1()).public_key())
OTHER_KEY = spki(ec.generate_private_key(ec.SECP384R1()).public_key())
OWN = Own("buyer-1", KEY, ARN, "s3://bids-1/auctions/")
CLOSES = datetime(2027, 1, 15, 8, 0, tzinfo=timezone.utc)
AUCTION = manifest(closes=int(CLOSES.timestamp()), publish_by=int(CLOSES.timestamp()) + 3600)
LIFE = Life(CLOSES - timedelta(days=30), CLOSES + timedelta(days=30))


@pytest.fixture
def three(tmp_path: Path) -> Members:
    return Members.make(tmp_path, ["buyer-1", "buyer-2", "buyer-3"])


def buyer(three: Members, life: Life = LIFE) -> Buyer:
    """buyer-1 in a manifest, with its certificate."""
    certificate = certify_buyer_key(three.signers["buyer-1"], OWN, life)
    return Buyer(OWN.name, KEY, certificate, ARN, OWN.bids)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "buyer-2"},
        {"name": "mallory"},
        {"key": OTHER_KEY},
        {"kms": ARN.replace("111122223333", "999999999999")},
        {"bids": "s3://bids-1/"},
        {"bids": "s3://bids-2/auctions/"},
    ],
)
def test_a_certificate_binds_member_keys_and_place(three: Members, change: dict[str, object]) -> None:
    """It certifies exactly what it says, by that member, and nothing else."""
    good = buyer(three)
    found = check_buyer_certificate(good, three.file)
    assert (found.member, found.life) == ("buyer-1", LIFE)
    assert found.signers == (three.signers["buyer-1"].public.fingerprint,)
    with raises_code(Rejected, "bad-certificate"):
        check_buyer_certificate(replace(good, **change), three.file)


def test_another_members_key_certifies_nothing(three: Members) -> None:
    """buyer-2 cannot speak for buyer-1."""
    forged = certify_buyer_key(three.signers["buyer-2"], OWN, LIFE)
    with raises_code(Rejected, "bad-certificate", match="not signed by a key of buyer-1"):
        check_buyer_certificate(replace(buyer(three), certificate=forged), three.file)


@pytest.mark.parametrize(
    ("begins", "ends", "now", "holds"),
    [
        (-30, 30, -1, True),
        (-30, 30, -31, False),
        (-30, -1, -2, False),
        (1, 30, 0, False),
        (-300, 0, -1, False),
    ],
)
def test_a_certificate_has_begun_and_holds_to_the_publication_deadline(
    three: Members, begins: int, ends: int, now: int, holds: bool
) -> None:
    """Days from the closing time: what begins later or ends before the deadline is refused."""
    life = Life(CLOSES + timedelta(days=begins), CLOSES + timedelta(days=ends))
    check = certificate_check(Authority(decision(), three.file), now=CLOSES + timedelta(days=now))
    if holds:
        assert check(buyer(three, life), AUCTION).life == life
        return
    with raises_code(Rejected, "certificate-ended"):
        check(buyer(three, life), AUCTION)


def test_a_receipt_needs_no_certificate_of_today(three: Members) -> None:
    """Without a time it must cover the auction's own, so an archived receipt verifies for ever."""
    life = Life(CLOSES - timedelta(minutes=1), CLOSES + timedelta(hours=2))
    check = certificate_check(Authority(decision(), three.file))
    assert check(buyer(three, life), AUCTION).member == "buyer-1"


def test_no_certificate_is_for_ever(three: Members) -> None:
    """At most a year, and never ending before it begins."""
    for length in (MAX_LIFE + timedelta(seconds=1), timedelta(0), timedelta(days=-1)):
        with pytest.raises(UsageError):
            certify_buyer_key(three.signers["buyer-1"], OWN, Life(CLOSES, CLOSES + length))


def test_a_withdrawn_certificate_binds_nobody_any_more(three: Members) -> None:
    """Its member's signed statement among the attestations stops it; nobody else's does."""
    good = buyer(three)
    digest = check_buyer_certificate(good, three.file).sha256
    authority = Authority(decision(), three.file)
    withdrawal = Withdrawal("buyer-1", digest, CLOSES)
    three.write(withdrawal.file_name, sign_withdrawal(withdrawal, three.signers["buyer-2"]))
    withdrawn, refused = read_withdrawals(Folder(three.attestations), three.file)
    assert (withdrawn, [finding.code for finding in refused]) == (frozenset(), ["bad-signature"])
    three.write(withdrawal.file_name, sign_withdrawal(withdrawal, three.signers["buyer-1"]))
    withdrawn, refused = read_withdrawals(Folder(three.attestations), three.file)
    assert (withdrawn, refused) == (frozenset({digest}), [])
    with raises_code(Rejected, "certificate-withdrawn"):
        certificate_check(authority, now=CLOSES, withdrawn=withdrawn)(good, AUCTION)
    later = buyer(three, Life(LIFE.begins + timedelta(days=1), LIFE.ends))
    certificate_check(authority, now=CLOSES, withdrawn=withdrawn)(later, AUCTION)


def test_only_withdrawals_of_the_auctions_certificates_are_read(
    three: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever hosts the attestations can put thousands of others there; a wrong name is still told."""
    mine = check_buyer_certificate(buyer(three), three.file)
    signed = sign_withdrawal(Withdrawal("buyer-1", mine.sha256, CLOSES), three.signers["buyer-1"])
    three.write(file_name("buyer-1", mine.sha256), signed)
    for number in range(20):
        three.write(file_name("buyer-2", f"{number:064x}"), signed)
    three.write("withdraw-buyer-key.x", b"junk")
    read: list[str] = []
    whole = Folder.read

    def reading(self: Folder, name: str, *given: int) -> bytes:
        read.append(name)
        return whole(self, name, *given)

    monkeypatch.setattr(Folder, "read", reading)
    withdrawn, refused = read_withdrawals(Folder(three.attestations), three.file, [mine])
    assert (withdrawn, [finding.code for finding in refused]) == ({mine.sha256}, ["bad-name"])
    assert read == [file_name("buyer-1", mine.sha256)]


def test_one_hostile_withdrawal_does_not_hide_the_others(three: Members) -> None:
    """Wrong names and junk are named, and the good one counts."""
    digest = check_buyer_certificate(buyer(three), three.file).sha256
    good = Withdrawal("buyer-1", digest, CLOSES)
    signed = sign_withdrawal(good, three.signers["buyer-1"])
    three.write(good.file_name, signed)
    three.write(good.file_name.replace("buyer-1", "mallory"), signed)
    three.write(good.file_name.replace(digest[:16], "0" * 16), signed)
    three.write("withdraw-buyer-key.x", b"junk")
    withdrawn, refused = read_withdrawals(Folder(three.attestations), three.file)
    assert withdrawn == {digest}
    assert sorted(finding.code for finding in refused) == ["bad-name", "bad-name", "not-a-member"]
