"""The auction with real parts: KMS and S3 as a process, the enclave as a process, Unix sockets between."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from coattest.aws import AwsFailure
from coattest.errors import FoundFalse
from coattest_build.formats.measure import measure
from coattest_local.aws import services
from coattest_parent.auction.courier import upload_bid
from coattest_parent.auction.steps import Way, make_bid, open_sealed
from coattest_parent.deployment.runner import LocalRunner
from coattest_parent.link.aws import parse_s3_uri
from coattest_parent.link.channels import parse_address
from coattest_parent.link.enclave import EnclaveClient, EnclaveFailed, EnclaveRefused
from coattest_verify.attestation.profiles import AWS_NITRO
from coattest_verify.auction import messages
from coattest_verify.auction.bids import read_bids
from coattest_verify.auction.journal import AlreadySealed, SealJournal
from coattest_verify.auction.place import bid_uri
from coattest_verify.auction.receipt import ReceiptVerdict, receipt_time
from coattest_verify.quorum.decision import Decision
from support.auction.auctions import certified, opening, outcomes, own
from support.auction.real_auction import CSV, RealAuction
from support.build.python_image import make_python_image
from support.local.local_enclave import INSTANCE, PCRS, ROLE, Cloud, LocalEnclave, decision, enclave
from support.raises import raises_code


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """The local services with both buyers' keys under the decision's policy."""
    with services.start(tmp_path_factory.mktemp("services"), quiet=True) as running:
        yield Cloud.make(running)


@pytest.fixture(scope="module")
def running() -> Iterator[LocalEnclave]:
    """The enclave program with the decided measurements."""
    with enclave() as started:
        yield started


class Auction(RealAuction):
    """An auction whose buyers' keys allow the decided image, opened under the parent's role."""

    def __init__(
        self,
        cloud: Cloud,
        directory: Path,
        name: str,
        rule: str = "first-price",
        *,
        decided: Decision | None = None,
    ) -> None:
        super().__init__(cloud, directory, name, rule, decided=decided or decision())
        for buyer in self.manifest.buyers:
            cloud.allow(buyer.name, self.decision, seal_key=buyer.key)

    def open(self, running: LocalEnclave, seals: list[bytes]) -> messages.ResultFile:
        return open_sealed(
            self.manifest,
            seals,
            Way(running.address, None, self.cloud.as_service(), self.cloud.role),
        )


def codes(verdict: ReceiptVerdict) -> set[str]:
    return {finding.code for finding in verdict.findings}


def test_three_lots_end_as_they_must(cloud: Cloud, running: LocalEnclave, tmp_path: Path) -> None:
    """buyer-2, buyer-1, tie: the result opens, its receipt verifies, and a second opening says the same."""
    auction = Auction(cloud, tmp_path, "spring")
    seals = auction.bid_and_seal()
    stages: list[str] = []
    opened = open_sealed(
        auction.manifest,
        seals,
        Way(running.address, None, cloud.as_service(), cloud.role),
        progress=lambda stage, _: stages.append(stage),
    )
    verdict = auction.verify(opened)
    assert verdict.findings == ()
    assert verdict.ok
    assert verdict.sealed_by == ("buyer-1", "buyer-2")
    assert verdict.result
    assert [outcome for _, outcome in verdict.result.lots] == [
        messages.Won("buyer-2"),
        messages.Won("buyer-1"),
        messages.Tie(("buyer-1", "buyer-2")),
    ]
    assert receipt_time(opened.encode()) == verdict.time
    assert "manifest" in stages
    assert auction.open(running, seals).result == opened.result


def test_no_amount_leaves_the_enclave_under_first_price(
    cloud: Cloud, running: LocalEnclave, tmp_path: Path
) -> None:
    """The published file has no amount in it, in text or in binary."""
    auction = Auction(cloud, tmp_path, "silent")
    amounts = {"buyer-1": 7_310_842_961_553, "buyer-2": 6_042_951_377_218}
    auction.bids = {
        name: f"lot,amount\nlot-1,{amount}\nlot-2,\nlot-3,{amount}\n".encode()
        for name, amount in amounts.items()
    }
    opened = auction.open(running, auction.bid_and_seal())
    assert messages.Result.decode(opened.result).lots[0][1] == messages.Won("buyer-1")
    for amount in amounts.values():
        for form in (str(amount).encode(), f"{amount:x}".encode(), amount.to_bytes(6, "big")):
            assert form not in opened.encode()
            assert form[::-1] not in opened.encode()


def test_second_price_names_what_the_winner_pays(cloud: Cloud, running: LocalEnclave, tmp_path: Path) -> None:
    """The price is the second highest bid; a tie has none."""
    auction = Auction(cloud, tmp_path, "second", rule="second-price")
    verdict = auction.verify(auction.open(running, auction.bid_and_seal()))
    assert verdict.ok
    assert verdict.result
    assert [outcome for _, outcome in verdict.result.lots] == [
        messages.Won("buyer-2", 100000),
        messages.Won("buyer-1", 180000),
        messages.Tie(("buyer-1", "buyer-2")),
    ]


def test_a_bid_replayed_from_another_auction_is_refused(
    cloud: Cloud, running: LocalEnclave, tmp_path: Path
) -> None:
    """Even when every buyer seals it, KMS does not give its data key for another manifest: no result."""
    earlier, later = Auction(cloud, tmp_path / "a", "earlier"), Auction(cloud, tmp_path / "b", "later")
    replayed = earlier.bid("buyer-1")
    later.bid("buyer-2")
    upload_bid(
        cloud.as_buyer("buyer-1"),
        messages.named_buyer(later.manifest, "buyer-1"),
        later.manifest.digest,
        replayed,
    )
    SealJournal(later.directory / "buyer-1").record_bid(messages.bid_digest(replayed), later.manifest.digest)
    seals = [later.seal("buyer-1", own_bid=replayed), later.seal("buyer-2")]
    with pytest.raises(EnclaveRefused, match="kms-denied") as caught:
        later.open(running, seals)
    assert caught.value.code == "kms-denied"
    assert caught.value.exit_code == 1


def test_an_altered_bid_set_is_refused(cloud: Cloud, running: LocalEnclave, tmp_path: Path) -> None:
    """A bid file that changed after the seal is not the sealed one, whoever changed it."""
    auction = Auction(cloud, tmp_path, "altered")
    seals = auction.bid_and_seal()
    bids = {name: messages.bid_digest(file) for name, file in auction.files.items()}
    changed = auction.files["buyer-2"][:-1] + bytes([auction.files["buyer-2"][-1] ^ 1])
    uri = bid_uri(messages.named_buyer(auction.manifest, "buyer-2"), auction.manifest.digest, bids["buyer-2"])
    bucket, key = parse_s3_uri(uri)
    owner = cloud.services.client("s3", "buyer-2")
    with pytest.raises(owner.exceptions.ClientError, match="AccessDenied"):
        owner.put_object(Bucket=bucket, Key=key, Body=changed)
    rules = owner.get_bucket_policy(Bucket=bucket)["Policy"]
    owner.delete_bucket_policy(Bucket=bucket)
    owner.put_object(Bucket=bucket, Key=key, Body=changed)
    owner.put_bucket_policy(Bucket=bucket, Policy=rules)
    with pytest.raises(EnclaveRefused, match="bad-bid-digest"):
        auction.open(running, seals)


def test_a_missing_seal_or_bid_file_gives_no_result(
    cloud: Cloud, running: LocalEnclave, tmp_path: Path
) -> None:
    """All buyers seal and every bid file is there, or nothing is opened."""
    auction = Auction(cloud, tmp_path, "missing")
    seals = auction.bid_and_seal()
    for too_few in (seals[:1], [seals[0], seals[0]]):
        with pytest.raises(FoundFalse) as caught:
            auction.open(running, too_few)
        assert caught.value.code == "bad-seal"
    digest = messages.bid_digest(auction.files["buyer-2"])
    bucket, key = parse_s3_uri(
        bid_uri(messages.named_buyer(auction.manifest, "buyer-2"), auction.manifest.digest, digest)
    )
    cloud.services.client("s3", "buyer-2").delete_object(Bucket=bucket, Key=key)
    with raises_code(AwsFailure, "unreadable-bid", match="'buyer-2' is not there or may not be read: 403"):
        auction.open(running, seals)
    # Who may list is told which it is.
    with raises_code(FoundFalse, "missing-bid", match="buyer-2"):
        auction.digests("buyer-1", **auction.files)


def test_a_second_seal_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    """After another bid was put in, the buyer's tool does not seal the same manifest again, nor bid on it."""
    auction = Auction(cloud, tmp_path, "twice")
    auction.bid_and_seal()
    stale = SealJournal(tmp_path / "buyer-2")
    assert stale.sealed(auction.manifest.digest)
    with pytest.raises(AlreadySealed):
        auction.bid("buyer-2")
    (tmp_path / "buyer-1").rename(tmp_path / "gone")
    another = auction.bid("buyer-1")
    with pytest.raises(FoundFalse) as caught:
        auction.seal("buyer-2")
    assert caught.value.code == "several-bids"
    with pytest.raises(AlreadySealed):
        auction.seal("buyer-2", **{"buyer-1": another})


def test_without_rights_on_one_key_there_is_no_result(
    cloud: Cloud, running: LocalEnclave, tmp_path: Path
) -> None:
    """A buyer whose key policy lets nobody of the parent in stops the auction; it does not count as no
    bid.
    """
    auction = Auction(cloud, tmp_path, "rights")
    seals = auction.bid_and_seal()
    mine = messages.named_buyer(auction.manifest, "buyer-2").key
    cloud.allow("buyer-2", auction.decision, parent=False, seal_key=mine)
    with pytest.raises(EnclaveRefused, match=r"kms-denied: buyer-2"):
        auction.open(running, seals)
    cloud.allow("buyer-2", auction.decision, seal_key=mine)
    assert auction.verify(auction.open(running, seals)).ok


@pytest.mark.parametrize("debug", [False, True])
def test_code_that_was_not_decided_gets_no_key(cloud: Cloud, tmp_path: Path, debug: bool) -> None:
    """An enclave that measures differently, or the decided one in debug mode, refuses before it asks KMS."""
    auction = Auction(cloud, tmp_path, f"other-code-{debug}")
    seals = auction.bid_and_seal()
    pcrs = PCRS if debug else {**PCRS, 0: bytes(range(48))}
    with enclave(pcrs=pcrs, debug=debug) as other, pytest.raises(EnclaveRefused, match="wrong-image"):
        auction.open(other, seals)


def test_a_late_bid_needs_a_new_manifest(cloud: Cloud, tmp_path: Path) -> None:
    """The buyer's own tool refuses to bid at the closing time."""
    auction = Auction(cloud, tmp_path, "late")
    closed = datetime.fromtimestamp(auction.manifest.closes, timezone.utc)
    bids = read_bids(CSV["buyer-1"], messages.LotList(auction.manifest.lots))
    with pytest.raises(FoundFalse) as caught:
        make_bid(
            auction.manifest,
            own(auction.manifest, "buyer-1"),
            opening(auction.decision),
            bids,
            cloud.as_buyer("buyer-1"),
            check_certificate=certified,
            journal=SealJournal(tmp_path),
            when=closed,
        )
    assert caught.value.code == "closed"


def test_a_liveness_document_is_no_receipt(cloud: Cloud, running: LocalEnclave, tmp_path: Path) -> None:
    """A genuine document of the decided enclave over the seal's digest is refused for its purpose."""
    auction = Auction(cloud, tmp_path, "liveness")
    opened = auction.open(running, auction.bid_and_seal())
    seal = messages.Result.decode(opened.result).seal
    with EnclaveClient(parse_address(running.address)) as client:
        passed_off = dataclasses.replace(opened, receipt=client.alive(seal))
    verdict = auction.verify(passed_off)
    assert not verdict.ok
    assert codes(verdict) == {"liveness-document", "user-data"}


def test_a_killed_enclave_is_a_clear_error_and_a_retry_finishes(cloud: Cloud, tmp_path: Path) -> None:
    """An enclave that dies in the middle gives no result; another one of the same code finishes the job."""
    auction = Auction(cloud, tmp_path, "killed")
    seals = auction.bid_and_seal()
    with enclave() as dying:

        def kill(stage: str, _: int) -> None:
            if stage.startswith("manifest, seals"):
                dying.process.kill()

        with pytest.raises(EnclaveFailed) as caught:
            open_sealed(
                auction.manifest,
                seals,
                Way(dying.address, None, cloud.as_service(), cloud.role),
                progress=kill,
            )
    assert caught.value.exit_code == 3
    with enclave() as fresh:
        assert auction.verify(auction.open(fresh, seals)).ok


def test_every_part_of_a_result_is_bound(cloud: Cloud, running: LocalEnclave, tmp_path: Path) -> None:
    """A change to any part of a good result, or to what it is checked against, is refused with its reason."""
    auction = Auction(cloud, tmp_path, "bound")
    other = Auction(cloud, tmp_path / "other", "other")
    opened = auction.open(running, auction.bid_and_seal())
    foreign = other.open(running, other.bid_and_seal())
    result = messages.Result.decode(opened.result)

    def rewritten(winner: str) -> messages.Result:
        names = ("buyer-1", "buyer-2", *(["mallory"] if winner == "mallory" else []))
        first = (result.lots[0][0], messages.Won(winner))
        lots = outcomes(names, [first, *result.lots[1:]])
        return dataclasses.replace(result, lots=lots)

    won, stranger = rewritten("buyer-1"), rewritten("mallory")
    cases = [
        (dataclasses.replace(opened, result=won.encode()), {"user-data"}),
        (dataclasses.replace(opened, result=stranger.encode()), {"user-data", "wrong-buyers"}),
        (dataclasses.replace(opened, seals=opened.seals[:1]), {"missing-seal"}),
        (dataclasses.replace(opened, seals=(*opened.seals, opened.seals[0])), {"double-seal"}),
        (
            dataclasses.replace(opened, seals=(*opened.seals, foreign.seals[0])),
            {"double-seal", "different-seals"},
        ),
        (dataclasses.replace(opened, receipt=foreign.receipt), {"user-data", "nonce"}),
        (dataclasses.replace(opened, receipt=b"\x84"), {"bad-document"}),
        (foreign, {"wrong-manifest"}),
    ]
    for changed, expected in cases:
        verdict = auction.verify(changed)
        assert not verdict.ok
        assert codes(verdict) == expected, verdict.findings
    assert "root" in " ".join(codes(auction.verify(opened, root=AWS_NITRO)))
    early = datetime.fromtimestamp(0, timezone.utc)
    assert codes(auction.verify(opened, now=early)) == {"from-the-future"}
    auction.decision = decision({**PCRS, 2: bytes(range(48))})
    assert codes(auction.verify(opened)) == {"wrong-decision", "measurement"}


def test_a_receipt_outside_the_sealed_window_is_refused(
    cloud: Cloud, running: LocalEnclave, tmp_path: Path
) -> None:
    """Opened before the closing time, the receipt does not verify, though the enclave answered."""
    auction = Auction(cloud, tmp_path, "window")
    auction.manifest = auction.open_for_bids
    verdict = auction.verify(auction.open(running, auction.bid_and_seal()))
    assert codes(verdict) == {"too-early"}


@pytest.mark.slow
def test_a_measured_image_on_the_software_host_decides(cloud: Cloud, tmp_path: Path) -> None:
    """The same auction in the sandbox, from an image that was measured and a policy made of that
    measurement.
    """
    image = make_python_image(tmp_path / "image.eif")
    found = measure(image)
    pcrs = {index: bytes.fromhex(value) for index, value in enumerate((found.pcr0, found.pcr1, found.pcr2))}
    runner = LocalRunner(tmp_path / "enclave")
    started = runner.run(image, role_arn=ROLE, instance_id=INSTANCE)
    try:
        auction = Auction(cloud, tmp_path, "sandbox", decided=decision(pcrs))
        opened = open_sealed(
            auction.manifest,
            auction.bid_and_seal(),
            Way(str(started.address), str(started.proxy), cloud.as_service(), cloud.role),
        )
    finally:
        runner.terminate()
    verdict = auction.verify(opened)
    assert verdict.findings == ()
    assert verdict.result
    assert verdict.result.lots[0][1] == messages.Won("buyer-2")
