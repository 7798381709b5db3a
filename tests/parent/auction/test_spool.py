"""The courier's spool when a job's directory or deadline is in the way, and what an enclave or S3 may say."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from coattest.aws import AwsFailure
from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse, UsageError
from coattest.findings import Finding
from coattest_enclave.protocol import cose, wire
from coattest_local.aws import services
from coattest_local.aws.services import Services
from coattest_parent.auction import finish
from coattest_parent.auction.bucket_spool import _Lease
from coattest_parent.auction.courier import bid_digests, open_in_enclave
from coattest_parent.auction.folder_spool import FolderSpool
from coattest_parent.auction.jobs import JobSpool
from coattest_parent.auction.publish import check_opened
from coattest_parent.auction.spool import PAUSE, Courier, Turn
from coattest_parent.auction.steps import Way
from coattest_parent.link import job_listing
from coattest_parent.link.aws import Aws, Endpoint, SessionCredentials
from coattest_parent.link.channels import Unix, listen_on
from coattest_parent.link.enclave import BidUpload, EnclaveFailed, EnclaveRefused
from coattest_parent.link.telemetry import Telemetry
from coattest_verify.auction import messages
from coattest_verify.auction.place import bid_uri
from support.auction import deciding
from support.enclave.running_enclave import Auction
from support.parent.spools import BUCKET, InBucket, InFolder, Place, job_files, no_room, prepare
from support.raises import raises_code

NOBODY = 65534


@pytest.fixture(scope="module")
def auction() -> Auction:
    """A sealed auction; what its bid files hold does not matter here."""
    made = Auction.make({"buyer-1": [7, 5], "buyer-2": [3, 9]})
    made.files = {"buyer-1": b"one", "buyer-2": b"two"}
    return made


@pytest.fixture(scope="module")
def services_of_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The local services, with a bucket for spools."""
    with services.start(tmp_path_factory.mktemp("services"), quiet=True) as running:
        prepare(running)
        yield running


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A spool of either kind, empty."""
    if request.param == "folder":
        (tmp_path / "spool").mkdir()
        return InFolder(tmp_path / "spool")
    return InBucket(request.getfixturevalue("services_of_s3"), f"{zlib.crc32(request.node.name.encode())}")


@pytest.fixture
def bucket(request: pytest.FixtureRequest, services_of_s3: Services) -> InBucket:
    """A spool in S3, empty."""
    return InBucket(services_of_s3, f"{zlib.crc32(request.node.name.encode())}")


def job(auction: Auction, directory: Path) -> Path:
    directory.mkdir()
    for name, content in job_files(auction).items():
        (directory / name).write_bytes(content)
    return directory


def courier(spool: JobSpool, **options: Any) -> Courier:
    """A courier whose enclave is not there."""
    aws = Aws(boto3.Session("AKIDEXAMPLE", "secret", region_name="eu-central-1"), Endpoint())
    options.setdefault("check", lambda *_: None)  # the results here have no receipt
    return Courier(spool, Way("unix:/nowhere/none.sock", None, aws), Telemetry(), **options)


def reason(place: Place, name: str) -> str:
    """The code for which a job was set aside."""
    return str(json.loads(place.files(name)["failed.json"])["code"])


def age(service: Courier) -> float:
    """The metric of the oldest closed job, as the last round has it."""
    text = service.telemetry.metrics.render()
    return float(text.split("coattest_jobs_oldest_seconds ")[-1].split()[0])


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

    def __call__(self, manifest: messages.Manifest, *_: Any, **options: Any) -> messages.ResultFile:
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


def test_an_auction_after_its_publication_deadline_is_set_aside(auction: Auction, place: Place) -> None:
    """Its receipt could not verify any more, so it is not tried round after round."""
    place.put("late", job_files(auction))
    assert courier(place.spool()).round(at(auction.manifest.closes - 1)) == 1
    assert "failed.json" not in place.files("late")
    assert courier(place.spool()).round(at(auction.manifest.publish_by + 1)) == 0
    assert reason(place, "late") == "too-late"


def test_a_job_that_cannot_be_set_aside_does_not_stop_the_others(auction: Auction, place: Place) -> None:
    """With no room for its failed.json the round goes on, and counts it as waiting."""
    files = job_files(auction)
    place.put("bad", {**files, "manifest.cbor": b"no manifest"})
    place.put("good", files)
    with no_room(place):
        waiting = courier(place.spool()).round(at(auction.manifest.closes - 1))
    assert waiting == 2
    assert sorted(place.files("bad")) == ["0.seal", "1.seal", "manifest.cbor"]


def test_no_job_waits_for_another(auction: Auction, place: Place) -> None:
    """While one fails again and again, the others are opened at once, also the one that comes later; its own
    attempts are spaced by its own waits, which double up to a cap.
    """
    first, good, late = (named(auction, name) for name in ("a", "b", "c"))
    place.put("a", job_files(first))
    place.put("b", job_files(good))
    opening = Openings(first, good, late, failing={"a": EnclaveFailed("no", code="kms-failed")})
    service = courier(place.spool(), opener=opening, dice=lambda _, most: most)
    assert service.round(opening.now) == 1
    # Those of a bucket are taken in an order of the courier's own.
    between = 10 if opening.names() == ["a", "b"] else 0
    assert sorted(opening.names()) == ["a", "b"]
    assert "result.cbor" in place.files("b")
    while len(opening.attempts) < 9:
        opening.time += service.rest()
        service.round(opening.now)
    place.put("c", job_files(late))
    service.round(opening.now)
    assert opening.names()[2:] == [*["a"] * 7, "c"]
    starts = [time for name, time in opening.attempts if name == "a"]
    # The first wait began before b's turn; each attempt takes ten seconds.
    waits = [following - this - 10 for this, following in itertools.pairwise(starts)]
    assert waits == [max(PAUSE.bound(1), between), *(PAUSE.bound(failures) for failures in range(2, 8))]
    assert waits[-1] == PAUSE.cap
    del opening.failing["a"]
    opening.time += service.rest()
    assert service.round(opening.now) == 0
    assert "result.cbor" in place.files("a")
    assert service.rest() == float("inf")


def test_each_of_many_failing_jobs_has_its_turn(auction: Auction, place: Place) -> None:
    """However short the waits, between two attempts at one job every other due one has had its own."""
    auctions = [named(auction, name) for name in "abcd"]
    for each in auctions:
        place.put(each.manifest.auction, job_files(each))
    failure = EnclaveFailed("no", code="kms-failed")
    opening = Openings(*auctions, failing=dict.fromkeys("abcd", failure))
    service = courier(place.spool(), opener=opening, dice=lambda *_: 0.0)
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
    auction: Auction, place: Place, error: Any, again: bool
) -> None:
    """Expired credentials pass, and a fault of our own neither ends the service nor loses the auction."""
    place.put("job", job_files(auction))
    opening = Openings(auction, failing={auction.manifest.auction: error})
    service = courier(place.spool(), opener=opening, dice=lambda *_: 1.0)
    assert service.round(opening.now) == again
    assert ("failed.json" in place.files("job")) is not again
    opening.failing.clear()
    if not again:
        place.remove("job", "failed.json")
    opening.time += 60
    assert service.round(opening.now) == 0
    assert "result.cbor" in place.files("job")


def test_a_bid_that_cannot_be_read_is_told_at_each_attempt(
    auction: Auction, place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its buyer may mend it, so it is tried again until the deadline; the event says where it has to be."""
    place.put("job", job_files(auction))
    buyer = auction.manifest.buyers[1]
    where = bid_uri(buyer, auction.manifest.digest, bytes(48))
    assert len(where) > 200
    failure = AwsFailure("no", where=where, code="unreadable-bid", service_code="403")
    opening = Openings(auction, failing={auction.manifest.auction: failure})
    service = courier(place.spool(), opener=opening, dice=lambda *_: 1.0)
    service.telemetry = Telemetry(2)
    assert service.round(opening.now) == 1
    assert "failed.json" not in place.files("job")
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    told = {each["event"]: (each["code"], each["address"]) for each in events if "code" in each}
    assert told == dict.fromkeys(("open-failed", "open-retry"), ("unreadable-bid", where))
    opening.time = auction.manifest.publish_by + 1
    assert service.round(opening.now) == 0
    assert reason(place, "job") == "too-late"


def test_a_closing_time_is_waited_for_without_reading_the_job_again(auction: Auction, place: Place) -> None:
    """Its turn is the closing time; another manifest under the same name is another job."""
    place.put("job", job_files(auction))
    closes = auction.manifest.closes
    opening = Openings(auction, failing={})
    service = courier(place.spool(), opener=opening)
    assert service.round(at(closes - 100)) == 1
    assert service.rest() == 100
    place.remove("job", "0.seal")
    assert service.round(at(closes - 1)) == 1
    assert "failed.json" not in place.files("job")
    sooner = dataclasses.replace(auction, manifest=dataclasses.replace(auction.manifest, closes=closes - 50))
    opening.auctions[sooner.manifest.auction] = sooner
    place.remove("job")
    place.put("job", job_files(sooner))
    assert service.round(at(closes - 40)) == 0
    assert "result.cbor" in place.files("job")
    assert service.round(at(closes - 40)) == 0
    assert len(opening.attempts) == 1


def test_a_clock_that_is_set_back_does_not_put_off_a_retry(auction: Auction, place: Place) -> None:
    """A turn that is further off than any wait is taken now."""
    place.put("job", job_files(auction))
    opening = Openings(auction, failing={auction.manifest.auction: EnclaveFailed("no")})
    opening.time += 7200
    service = courier(place.spool(), opener=opening, dice=lambda _, most: most)
    service.round(opening.now)
    opening.failing.clear()
    assert service.round(at(opening.time - 1)) == 1
    assert service.round(at(opening.time - 3600)) == 0
    assert len(opening.attempts) == 2


def test_what_was_opened_before_is_used(auction: Auction, place: Place) -> None:
    """A start after a result was stored asks no enclave and changes none of the files."""
    files = {**job_files(auction), "result.cbor": opened(auction).encode()}
    place.put("job", files)
    opening = Openings(auction, failing={auction.manifest.auction: EnclaveFailed("no")})
    service = courier(place.spool(), opener=opening)
    assert service.round(opening.now) == 0
    assert opening.names() == []
    assert place.files("job") == files


def test_the_age_of_the_oldest_closed_job_is_told(
    auction: Auction, place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a metric each round, as an event at most once a minute; a job that waits for its time has no age."""
    later = dataclasses.replace(auction.manifest, auction="later", closes=auction.manifest.closes + 3600)
    place.put("now", job_files(auction))
    place.put("later", job_files(dataclasses.replace(auction, manifest=later)))
    opening = Openings(auction, failing={auction.manifest.auction: EnclaveFailed("no")})
    service = courier(place.spool(), opener=opening, dice=lambda *_: 1.0)
    service.telemetry = Telemetry(2)
    for seconds in (5, 20, 70, 500):
        opening.time = auction.manifest.closes + seconds
        assert service.round(opening.now) == 2
        assert age(service) == seconds + 10  # the attempt's own
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    told = [(each["jobs"], each["age"]) for each in events if each["event"] == "spool-seen"]
    assert told == [(2, 0), (2, 70), (2, 500)]
    opening.failing.clear()
    opening.time += 60
    assert service.round(opening.now) == 1
    assert "coattest_jobs_oldest_seconds 0" in service.telemetry.metrics.render()


def test_a_folder_is_served_once(tmp_path: Path) -> None:
    """A second courier is refused as long as the first one runs, and no longer."""
    spool = FolderSpool(tmp_path)
    with spool.only():
        with pytest.raises(EnvironmentFailure, match="another courier") as refused, spool.only():
            pass
        assert refused.value.code == "spool-in-use"
    with spool.only():
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
    opening = Openings(auction, failing={})
    assert courier(FolderSpool(tmp_path), opener=opening).round(opening.now) == 0
    reasons = {each: json.loads((each / "failed.json").read_text())["code"] for each in (fifo, odd, huge)}
    assert reasons == {fifo: "not-a-file", odd: "bad-name", huge: "too-large"}
    assert not opening.attempts


def test_what_is_no_job_in_a_bucket_is_left_alone_or_set_aside(
    auction: Auction, bucket: InBucket, capfd: pytest.CaptureFixture[str]
) -> None:
    """Sizes are looked at before anything is fetched; an odd name is told of once, and nothing is written
    under it, as for a job that lies too deep or straight in the spool; keys that are no job's files are not
    touched.
    """
    files = job_files(auction)
    bucket.put("huge", {**files, "0.seal": bytes(cose.SIGN1_MAX + 1)})
    bucket.put("caf\xe9 [red]", files)
    bucket.put("", files)
    bucket.put("a/b", files)
    bucket.put("old/failed", {**files, "failed.json": b"{}"})
    bucket.client.put_object(Bucket=BUCKET, Key=f"{bucket.prefix}/manifest.cbor", Body=files["manifest.cbor"])
    bucket.put("seals-only", {"0.seal": files["0.seal"]})
    bucket.put("more", {**files, "0.seal": b"", "other.txt": b"", "x/y.seal": b"", " .seal": b""})
    before = {*bucket.listed()}
    opening = Openings(auction, failing={})
    service = courier(bucket.spool(), opener=opening)
    service.telemetry = Telemetry(2)
    assert service.round(opening.now) == 0
    assert service.round(opening.now) == 0
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    failed = sorted(each["code"] for each in events if each["event"] == "job-failed")
    assert failed == ["bad-name", "bad-name", "bad-name", "bad-seal", "too-large"]
    assert "\ncoattest_jobs_failed 2\n" in service.telemetry.metrics.render()
    added = {*bucket.listed()} - before
    assert added == {f"{name}/{file}" for name in ("huge", "more") for file in ("failed.json", "lease")}
    assert not opening.attempts


def test_the_size_of_an_object_is_looked_at_before_it_is_fetched(auction: Auction, bucket: InBucket) -> None:
    """What the listing has is refused though nothing is there; another version is not taken for it."""
    bucket.put("job", job_files(auction))
    spool = bucket.spool()
    (found,) = spool.look().jobs
    bucket.remove("job", "0.seal")
    with pytest.raises(UsageError, match="larger than 10 bytes"):
        spool.read(found, "0.seal", 10)
    bucket.put("job", {"manifest.cbor": b"another"})
    with pytest.raises(AwsFailure) as changed:
        spool.read(found, "manifest.cbor", 1 << 20)
    assert changed.value.service_code == "PreconditionFailed"


def test_a_listing_has_an_end(auction: Auction, bucket: InBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are read one by one; more objects than any service has are refused, not read in part."""
    for name in "abc":
        bucket.put(name, job_files(auction))
    pages: list[int] = []

    def paged(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        answer = call(self, operation, {**arguments, **({"MaxKeys": 2} if "Prefix" in arguments else {})})
        pages.extend([len(answer["Contents"])] if operation == "ListObjectsV2" else [])
        return answer

    call = BaseClient._make_api_call
    monkeypatch.setattr(BaseClient, "_make_api_call", paged)
    assert sorted(job.name for job in bucket.spool().look().jobs) == ["a", "b", "c"]
    assert pages == [2, 2, 2, 2, 1]
    monkeypatch.setattr(job_listing, "KEYS_MAX", 9)
    assert len(bucket.spool().look().jobs) == 3
    monkeypatch.setattr(job_listing, "KEYS_MAX", 8)
    with raises_code(AwsFailure, "too-many-files"):
        bucket.spool().look()


def test_of_two_couriers_one_works_on_a_job(auction: Auction, bucket: InBucket) -> None:
    """The other leaves it alone while the lease is held, and takes it once it is over by S3's clock; what it
    does with an end of its own is not touched by the first. This machine's clock plays no part.
    """
    bucket.put("job", job_files(auction))
    first, second, late = bucket.spool(), bucket.spool(), bucket.spool(lease_seconds=-2.0)
    for spool in (first, second):
        spool.look()
    (job,) = first.look().jobs
    with first.lease(job) as ours:
        assert ours
        with second.lease(job) as theirs:
            assert not theirs
        (seen,) = second.look().jobs
        assert seen.taken
        opening = Openings(auction, failing={})
        assert courier(second, opener=opening).round(opening.now) == 1
        assert opening.attempts == []
        (seen,) = late.look().jobs
        assert not seen.taken
        with late.lease(seen) as over:
            assert over
        held = bucket.read("job/lease")
    assert bucket.read("job/lease") == held  # ended by the one who took it, and not by the first
    assert held.startswith(b"finished")
    (seen,) = second.look().jobs  # there is no result
    assert not seen.taken
    with first.lease(job) as ours:
        assert not ours  # what it had seen has changed since
    assert courier(second, opener=opening).round(opening.now) == 0
    assert len(opening.attempts) == 1


def test_a_job_that_another_courier_took_over_and_left_is_finished(
    auction: Auction, bucket: InBucket
) -> None:
    """This one hung for longer than its lease, the other died with the lease in its hand: whoever comes next
    finishes the job, also the one that believed that it had.
    """
    bucket.put("job", job_files(auction))
    spool, other = bucket.spool(lease_seconds=-2.0), bucket.spool(lease_seconds=-2.0)
    taking = []

    def hanging(*_: Any, **__: Any) -> messages.ResultFile:
        (seen,) = other.look().jobs
        taking.append(other.lease(seen))
        assert taking[0].__enter__()
        return opened(auction)

    service = courier(spool, opener=hanging)
    assert service.round(at(auction.manifest.closes)) == 0
    theirs = bucket.read("job/lease")
    assert theirs.startswith(b"held")
    assert service.round(at(auction.manifest.closes + 400)) == 0
    assert bucket.read("job/lease").startswith(b"finished")
    assert other.look().jobs == []


@pytest.mark.parametrize(
    ("codes", "again"),
    [
        (["too-early"], True),
        (["from-the-future"], True),
        (["too-early", "measurement"], False),
        (["too-late"], False),
    ],
)
def test_a_courier_with_a_wrong_clock_sets_no_job_aside(
    auction: Auction, place: Place, codes: list[str], again: bool
) -> None:
    """A fresh receipt from before the closing time is for its clock; other couriers' may be right."""
    place.put("job", job_files(auction))

    def check(*_: Any) -> None:
        raise FoundFalse(
            "no", code="unverified-result", findings=[Finding(code, "receipt", "") for code in codes]
        )

    service = courier(place.spool(), opener=lambda *_, **__: opened(auction), check=check)
    assert service.round(at(auction.manifest.closes)) == again
    assert "result.cbor" not in place.files("job")
    assert ("failed.json" in place.files("job")) is not again


@pytest.mark.parametrize("files", [(), ("manifest.cbor",)])
def test_a_job_that_is_moved_away_during_anothers_attempt_is_not_set_aside(
    auction: Auction, place: Place, files: tuple[str, ...]
) -> None:
    """It is no job any more: nothing is made in its place, nobody is told that it failed."""
    jobs = {name: named(auction, name) for name in "ab"}
    for name, each in jobs.items():
        place.put(name, job_files(each))
    opening = Openings(*jobs.values(), failing={})
    taken: list[str] = []

    def opener(manifest: messages.Manifest, *args: Any, **options: Any) -> messages.ResultFile:
        taken.append(manifest.auction)
        place.remove("b" if manifest.auction == "a" else "a", *files)
        return opening(manifest, *args, **options)

    service = courier(place.spool(), opener=opener)
    assert service.round(opening.now) == 1
    (first,) = taken
    (other,) = {*"ab"} - {first}
    if files:
        assert sorted(place.files(other)) == ["0.seal", "1.seal"]
    else:
        with contextlib.suppress(FileNotFoundError):
            assert place.files(other) == {}
            assert not isinstance(place, InFolder)
    assert service.round(opening.now) == 0
    assert "result.cbor" in place.files(first)


def timed(auction: Auction, closes: float, publish_by: float) -> Auction:
    """The same with these times."""
    manifest = dataclasses.replace(auction.manifest, closes=int(closes), publish_by=int(publish_by))
    return dataclasses.replace(auction, manifest=manifest)


@pytest.mark.parametrize("hours", [2, -2])
def test_a_courier_whose_clock_is_not_s3s_leaves_its_jobs_to_others(
    auction: Auction, bucket: InBucket, capfd: pytest.CaptureFixture[str], hours: int
) -> None:
    """By a clock that is ahead the deadline would be over, by one that is behind a result would be of the
    future: it opens nothing, sets nothing aside, holds no lease, and says once by how much its clock differs.
    It tells ages by S3's time. When its clock is set, it works.
    """
    began = time.time()
    closed = timed(auction, began - 1000, began + 3600)
    bucket.put("job", job_files(closed))
    bucket.put("opened", {**job_files(closed), "result.cbor": opened(closed).encode()})
    bucket.put("opened", {"lease": b"freed" + b"a" * 32})
    bucket.put("bad", {"manifest.cbor": b"none"})
    before = {*bucket.listed()}
    opening = Openings(closed, failing={})

    def check(_: Any, __: Any, ___: Any, now: datetime) -> None:
        if abs(now.timestamp() - time.time()) > 300:
            raise FoundFalse("no", code="unverified-result")

    service = courier(bucket.spool(timed=True), opener=opening, check=check)
    service.telemetry = Telemetry(2)
    for _ in range(3):
        assert service.round(lambda: datetime.fromtimestamp(time.time() + hours * 3600, timezone.utc)) == 3
        assert 1000 <= age(service) < 1600
    assert {*bucket.listed()} == before
    assert opening.attempts == []
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    (said,) = (each["seconds"] for each in events if each["event"] == "clock-differs")
    assert abs(said - hours * 3600) < 60
    assert "job-failed" not in {each["event"] for each in events}
    service = courier(bucket.spool(timed=True), opener=opening, check=check)
    assert service.round(lambda: datetime.now(timezone.utc)) == 0
    assert len(opening.attempts) == 1
    assert reason(bucket, "bad") == "bad-manifest"


def test_an_odd_name_is_told_of_once_the_clocks_agree(
    auction: Auction, bucket: InBucket, capfd: pytest.CaptureFixture[str]
) -> None:
    """Until then nothing is said to be final; afterwards it is told of, and not again."""
    bucket.put("[odd]", job_files(auction))
    service = courier(bucket.spool(timed=True), dice=lambda *_: 0.0)
    service.telemetry = Telemetry(2)
    for _ in range(2):
        assert service.round(lambda: datetime.now(timezone.utc) + timedelta(hours=2)) == 1
    deadline = time.monotonic() + 60
    while service.round(lambda: datetime.now(timezone.utc)):  # S3 tells whole seconds
        assert time.monotonic() < deadline
    assert service.round(lambda: datetime.now(timezone.utc)) == 0
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    told = [each["code"] for each in events if each["event"] == "job-failed"]
    assert told == ["bad-name"]


@pytest.mark.parametrize(
    ("own", "outcome"),
    [(-20, "waits"), (20, "waits"), (61, "differs"), (-61, "differs"), (59, "waits"), (-59, "waits")],
)
def test_an_auction_has_closed_when_both_clocks_say_so(
    auction: Auction, bucket: InBucket, monkeypatch: pytest.MonkeyPatch, own: int, outcome: str
) -> None:
    """So none is opened early by a clock that is a little ahead, round after round."""
    closes = auction.manifest.closes
    bucket.put("job", job_files(auction))
    s3 = closes - 10 if own > 0 else closes + 10
    monkeypatch.setattr(job_listing, "_date", lambda *_: at(s3)())
    opening = Openings(auction, failing={})
    service = courier(bucket.spool(timed=True), opener=opening)
    service.telemetry = Telemetry(clock=lambda: 0.0)
    assert service.round(at(s3 + own)) == 1
    assert opening.attempts == []
    if outcome == "waits":
        assert service.rest() == closes - min(s3, s3 + own)
        s3 = closes + 60
        assert service.round(at(s3)) == 0
    else:
        assert service.rest() == float("inf")


@pytest.mark.parametrize(("own", "late"), [(-20, False), (20, False), (0, True)])
def test_a_job_is_too_late_when_both_clocks_say_so(
    auction: Auction, bucket: InBucket, monkeypatch: pytest.MonkeyPatch, own: int, late: bool
) -> None:
    """Until then it is opened: the receipt's time is the enclave's, and it is that one that counts."""
    bucket.put("job", job_files(auction))
    s3 = auction.manifest.publish_by + (-10 if own > 0 else 10)
    monkeypatch.setattr(job_listing, "_date", lambda *_: at(s3)())
    opening = Openings(auction, failing={})
    service = courier(bucket.spool(timed=True), opener=opening)
    service.telemetry = Telemetry(clock=lambda: 0.0)
    assert service.round(at(s3 + own)) == 0
    assert (opening.attempts == []) is late
    assert ("failed.json" in bucket.files("job")) is late


def test_a_clock_that_is_set_during_an_attempt_decides_nothing(auction: Auction, bucket: InBucket) -> None:
    """Jobs of the same round are still opened by the time of the look."""
    now = time.time()
    ahead = [0.0]
    jobs = [timed(named(auction, name), now - 100, now + 3600) for name in "ab"]
    for each in jobs:
        bucket.put(each.manifest.auction, job_files(each))
    opening = Openings(*jobs, failing={})

    def opener(*args: Any, **options: Any) -> messages.ResultFile:
        ahead[0] = 7200.0
        return opening(*args, **options)

    service = courier(bucket.spool(timed=True), opener=opener)
    assert service.round(lambda: datetime.fromtimestamp(time.time() + ahead[0], timezone.utc)) == 0
    assert sorted(opening.names()) == ["a", "b"]


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 01 Jan 0001 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Mon, 01 Jan 2024 00:00:00 +99999999999999",
        "",
        "today",
        None,
    ],
)
def test_a_date_that_s3_does_not_have_keeps_a_courier_from_working_and_no_more(
    auction: Auction, bucket: InBucket, monkeypatch: pytest.MonkeyPatch, date: str | None
) -> None:
    """It opens nothing early and sets nothing aside; with a right one it goes on."""
    bucket.put("job", job_files(auction))
    call = BaseClient._make_api_call

    def dated(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        answer = call(self, operation, arguments)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        headers.pop("date", None) if date is None else headers.update(date=date)
        return answer

    opening = Openings(auction, failing={})
    service = courier(bucket.spool(timed=True), opener=opening)
    before = bucket.listed()
    with monkeypatch.context() as patched:
        patched.setattr(BaseClient, "_make_api_call", dated)
        for now in (auction.manifest.closes, auction.manifest.publish_by + 1):
            if date and date.endswith("GMT"):
                assert service.round(at(now)) == 1
            else:
                with raises_code(AwsFailure, "bad-answer"):
                    service.round(at(now))
    assert bucket.listed() == before
    monkeypatch.setattr(job_listing, "_date", lambda *_: at(auction.manifest.closes)())
    assert service.round(at(auction.manifest.closes)) == 0
    assert len(opening.attempts) == 1


def test_a_lease_is_put_again_while_its_courier_works(auction: Auction, bucket: InBucket) -> None:
    """So a lease can be shorter than an attempt; one that was lost is not taken back."""
    bucket.put("job", job_files(auction))
    spool, other = bucket.spool(renew=0.1), bucket.spool(lease_seconds=-2.0)
    (job,) = spool.look().jobs
    with spool.lease(job) as ours:
        assert ours
        first = bucket.read("job/lease")
        while (again := bucket.read("job/lease")) == first:
            time.sleep(0.02)
        assert again.startswith(b"held")
        (seen,) = other.look().jobs
        taking = other.lease(seen)
        while not taking.__enter__():
            (seen,) = other.look().jobs
            taking = other.lease(seen)
        mine = bucket.read("job/lease")
        time.sleep(0.3)
        assert bucket.read("job/lease") == mine
        taking.__exit__(None, None, None)


def test_a_put_whose_answer_was_lost_is_recognised(
    auction: Auction, bucket: InBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore makes it again and meets its own lease, or its own result: both count as put."""
    bucket.put("job", job_files(auction))
    call = BaseClient._make_api_call

    def twice(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        if operation == "PutObject":
            call(self, operation, dict(arguments))
        return call(self, operation, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", twice)
    ours = opened(auction)
    service = courier(bucket.spool(), opener=lambda *_, **__: ours)
    assert service.round(at(auction.manifest.closes)) == 0
    assert bucket.files("job")["result.cbor"] == ours.encode()
    assert bucket.read("job/lease").startswith(b"finished")


def test_a_result_that_another_courier_put_first_stays(auction: Auction, bucket: InBucket) -> None:
    """Whose lease was over meanwhile uses what is there, with its receipt."""
    bucket.put("job", job_files(auction))
    theirs = dataclasses.replace(opened(auction), receipt=b"their receipt").encode()
    checked: list[bytes] = []

    def opener(*_: Any, **__: Any) -> messages.ResultFile:
        bucket.put("job", {"result.cbor": theirs})
        return opened(auction)

    service = courier(bucket.spool(), opener=opener, check=lambda _, file, *__: checked.append(file.receipt))
    assert service.round(at(auction.manifest.closes)) == 0
    assert bucket.files("job")["result.cbor"] == theirs
    assert checked == [b"receipt", b"their receipt"]


def test_what_was_not_published_is_published_by_another(auction: Auction, bucket: InBucket) -> None:
    """A result beside a held lease is not finished: its courier died before it published, or before it said
    so. Another takes it over and opens nothing.
    """
    bucket.put("job", {**job_files(auction), "result.cbor": opened(auction).encode()})
    bucket.put("job", {"lease": b"held" + b"a" * 32})
    opening = Openings(auction, failing={})
    assert courier(bucket.spool(), opener=opening).round(opening.now) == 1
    assert courier(bucket.spool(lease_seconds=-2.0), opener=opening).round(opening.now) == 0
    assert bucket.read("job/lease").startswith(b"finished")
    assert courier(bucket.spool(), opener=opening).round(opening.now) == 0
    assert opening.attempts == []


def test_a_result_that_somebody_else_put_is_published_too(
    auction: Auction, bucket: InBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No courier puts one without a lease: it is verified, published as it is, and then finished."""
    put = opened(auction).encode()
    bucket.put("job", {**job_files(auction), "result.cbor": put})
    did: list[tuple[str, bytes]] = []

    def check(_: Any, file: messages.ResultFile, *__: Any) -> None:
        did.append(("verified", file.encode()))

    def publish(_: Any, file: messages.ResultFile, *__: Any) -> tuple[str, bool]:
        did.append(("published", file.encode()))
        return "", True

    monkeypatch.setattr(finish, "publish", publish)
    opening = Openings(auction, failing={})
    service = courier(bucket.spool(), opener=opening, publish="s3://results/", check=check)
    assert service.round(opening.now) == 0
    assert did == [("verified", put), ("published", put)]
    assert opening.attempts == []
    assert bucket.read("job/lease").startswith(b"finished")
    assert not bucket.spool().look().jobs


@pytest.mark.parametrize(
    ("error", "again"),
    [("SlowDown", "the same courier"), ("SlowDown", "another one"), ("stopped", "another one")],
)
def test_what_could_not_be_published_is_published_later(
    auction: Auction, bucket: InBucket, monkeypatch: pytest.MonkeyPatch, error: str, again: str
) -> None:
    """The result was put and the publishing failed, or was interrupted: the job stays open, is told of as
    waiting, and is published by whoever takes it next; nothing is opened again.
    """
    bucket.put("job", job_files(auction))
    published: list[str] = []

    def failing(*_: Any) -> tuple[str, bool]:
        raise AwsFailure("no", code="aws", service_code=error) if error == "SlowDown" else KeyboardInterrupt

    def works(_: Any, file: messages.ResultFile, uri: str, *__: Any) -> tuple[str, bool]:
        assert file.encode() == kept
        published.append(uri)
        return uri, True

    opening = Openings(auction, failing={})
    service = courier(bucket.spool(), opener=opening, publish="s3://results/", dice=lambda *_: 1.0)
    monkeypatch.setattr(finish, "publish", failing)
    if error == "SlowDown":
        assert service.round(opening.now) == 1
    else:
        with pytest.raises(KeyboardInterrupt):
            service.round(opening.now)
    kept = bucket.files("job")["result.cbor"]
    assert bucket.read("job/lease").startswith(b"freed")
    (seen,) = bucket.spool().look().jobs
    assert (seen.opened, seen.taken) == (True, False)
    monkeypatch.setattr(finish, "publish", works)
    opening.time += 60
    if again == "another one":
        service = courier(bucket.spool(), opener=opening, publish="s3://results/")
    assert service.round(opening.now) == 0
    assert published == ["s3://results/job/"]
    assert len(opening.attempts) == 1
    assert bucket.read("job/lease").startswith(b"finished")
    assert not bucket.spool().look().jobs


def test_a_job_set_aside_when_it_was_to_be_published_goes_on_from_there(
    auction: Auction, bucket: InBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as failed, though it has a result, and is not tried again until failed.json is removed."""
    bucket.put("job", job_files(auction))

    def wrong(*_: Any) -> tuple[str, bool]:
        raise FoundFalse("something else is there", code="wrong-object")

    opening = Openings(auction, failing={})
    service = courier(bucket.spool(), opener=opening, publish="s3://results/")
    monkeypatch.setattr(finish, "publish", wrong)
    assert service.round(opening.now) == 0
    assert reason(bucket, "job") == "wrong-object"
    seen = bucket.spool().look()
    assert (list(seen.jobs), seen.failed) == ([], 1)
    bucket.remove("job", "failed.json")
    monkeypatch.setattr(finish, "publish", lambda *_: ("", True))
    assert service.round(opening.now) == 0
    assert bucket.read("job/lease").startswith(b"finished")
    assert len(opening.attempts) == 1


def test_the_age_of_a_job_that_another_courier_holds_is_told(auction: Auction, bucket: InBucket) -> None:
    """Its manifest is read once, and nothing else is done with it: who holds it may hang, or be hostile."""
    closes = auction.manifest.closes
    bucket.put("job", {**job_files(auction), "lease": b"held" + b"a" * 32})
    bucket.put("bad", {"manifest.cbor": b"none", "lease": b"held" + b"a" * 32})
    opening = Openings(auction, failing={})
    service = courier(bucket.spool(), opener=opening)
    assert service.round(at(closes - 5)) == 2
    assert age(service) == 0
    bucket.put("job", {"lease": b"held" + b"b" * 32})
    assert service.round(at(closes + 7200)) == 2
    bucket.remove("bad", "manifest.cbor")
    assert service.round(at(closes + 7200)) == 1
    assert age(service) == 7200
    assert {*bucket.listed()} == {"bad/lease", "job/0.seal", "job/1.seal", "job/manifest.cbor", "job/lease"}
    assert opening.attempts == []


def test_the_age_of_a_job_that_cannot_be_read_is_told(auction: Auction, bucket: InBucket) -> None:
    """Its closing time is not known: after 15 minutes it counts as closed since it was put."""
    bucket.put("job", job_files(auction))
    opening = Openings(auction, failing={})
    spool = bucket.spool()
    service = courier(spool, opener=opening, dice=lambda *_: 1.0)
    deny = {"Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "s3:GetObject"}
    policy = {"Version": "2012-10-17", "Statement": [{**deny, "Resource": f"arn:aws:s3:::{BUCKET}/*"}]}
    bucket.client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))
    try:
        ages = []
        for seconds in (0, 899, 900, 3600):
            assert service.round(at(auction.manifest.closes + 10_000 + seconds)) == 1
            ages.append(age(service))
        (seen,) = spool.look().jobs
    finally:
        bucket.client.delete_bucket_policy(Bucket=BUCKET)
    assert ages == [0, 0, 900, 3600]
    assert 0 <= seen.age < 600  # by S3's clock
    turn = Turn(1000.0)
    old = dataclasses.replace(seen, age=86_400.0)
    assert [turn.age(old, now) for now in (1899.0, 1900.0)] == [0.0, 86_400.0]
    assert service.round(at(auction.manifest.closes + 13_700)) == 0


@pytest.mark.parametrize("lost", ["stored", "not stored"])
def test_a_lease_that_another_courier_has_is_not_ended(
    auction: Auction, bucket: InBucket, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """A renewal that meets another's lease leaves it alone, now and at the end; one that meets a put of its
    own, whose answer was lost, goes on.
    """
    bucket.put("job", job_files(auction))
    spool, other = bucket.spool(renew=3600), bucket.spool(lease_seconds=-2.0)
    (job,) = spool.look().jobs
    lease = _Lease(spool._client[1], spool.where(job, "lease"))
    assert lease.put("held", IfNoneMatch="*")
    call = BaseClient._make_api_call

    def unanswered(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        answer = call(self, operation, arguments) if lost == "stored" else None
        if operation == "PutObject":
            raise AwsFailure("hung up", code="unreachable")
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(BaseClient, "_make_api_call", unanswered)
        with pytest.raises(AwsFailure):
            lease.put("held", IfMatch=lease.etag)
    assert lease.put("held", IfMatch=lease.etag)
    mine = bucket.read("job/lease")
    assert mine in lease._own
    (seen,) = other.look().jobs
    with other.lease(seen) as ours:
        assert ours
        theirs = bucket.read("job/lease")
        assert not lease.put("held", IfMatch=lease.etag)
        assert not lease.put("freed", IfMatch=lease.etag)
        assert bucket.read("job/lease") == theirs


def test_a_parent_replaces_no_result(auction: Auction, bucket: InBucket) -> None:
    """Its role may put one where there is none, and only so; a lease is put again and again."""
    bucket.put("job", {**job_files(auction), "result.cbor": b"result", "lease": b"lease"})
    with bucket.spool()._s3() as client:
        where = {"Bucket": BUCKET, "Key": f"{bucket.prefix}/job/result.cbor"}
        for condition, code in (
            ({}, "AccessDenied"),
            ({"IfMatch": '"x"'}, "AccessDenied"),
            ({"IfNoneMatch": "*"}, "PreconditionFailed"),
        ):
            with pytest.raises(ClientError) as refused:
                client.put_object(**where, Body=b"another", **condition)
            assert refused.value.response["Error"]["Code"] == code
        client.put_object(Bucket=BUCKET, Key=f"{bucket.prefix}/job/lease", Body=b"another")
    assert bucket.read("job/result.cbor") == b"result"


def test_a_spool_that_cannot_be_listed_is_a_failure(auction: Auction, bucket: InBucket) -> None:
    """A round that could not look at anything does not pass for one that found nothing; the next one may."""
    bucket.put("job", job_files(auction))
    opening = Openings(auction, failing={})
    service = courier(bucket.spool(), opener=opening)
    deny = {"Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "s3:ListBucket"}
    policy = {"Version": "2012-10-17", "Statement": [{**deny, "Resource": f"arn:aws:s3:::{BUCKET}"}]}
    bucket.client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))
    try:
        with pytest.raises(AwsFailure) as denied:
            service.round(opening.now)
    finally:
        bucket.client.delete_bucket_policy(Bucket=BUCKET)
    assert denied.value.service_code == "AccessDenied"
    assert service.round(opening.now) == 0


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
                waiting = courier(FolderSpool(spool)).round(at(auction.manifest.closes - 1))
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
                source=Files(auction).part,
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
    service = courier(FolderSpool(tmp_path), opener=opening)
    rounds = threading.Thread(target=service.round, args=(opening.now,), daemon=True)
    rounds.start()
    rounds.join(60)
    assert not rounds.is_alive()
    assert opening.names() == ["b"]
    assert (tmp_path / "b" / "result.cbor").exists()
    assert json.loads((tmp_path / "a" / "failed.json").read_text())["exit"] == 2


def test_a_planted_result_is_not_published(auction: Auction, place: Place) -> None:
    """A well-formed result file of this seal that no enclave made: nothing is put, the job is set aside."""
    files = {**job_files(auction), "result.cbor": opened(auction).encode()}
    place.put("planted", files)
    opening = Openings(auction, failing={})
    service = courier(place.spool(), opener=opening, publish="s3://results/", check=check_opened)
    assert service.round(opening.now) == 0
    assert {name: place.files("planted")[name] for name in files} == files
    assert opening.names() == []
    assert reason(place, "planted") == "unverified-result"
