"""A spool in S3: auctions per second of several couriers against one's.

python bench/bench_spool.py [--json] [--quick] [--auctions N] [--alone N] [--couriers N]

Closed auctions of three lots by two buyers lie in a spool of the local services. Each courier is ``auction
serve --once`` as a process, with an enclave program of its own. Time is from the first courier's first job to
the last result, by their own events; starting them is left out. One courier alone has fewer auctions, in
another spool. S3 and KMS are one process here, which all couriers share: that is against the ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from coattest_local.aws import services
from coattest_parent.auction.bucket_spool import BucketSpool
from coattest_parent.auction.steps import Sessions
from coattest_parent.link.aws import parse_s3_uri
from coattest_parent.link.telemetry import Telemetry
from coattest_verify.auction import messages
from coattest_verify.auction.bids import Bids, make_bid_file
from coattest_verify.auction.place import bid_uri
from support.auction.auctions import opening, own
from support.auction.big_auction import BigAuction, agreed, amounts_of
from support.local.local_enclave import Cloud, enclave

LOTS = 3
GOAL = 3.0
"""Of four couriers, where there are four cores."""

BUCKET = "bench-spools"


def put_jobs(party: BigAuction, prefix: str, count: int) -> None:
    """So many sealed auctions, with their bids, into a spool."""
    region = party.cloud.services.region
    service = party.cloud.as_service().s3(region)
    buyers = {name: party.cloud.as_buyer(name) for name in party.names}
    clients = {name: (aws.s3(region), aws.kms(region)) for name, aws in buyers.items()}
    may = opening(party.decision)
    for number in range(count):
        manifest = dataclasses.replace(party.manifest, auction=f"{prefix}-{number}")
        digests = []
        for seed, buyer in enumerate(manifest.buyers):
            s3, kms = clients[buyer.name]
            bids = Bids(tuple(amounts_of(LOTS, number * 2 + seed)), ())
            file = make_bid_file(manifest, own(manifest, buyer.name), may.image, bids, kms)
            digests.append((buyer.name, messages.bid_digest(file)))
            bucket, key = parse_s3_uri(bid_uri(buyer, manifest.digest, digests[-1][1]))
            s3.put_object(Bucket=bucket, Key=key, Body=file, IfNoneMatch="*")
        payload = messages.Seal(manifest.digest, may.release, may.image, tuple(digests)).encode()
        files = {
            f"{name}.seal": messages.sign1(payload, party.keys[name], name.encode()) for name in party.names
        }
        for name, content in {**files, "manifest.cbor": manifest.encode()}.items():
            service.put_object(Bucket=BUCKET, Key=f"{prefix}/job-{number}/{name}", Body=content)


def served(party: BigAuction, prefix: str, count: int, couriers: int) -> dict[str, Any]:
    """Auctions per second of so many couriers, and openings per auction; every auction has its result."""
    cloud = party.cloud
    admin = cloud.services.accounts["service"]
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": admin.access_key,
        "AWS_SECRET_ACCESS_KEY": admin.secret_key,
        "AWS_DEFAULT_REGION": cloud.services.region,
    }
    words = ["serve", "--once", "--spool", f"s3://{BUCKET}/{prefix}", "--assume-role", cloud.role]
    words += ["--endpoint-url", cloud.services.endpoint, "--ca-bundle", str(cloud.services.ca_bundle)]
    program = str(Path(sys.executable).with_name("auction"))
    with contextlib.ExitStack() as stack:
        addresses = [stack.enter_context(enclave()).address for _ in range(couriers)]
        # Files: of pipes that are read one after the other, the others fill up and their couriers wait.
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in addresses]
        running = [
            subprocess.Popen([program, *words, "--enclave", address], env=environment, stderr=log)
            for address, log in zip(addresses, logs, strict=True)
        ]
        for process in running:
            process.wait()
        for log in logs:
            log.seek(0)
        events = [json.loads(line) for log in logs for line in log]
    times = [
        datetime.fromisoformat(each["time"].replace("Z", "+00:00"))
        for each in events
        if each["event"] in ("job-found", "open-finished")
    ]
    openings = sum(each["event"] == "open-finished" for each in events)
    sessions = Sessions(cloud.as_service(), None, cloud.services.region, Telemetry())
    seen = BucketSpool(f"s3://{BUCKET}/{prefix}", sessions).look()
    assert not seen.jobs, f"{len(seen.jobs)} are not finished"
    assert not seen.failed
    seconds = (max(times) - min(times)).total_seconds()
    return {"auctions": count, "per second": count / seconds, "openings": openings}


def measured(auctions: int, alone: int, couriers: int) -> dict[str, Any]:
    """One courier, then several."""
    with (
        tempfile.TemporaryDirectory(prefix="coattest-bench-") as scratch,
        services.start(Path(scratch), quiet=True) as running,
    ):
        cloud = Cloud.make(running)
        members, decided = agreed(Path(scratch) / "quorum", tuple(sorted(cloud.buyers)))
        party = BigAuction(Path(scratch) / "auction", cloud, members, decided, LOTS)
        place = {"LocationConstraint": running.region}
        running.client("s3", "service").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
        may = {"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject", "s3:ListBucket"]}
        may["Resource"] = [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
        document = json.dumps({"Version": "2012-10-17", "Statement": [may]})
        running.client("iam", "service").put_role_policy(
            RoleName="coattest-parent", PolicyName="spool", PolicyDocument=document
        )
        put_jobs(party, "alone", alone)
        one = served(party, "alone", alone, 1)
        put_jobs(party, "together", auctions)
        several = served(party, "together", auctions, couriers)
    return {"one": one, "several": several, "ratio": several["per second"] / one["per second"]}


def main() -> None:
    """Print the figures, or with --json one document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="few auctions: only to see that it runs")
    parser.add_argument("--auctions", type=int, default=1000)
    parser.add_argument("--alone", type=int, default=100, help="auctions of the one courier")
    parser.add_argument("--couriers", type=int, default=4)
    options = parser.parse_args()
    auctions, alone = (12, 6) if options.quick else (options.auctions, options.alone)
    result: dict[str, Any] = {
        "benchmark": "spool",
        **measured(auctions, alone, options.couriers),
        "couriers": options.couriers,
        "goal": GOAL,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"Python {result['python']}, {result['cores']} cores, load {result['load']:.1f}")
    for name, of in (("one courier", result["one"]), (f"{options.couriers} couriers", result["several"])):
        rate = f"{of['per second']:>8.2f} /s"
        print(f"  {name:<12} {of['auctions']:>5} auctions {rate}, {of['openings']} openings")
    goal = f"goal {GOAL} for 4 couriers" if (os.cpu_count() or 1) >= 4 else "no goal below 4 cores"
    print(f"  ratio        {result['ratio']:>8.2f}   {goal}")


if __name__ == "__main__":
    main()
