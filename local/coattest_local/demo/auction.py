"""The demo's auctions: manifest, bids, seals, opening, and the receipt that everybody verifies."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coattest_local.aws.services import Services
from coattest_local.demo.chain import PinnedTrust, World
from coattest_local.demo.cloud import REGION, BuyerCloud, ServiceCloud
from coattest_local.demo.stage import Party, Stage, demo_failed
from coattest_parent.link.aws import Aws, Endpoint
from coattest_verify.auction import messages
from coattest_verify.auction.buyers import load_manifest
from coattest_verify.signatures.keys import load_public

LOTS = ("harbour-12", "mill-lane-3", "station-1")
AMOUNTS = {"buyer-1": (100000, 200000, 150000), "buyer-2": (120000, 180000, 150000)}
EXPECTED = [
    {"lot": LOTS[0], "outcome": "won", "buyer": "buyer-2"},
    {"lot": LOTS[1], "outcome": "won", "buyer": "buyer-1"},
    {"lot": LOTS[2], "outcome": "tie", "buyers": ["buyer-1", "buyer-2"]},
]
FIRST = "spring"
"""The auction that is opened; the later ones are refused."""

BIDDING_SECONDS = 20
BIDDING_FACTOR = 10
"""Bids are open for at least so many seconds, and so many times what certifying the keys took before: on a
busy machine every command takes longer.
"""

PUBLISH_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class House:
    """The auction house: the world with its cloud and its running enclave."""

    world: World
    trust: PinnedTrust
    services: Services
    service: ServiceCloud
    buyers: Mapping[str, BuyerCloud]
    enclave: str

    @property
    def service_party(self) -> Party:
        """The service, with its administrator's credentials."""
        return self.world.service.using(self.services.environment("service"))

    def bidder(self, name: str) -> Party:
        """A buyer, with its bidding user's credentials."""
        return self.world.buyers[name].using(self.buyers[name].environment)

    def as_buyer(self, name: str) -> Aws:
        """A buyer's bidding user, in this process."""
        import boto3  # noqa: PLC0415 - an extra, which --help does without

        environment = self.buyers[name].environment
        session = boto3.Session(
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name=REGION,
        )
        return Aws(session, Endpoint(self.services.endpoint, self.services.ca_bundle))

    @property
    def endpoint(self) -> tuple[str, ...]:
        """The options that lead a command to the local services."""
        return ("--endpoint-url", self.services.endpoint, "--ca-bundle", str(self.services.ca_bundle))


@dataclass(frozen=True, slots=True)
class Auction:
    """One auction: its name and its manifest, a file that everybody has."""

    name: str
    manifest: Path


def manifest_of(auction: Auction) -> messages.Manifest:
    """The manifest as it is now."""
    return load_manifest(auction.manifest)


def sealed_image(house: House, auction: Auction) -> bytes:
    """PCR0 that the buyers sealed for."""
    seals = [(party.home / f"{auction.name}.seal").read_bytes() for party in house.world.buyers.values()]
    return messages.check_seals(manifest_of(auction), seals).image


def announce(house: House, name: str) -> Auction:
    """Buyers certify their auction keys; the service publishes the manifest."""
    began = time.monotonic()
    shared = house.world.attestations.parent
    records = []
    for buyer, party in house.world.buyers.items():
        key = load_public(party.home / "auction.key.pub").fingerprint
        record = shared / f"{name}.{buyer}.json"
        party.run(
            "auction", "certify", "--key", "quorum.key", "--member", buyer,
            "--auction-key", "auction.key.pub", "--kms-key", house.buyers[buyer].key_arn,
            "--bids", house.buyers[buyer].bids_uri, "--out", record,
            "--expect", f"sha256:{key}",
        )  # fmt: skip
        (party.home / f"{name}.json").write_bytes(record.read_bytes())  # its own copy
        records += ["--buyer", str(record)]
    auction = Auction(name, shared / f"{name}.manifest.cbor")
    certifying = math.ceil(time.monotonic() - began)
    closes = int(time.time()) + max(BIDDING_SECONDS, BIDDING_FACTOR * certifying)
    lots = [word for lot in LOTS for word in ("--lot", lot)]
    house.world.service.run(
        "auction", "manifest", "--auction", name, "--currency", "EUR", *lots, *records,
        "--closes", str(closes), "--publish-by", str(closes + PUBLISH_SECONDS), "--out", auction.manifest,
    )  # fmt: skip
    return auction


def place_bid(house: House, auction: Auction, buyer: str, amounts: Sequence[int], out: str) -> None:
    """A buyer encrypts its bids under its own key and uploads them to its own bucket."""
    party = house.bidder(buyer)
    table = party.home / f"{out}.csv"
    table.write_text("lot,amount\n" + "".join(f"{lot},{n}\n" for lot, n in zip(LOTS, amounts, strict=True)))
    argv = bid_argv(house, auction, buyer, table.name, out)
    shown = party.run(*argv, "--preview", quiet=True)
    party.run(*argv, "--expect", shown["expect"], "--upload")


def bid_argv(house: House, auction: Auction, buyer: str, table: str, out: str) -> tuple[str, ...]:
    """The command with which a buyer encrypts its bids."""
    return (
        "auction", "bid", "--manifest", str(auction.manifest), *_own(house, auction, buyer),
        "--auction-key", "auction.key.pub", "--bids", table, "--out", out, *house.endpoint,
        *house.trust.arguments,
    )  # fmt: skip


def _own(house: House, auction: Auction, buyer: str) -> list[str]:
    """Who a buyer is by its own record, and whom it expects beside itself."""
    others = [word for name in house.world.buyers if name != buyer for word in ("--with", name)]
    again = [] if auction.name == FIRST else ["--again"]  # the demo's auctions are all of the same lots
    return ["--buyer", buyer, "--record", f"{auction.name}.json", *others, *again]


def seal_argv(house: House, auction: Auction, buyer: str, own_bid: str) -> tuple[str, ...]:
    """The command with which a buyer seals the bid files that are in the buckets now."""
    return (
        "auction", "seal", "--manifest", str(auction.manifest), *_own(house, auction, buyer),
        "--auction-key", "auction.key", "--own-bid", own_bid, "--out", f"{auction.name}.seal",
        *house.endpoint, *house.trust.arguments,
    )  # fmt: skip


def seal_bids(house: House, auction: Auction, buyer: str, own_bid: str) -> None:
    """A buyer checks everything, and then records and signs exactly the seal that it was shown."""
    party, argv = house.bidder(buyer), seal_argv(house, auction, buyer, own_bid)
    shown = party.run(*argv, "--dry-run", quiet=True)
    party.run(*argv, "--expect", shown["expect"])


def open_argv(
    house: House,
    auction: Auction,
    out: str,
    *,
    enclave: str | None = None,
    sealed: Sequence[str] | None = None,
) -> tuple[str, ...]:
    """The command with which the service has an auction opened, with the seals of all buyers or of some."""
    seals = [house.world.buyers[name].home / f"{auction.name}.seal" for name in sealed or house.buyers]
    return (
        "auction", "open", "--manifest", str(auction.manifest),
        *(word for seal in seals for word in ("--seal", str(seal))),
        "--enclave", enclave or house.enclave, "--assume-role", house.service.role_arn, "--wait",
        "--out", out, *house.endpoint,
    )  # fmt: skip


def no_result(
    house: House,
    what: str,
    auction: Auction,
    *,
    expected_code: str,
    enclave: str | None = None,
    sealed: Sequence[str] | None = None,
) -> None:
    """Opening must fail with ``expected_code`` and leave no result behind."""
    out = "refused.cbor"
    argv = open_argv(house, auction, out, enclave=enclave, sealed=sealed)
    house.service_party.must_fail(what, *argv, expected_code=expected_code)
    if (house.world.service.home / out).exists():
        raise demo_failed(f"{what}: a result file was written all the same")


def open_and_verify(house: House, auction: Auction) -> Path:
    """The service opens; every buyer verifies the receipt; the winners must be the expected ones."""
    stage = house.world.stage
    name = f"{auction.name}.result.cbor"
    opened = house.service_party.run(*open_argv(house, auction, name))
    result = house.world.service.home / name
    for party in house.world.buyers.values():
        verified = party.attempt(*receipt_argv(house, auction, result))
        if verified.code != 0:
            raise demo_failed(f"the receipt does not verify: {verified.errors[-600:]}", where=party.name)
        stage.say(f"{party.name}: receipt verified")
    check_winners(opened["lots"], stage)
    stage.say(f"result sha384 {opened['result']}")
    return result


def open_again(house: House, auction: Auction, first: Path, enclave: str) -> None:
    """Another enclave opens the same seals: the result must be the same, byte for byte."""
    name = f"{auction.name}.again.cbor"
    house.service_party.run(*open_argv(house, auction, name, enclave=enclave))
    one, two = (
        messages.ResultFile.decode(path.read_bytes()).result for path in (first, first.with_name(name))
    )
    if one != two:
        raise demo_failed("two enclaves give different results for the same seals")
    house.world.stage.say(f"the same {len(one)} bytes, sha384 {messages.sha384(two).hex()}")


def audit_key(house: House, buyer: str) -> None:
    """A buyer checks the log of its own key against the decision: one module id for its one manifest."""
    audited = house.world.buyers[buyer].run(
        "verify", "audit", house.services.trail, "--key", house.buyers[buyer].key_arn,
        "--parent-role", house.service.role_arn, "--member", buyer, *house.trust.arguments,
    )  # fmt: skip
    modules = {entry["module_id"] for entry in audited["decrypts"]}
    count = sum(entry["count"] for entry in audited["decrypts"])
    if len(modules) != 1 or not count:
        raise demo_failed(f"{count} decrypts by {sorted(modules)}", where=buyer)
    denied = len(audited["denied"])
    house.world.stage.say(f"{buyer}: decrypts: {count}, all attested by {modules.pop()}; denied: {denied}")


def receipt_argv(house: House, auction: Auction, result: Path) -> tuple[str, ...]:
    """The command with which anybody checks a result."""
    return (
        "verify", "receipt", str(result), "--manifest", str(auction.manifest), *house.trust.arguments
    )  # fmt: skip


def check_winners(lots: list[dict[str, Any]], stage: Stage) -> None:
    """Show the outcomes; they must be what the bids say."""
    for lot in lots:
        stage.say(f"{lot['lot']}: {lot.get('buyer') or 'tie of ' + ' and '.join(lot['buyers'])}")
    if lots != EXPECTED:
        raise demo_failed(f"these are not the winners: {lots}")
