"""The attacks that must not work, each tried for real against the running chain."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from coattest_local.demo import auction as auctions
from coattest_local.demo import chain
from coattest_local.demo.auction import AMOUNTS, Auction, House
from coattest_local.demo.cloud import INSTANCE_ID, REGION, access_policy, statement_of
from coattest_local.demo.sources import claim_to_be, copy_source
from coattest_parent.auction.courier import upload_bid
from coattest_parent.link.aws import parse_s3_uri
from coattest_parent.link.channels import parse_address
from coattest_parent.link.enclave import EnclaveClient
from coattest_verify.auction import messages
from coattest_verify.auction.bids import Bids, make_bid_file
from coattest_verify.auction.buyers import load_own_key, spki_der
from coattest_verify.auction.certify import Own
from coattest_verify.auction.place import bid_uri

EXPECTED = 8


def all_of_them(house: House, auction: Auction, result: Path) -> None:
    """Try every attack; the demo fails at the first that works."""
    changed_image(house, auction)
    debug_mode(house, auction)
    replayed_bid(house, auction)
    altered_bid_set(house, auction)
    second_seal(house, auction)
    missing_rights(house, auction)
    liveness_as_receipt(house, auction, result)
    sealed_by_the_service(house, auction)


def changed_image(house: House, auction: Auction) -> None:
    """KMS gives nothing to an image that says it is the decided one: its document says what it is."""
    world = house.world
    world.stage.step("Refusal 1: the service changes the enclave's source")
    copy_source(world.options.source, world.service.home / "tampered")
    sealed = auctions.sealed_image(house, auction)
    name = claim_to_be(world.service.home / "tampered", sealed)
    world.stage.say(f"{name} now takes itself for the sealed image, {sealed.hex()[:16]}..")
    built = world.service.run(
        "eif", "build", "--source", "tampered", "--out", "tampered-out", "--profile", "local", long=True
    )
    world.stage.say(f"PCR0 {built['profiles']['local']['pcrs']['PCR0']}")
    image = world.service.home / "tampered-out" / "image.local.eif"
    with running(house, image) as enclave:
        auctions.no_result(house, "the changed image", auction, expected_code="kms-denied", enclave=enclave)


def debug_mode(house: House, auction: Auction) -> None:
    """The decided image in debug mode attests zeros, which no seal and no policy names."""
    house.world.stage.step("Refusal 2: the decided image, started in debug mode")
    with running(house, house.world.image, "--debug-mode", "--host", "software") as enclave:
        auctions.no_result(house, "a debug document", auction, expected_code="wrong-image", enclave=enclave)


def replayed_bid(house: House, auction: Auction) -> None:
    """The buyer's own tool knows for which auction it made a bid, and seals nothing in any other.

    (KMS refuses the bid's key there too: tests/parent/auction/test_auction_end_to_end.py.)
    """
    house.world.stage.step("Refusal 3: a bid of the first auction is replayed in a second one")
    second = auctions.announce(house, "replay")
    auctions.place_bid(house, second, "buyer-2", AMOUNTS["buyer-2"], "replay.cose")
    old = house.world.buyers["buyer-1"].home / f"{auction.name}.cose"
    buyer = messages.named_buyer(auctions.manifest_of(second), "buyer-1")
    upload_bid(house.as_buyer("buyer-1"), buyer, auctions.manifest_of(second).digest, old.read_bytes())
    house.bidder("buyer-1").must_fail(
        "a bid from another auction",
        *auctions.seal_argv(house, second, "buyer-1", old.name),
        expected_code="wrong-manifest",
    )


def altered_bid_set(house: House, auction: Auction) -> None:
    """Only the bid set that every buyer sealed is opened."""
    stage = house.world.stage
    stage.step("Refusal 4: bids that not everybody sealed, and bids altered after the seal")
    auctions.no_result(
        house, "a set that one buyer did not seal", auction, expected_code="bad-seal", sealed=("buyer-1",)
    )
    stage.refusals -= 1  # two sides of one refusal
    original = (house.world.buyers["buyer-2"].home / f"{auction.name}.cose").read_bytes()
    _overwrite(house, auction, "buyer-2", original, original[:-1] + bytes([original[-1] ^ 1]))
    auctions.no_result(house, "a bid altered after the seal", auction, expected_code="bad-bid-digest")
    _overwrite(house, auction, "buyer-2", original, original)


def second_seal(house: House, auction: Auction) -> None:
    """A buyer's own tool never seals another bid set for a manifest that it sealed."""
    house.world.stage.step("Refusal 5: buyer-1 is asked to seal another bid set for the same manifest")
    own = house.world.buyers["buyer-1"].home / f"{auction.name}.cose"
    digests = {"buyer-1": hashlib.sha384(own.read_bytes()).hexdigest(), "buyer-2": "ab" * 48}
    given = [word for name, digest in digests.items() for word in ("--bid-digest", f"{name}={digest}")]
    house.bidder("buyer-1").must_fail(
        "a second seal",
        *auctions.seal_argv(house, auction, "buyer-1", own.name),
        *given,
        expected_code="already-sealed",
    )


def missing_rights(house: House, auction: Auction) -> None:
    """Without rights on one buyer's key there is no result, least of all one without that buyer's bids."""
    house.world.stage.step("Refusal 6: the parent has no rights on buyer-2's key")
    other = f"arn:aws:iam::{house.service.account}:role/somebody-else"
    services, buyer = house.services, house.world.buyers["buyer-2"]
    nobody = access_policy(statement_of({"AWS": "*"}, "sts:AssumeRole", None, "Deny"))
    services.client("iam", "service").create_role(RoleName="somebody-else", AssumeRolePolicyDocument=nobody)
    owned = house.buyers["buyer-2"]
    chain.put_buyer_policy(house.trust, services, buyer, owned, parent_role=other)
    auctions.no_result(house, "an auction without rights on one key", auction, expected_code="kms-denied")
    chain.put_buyer_policy(house.trust, services, buyer, owned, parent_role=house.service.role_arn)


def liveness_as_receipt(house: House, auction: Auction, result: Path) -> None:
    """A genuine document of the enclave counts as a receipt only if it says that it is one."""
    house.world.stage.step("Refusal 7: a liveness document is passed off as a receipt")
    genuine = messages.ResultFile.decode(result.read_bytes())
    seal = messages.Result.decode(genuine.result).seal
    with EnclaveClient(parse_address(house.enclave)) as client:
        document = client.alive(seal)
    forged = result.with_name("forged.cbor")
    forged.write_bytes(messages.ResultFile(genuine.result, document, genuine.seals).encode())
    house.world.buyers["buyer-1"].must_fail(
        "a liveness document as a receipt",
        *auctions.receipt_argv(house, auction, forged),
        expected_code="liveness-document",
    )


@contextlib.contextmanager
def running(house: House, image: Path, *options: str) -> Iterator[str]:
    """An enclave that the service starts past the deployment tool; yields its address."""
    service = house.world.service
    directory = service.home / f"rogue-{len(list(service.home.glob('rogue-*')))}"
    record = service.run(
        "nitro-local", "run-enclave", image, "--directory", directory, "--role-arn", house.service.role_arn,
        "--instance-id", INSTANCE_ID, "--detach", *options,
    )  # fmt: skip
    try:
        yield str(record["address"])
    finally:
        service.attempt("nitro-local", "terminate-enclave", "--directory", directory, quiet=True)


def sealed_by_the_service(house: House, auction: Auction) -> None:
    """With its own seal keys under the buyers' names, the service gets neither a bid nor a bid's key."""
    stage, world = house.world.stage, house.world
    stage.step("Refusal 8: the service seals in the buyers' names")
    honest = auctions.announce(house, "autumn")
    keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in world.buyers}
    genuine = auctions.manifest_of(honest)
    evil = dataclasses.replace(
        genuine,
        buyers=tuple(
            dataclasses.replace(buyer, key=spki_der(keys[buyer.name].public_key()))
            for buyer in genuine.buyers
        ),
    )
    honest.manifest.write_bytes(evil.encode())
    for name in world.buyers:
        house.bidder(name).must_fail(
            f"{name}'s bid under a seal key of the service",
            *auctions.bid_argv(house, honest, name, f"{auctions.FIRST}.cose.csv", "autumn.cose"),
            expected_code="wrong-auction-key",
        )
        stage.refusals -= 1  # these and the enclave's are one
    stage.say(
        "even had both bid without looking: their own keys' policies and their bids name their own seals"
    )
    image, digests = auctions.sealed_image(house, auction), {}
    for name, amounts in AMOUNTS.items():
        aws, bidder = house.as_buyer(name), messages.named_buyer(evil, name)
        own = Own(name, load_own_key(world.buyers[name].home / "auction.key.pub"), bidder.kms, bidder.bids)
        file = make_bid_file(evil, own, image, Bids(amounts, ()), aws.kms(REGION))
        upload_bid(aws, bidder, evil.digest, file)
        digests[name] = messages.bid_digest(file)
    seal = messages.Seal(evil.digest, bytes(32), image, tuple(sorted(digests.items()))).encode()
    for name, key in keys.items():
        target = world.buyers[name].home / f"{honest.name}.seal"
        target.write_bytes(messages.sign1(seal, key, name.encode()))
    auctions.no_result(house, "seals of the service", honest, expected_code="kms-denied")


def _overwrite(house: House, auction: Auction, buyer: str, sealed: bytes, content: bytes) -> None:
    """Replace a bid's object in the buyer's bucket, as whoever owns the bucket could; the bidder may not."""
    manifest = auctions.manifest_of(auction)
    uri = bid_uri(messages.named_buyer(manifest, buyer), manifest.digest, messages.bid_digest(sealed))
    bucket, key = parse_s3_uri(uri)
    owner = house.services.client("s3", buyer)
    policy = owner.get_bucket_policy(Bucket=bucket)["Policy"]
    owner.delete_bucket_policy(Bucket=bucket)
    owner.put_object(Bucket=bucket, Key=key, Body=content)
    owner.put_bucket_policy(Bucket=bucket, Policy=policy)
