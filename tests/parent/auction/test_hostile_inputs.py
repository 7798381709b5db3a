"""What a hostile buyer, service, S3 or enclave can put before the parent's and the buyers' tools."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import io
import json
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import boto3
import click
import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from cryptography.hazmat.primitives.serialization import Encoding

from coattest import shell
from coattest.aws import AwsFailure
from coattest.errors import FoundFalse, UsageError
from coattest_enclave.protocol import wire
from coattest_parent.auction.courier import bid_digests, bid_in_s3
from coattest_parent.auction.objects import get_whole
from coattest_parent.cli.auction import cli, options
from coattest_parent.cli.auction import open as open_verb
from coattest_parent.cli.auction.manifest import read_lots
from coattest_parent.link.aws import Aws, Endpoint
from coattest_parent.link.channels import parse_address
from coattest_parent.link.enclave import BidUpload
from coattest_verify.auction import messages
from coattest_verify.auction.buyers import buyer_json, parse_buyer
from coattest_verify.auction.place import bid_uri
from support.auction.auctions import manifest
from support.parent.fault_cloud import FaultCloud
from support.raises import raises_code

DIGITS = "9" * 5000
"""More than int() takes (sys.set_int_max_str_digits), in a form that every other check lets through."""


def hostile(auction: messages.Manifest, **changes: Any) -> messages.Manifest:
    """A manifest that is well-formed, and whose texts mean something to rich or to a terminal."""
    lots = messages.make_lots([("lot:fire:1", 0), ("lot:smile:2", 7)])
    return dataclasses.replace(auction, lots=lots, **changes)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """``auction`` in this process: exit code, stdout, stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["auction", *arguments])
        with pytest.raises(SystemExit) as ended:
            shell.run(cli, "auction")
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def test_a_manifest_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buyer's URI and a lot's id are neither markup nor emoji codes, and times that no calendar has are
    times.
    """
    monkeypatch.setenv("COLUMNS", "400")  # no cell is broken into lines
    auction = hostile(manifest(), closes=2**53 - 2, publish_by=2**53 - 1)
    (tmp_path / "manifest.cbor").write_bytes(auction.encode())
    code, printed, _ = run(capsys, "show", "--manifest", str(tmp_path / "manifest.cbor"))
    assert code == 0
    words = "".join(printed.split())
    for shown in (auction.buyers[0].bids, "lot:fire:1", "lot:smile:2", "9007199254740991safter1970"):
        assert shown in words
    code, printed, _ = run(capsys, "show", "--manifest", str(tmp_path / "manifest.cbor"), "--json")
    document = json.loads(printed)
    assert document["buyers"][0]["bids"] == auction.buyers[0].bids
    assert document["lots"] == [{"lot": "lot:fire:1", "reserve": 0}, {"lot": "lot:smile:2", "reserve": 7}]


def test_a_preview_shows_lots_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lots that a code of rich's would make look alike stay two."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manifest.cbor").write_bytes(hostile(manifest()).encode())
    (tmp_path / "bids.csv").write_text("lot,amount\nlot:fire:1,5\nlot:smile:2,6\n")
    words = ("--manifest", str(tmp_path / "manifest.cbor"), "--buyer", "buyer-1", "--preview")
    words += ("--release", "0.1.0")
    words += ("--auction-key", str(tmp_path / "bids.csv"), "--record", str(tmp_path / "bids.csv"))
    code, _, printed = run(capsys, "bid", *words, "--bids", str(tmp_path / "bids.csv"))
    assert code == 2  # that is no key; the lots were shown before
    assert "lot:fire:1" in printed
    assert "below the reserve, so they cannot win: lot:smile:2" in printed


def test_an_enclave_stage_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown in a progress bar, where neither markup nor an escape sequence is obeyed."""

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with open_verb._progress(manifest(), quiet=False) as report:
        assert report is not None
        report("[/x]\x1b]0;owned\x07", 0)
    assert r"[/x]\x1b]0;owned\x07" in screen.getvalue()
    assert "\x1b]0" not in screen.getvalue()


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("manifest", ("--lot", f"lot-1:{DIGITS}")),
        ("manifest", ("--lots", "lots.csv")),
        ("manifest", ("--lot", "lot-1", "--closes", DIGITS)),
    ],
)
def test_a_number_of_any_length_is_a_usage_error(
    verb: str, arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Thousands of digits are refused in one line, wherever a number stands."""
    (tmp_path / "lots.csv").write_text(f"lot,reserve\nlot-1,{DIGITS}\n")
    record = buyer_json(manifest().buyers[0])
    (tmp_path / "buyer.json").write_text(json.dumps(record))
    given = [str(tmp_path / "lots.csv") if word == "lots.csv" else word for word in arguments]
    words = ["--auction", "a", "--currency", "EUR", "--buyer", str(tmp_path / "buyer.json")]
    words += ["--out", str(tmp_path / "out"), "--publish-by", "9"]
    words += [] if "--closes" in given else ["--closes", "8"]
    code, _, said = run(capsys, verb, *words, *given)
    assert code == 2
    assert "Traceback" not in said
    assert len(said) < 1000
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", [f"vsock:3:{DIGITS}", f"vsock:{DIGITS}:5", f"hybrid:/x:{DIGITS}"])
def test_an_address_of_any_length_is_a_usage_error(text: str) -> None:
    """Also where its numbers are no numbers to int()."""
    with pytest.raises(UsageError, match="not an address"):
        parse_address(text)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"format":' + DIGITS.encode() + b"}",
        b'{"format": "coattest-buyer/v1", "name": "\\ud800"}',
        b'{"format": 1e999, "name": NaN}',
        b"\xff\xfe{}",
        b"\x00" * 70_000,
    ],
)
def test_a_buyers_record_that_is_none_is_refused(content: bytes) -> None:
    """Deep, huge or odd JSON is one error."""
    with pytest.raises(UsageError) as caught:
        parse_buyer(content, "record.json")
    assert caught.value.code == "bad-buyer-record"


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "buyer\n1", "büyer", "buyer-1\u202e", "", "."])
def test_a_buyers_name_is_never_a_path_or_another_script(name: str) -> None:
    """A record with a name that could leave a folder, a line or the alphabet is refused."""
    record = {**buyer_json(manifest().buyers[0]), "name": name}
    with pytest.raises(UsageError) as caught:
        parse_buyer(json.dumps(record).encode(), "record.json")
    assert caught.value.code == "bad-buyer-record"


@pytest.mark.parametrize(
    "uri", ["s3://../x", "s3://a/b", "s3://Bucket/key", "s3://bucket/a b", "file:///etc/passwd", "s3://b.c/é"]
)
def test_a_bids_uri_is_a_bucket_and_a_printable_key(uri: str) -> None:
    """Anything else is no buyer."""
    record = {**buyer_json(manifest().buyers[0]), "bids": uri}
    with pytest.raises(UsageError) as caught:
        parse_buyer(json.dumps(record).encode(), "record.json")
    assert caught.value.code == "bad-buyer-record"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultCloud, Path]]:
    """An S3 that answers as told, and its CA."""
    folder = tmp_path_factory.mktemp("cloud")
    with FaultCloud(folder) as running:
        (folder / "ca.pem").write_bytes(running.authority[0].public_bytes(Encoding.PEM))
        yield running, folder / "ca.pem"


@pytest.fixture
def fetched(cloud: tuple[FaultCloud, Path]) -> Callable[..., BidUpload]:
    """Fetch buyer-1's bid file under these faults, one per request."""
    running, ca = cloud
    running.clear()

    def fetch(content: bytes, *faults: str) -> BidUpload:
        auction = manifest()
        buyer, digest = auction.buyers[0], messages.bid_digest(content)
        running.objects[bid_uri(buyer, auction.digest, digest).removeprefix("s3:/")] = content
        running.faults["s3"].extend(faults)
        session = boto3.Session("AKIAFAULTFAULTFAULT0", "secret", region_name="eu-central-1")
        aws = Aws(session, Endpoint(running.url, ca))
        return bid_in_s3(aws, buyer, auction.digest, digest)

    return fetch


def test_an_answer_without_length_or_etag_is_a_failure(fetched: Callable[..., BidUpload]) -> None:
    """Not a crash, and not a file that may be mixed from two."""
    with pytest.raises(AwsFailure) as caught:
        fetched(b"x", "bare")
    assert (caught.value.code, caught.value.exit_code) == ("bad-answer", 3)


def test_a_line_that_breaks_within_tls_is_a_failure(fetched: Callable[..., BidUpload]) -> None:
    """What urllib3 says of it is no traceback."""
    part = fetched(b"x" * 100_000, "", "no-tls")
    with pytest.raises(AwsFailure):
        b"".join(part.content)


def test_an_answer_that_goes_on_for_ever_is_a_failure() -> None:
    """Whatever length was said: a bid file that somebody looks at, and a file of a spool."""
    read = 0

    class Endless:
        def stream(self, *_: object, **__: object) -> Iterator[bytes]:
            yield b""

        def read(self, most: int | None = None) -> bytes:
            nonlocal read
            assert most is not None
            read += most
            assert read <= 2 * wire.CHUNK_MAX, "it is read for ever"
            return bytes(most)

        def close(self) -> None:
            pass

    def answer(request: AWSRequest, **_: object) -> AWSResponse:
        return AWSResponse(request.url, 200, {"content-length": "5", "etag": "x"}, Endless())

    session = boto3.Session("AKIAFAULTFAULTFAULT0", "secret", region_name="eu-central-1")
    session.events.register("before-send", answer)
    aws, auction = Aws(session, Endpoint("https://127.0.0.1:9")), manifest()
    digests = {buyer.name: messages.bid_digest(b"bid") for buyer in auction.buyers}
    with pytest.raises(AwsFailure, match="longer than it said") as caught:
        bid_digests(auction, aws, digests)
    assert caught.value.code == "bad-answer"
    read = 0
    with pytest.raises(AwsFailure, match="not as long as it said"):
        get_whole(aws.s3("eu-central-1"), "s3://bucket/jobs/a/manifest.cbor", 1000)
    assert read <= 1000


def test_a_file_of_a_spool_is_what_its_checksum_says() -> None:
    """S3 sends the checksum that an object was put with: what was changed on the way is a failure."""

    class Sent(io.BytesIO):
        def stream(self, *_: object, **__: object) -> Iterator[bytes]:
            yield b""

    def got(content: bytes) -> bytes:
        said = base64.b64encode(zlib.crc32(b"manifest").to_bytes(4, "big")).decode()
        head = {"content-length": "8", "etag": "x", "x-amz-checksum-crc32": said}
        session = boto3.Session("AKIAFAULTFAULTFAULT0", "secret", region_name="eu-central-1")
        session.events.register(
            "before-send", lambda request, **_: AWSResponse(request.url, 200, dict(head), Sent(content))
        )
        client = Aws(session, Endpoint("https://127.0.0.1:9")).s3("eu-central-1")
        return get_whole(client, "s3://bucket/jobs/a/manifest.cbor", 1000)[0]

    assert got(b"manifest") == b"manifest"
    with pytest.raises(AwsFailure, match="checksum"):
        got(b"manifesT")
    with pytest.raises(AwsFailure) as caught:
        got(b"manif")
    assert caught.value.code == "unreachable"


def test_an_object_is_never_unpacked(fetched: Callable[..., BidUpload]) -> None:
    """A Content-Encoding that is stored with it changes no byte, so there is no bomb."""
    packed = gzip.compress(bytes(10_000_000))
    assert b"".join(fetched(packed, "", "gzip").content) == packed


def test_bid_files_of_other_buyers_are_not_named_by_their_content(
    cloud: tuple[FaultCloud, Path], fetched: Callable[..., BidUpload]
) -> None:
    """A length that is a lie is an error of that buyer's address, and content that the name lies about is
    refused.
    """
    running, ca = cloud
    fetched(b"bid")
    auction = manifest()
    digests = {buyer.name: messages.bid_digest(b"bid" * 40) for buyer in auction.buyers}
    for buyer in auction.buyers:
        uri = bid_uri(buyer, auction.digest, digests[buyer.name])
        running.objects[uri.removeprefix("s3:/")] = b"bid" * 40
    session = boto3.Session("AKIAFAULTFAULTFAULT0", "secret", region_name="eu-central-1")
    aws = Aws(session, Endpoint(running.url, ca))
    running.faults["s3"].extend(["", "half"])
    with pytest.raises(AwsFailure, match=r"s3://bids-buyer-1/"):
        bid_digests(auction, aws, digests)
    running.clear()
    assert bid_digests(auction, aws, digests) == digests
    running.objects[bid_uri(auction.buyers[0], auction.digest, digests["buyer-1"]).removeprefix("s3:/")] = (
        b"x"
    )
    with pytest.raises(FoundFalse) as caught:
        bid_digests(auction, aws, digests)
    assert caught.value.code == "wrong-object"


def test_what_is_written_is_for_whom_it_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A private key is its owner's alone whatever the umask, and a link at its place is not followed."""
    before = os.umask(0)
    try:
        assert run(capsys, "keygen", "--out", str(tmp_path / "key"))[0] == 0
        (tmp_path / "link").symlink_to(tmp_path / "victim")
        code, _, _ = run(capsys, "keygen", "--out", str(tmp_path / "link"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert code != 0
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(("text", "ahead"), [("20m", 1200), ("6h", 21600), ("3d", 259200), ("0m", 0)])
def test_a_time_from_now_is_that_many_seconds_ahead(
    text: str, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes, hours and days, from the clock of the command."""
    monkeypatch.setattr(options, "utc_now", lambda: datetime(2026, 1, 1, tzinfo=timezone.utc))
    context, option = click.Context(click.Command("manifest")), click.Option(["--closes"])
    assert options.moment(context, option, text) == 1767225600 + ahead


@pytest.mark.parametrize("text", ["", "m", "20", "-5m", "20 m", "20s", "20M", "1.5h", "10001d", "²m", "20mm"])
def test_what_only_looks_like_a_time_from_now_is_not_one(text: str) -> None:
    """Digits alone are Unix seconds, as before; everything else is a usage error that names the forms."""
    context, option = click.Context(click.Command("manifest")), click.Option(["--closes"])
    if text == "20":
        assert options.moment(context, option, text) == 20
        return
    with pytest.raises(click.BadParameter, match="20m, 6h, 3d"):
        options.moment(context, option, text)


def test_a_lots_file_without_end_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A line of a terabyte, in a hole of the file, would have been held in memory."""
    path = tmp_path / "lots.csv"
    path.write_bytes(b"lot,reserve\na,1\n")
    assert [lot.id for lot in read_lots(path)] == ["a"]
    os.truncate(path, 1 << 40)
    with raises_code(UsageError, "too-large"):
        read_lots(path)
