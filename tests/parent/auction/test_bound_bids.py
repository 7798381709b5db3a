"""A bid opens under its buyer's own seal only, in the image it was made for: attacks that once worked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec

from coattest.errors import FoundFalse
from coattest_local.aws import services
from coattest_parent.auction.courier import upload_bid
from coattest_parent.link.aws import parse_s3_uri
from coattest_verify.auction import messages
from coattest_verify.auction.bids import Bids, make_bid_file
from coattest_verify.auction.buyers import load_manifest, spki_der
from coattest_verify.auction.certify import Own
from coattest_verify.auction.place import bid_uri
from coattest_verify.quorum.members.file import Member
from coattest_verify.signatures.keys import generate_key, load_signer
from support.auction.auction_world import BIDS, World
from support.local.local_enclave import PCRS, Cloud, LocalEnclave, decision, enclave

OLD = {index: hashlib.sha384(b"old image %d" % index).digest() for index in (0, 1, 2)}
AMOUNTS = {"buyer-1": (100000, 200000, 150000), "buyer-2": (120000, 180000, 150000)}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[services.Services]:
    """The local AWS services."""
    with services.start(tmp_path_factory.mktemp("services"), quiet=True) as started:
        yield started


@pytest.fixture(scope="module")
def decided() -> Iterator[LocalEnclave]:
    """The genuine decided enclave."""
    with enclave() as started:
        yield started


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, running: services.Services, decided: LocalEnclave
) -> World:
    """Everybody's files and accounts."""
    return World(tmp_path_factory.mktemp("world"), Cloud.make(running), decided)


def written(world: World, name: str, manifest: messages.Manifest) -> messages.Manifest:
    """A manifest of the service's making, in place of the honest one of that name."""
    (world.folder / f"{name}.cbor").write_bytes(manifest.encode())
    return manifest


def with_buyer(manifest: messages.Manifest, name: str, **changes: Any) -> messages.Manifest:
    """The manifest with other fields of one buyer."""
    buyers = tuple(dataclasses.replace(b, **changes) if b.name == name else b for b in manifest.buyers)
    return dataclasses.replace(manifest, buyers=buyers)


def nothing_made(world: World, buyer: str, name: str) -> None:
    """No bid file here and none in the bucket."""
    assert not (world.folder / f"{name}.{buyer}.cose").exists()
    assert world.objects(buyer, name) == []


def test_no_bid_is_encrypted_under_a_key_of_the_service(world: World) -> None:
    """The service names a KMS key of its own under buyer-1's name: the bid is refused before anything."""
    world.prepare("foreign", 600)
    other = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-4000-8000-000000000000"
    written(world, "foreign", with_buyer(load_manifest(world.folder / "foreign.cbor"), "buyer-1", kms=other))
    refused, _ = world.bid("buyer-1", "foreign", "--upload", "--again", expect=1)
    assert {finding["code"] for finding in refused["findings"]} == {"wrong-kms-key", "bad-certificate"}
    nothing_made(world, "buyer-1", "foreign")


def test_substituted_seal_keys_open_nothing(world: World, decided: LocalEnclave) -> None:
    """The service puts seal keys of its own under every name and seals for all. The tool makes no such
    bid; had it, the genuine enclave would get no key under any seal but the buyer's own.
    """
    world.prepare("stolen", 600)
    keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in BIDS}
    evil = load_manifest(world.folder / "stolen.cbor")
    for name, key in keys.items():
        evil = with_buyer(evil, name, key=spki_der(key.public_key()))
    evil = written(world, "stolen", dataclasses.replace(evil, rule=messages.SECOND_PRICE))
    refused, _ = world.bid("buyer-1", "stolen", "--upload", expect=1)
    assert {"wrong-auction-key", "bad-certificate"} <= {item["code"] for item in refused["findings"]}
    nothing_made(world, "buyer-1", "stolen")
    evil = written(world, "stolen", dataclasses.replace(evil, closes=int(time.time())))
    files = {}
    for name, amounts in AMOUNTS.items():
        buyer, aws = messages.named_buyer(evil, name), world.cloud.as_buyer(name)
        kms = aws.kms(world.cloud.services.region)
        # A tool that trusted the manifest gets nothing: the bidder may encrypt under its own seal only.
        fooled = Own(name, buyer.key, buyer.kms, buyer.bids)
        with pytest.raises(ClientError, match="AccessDenied"):
            make_bid_file(evil, fooled, PCRS[0], Bids(amounts, ()), kms)
        careless = Own(name, world.seal_key(name), buyer.kms, buyer.bids)
        files[name] = make_bid_file(evil, careless, PCRS[0], Bids(amounts, ()), kms)
        upload_bid(aws, buyer, evil.digest, files[name])
    digests = tuple((name, messages.bid_digest(file)) for name, file in sorted(files.items()))
    seal = messages.Seal(evil.digest, decision().release_digest, PCRS[0], digests).encode()
    for name, key in keys.items():
        (world.folder / f"stolen.{name}.seal").write_bytes(messages.sign1(seal, key, name.encode()))
    refused, _ = world.open("stolen", expect=1)
    assert refused["code"] == "kms-denied"
    assert not (world.folder / "stolen.result").exists()
    audited = audit(world, "buyer-1", expect=0)
    assert len(audited["probes"]) == 1
    assert evil.digest.hex() not in {each["auction"] for each in audited["openings"]}


def audit(world: World, buyer: str, *more: str, expect: int) -> dict[str, Any]:
    """``verify audit`` of a buyer's key by itself."""
    document, _ = world.run(
        buyer,
        *("verify", "audit", str(world.cloud.services.trail), "--key", world.cloud.buyers[buyer].key_arn),
        *("--parent-role", world.cloud.role, "--member", buyer, *world.deciding, *more),
        expect=expect,
    )
    return document


@pytest.fixture(scope="module")
def rotation(world: World) -> messages.Manifest:
    """An auction during a rotation, in which both images may decrypt: sealed for the next, which opened it
    once. The old one refused it before it asked KMS.
    """
    world.prepare("rotation")
    for name in BIDS:
        releases = (decision(), decision(OLD, "0.0.9"))
        world.cloud.allow(name, *releases, seal_key=world.seal_key(name))
        world.bid(name, "rotation", "--upload", "--again")
    for name in BIDS:
        world.seal(name, "rotation", "--again")
    before = world.cloud.services.trail.read_text().count('"Decrypt"')
    with enclave(pcrs=OLD) as old:
        refused, _ = world.open("rotation", "--wait", "--enclave", old.address, expect=1)
    assert refused["code"] == "wrong-image"
    assert world.cloud.services.trail.read_text().count('"Decrypt"') == before
    opened, _ = world.open("rotation", "--wait")
    assert opened["lots"][0]["buyer"] == "buyer-2"
    return load_manifest(world.folder / "rotation.cbor")


@pytest.mark.usefixtures("rotation")
def test_an_earlier_release_opens_nothing_of_the_next(world: World) -> None:
    """It was refused by the old image, and what the next one opened verifies."""
    assert world.receipt("rotation")[0]["verified"] is True


def test_the_audit_knows_what_was_sealed_and_counts_openings(
    world: World, tmp_path: Path, rotation: messages.Manifest
) -> None:
    """The rotation's opening: sealed, once, then twice; without its seal in the record it is an alarm."""

    def count() -> int:
        found = audit(world, "buyer-1", expect=0)["openings"]
        return next(each["count"] for each in found if each["auction"] == rotation.digest.hex())

    assert count() == 1
    (world.folder / "rotation.result").rename(tmp_path / "first")
    world.open("rotation")
    assert count() == 2
    tmp_path.joinpath("empty").mkdir()
    alarmed = audit(world, "buyer-1", "--journal", str(tmp_path / "empty"), expect=1)
    assert {finding["code"] for finding in alarmed["findings"]} == {"never-sealed"}


@pytest.mark.slow
def test_enrolling_somebody_between_bid_and_opening_changes_nothing(world: World) -> None:
    """Bids under version 1, seals and receipt under version 2 of the members file."""
    world.prepare("growth")
    for name in BIDS:
        world.bid(name, "growth", "--upload", "--again")
    before = json.loads((world.folder / "buyer-1.json").read_text())
    public = generate_key(world.folder / "carol.key", "ed25519")
    world.members.signers["carol"] = load_signer(world.folder / "carol.key")
    grown = world.members.file.successor(
        members=(*world.members.file.members, Member("carol", (public,))), threshold=2, dissent="report"
    )
    world.members.install(grown, ["buyer-1", "buyer-2", "carol"])
    world.sign()
    seals = [world.seal(name, "growth", "--again")[0] for name in BIDS]
    assert seals[0]["seal"] == seals[1]["seal"]
    world.open("growth", "--wait")
    assert world.receipt("growth")[0]["verified"] is True
    assert json.loads((world.folder / "buyer-1.json").read_text()) == before


@pytest.mark.usefixtures("rotation")
def test_nothing_is_overwritten_and_an_old_record_binds_nobody(world: World) -> None:
    """Another place or KMS key than the buyer's own is refused, a withdrawn certificate too; the bidder
    cannot overwrite or delete a bid.
    """
    world.prepare("winter", 600)
    bid, _ = world.bid("buyer-1", "winter", "--upload", "--again")
    honest = load_manifest(world.folder / "winter.cbor")
    place = messages.named_buyer(honest, "buyer-1").bids
    written(world, "moved", with_buyer(honest, "buyer-1", bids=f"{place}elsewhere/"))
    refused, _ = world.bid("buyer-1", "moved", "--upload", "--again", expect=1)
    assert {item["code"] for item in refused["findings"]} == {"wrong-bids-place", "bad-certificate"}

    bucket, key = parse_s3_uri(bid["uploaded"])
    assert bid["uploaded"] == bid_uri(
        messages.named_buyer(honest, "buyer-1"), honest.digest, bytes.fromhex(bid["bid"])
    )
    s3 = world.cloud.as_buyer("buyer-1").s3(world.cloud.services.region)
    for attack in (
        lambda: s3.put_object(Bucket=bucket, Key=key, Body=b"other"),
        lambda: s3.delete_object(Bucket=bucket, Key=key),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            attack()
    file = (world.folder / "winter.buyer-1.cose").read_bytes()
    assert upload_bid(
        world.cloud.as_buyer("buyer-1"), messages.named_buyer(honest, "buyer-1"), honest.digest, file
    )
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == file

    withdrawal, _ = world.run(
        "buyer-1",
        *("auction", "withdraw", "--member", "buyer-1", "--key", str(world.members.key("buyer-1"))),
        *("--record", "buyer-1.json", "--attestations", str(world.members.attestations)),
    )
    assert withdrawal["new"] is True
    for name in BIDS:
        refused, _ = world.bid(name, "winter", "--again", expect=1)
        assert refused["code"] == "certificate-withdrawn"
    each = ("--bid-digest", f"buyer-2={'00' * 48}", "--bid-digest", f"buyer-1={bid['bid']}")
    refused, _ = world.seal("buyer-1", "winter", "--again", *each, expect=1)
    assert refused["code"] == "certificate-withdrawn"
    assert world.receipt("rotation")[0]["verified"] is True


def test_the_others_are_named_where_nobody_looks(world: World) -> None:
    """Without a terminal and without --with nothing is made; with a wrong name neither."""
    world.prepare("spring", 600)
    refused, _ = world.bid("buyer-1", "spring", "--again", expect=2, known=False)
    assert refused["code"] == "not-confirmed"
    refused, _ = world.bid("buyer-1", "spring", "--again", "--with", "buyer-3", expect=1)
    assert refused["code"] == "wrong-buyers"
    nothing_made(world, "buyer-1", "spring")


def test_a_bid_in_the_place_of_another_is_told(world: World) -> None:
    """Other bytes at the object's name are not taken for the bid."""
    world.prepare("place", 600)
    manifest = load_manifest(world.folder / "place.cbor")
    buyer = messages.named_buyer(manifest, "buyer-2")
    bucket, key = parse_s3_uri(bid_uri(buyer, manifest.digest, messages.bid_digest(b"bid")))
    owner = world.cloud.services.client("s3", "buyer-2")
    owner.put_object(Bucket=bucket, Key=key, Body=b"planted", IfNoneMatch="*")
    with pytest.raises(FoundFalse, match="something else is there") as caught:
        upload_bid(world.cloud.as_buyer("buyer-2"), buyer, manifest.digest, b"bid")
    assert caught.value.code == "wrong-object"
