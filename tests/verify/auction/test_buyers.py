"""Auction keys, buyers' records and the manifest made of them."""

from __future__ import annotations

import dataclasses
import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from coattest.errors import CoattestError, UsageError
from coattest_verify.auction import messages
from coattest_verify.auction.buyers import (
    buyer_json,
    load_auction_key,
    load_auction_public_key,
    load_manifest,
    make_manifest,
    parse_buyer,
)
from coattest_verify.signatures import keys
from support.auction.auctions import LOTS, manifest, spki

BUYER = manifest().buyers[0]


def test_an_auction_key_is_a_private_p384_key(tmp_path: Path) -> None:
    """Only its owner may read it, its public half lies beside it, and it is never overwritten."""
    path = tmp_path / "keys" / "auction.key"
    public = keys.generate_key(path, "p384")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = load_auction_key(path)
    assert isinstance(key.curve, ec.SECP384R1)
    assert (
        spki(key.public_key())
        == load_auction_public_key(tmp_path / "keys" / "auction.key.pub")
        == public.spki
    )
    with pytest.raises(UsageError):
        keys.generate_key(path, "p384")


def test_an_encrypted_key_opens_with_its_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The passphrase comes from the file that COATTEST_PASSPHRASE_FILE names."""
    path, passphrase = tmp_path / "auction.key", tmp_path / "passphrase"
    keys.generate_key(path, "p384", b"open sesame")
    passphrase.write_bytes(b"open sesame\n")
    monkeypatch.setenv("COATTEST_PASSPHRASE_FILE", str(passphrase))
    load_auction_key(path)
    passphrase.write_bytes(b"wrong\n")
    with pytest.raises(UsageError, match="passphrase") as caught:
        load_auction_key(path)
    assert caught.value.code == "bad-key"


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_another_kind_of_key_is_refused(tmp_path: Path, kind: str) -> None:
    """Seals are ES384; a key of another type is named as such, private or public."""
    keys.generate_key(tmp_path / "key", kind)
    with pytest.raises(UsageError, match="P-384") as caught:
        load_auction_key(tmp_path / "key")
    assert caught.value.code == "bad-key"
    with pytest.raises(UsageError, match="P-384") as caught:
        load_auction_public_key(tmp_path / "key.pub")
    assert caught.value.code == "bad-key"


def test_a_file_that_is_no_key_is_not_quoted(tmp_path: Path) -> None:
    """The error says what the file is not, and nothing of what is in it."""
    (tmp_path / "key").write_bytes(b"hunter2")
    with pytest.raises(UsageError) as caught:
        load_auction_key(tmp_path / "key")
    assert caught.value.code == "bad-key"
    assert "hunter2" not in str(caught.value)


def test_a_record_survives_a_round_trip() -> None:
    """What certify writes is what manifest reads."""
    content = json.dumps(buyer_json(BUYER)).encode()
    assert parse_buyer(content, "buyer.json") == BUYER


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "coattest-buyer/v2"},
        {"name": "Bob Smith"},
        {"name": 7},
        {"key": "AAAA"},
        {"key": "not base64"},
        {"kms": "alias/mine"},
        {"bids": "https://example.com/bids/"},
        {"bids": "s3://bucket/object"},
        {"extra": "field"},
    ],
)
def test_a_record_with_a_wrong_field_is_refused(changes: dict[str, object]) -> None:
    """Every field has one form, and there are no others."""
    content = json.dumps({**buyer_json(BUYER), **changes}).encode()
    with pytest.raises(UsageError, match=r"buyer\.json") as caught:
        parse_buyer(content, "buyer.json")
    assert caught.value.code == "bad-buyer-record"


@given(st.binary(max_size=200) | st.text().map(str.encode) | st.just(b"[" * 100_000))
def test_no_record_escapes_the_parser(content: bytes) -> None:
    """Whatever a buyer sends, it is a record or a UsageError."""
    with pytest.raises(UsageError) as caught:
        parse_buyer(content, "x")
    assert caught.value.code == "bad-buyer-record"
    doubled = json.dumps(buyer_json(BUYER))[:-1] + ', "name": "buyer-9"}'
    with pytest.raises(UsageError, match="duplicate") as caught:
        parse_buyer(doubled.encode(), "x")
    assert caught.value.code == "bad-buyer-record"


def test_a_manifest_has_its_buyers_in_order_whatever_the_arguments(tmp_path: Path) -> None:
    """The order of --buyer does not matter to the auction's identity; a broken rule is named."""
    records = list(manifest().buyers)
    values = {
        "auction": "spring",
        "rule": "first-price",
        "currency": "EUR",
        "lots": LOTS,
        "closes": 1_800_000_000,
        "publish_by": 1_800_003_600,
    }
    made = make_manifest(buyers=records[::-1], **values)
    assert made == manifest() == make_manifest(buyers=records, **values)
    (tmp_path / "manifest.cbor").write_bytes(made.encode())
    assert load_manifest(tmp_path / "manifest.cbor").digest == made.digest
    with pytest.raises(UsageError, match="twice"):
        make_manifest(buyers=[records[0], records[0]], **values)
    with pytest.raises(UsageError, match="deadline"):
        make_manifest(buyers=records, **{**values, "closes": 1_900_000_000})
    (tmp_path / "manifest.cbor").write_bytes(made.encode()[:-1])
    with pytest.raises(CoattestError, match="not a manifest"):
        load_manifest(tmp_path / "manifest.cbor")


def test_a_look_alike_name_is_no_name() -> None:
    """Names are ASCII: a Cyrillic twin of a buyer does not parse."""
    twin = "bu\u0443er-1"
    with pytest.raises(messages.MessageError):
        dataclasses.replace(BUYER, name=twin)
