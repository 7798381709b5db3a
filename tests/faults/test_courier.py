"""``auction open`` and ``auction serve`` as programs, against the cloud of the faults without any."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coattest_parent.link.channels import Unix, connect_to
from coattest_verify.auction import messages
from coattest_verify.auction.buyers import load_manifest
from faults.harness import World, object_paths, world
from support.auction import deciding
from support.enclave.fake_nsm import signed_document
from support.enclave.running_enclave import START, Auction
from support.parent.fault_cloud import SECRET
from support.parent.limits import many_descriptors

ROLE = "arn:aws:iam::111122223333:role/coattest-parent"


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    """A cloud, and the enclave program."""
    with world(START) as made:
        made.start_enclave()
        yield made


def sealed(here: World, directory: Path, name: str, publish_in: int = 600) -> Path:
    """A closed auction's manifest and seals in a directory, its bids in the cloud."""
    auction = Auction.make({"buyer-1": [70_000_000_000_001, 5], "buyer-2": [3, 9]}, auction=name)
    now = int(time.time())
    buyers = tuple(
        dataclasses.replace(buyer, bids=f"s3://bids-{buyer.name}/{name}/")
        for buyer in auction.manifest.buyers
    )
    auction.manifest = dataclasses.replace(
        auction.manifest, buyers=buyers, closes=now - 10, publish_by=now + publish_in
    )
    auction.encrypt(here.cloud.kms)
    for buyer, path in object_paths(auction).items():
        here.cloud.objects[path] = auction.files[buyer]
    directory.mkdir(parents=True)
    (directory / "manifest.cbor").write_bytes(auction.manifest.encode())
    for number, seal in enumerate(auction.seals()):
        (directory / f"{number}.seal").write_bytes(seal)
    return directory


def published(here: World, place: str) -> bytes:
    """The one result under a prefix; its name has its digest."""
    ((path, content),) = (
        each for each in here.cloud.objects.items() if each[0].startswith(f"/results/{place}/")
    )
    assert path.endswith(f"/{messages.sha384(content).hex()}.cbor")
    return content


def environment() -> dict[str, str]:
    """The service's."""
    return {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": "AKIAFAULTFAULTFAULT0",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "eu-central-1",
    }


def command(here: World, *arguments: str) -> list[str]:
    """``auction`` with these arguments and where everything is."""
    where = ["--enclave", f"unix:{here.directory / 'in_5005.sock'}", "--assume-role", ROLE]
    where += ["--endpoint-url", here.cloud.url, "--ca-bundle", str(here.ca)]
    return [str(Path(sys.executable).with_name("auction")), *arguments, *where]


def auction_program(here: World, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run ``auction``, which must end as expected."""
    done = subprocess.run(
        command(here, *arguments),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert "fault-TOKEN" not in done.stderr + done.stdout
    return done


def test_a_second_open_uses_what_the_first_left(here: World, tmp_path: Path) -> None:
    """The result is not decided again, its object is left alone, and the events and metrics say so."""
    here.cloud.clear()
    job = sealed(here, tmp_path / "job", "twice")
    words = ["open", "--manifest", str(job / "manifest.cbor"), "--json", "--out", str(tmp_path / "result")]
    words += ["--seal", str(job / "0.seal"), "--seal", str(job / "1.seal"), "--log", str(tmp_path / "log")]
    words += ["--publish", "s3://results/twice/", "--metrics", str(tmp_path / "metrics")]
    first = auction_program(here, *words)
    assert first.stderr == ""
    kept = (tmp_path / "result").read_bytes()
    asked = here.cloud.calls.count("kms")
    second = auction_program(here, *words)
    one, two = json.loads(first.stdout), json.loads(second.stdout)
    assert (one["resumed"], two["resumed"]) == (False, True)
    assert one["result"] == two["result"]
    assert here.cloud.calls.count("kms") == asked
    assert (tmp_path / "result").read_bytes() == kept == published(here, "twice")
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert [event for event in events if not event.startswith("proxy")] == [
        *("open-started", "open-finished", "published"),
        *("open-started", "open-resumed", "published-before"),
    ]
    assert 'coattest_opens_total{outcome="resumed"} 1' in (tmp_path / "metrics").read_text()
    assert "70000000000001" not in (tmp_path / "log").read_text()


def test_the_courier_opens_its_spool_and_sets_aside_what_it_cannot(here: World, tmp_path: Path) -> None:
    """One directory ends in a result and an object, the other in failed.json with the reason."""
    here.cloud.clear()
    bad = sealed(here, tmp_path / "bad", "bad")
    job = sealed(here, tmp_path / "spool" / "good", "spooled")
    (bad / "1.seal").unlink()
    bad.rename(tmp_path / "spool" / "bad")
    said = auction_program(
        here,
        *("serve", "--spool", str(tmp_path / "spool"), "--once", "--publish", "s3://results/served/"),
    ).stderr
    events = [json.loads(line)["event"] for line in said.splitlines()]
    assert {"job-failed", "job-found", "open-finished", "published", "service-stopped"} <= {*events}
    assert json.loads((tmp_path / "spool" / "bad" / "failed.json").read_text())["code"] == "bad-seal"
    content = (job / "result.cbor").read_bytes()
    assert content == published(here, "served/good")
    outcomes = messages.Result.decode(messages.ResultFile.decode(content).result).lots
    assert [outcome for _, outcome in outcomes] == [messages.Won("buyer-1"), messages.Won("buyer-2")]


def test_after_the_publication_deadline_nothing_is_opened(here: World, tmp_path: Path) -> None:
    """Exit 1 with the reason and without asking KMS; a result from before it is still put in place."""
    here.cloud.clear()
    job = sealed(here, tmp_path / "job", "late", publish_in=-5)
    words = ["open", "--manifest", str(job / "manifest.cbor"), "--json", "--out", str(tmp_path / "result")]
    words += ["--seal", str(job / "0.seal"), "--seal", str(job / "1.seal")]
    asked = here.cloud.calls.count("kms")
    refused = json.loads(auction_program(here, *words, expect=1).stdout)
    assert refused["code"] == "too-late"
    assert here.cloud.calls.count("kms") == asked
    assert not (tmp_path / "result").exists()
    manifest = load_manifest(job / "manifest.cbor")
    seals = tuple((job / f"{number}.seal").read_bytes() for number in (0, 1))
    bids = {buyer.name: None for buyer in manifest.buyers}
    digest = messages.check_seals(manifest, seals).digest
    result = deciding.result(manifest, digest, bids).encode()
    receipt = signed_document(
        user_data=messages.receipt_user_data(result), nonce=digest, timestamp=(manifest.closes + 2) * 1000
    )
    earlier = messages.ResultFile(result, receipt, seals)
    (tmp_path / "result").write_bytes(earlier.encode())
    done = json.loads(auction_program(here, *words, "--publish", "s3://results/late/").stdout)
    assert done["resumed"] is True
    assert published(here, "late") == earlier.encode()


def test_a_failing_auction_delays_no_other_and_the_service_ends_when_told(
    here: World, tmp_path: Path
) -> None:
    """The first directory's bucket refuses: the second one is opened meanwhile, and the first one as soon as
    the bucket answers; then SIGTERM ends the service.
    """
    here.cloud.clear()
    sealed(here, tmp_path / "a-refused", "refused")
    sealed(here, tmp_path / "b-good", "good")
    spool = tmp_path / "spool"
    spool.mkdir()
    for name in ("a-refused", "b-good"):
        (tmp_path / name).rename(spool / name)
    here.cloud.refused |= {path for path in here.cloud.objects if path.startswith("/bids-buyer-2/refused/")}
    words = ("serve", "--spool", str(spool), "--every", "0.2")
    service = subprocess.Popen(command(here, *words), env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        assert service.stderr
        events: list[dict[str, Any]] = []
        while not {"open-retry", "open-finished"} <= {event["event"] for event in events}:
            events.append(json.loads(service.stderr.readline()))
        assert [event["job"] for event in events if event["event"] == "open-retry"] == ["a-refused"]
        assert (spool / "b-good" / "result.cbor").exists()
        assert not (spool / "a-refused" / "failed.json").exists()
        here.cloud.refused.clear()
        while json.loads(service.stderr.readline())["event"] != "open-finished":
            pass
        assert (spool / "a-refused" / "result.cbor").exists()
        service.terminate()
        _, said = service.communicate(timeout=60)
    finally:
        service.kill()
        service.wait()
    assert service.returncode == 0
    assert json.loads(said.splitlines()[-1])["event"] == "service-stopped"


@pytest.mark.slow
def test_thousands_of_connections_to_its_state_do_not_keep_the_courier_from_its_work(
    here: World, tmp_path: Path
) -> None:
    """They are held open while it has 512 file descriptors for everything, and an auction is opened."""
    here.cloud.clear()
    job = sealed(here, tmp_path / "job", "beside")
    spool = tmp_path / "spool"
    spool.mkdir()
    address = Unix(tmp_path / "status.sock")
    words = ("serve", "--spool", str(spool), "--every", "0.2", "--status", str(address))
    service = subprocess.Popen(command(here, *words), env=environment(), stderr=subprocess.PIPE, text=True)
    held = []
    with many_descriptors():
        try:
            assert service.stderr
            while json.loads(service.stderr.readline())["event"] != "service-started":
                pass
            resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (512, 512))
            held = [connect_to(address, 60) for _ in range(2000)]
            job.rename(spool / "job")
            while json.loads(service.stderr.readline())["event"] != "open-finished":
                pass
            assert (spool / "job" / "result.cbor").exists()
            with connect_to(address, 60) as stream:
                stream.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
                assert stream.recv(100).startswith(b"HTTP/1.1 200 OK")
            service.terminate()
            _, said = service.communicate(timeout=60)
        finally:
            for stream in held:
                stream.close()
            service.kill()
            service.wait()
    assert service.returncode == 0
    events = {json.loads(line)["event"] for line in said.splitlines()}
    assert "service-stopped" in events
    assert not events & {"accept-failed", "library-message", "service-failed"}
