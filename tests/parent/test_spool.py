"""The courier's spool when a job's directory or deadline is in the way, and what an enclave or S3 may say."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import tempfile
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import boto3
import pytest

from coattest_enclave import auction as rules
from coattest_enclave import cose, messages, wire
from coattest_parent.aws import Aws, Credentials, Endpoint
from coattest_parent.channels import Unix, listen
from coattest_parent.courier import S3Bids, bid_digests, open_auction
from coattest_parent.enclave import EnclaveFailed, Part
from coattest_parent.finish import Way
from coattest_parent.spool import Courier
from coattest_parent.telemetry import Telemetry
from coattest_verify.shell import FoundFalse
from support.running_enclave import Auction

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


def courier(spool: Path) -> Courier:
    """A courier whose enclave is not there."""
    aws = Aws(boto3.Session("AKIDEXAMPLE", "secret", region_name="eu-central-1"), Endpoint())
    return Courier(spool, Way(f"unix:{spool}/none.sock", None, aws), Telemetry())


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def test_an_auction_after_its_publication_deadline_is_set_aside(auction: Auction, tmp_path: Path) -> None:
    """Its receipt could not verify any more, so it is not tried round after round."""
    late = job(auction, tmp_path / "late")
    assert courier(tmp_path).round(at(auction.manifest.closes - 1)) == 1
    assert not (late / "failed.json").exists()
    assert courier(tmp_path).round(at(auction.manifest.publish_by + 1)) == 0
    assert json.loads((late / "failed.json").read_text())["reason"] == "too-late"


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

    def part(self, buyer: messages.Buyer) -> Part:
        """The file of that buyer."""
        content = self.files[buyer.name]
        return Part(buyer.name, len(content), [content])


@contextlib.contextmanager
def answering(path: Path, result: bytes) -> Iterator[Unix]:
    """An enclave that takes one request of two bid files and answers with these bytes."""
    address = Unix(path)
    with listen(address) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(10)
                while (frame := wire.read_frame(connection)) and frame.body.get("part") != "bid:buyer-2":
                    pass
                wire.write_frame(connection, wire.Frame(1, "result", {"result": result, "receipt": b"r"}))
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield address
        thread.join(10)
        assert not thread.is_alive()


def test_a_result_of_another_seal_is_no_result(auction: Auction, tmp_path: Path) -> None:
    """What would be kept and published for ever is of this manifest and of this very seal."""
    bids = dict.fromkeys(auction.files)
    for seal, good in ((auction.seal.digest, True), (bytes(48), False)):
        data = rules.result(auction.manifest, seal, bids).encode()
        with answering(tmp_path / "in.sock", data) as address, contextlib.ExitStack() as refused:
            if not good:
                refused.enter_context(pytest.raises(EnclaveFailed, match="another seal"))
            file = open_auction(
                auction.manifest,
                auction.seals(),
                enclave=address,
                proxy=None,
                allow={},
                source=Files(auction),
                credentials=Credentials("a", "b", "c"),
            )
            assert file.result == data


class Huge:
    """An S3 client whose objects are larger than any bid file."""

    exceptions = boto3.client("s3", region_name="eu-central-1").exceptions

    def head_object(self, **_: str) -> dict[str, Any]:
        most = cose.ENCRYPT0_OVERHEAD + 2 * messages.AMOUNT_SIZE
        return {"ContentLength": most + 1, "ETag": "e"}


def test_a_bid_file_that_cannot_be_one_is_not_fetched(
    auction: Auction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buyer's object of any size costs the others no transfer when they seal."""
    monkeypatch.setattr(Aws, "s3", lambda *_: Huge())
    with pytest.raises(FoundFalse, match=r"s3://bids-buyer-1/bid: larger than any bid file"):
        bid_digests(auction.manifest, S3Bids(Aws(boto3.Session(), Endpoint())))
