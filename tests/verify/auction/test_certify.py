"""A buyer's certificate by its member's quorum key."""

from __future__ import annotations

from pathlib import Path

import pytest

from coattest.errors import Rejected
from coattest_verify.auction.certify import certify_buyer_key, check_buyer_certificate
from support.verify.members import Members


def test_a_buyers_certificate_binds_member_key_and_arn(tmp_path: Path) -> None:
    """It certifies exactly what it says, by that member, and nothing else."""
    three = Members.make(tmp_path, ["buyer-1", "buyer-2", "buyer-3"], threshold=2)
    certificate = certify_buyer_key(three.signers["buyer-1"], "buyer-1", b"spki", "arn:1")
    check_buyer_certificate(certificate, three.policy, "buyer-1", b"spki", "arn:1")
    for member, spki, arn in (
        ("buyer-2", b"spki", "arn:1"),
        ("mallory", b"spki", "arn:1"),
        ("buyer-1", b"other", "arn:1"),
        ("buyer-1", b"spki", "arn:2"),
    ):
        with pytest.raises(Rejected) as caught:
            check_buyer_certificate(certificate, three.policy, member, spki, arn)
        assert caught.value.code == "bad-certificate"
    forged = certify_buyer_key(three.signers["buyer-2"], "buyer-1", b"spki", "arn:1")
    with pytest.raises(Rejected, match="not signed by a key of buyer-1") as caught:
        check_buyer_certificate(forged, three.policy, "buyer-1", b"spki", "arn:1")
    assert caught.value.code == "bad-certificate"
