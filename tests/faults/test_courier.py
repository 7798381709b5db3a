"""``auction open`` and ``auction serve`` as programs, against the cloud of the faults without any."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coattest_enclave import messages
from faults.harness import World, world
from support.fault_cloud import SECRET
from support.running_enclave import Auction

ROLE = "arn:aws:iam::111122223333:role/coattest-parent"


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    """A cloud, and the enclave program."""
    with world() as made:
        made.start_enclave()
        yield made


def sealed(here: World, directory: Path, name: str) -> Path:
    """A closed auction's manifest and seals in a directory, its bids in the cloud."""
    auction = Auction.make({"buyer-1": [70_000_000_000_001, 5], "buyer-2": [3, 9]}, auction=name)
    now = int(time.time())
    auction.manifest = dataclasses.replace(auction.manifest, closes=now - 10, publish_by=now + 600)
    auction.encrypt(here.cloud.kms)
    for buyer in auction.manifest.buyers:
        here.cloud.objects["/" + buyer.bids.removeprefix("s3://")] = auction.files[buyer.name]
    directory.mkdir(parents=True)
    (directory / "manifest.cbor").write_bytes(auction.manifest.encode())
    for number, seal in enumerate(auction.seals()):
        (directory / f"{number}.seal").write_bytes(seal)
    return directory


def auction_program(here: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``auction``, which must end well."""
    where = ["--enclave", f"unix:{here.directory / 'in_5005.sock'}", "--assume-role", ROLE]
    where += ["--endpoint-url", here.cloud.url, "--ca-bundle", str(here.ca)]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("auction")), *arguments, *where],
        env={
            "PATH": os.environ["PATH"],
            "AWS_ACCESS_KEY_ID": "AKIAFAULTFAULTFAULT0",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "eu-central-1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert "fault-TOKEN" not in done.stderr + done.stdout
    return done


def test_a_second_open_uses_what_the_first_left(here: World, tmp_path: Path) -> None:
    """The result is not decided again, its object is left alone, and the events and metrics say so."""
    here.cloud.clear()
    job = sealed(here, tmp_path / "job", "twice")
    words = ["open", "--manifest", str(job / "manifest.cbor"), "--json", "--out", str(tmp_path / "result")]
    words += ["--seal", str(job / "0.seal"), "--seal", str(job / "1.seal"), "--log", str(tmp_path / "log")]
    words += ["--publish", "s3://results/twice.cbor", "--metrics", str(tmp_path / "metrics")]
    first = auction_program(here, *words)
    assert first.stderr == ""
    kept = (tmp_path / "result").read_bytes()
    asked = here.cloud.calls.count("kms")
    second = auction_program(here, *words)
    one, two = json.loads(first.stdout), json.loads(second.stdout)
    assert (one["resumed"], two["resumed"]) == (False, True)
    assert one["result"] == two["result"]
    assert here.cloud.calls.count("kms") == asked
    assert (tmp_path / "result").read_bytes() == kept == here.cloud.objects["/results/twice.cbor"]
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
    assert json.loads((tmp_path / "spool" / "bad" / "failed.json").read_text())["reason"] == "bad-seal"
    content = (job / "result.cbor").read_bytes()
    assert content == here.cloud.objects["/results/served/good.cbor"]
    outcomes = messages.Result.decode(messages.ResultFile.decode(content).result).lots
    assert [outcome for _, outcome in outcomes] == [messages.Won("buyer-1"), messages.Won("buyer-2")]
