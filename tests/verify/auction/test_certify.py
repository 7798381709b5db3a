"""A buyer's certificate: a member's quorum key vouches for an auction key and a KMS key."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from coattest.errors import Rejected
from coattest_enclave.protocol.manifest import Buyer
from coattest_verify.auction.certify import (
    certificate_check,
    certify_buyer_key,
    check_buyer_certificate,
)
from coattest_verify.quorum.authority import Authority
from support.auction.auctions import spki
from support.raises import raises_code
from support.verify.decisions import decision
from support.verify.members import Members

ARN = "arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555"


@pytest.fixture
def three(tmp_path: Path) -> Members:
    return Members.make(tmp_path, ["buyer-1", "buyer-2", "buyer-3"])


def test_a_buyers_certificate_binds_member_key_and_arn(three: Members) -> None:
    """It certifies exactly what it says, by that member, and nothing else."""
    certificate = certify_buyer_key(three.signers["buyer-1"], "buyer-1", b"spki", "arn:1")
    check_buyer_certificate(certificate, three.file, "buyer-1", b"spki", "arn:1")
    for member, key, arn in (
        ("buyer-2", b"spki", "arn:1"),
        ("mallory", b"spki", "arn:1"),
        ("buyer-1", b"other", "arn:1"),
        ("buyer-1", b"spki", "arn:2"),
    ):
        with raises_code(Rejected, "bad-certificate"):
            check_buyer_certificate(certificate, three.file, member, key, arn)
    forged = certify_buyer_key(three.signers["buyer-2"], "buyer-1", b"spki", "arn:1")
    with raises_code(Rejected, "bad-certificate", match="not signed by a key of buyer-1"):
        check_buyer_certificate(forged, three.file, "buyer-1", b"spki", "arn:1")


def test_an_authority_gives_the_check_of_its_members_file(three: Members) -> None:
    """The check that seals and receipts use looks a buyer's certificate up in the deciding members file."""
    check = certificate_check(Authority(decision(), three.file))
    key = spki(ec.generate_private_key(ec.SECP384R1()).public_key())
    certificate = certify_buyer_key(three.signers["buyer-1"], "buyer-1", key, ARN)
    check(Buyer("buyer-1", key, certificate, ARN, "s3://bids-1/bid"))
    with raises_code(Rejected, "bad-certificate"):
        check(Buyer("buyer-2", key, certificate, ARN, "s3://bids-1/bid"))
