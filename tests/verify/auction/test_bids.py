"""From a CSV file to an encrypted bid file."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest.errors import EnvironmentFailure
from coattest_enclave.protocol import cose
from coattest_verify.auction import messages
from coattest_verify.auction.bids import BadBids, make_bid_file, read_bids
from support.auction.auctions import ARN, IMAGE, LOTS, manifest, own


class OneKey:
    """A KMS with one key; what it was asked, and the data keys that it wrapped."""

    def __init__(self, arn: str, blob: bytes = b"wrapped") -> None:
        self.arn, self.blob = arn, blob
        self.asked: list[dict[str, Any]] = []
        self.keys: list[bytes] = []

    def encrypt(self, **asked: Any) -> dict[str, Any]:
        self.keys.append(asked.pop("Plaintext"))
        self.asked.append(asked)
        return {"KeyId": self.arn, "CiphertextBlob": self.blob}


def test_amounts_come_in_the_manifests_order() -> None:
    """Rows may stand in any order; an empty amount is no bid."""
    bids = read_bids(b"lot,amount\nlot-3,7\nlot-1,\nlot-2,1000\n", LOTS)
    assert bids.amounts == (0, 1000, 7)
    assert bids.count == 2
    assert bids.below_reserve == ()


def test_a_bid_below_the_reserve_is_named() -> None:
    """The lot is named, so that the buyer can look; the file is still accepted."""
    assert read_bids(b"lot,amount\nlot-1,1\nlot-2,999\nlot-3,\n", LOTS).below_reserve == ("lot-2",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "first line"),
        (b"lot;amount\n", "first line"),
        (b"\xef\xbb\xbflot,amount\n", "first line"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"lot,amount\nlot-1,1\nlot-2,2\n", "'lot-3' is missing"),
        (b"lot,amount\nlot-1,1\nlot-2,2\nlot-3,3\nlot-3,4\n", "twice"),
        (b"lot,amount\nlot-1,1\nlot-2,2\nlot-3,3\nlot-4,4\n", "'lot-4' is not a lot"),
        (b"lot,amount\nlot-1,1,\nlot-2,2\nlot-3,3\n", "3 fields"),
        (b'lot,amount\n"lot-1,1\n', "not CSV"),
    ],
)
def test_a_file_that_does_not_say_one_thing_per_lot_is_refused(content: bytes, reason: str) -> None:
    """Missing, doubled, unknown and malformed rows are named."""
    with pytest.raises(BadBids, match=reason):
        read_bids(content, LOTS)


@pytest.mark.parametrize(
    "amount", ["-1", "+1", "1.0", "1e3", "01", "0", " 1", "1_000", "٣", "9007199254740993", "9" * 40, "0x1"]
)
def test_an_amount_is_a_plain_whole_number(amount: str) -> None:
    """Signs, separators, zeros, other digits and too large numbers are refused without quoting the amount."""
    content = f"lot,amount\nlot-1,1\nlot-2,2\nlot-3,{amount}\n".encode()
    with pytest.raises(BadBids, match="line 4: lot 'lot-3': not a whole") as caught:
        read_bids(content, LOTS)
    assert amount not in str(caught.value).replace("from 1 to", "").replace("line 4", "").replace(
        "'lot-3'", ""
    ) or (len(amount) < 3)


@pytest.mark.parametrize("row", ["48213,lot-3", "lot-3;48213,", "48.213,7", "lot-3:48213,", "EUR48213,lot-3"])
def test_an_amount_in_the_lots_place_is_not_quoted(row: str) -> None:
    """Fields that were swapped or run together are named by their line, so that no amount is in the error."""
    content = f"lot,amount\nlot-1,1\nlot-2,2\n{row}\n".encode()
    with pytest.raises(BadBids, match="line 4: the first field is not a lot") as caught:
        read_bids(content, LOTS)
    assert "213" not in str(caught.value)
    assert "213" not in repr(caught.value.findings)


def test_every_finding_is_reported_at_once() -> None:
    """Two wrong rows are two problems in one error."""
    with pytest.raises(BadBids, match=r"line 2.*line 3"):
        read_bids(b"lot,amount\nlot-1,x\nlot-2,y\nlot-3,1\n", LOTS)
    with pytest.raises(BadBids, match=r"line 2.*line 3: not CSV") as caught:
        read_bids(b'lot,amount\nlot-1,x\n"lot-2,y\n', LOTS)
    assert caught.value.count == 2
    assert [finding.where for finding in caught.value.findings] == ["line 2", "line 3"]


def test_amounts_stay_out_of_the_representation() -> None:
    """A value that ends up in a log or traceback shows no amount."""
    assert "424242" not in repr(read_bids(b"lot,amount\nlot-1,424242\nlot-2,\nlot-3,\n", LOTS))


def test_a_bid_file_opens_with_its_data_key_and_binding_only() -> None:
    """One Encrypt under the auction's context; the file decrypts for this manifest, buyer, image and keys."""
    auction = manifest()
    mine = own(auction, "buyer-1")
    kms = OneKey(mine.kms)
    content = make_bid_file(
        auction, mine, IMAGE, read_bids(b"lot,amount\nlot-1,5\nlot-2,\nlot-3,7\n", LOTS), kms
    )
    bound = messages.Binding(auction.digest, "buyer-1", mine.seal_key, IMAGE, mine.kms)
    assert kms.asked == [{"KeyId": mine.kms, "EncryptionContext": bound.context}]
    assert bound.context == {
        "coattest:auction": auction.digest.hex(),
        "coattest:buyer": "buyer-1",
        "coattest:image": IMAGE.hex(),
        "coattest:seal-key": hashlib.sha256(mine.seal_key).hexdigest(),
    }
    (key,) = kms.keys
    plaintext = cose.decrypt0(content, key, external_aad=bound.aad)
    assert tuple(messages.unpack_bids(plaintext, 3)) == (5, 0, 7)
    for change in (
        {"manifest": manifest("autumn").digest},
        {"buyer": "buyer-2"},
        {"seal_key": messages.named_buyer(auction, "buyer-2").key},
        {"image": bytes(range(48))},
        {"kms": ARN.format(account="333344445555")},
    ):
        other = dataclasses.replace(bound, **change)
        assert (other.context != bound.context) is ("kms" not in change)
        with pytest.raises(messages.MessageError):
            cose.decrypt0(content, key, external_aad=other.aad)


@given(st.lists(st.integers(0, messages.AMOUNT_MAX), min_size=3, max_size=3))
def test_the_length_of_a_bid_file_says_nothing(amounts: list[int]) -> None:
    """Whatever is bid, on however many lots, the file has one length."""
    rows = "".join(f"lot-{index},{amount or ''}\n" for index, amount in enumerate(amounts, 1))
    auction = manifest()
    kms = OneKey(messages.named_buyer(auction, "buyer-1").kms)
    content = make_bid_file(
        auction, own(auction, "buyer-1"), IMAGE, read_bids(f"lot,amount\n{rows}".encode(), LOTS), kms
    )
    assert len(content) == len(
        messages.encrypt0(bytes(24), b"k" * 32, wrapped_key=b"wrapped", external_aad=b"")
    )


def test_a_key_service_that_answers_for_another_key_is_refused() -> None:
    """An alias that points elsewhere, or a reply without a key, gives no bid file."""
    auction = manifest()
    bids = read_bids(b"lot,amount\nlot-1,5\nlot-2,\nlot-3,7\n", LOTS)
    with pytest.raises(EnvironmentFailure, match="answered for") as caught:
        make_bid_file(
            auction, own(auction, "buyer-1"), IMAGE, bids, OneKey(ARN.format(account="999999999999"))
        )
    assert caught.value.code == "kms-wrong-key"
    with pytest.raises(EnvironmentFailure, match="no ciphertext") as caught:
        make_bid_file(
            auction,
            own(auction, "buyer-1"),
            IMAGE,
            bids,
            OneKey(messages.named_buyer(auction, "buyer-1").kms, b""),
        )
    assert caught.value.code == "kms-failed"
