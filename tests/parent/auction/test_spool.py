"""The courier's spool when a job's directory or deadline is in the way, and what an enclave or S3 may say."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import resource
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import boto3
import pytest

from coattest.aws import AwsFailure
from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse
from coattest_enclave.protocol import cose, wire
from coattest_parent.auction.courier import bid_digests, open_in_enclave
from coattest_parent.auction.finish import Way
from coattest_parent.auction.publish import check_opened
from coattest_parent.auction.spool import PAUSE, Courier, only_courier
from coattest_parent.link.aws import Aws, Endpoint, SessionCredentials
from coattest_parent.link.channels import Unix, listen_on
from coattest_parent.link.enclave import BidUpload, EnclaveFailed, EnclaveRefused
from coattest_parent.link.telemetry import Telemetry
from coattest_verify.auction import messages
from support.auction import deciding
from support.enclave.running_enclave import Auction

NOBODY = 65534


@pytest.fixture(scope="module")
def auction() -> Auction:
    """A sealed auction; what its bid files hold does not matter here."""
    made = Auction.make({"buyer-1": [7, 5], "buyer-2": [3, 9]})
    made.files = {"buyer-1": b"one", "buyer-2": b"two"}
    return made


def job(auction: Auction, directory: Path) -> Path:
    directory.mkdir()
    (directory / "manifest.cbor").write_bytes(auction.manifest.encode())
    for number, seal in enumerate(auction.seals()):
        (directory / f"{number}.seal").write_bytes(seal)
    return directory


def courier(spool: Path, **options: Any) -> Courier:
    """A courier whose enclave is not there."""
    aws = Aws(boto3.Session("AKIDEXAMPLE", "secret", region_name="eu-central-1"), Endpoint())
    options.setdefault("check", lambda *_: None)  # the results here have no receipt
    return Courier(spool, Way(f"unix:{spool}/none.sock", None, aws), Telemetry(), **options)


def at(seconds: float) -> Callable[[], datetime]:
    """A clock that stands."""
    return lambda: datetime.fromtimestamp(seconds, timezone.utc)


def named(auction: Auction, name: str) -> Auction:
    """The same under another name, so that it is another auction."""
    manifest = dataclasses.replace(auction.manifest, auction=name)
    return dataclasses.replace(auction, manifest=manifest)


def opened(auction: Auction) -> messages.ResultFile:
    """What an enclave would make of it, its receipt aside."""
    result = deciding.result(auction.manifest, auction.seal.digest, dict.fromkeys(auction.files)).encode()
    return messages.ResultFile(result, b"receipt", tuple(auction.seals()))


class Openings:
    """In place of the enclave: every attempt takes ten seconds; it fails for the auctions named here."""

    def __init__(self, *auctions: Auction, failing: dict[str, CoattestError]) -> None:
        self.auctions = {auction.manifest.auction: auction for auction in auctions}
        self.failing = failing
        self.attempts: list[tuple[str, float]] = []
        self.time = float(auctions[0].manifest.closes)

    def __call__(self, manifest: messages.Manifest, _: list[bytes], **options: Any) -> messages.ResultFile:
        self.attempts.append((manifest.auction, self.time))
        self.time += 10
        assert options["retry"].backoff.seconds == 0
        if error := self.failing.get(manifest.auction):
            raise error
        return opened(self.auctions[manifest.auction])

    def now(self) -> datetime:
        """The time."""
        return at(self.time)()

    def names(self) -> list[str]:
        """Whose attempts there were, in order."""
        return [name for name, _ in self.attempts]


def test_an_auction_after_its_publication_deadline_is_set_aside(auction: Auction, tmp_path: Path) -> None:
    """Its receipt could not verify any more, so it is not tried round after round."""
    late = job(auction, tmp_path / "late")
    assert courier(tmp_path).round(at(auction.manifest.closes - 1)) == 1
    assert not (late / "failed.json").exists()
    assert courier(tmp_path).round(at(auction.manifest.publish_by + 1)) == 0
    assert json.loads((late / "failed.json").read_text())["code"] == "too-late"


def test_a_job_that_cannot_be_set_aside_does_not_stop_the_others(auction: Auction, tmp_path: Path) -> None:
    """With no room for its failed.json the round goes on, and counts it as waiting."""
    bad = job(auction, tmp_path / "bad")
    (bad / "1.seal").unlink()
    job(auction, tmp_path / "good")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        waiting = courier(tmp_path).round(at(auction.manifest.closes - 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert waiting == 2
    assert sorted(path.name for path in bad.iterdir()) == ["0.seal", "manifest.cbor"]


def test_no_job_waits_for_another(auction: Auction, tmp_path: Path) -> None:
    """While one fails again and again, the others are opened at once, also the one that comes later; its own
    attempts are spaced by its own waits, which double up to a cap.
    """
    first, good, late = (named(auction, name) for name in ("a", "b", "c"))
    job(first, tmp_path / "a")
    job(good, tmp_path / "b")
    opening = Openings(first, good, late, failing={"a": EnclaveFailed("no", code="kms-failed")})
    service = courier(tmp_path, opener=opening, dice=lambda _, most: most)
    assert service.round(opening.now) == 1
    assert opening.names() == ["a", "b"]
    assert (tmp_path / "b" / "result.cbor").exists()
    while len(opening.attempts) < 9:
        opening.time += service.rest(opening.now())
        service.round(opening.now)
    job(late, tmp_path / "c")
    service.round(opening.now)
    assert opening.names() == ["a", "b", *["a"] * 7, "c"]
    starts = [time for name, time in opening.attempts if name == "a"]
    # The first wait began before b's turn; each attempt takes ten seconds.
    waits = [following - this - 10 for this, following in itertools.pairwise(starts)]
    assert waits == [max(PAUSE.bound(1), 10), *(PAUSE.bound(failures) for failures in range(2, 8))]
    assert waits[-1] == PAUSE.cap
    del opening.failing["a"]
    opening.time += service.rest(opening.now())
    assert service.round(opening.now) == 0
    assert (tmp_path / "a" / "result.cbor").exists()
    assert service.rest(opening.now()) == float("inf")


def test_each_of_many_failing_jobs_has_its_turn(auction: Auction, tmp_path: Path) -> None:
    """However short the waits, between two attempts at one job every other due one has had its own."""
    auctions = [named(auction, name) for name in "abcd"]
    for each in auctions:
        job(each, tmp_path / each.manifest.auction)
    failure = EnclaveFailed("no", code="kms-failed")
    opening = Openings(*auctions, failing=dict.fromkeys("abcd", failure))
    service = courier(tmp_path, opener=opening, dice=lambda *_: 0.0)
    for _ in range(5):
        assert service.round(opening.now) == 4
    names = opening.names()
    assert [sorted(names[start : start + 4]) for start in range(0, 20, 4)] == [["a", "b", "c", "d"]] * 5


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (AwsFailure("no", service_code="AccessDenied"), True),
        (EnclaveRefused("no: kms-denied: buyer-1: ExpiredTokenException", code="kms-denied"), True),
        (EnclaveRefused("no: kms-denied: buyer-1: AccessDeniedException", code="kms-denied"), False),
        (FoundFalse("no", code="missing-bid"), False),
        (ZeroDivisionError(), True),
    ],
)
def test_a_job_is_set_aside_only_when_trying_again_cannot_help(
    auction: Auction, tmp_path: Path, error: Any, again: bool
) -> None:
    """Expired credentials pass, and a fault of our own neither ends the service nor loses the auction."""
    job(auction, tmp_path / "job")
    opening = Openings(auction, failing={auction.manifest.auction: error})
    service = courier(tmp_path, opener=opening, dice=lambda *_: 1.0)
    assert service.round(opening.now) == again
    assert (tmp_path / "job" / "failed.json").exists() is not again


def test_a_closing_time_is_waited_for_without_reading_the_job_again(auction: Auction, tmp_path: Path) -> None:
    """Its turn is the closing time; another manifest under the same name is another job."""
    there = job(auction, tmp_path / "job")
    closes = auction.manifest.closes
    opening = Openings(auction, failing={})
    service = courier(tmp_path, opener=opening)
    assert service.round(at(closes - 100)) == 1
    assert service.rest(at(closes - 100)()) == 100
    (there / "0.seal").rename(tmp_path / "kept")
    assert service.round(at(closes - 1)) == 1
    assert not (there / "failed.json").exists()
    (tmp_path / "kept").rename(there / "0.seal")
    sooner = dataclasses.replace(auction, manifest=dataclasses.replace(auction.manifest, closes=closes - 50))
    opening.auctions[sooner.manifest.auction] = sooner
    there.rename(tmp_path / ".gone")
    job(sooner, tmp_path / "job")
    assert service.round(at(closes - 40)) == 0
    assert (tmp_path / "job" / "result.cbor").exists()
    assert service.round(at(closes - 40)) == 0
    assert len(opening.attempts) == 1


def test_a_clock_that_is_set_back_does_not_put_off_a_retry(auction: Auction, tmp_path: Path) -> None:
    """A turn that is further off than any wait is taken now."""
    job(auction, tmp_path / "job")
    opening = Openings(auction, failing={auction.manifest.auction: EnclaveFailed("no")})
    opening.time += 7200
    service = courier(tmp_path, opener=opening, dice=lambda _, most: most)
    service.round(opening.now)
    opening.failing.clear()
    assert service.round(at(opening.time - 1)) == 1
    assert service.round(at(opening.time - 3600)) == 0
    assert len(opening.attempts) == 2


def test_a_spool_is_served_once(tmp_path: Path) -> None:
    """A second courier is refused as long as the first one runs, and no longer."""
    with only_courier(tmp_path):
        with pytest.raises(EnvironmentFailure, match="another courier") as refused, only_courier(tmp_path):
            pass
        assert refused.value.code == "spool-in-use"
    with only_courier(tmp_path):
        assert not list(tmp_path.iterdir())


def test_what_is_no_job_is_left_alone_or_set_aside(auction: Auction, tmp_path: Path) -> None:
    """A FIFO is not waited for, an odd name is set aside, and what begins with a dot is ignored."""
    fifo = job(auction, tmp_path / "fifo")
    (fifo / "1.seal").unlink()
    os.mkfifo(fifo / "1.seal")
    odd = job(auction, tmp_path / os.fsdecode(b"caf\xe9 [red]"))
    job(auction, tmp_path / ".half-copied")
    huge = job(auction, tmp_path / "huge")
    with (huge / "0.seal").open("r+b") as file:
        file.truncate(1 << 40)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "manifest").mkdir()
    os.mkfifo(tmp_path / "manifest" / "manifest.cbor")
    assert courier(tmp_path).round(at(auction.manifest.closes - 1)) == 0
    reasons = {each: json.loads((each / "failed.json").read_text())["code"] for each in (fifo, odd, huge)}
    assert reasons == {fifo: "not-a-file", odd: "bad-name", huge: "too-large"}


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Without root's power over every file, where the tests have it."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_directory_that_may_not_be_read_does_not_stop_the_others(auction: Auction) -> None:
    """It is one job that waits; the one after it is looked at."""
    with tempfile.TemporaryDirectory() as name:
        spool = Path(name)
        spool.chmod(0o755)
        closed = job(auction, spool / "closed")
        job(auction, spool / "open")
        closed.chmod(0)
        try:
            with unprivileged():
                waiting = courier(spool).round(at(auction.manifest.closes - 1))
        finally:
            closed.chmod(0o755)
    assert waiting == 2


class Files:
    """Bid files that are at hand."""

    def __init__(self, auction: Auction) -> None:
        self.files = auction.files

    def part(self, buyer: messages.Buyer) -> BidUpload:
        """The file of that buyer."""
        content = self.files[buyer.name]
        return BidUpload(buyer.name, len(content), [content])


@contextlib.contextmanager
def answering(path: Path, result: bytes, receipt: bytes) -> Iterator[Unix]:
    """An enclave that takes one request of two bid files and answers with these bytes."""
    address = Unix(path)
    with listen_on(address) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(60)
                while (frame := wire.read_frame(connection)) and frame.body.get("part") != "bid:buyer-2":
                    pass
                wire.write_frame(connection, wire.Frame(1, "result", {"result": result, "receipt": receipt}))
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield address
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("change", "receipt", "refusal"),
    [
        ("", b"r", None),
        ("seal", b"r", "different seal"),
        ("", b"", "does not parse"),
        ("", bytes(40_000), "does not parse"),
    ],
)
def test_what_is_kept_is_of_this_seal_and_can_be_read_again(
    auction: Auction, tmp_path: Path, change: str, receipt: bytes, refusal: str | None
) -> None:
    """What would be kept and published for ever is of this manifest and of this very seal, in one file."""
    seal = bytes(48) if change else auction.seal.digest
    data = deciding.result(auction.manifest, seal, dict.fromkeys(auction.files)).encode()
    with answering(tmp_path / "in.sock", data, receipt) as address:
        expected = pytest.raises(EnclaveFailed, match=refusal) if refusal else contextlib.nullcontext()
        with expected:
            file = open_in_enclave(
                auction.manifest,
                auction.seals(),
                enclave=address,
                proxy=None,
                allow={},
                source=Files(auction),
                credentials=SessionCredentials("a", "b", "c"),
            )
            assert messages.ResultFile.decode(file.encode()).result == data


class Huge:
    """An S3 client whose objects are too large for a bid file."""

    exceptions = boto3.client("s3", region_name="eu-central-1").exceptions

    def head_object(self, **_: str) -> dict[str, Any]:
        most = cose.ENCRYPT0_OVERHEAD + 2 * messages.AMOUNT_SIZE
        return {"ContentLength": most + 1, "ETag": "e"}


def test_a_bid_file_that_cannot_be_one_is_not_fetched(
    auction: Auction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buyer's object of any size costs the others no transfer when they seal."""
    monkeypatch.setattr(Aws, "s3", lambda *_: Huge())
    digests = {buyer.name: bytes(48) for buyer in auction.manifest.buyers}
    with pytest.raises(FoundFalse, match=r"s3://bids-buyer-1/.*: too large for a bid file"):
        bid_digests(auction.manifest, Aws(boto3.Session(), Endpoint()), digests)


def test_a_fifo_as_result_stops_no_other_auction(auction: Auction, tmp_path: Path) -> None:
    """A job from a buyer's archive whose result.cbor is a FIFO is set aside; the next one is opened."""
    hostile, honest = named(auction, "a"), named(auction, "b")
    os.mkfifo(job(hostile, tmp_path / "a") / "result.cbor")
    job(honest, tmp_path / "b")
    opening = Openings(hostile, honest, failing={})
    service = courier(tmp_path, opener=opening)
    rounds = threading.Thread(target=service.round, args=(opening.now,), daemon=True)
    rounds.start()
    rounds.join(60)
    assert not rounds.is_alive()
    assert opening.names() == ["b"]
    assert (tmp_path / "b" / "result.cbor").exists()
    assert json.loads((tmp_path / "a" / "failed.json").read_text())["exit"] == 2


def test_a_planted_result_is_not_published(auction: Auction, tmp_path: Path) -> None:
    """A well-formed result file of this seal that no enclave made: nothing is put, the job is set aside."""
    there = job(auction, tmp_path / "planted")
    (there / "result.cbor").write_bytes(opened(auction).encode())
    opening = Openings(auction, failing={})
    service = courier(tmp_path, opener=opening, publish="s3://results/", check=check_opened)
    assert service.round(opening.now) == 0
    assert opening.names() == []
    assert json.loads((there / "failed.json").read_text())["code"] == "unverified-result"
