"""The commands of an auction from keys to receipt, each as its own process, with a real quorum."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from coattest_local.aws import services
from coattest_verify.auction import messages
from coattest_verify.auction.buyers import load_manifest
from support.auction.amounts import amounts_in
from support.auction.auction_world import BIDS, World
from support.forked import own
from support.local.local_enclave import Cloud, enclave


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The local services, the decided enclave and everybody's files."""
    with (
        services.start(tmp_path_factory.mktemp("services"), quiet=True) as running,
        enclave() as started,
    ):
        yield World(tmp_path_factory.mktemp("world"), Cloud.make(running), started)


Plans = list[dict[str, Any]]


@pytest.fixture(scope="module")
def sealed(world: World) -> Plans:
    """The auction that others come after: its buyers have bid and sealed; what each sealed."""
    world.prepare("spring")
    for buyer in BIDS:
        bid, prose = world.bid(buyer, "spring", "--upload")
        assert bid["uploaded"]
        assert amounts_in(prose, 100000, 200000, 120000, 180000) == set()
    plans = []
    for buyer in BIDS:
        plan, prose = world.seal(buyer, "spring")
        plans.append(plan)
        assert plan["own_bid"] == plan["bids"][buyer]
        for shown in ("lot-2", "1000", "first-price", "no amount", "your own bid file is in this set"):
            assert shown in prose
    assert plans[0]["seal"] == plans[1]["seal"]
    assert plans[0]["bids"]["buyer-1"] == plans[1]["bids"]["buyer-1"]
    return plans


@pytest.fixture(scope="module")
def opened(world: World, sealed: Plans) -> dict[str, Any]:
    """What the opening of that auction said, which published it, too."""
    s3 = world.cloud.services.client("s3", "service")
    s3.create_bucket(Bucket="results", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    place = ("--publish", "s3://results/spring/")
    # The role that decrypts is the one that publishes: who called it may put the object, and it may not.
    refused, _ = world.open("spring", "--wait", *place, "--retry-for", "0", expect=3)
    assert (refused["code"], refused["service_code"]) == ("aws", "AccessDenied")
    rights = {
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:PutObject"],
        "Resource": "arn:aws:s3:::results/*",
    }
    world.cloud.services.client("iam", "service").put_role_policy(
        RoleName="coattest-parent",
        PolicyName="publish",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [rights]}),
    )
    return world.open("spring", *place)[0]


def test_an_auction_from_keys_to_receipt(world: World, sealed: Plans, opened: dict[str, Any]) -> None:
    """Every command does its part, and the receipt's table is buyer-2, buyer-1, tie."""
    assert (opened["resumed"], opened["verified"]) == (True, False)
    s3 = world.cloud.services.client("s3", "service")
    (there,) = s3.list_objects_v2(Bucket="results")["Contents"]
    content = (world.folder / "spring.result").read_bytes()
    digest = load_manifest(world.folder / "spring.cbor").digest.hex()
    assert there["Key"] == f"spring/{digest}/{messages.sha384(content).hex()}.cbor"
    published = s3.get_object(Bucket="results", Key=there["Key"])["Body"].read()
    assert published == (world.folder / "spring.result").read_bytes()
    verified, _ = world.receipt("spring", "--html", "spring.html")
    assert verified["verified"] is True
    assert {check["outcome"] for check in verified["checks"]} == {"ok"}
    page = (world.folder / "spring.html").read_text()
    assert "<h1><span>Receipt verified</span></h1>" in page
    assert "<td>tie: buyer-1, buyer-2</td>" in page
    assert verified["sealed_by"] == ["buyer-1", "buyer-2"]
    assert (
        verified["lots"]
        == opened["lots"]
        == [
            {"lot": "lot-1", "outcome": "won", "buyer": "buyer-2"},
            {"lot": "lot-2", "outcome": "won", "buyer": "buyer-1"},
            {"lot": "lot-3", "outcome": "tie", "buyers": ["buyer-1", "buyer-2"]},
        ]
    )
    assert world.seal("buyer-1", "spring", "--again")[0]["seal"] == sealed[0]["seal"]
    refused, _ = world.bid("buyer-1", "spring", "--upload", "--again", expect=1)
    assert refused["code"] == "closed"


@pytest.mark.usefixtures("opened")
def test_a_receipt_is_refused_with_every_reason(world: World) -> None:
    """After the first auction: another manifest, another profile's root, and a damaged file."""
    world.prepare("other", -10)
    content = (world.folder / "spring.result").read_bytes()
    (world.folder / "other.result").write_bytes(content)
    refused, _ = world.receipt("other", "--html", "other.html", expect=1)
    assert "Does not verify" in (world.folder / "other.html").read_text()
    assert {check["check"]: check["outcome"] for check in refused["checks"]}["sealed"] == "failed"
    assert refused["verified"] is False
    assert refused["lots"] is None
    assert "wrong-manifest" in {failure["code"] for failure in refused["findings"]}
    (world.folder / "cut.result").write_bytes(content[:-1])
    (world.folder / "cut.cbor").write_bytes((world.folder / "spring.cbor").read_bytes())
    refused, _ = world.receipt("cut", expect=1)
    assert [failure["code"] for failure in refused["findings"]] == ["malformed"]
    assert {check["outcome"] for check in refused["checks"]} == {"failed", "not run"}


@pytest.mark.usefixtures("sealed")
def test_the_buyers_tool_refuses_what_would_betray_it(world: World) -> None:
    """A second seal, a manifest with a look-alike's key, and opening too early."""
    world.prepare("summer", 600)
    for buyer in BIDS:
        # The lots were sealed in spring: nobody bids on or seals them again without saying so.
        refused, _ = world.bid(buyer, "summer", "--upload", expect=1)
        assert refused["code"] == "overlapping-lots"
        world.bid(buyer, "summer", "--upload", "--again")
        if buyer == "buyer-2":
            refused, _ = world.seal(buyer, "summer", "--dry-run", expect=1)
            assert refused["code"] == "overlapping-lots"
            dry, _ = world.seal(buyer, "summer", "--dry-run", "--again")
            assert dry["file"] is None
    world.seal("buyer-1", "summer", "--again")
    sealed_before, prose = world.seal("buyer-1", "summer", "--again")
    assert "sealed before, in spring" in prose
    assert [overlap["auction"] for overlap in sealed_before["overlaps"]] == ["spring"]
    refused, _ = world.bid("buyer-1", "summer", "--upload", "--again", expect=1)
    assert refused["code"] == "already-sealed"
    (first,) = world.objects("buyer-2", "summer")
    again, _ = world.bid("buyer-2", "summer", "--upload", "--again")
    assert sorted(world.objects("buyer-2", "summer")) == sorted([first, f"{again['bid']}.cose"])
    refused, _ = world.seal("buyer-1", "summer", "--again", expect=1)
    assert refused["code"] == "several-bids"
    other = ("--bid-digest", f"buyer-2={again['bid']}")
    refused, _ = world.seal("buyer-1", "summer", "--again", *other, expect=1)
    assert refused["code"] == "already-sealed"
    world.seal("buyer-2", "summer", "--again")
    refused, _ = world.open("summer", expect=1)
    assert refused["code"] == "too-early"
    assert not (world.folder / "summer.result").exists()

    genuine = load_manifest(world.folder / "summer.cbor")
    strange = dataclasses.replace(genuine.buyers[1], certificate=genuine.buyers[0].certificate)
    changed = dataclasses.replace(genuine, auction="faked", buyers=(genuine.buyers[0], strange))
    (world.folder / "faked.cbor").write_bytes(changed.encode())
    refused, _ = world.bid("buyer-1", "faked", "--again", expect=1)
    assert refused["code"] == "bad-certificate"
    assert not (world.folder / "faked.buyer-1.cose").exists()
    (world.folder / "faked.buyer-1.cose").write_bytes((world.folder / "summer.buyer-1.cose").read_bytes())
    each = [word for name in BIDS for word in ("--bid-digest", f"{name}={'00' * 48}")]
    refused, _ = world.seal("buyer-1", "faked", "--again", *each, expect=1)
    assert refused["code"] == "bad-certificate"


def test_what_binds_a_buyer_needs_its_own_statement(world: World) -> None:
    """Without its own agreeing statement, or with a dissent, a buyer neither bids nor seals."""
    world.prepare("autumn", 600)
    own = world.members.released / "rebuild.buyer-1.intoto.json"
    kept = own.read_bytes()
    own.unlink()
    try:
        refused, _ = world.bid("buyer-1", "autumn", expect=3)
        assert refused["code"] == "no-decision"
        assert not (world.folder / "autumn.buyer-1.cose").exists()
    finally:
        own.write_bytes(kept)
    world.bid("buyer-1", "autumn", "--again")


def test_a_preview_says_no_amount_unless_asked(world: World) -> None:
    """It counts bids; amounts go to a terminal, or into JSON on request."""
    world.prepare("preview", 600)
    shown, prose = world.bid("buyer-1", "preview", "--preview", "--again")
    assert (shown["lots"], shown["bids"], shown["below_reserve"]) == (3, 3, [])
    assert amounts_in(json.dumps(shown) + prose, 100000, 200000, 150000) == set()
    assert not (world.folder / "preview.buyer-1.cose").exists()
    asked, prose = world.bid("buyer-1", "preview", "--preview", "--show-amounts", "--again")
    assert asked["amounts"] == {"lot-1": 100000, "lot-2": 200000, "lot-3": 150000}
    assert amounts_in(prose, 200000) == set()
    arguments = ["--manifest", "preview.cbor", "--buyer", "buyer-1", "--bids", "buyer-1.csv"]
    arguments += ["--auction-key", "buyer-1.key.pub", "--record", "buyer-1.json", "--release", "0.1.0"]
    done = subprocess.run(
        [*own("auction"), "bid", *arguments, "--preview", "--show-amounts"],
        cwd=world.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "on a terminal only" in done.stderr
    assert amounts_in(done.stderr, 200000) == set()


def test_every_problem_of_a_bids_file_has_its_line(world: World) -> None:
    """Three problems are three lines with file and line number, then one that counts them."""
    world.prepare("wrong", 600)
    (world.folder / "wrong.csv").write_text("lot,amount\nlot-1,1.5\nlot-9,3\nlot-2,7\n")
    done = subprocess.run(
        [
            *own("auction"),
            "bid",
            "--manifest",
            "wrong.cbor",
            "--buyer",
            "buyer-1",
            "--bids",
            "wrong.csv",
            *("--auction-key", "buyer-1.key.pub", "--record", "buyer-1.json", "--release", "0.1.0"),
            "--preview",
        ],
        cwd=world.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()[:3]] == [
        "line 2",
        "line 3",
        "bids file",
    ]
    assert done.stderr.splitlines()[2].endswith("lot 'lot-3' is missing (an empty amount means no bid)")
    assert done.stderr.splitlines()[3] == "auction: wrong.csv: 3 findings"


def test_usage_is_exit_2(world: World) -> None:
    """Bad bids, an address that is none, an endpoint elsewhere: said in one line, before anything is done."""
    world.prepare("winter", -10)
    (world.folder / "buyer-1.csv").write_text("lot,amount\nlot-1,1\n")
    refused, _ = world.bid("buyer-1", "winter", expect=2)
    assert refused["code"] == "bad-bids"
    (world.folder / "buyer-1.csv").write_text(BIDS["buyer-1"])
    refused, _ = world.bid("buyer-1", "winter", "--endpoint-url", "https://kms.example.com", expect=2)
    assert refused["code"] == "endpoint-not-loopback"
    for buyer in BIDS:
        (world.folder / f"winter.{buyer}.seal").write_bytes(b"x")
    refused, _ = world.open("winter", "--enclave", "nowhere", expect=2)
    assert refused["code"] == "bad-address"
    nowhere = ("--enclave", "unix:/nonexistent/in_5005.sock", "--retry-for", "0")
    refused, _ = world.open("winter", *nowhere, expect=1)
    assert refused["code"] == "bad-seal"
