"""One process per opening: a small server that is asked on stdin to fork a child, which opens an auction.

It has a single thread, so forking is safe and costs milliseconds; a child can be killed, told to stop, or
given a full disk without anybody else noticing. Lines of JSON in, lines of JSON out.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from botocore.client import BaseClient
from botocore.loaders import create_loader

from coattest import files, shell
from coattest.aws import AwsFailure
from coattest.errors import CoattestError
from coattest.shell import utc_now
from coattest_parent.auction import finish, objects, publish, spool
from coattest_parent.auction.bucket_spool import BucketSpool
from coattest_parent.auction.publish import Sealed
from coattest_parent.auction.steps import Sessions, Way
from coattest_parent.link import aws
from coattest_parent.link.aws import Aws, Endpoint
from coattest_parent.link.channels import parse_address
from coattest_parent.link.enclave import EnclaveClient
from coattest_parent.link.proxy import ConnectProxy
from coattest_parent.link.retry import Backoff
from coattest_parent.link.stop import Stop
from coattest_parent.link.telemetry import Telemetry, codes_of
from coattest_verify.auction import messages

REPLY_SECONDS = 6.0
REGION = "eu-central-1"
NO_LIMIT = resource.RLIM_INFINITY
CRASH = 70


"""Exit code of an opening that ended in something that is not an error of ours."""


class Points:
    """Places in an opening, counted; at the one that was chosen, something happens."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.action, self.at, self.victim = job.get("action"), job.get("at", 0), job.get("victim", 0)
        self.seen = 0

    def pass_(self, *_: object) -> None:
        """One more place."""
        self.seen += 1
        if self.seen != self.at:
            return
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.action == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        if self.action == "kill-victim":
            os.kill(self.victim, signal.SIGKILL)


def watched(points: Points, function: Any) -> Any:
    """``function`` with a place before and after it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        points.pass_()
        returned = function(*args, **kwargs)
        points.pass_()
        return returned

    return call


def open_once(job: dict[str, Any]) -> int:
    """Open one auction as ``auction open`` does; writes what happened beside the log."""
    # Waits in botocore would be most of the time; the retries that are looked at here are the parent's own.
    aws.ATTEMPTS = 1
    points = Points(job)
    os.link = watched(points, os.link)  # what write_new ends with
    publish.write_new = watched(points, files.write_new)
    objects.parse_s3_uri = watched(points, objects.parse_s3_uri)
    sealed = Sealed(
        messages.Manifest.decode(bytes.fromhex(job["manifest"])),
        tuple(bytes.fromhex(seal) for seal in job["seals"]),
    )
    way = _way(job, Backoff(job["seconds"], base=0.02, cap=0.2))
    if job.get("disk"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["disk"], NO_LIMIT))
    with Path(job["log"]).open("ab", buffering=0) as log:
        telemetry = Telemetry(log.fileno())
        answer: dict[str, Any]
        try:
            with Stop("call it again") as stop:
                done = stop.cut(
                    lambda: finish.finish(
                        sealed,
                        publish.ResultFileAt(Path(job["out"])),
                        way,
                        now=datetime.fromtimestamp(sealed.manifest.closes, timezone.utc),
                        uri=job["uri"],
                        telemetry=telemetry,
                        progress=points.pass_,
                    )
                )
            answer = {"exit": 0, "resumed": done.resumed}
        except CoattestError as error:
            answer = {"exit": error.exit_code, **codes_of(error), "error": str(error)}
        except OSError as error:
            failure = shell.from_os_error(error)
            answer = {"exit": 3, **codes_of(failure), "error": str(failure)}
        except BaseException:
            answer = {"exit": CRASH, "code": "crash", "error": traceback.format_exc()}
    resource.setrlimit(resource.RLIMIT_FSIZE, (NO_LIMIT, NO_LIMIT))
    Path(job["answer"]).write_text(json.dumps(answer))
    return int(answer["exit"])


def _way(job: dict[str, Any], backoff: Backoff) -> Way:
    session = boto3.Session("AKIAFAULTFAULTFAULT0", job["secret"], region_name=REGION)
    cloud = Aws(session, Endpoint(job["url"], Path(job["ca"])))
    return Way(job["enclave"], job["proxy"], cloud, "arn:aws:iam::111122223333:role/p", backoff)


def serve(job: dict[str, Any]) -> int:
    """Serve a spool in S3 as ``auction serve`` does, until no job is left or the time is up."""
    aws.ATTEMPTS = job["attempts"]
    points = Points(job)
    BaseClient._make_api_call = watched(points, BaseClient._make_api_call)  # type: ignore[attr-defined]
    # What waits for a minute in earnest waits for a moment here.
    spool.PAUSE = Backoff(base=0.05, cap=0.2)
    way, until = _way(job, Backoff()), time.monotonic() + job["seconds"]
    with Path(job["log"]).open("ab", buffering=0) as log:
        telemetry = Telemetry(log.fileno())
        sessions = Sessions(way.aws, way.role_arn, REGION, telemetry)
        bucket = BucketSpool(job["spool"], sessions, job["lease_seconds"], job["lease_seconds"] / 4)
        courier = spool.Courier(bucket, way, telemetry, job["uri"])
        left, ahead = 1, timedelta(seconds=job["clock"])
        while left and time.monotonic() < until:
            try:
                left = courier.round(lambda: utc_now() + ahead)
            except AwsFailure as error:
                telemetry.event("spool-unread", **codes_of(error))
            if left:
                time.sleep(min(0.1, courier.rest()))
    Path(job["answer"]).write_text(json.dumps({"exit": 0, "left": left}))
    return 0


def run_proxy(job: dict[str, Any]) -> int:
    """The proxy as a process of its own, until it is told to stop."""
    allow = {name: (host, port) for name, (host, port) in job["allow"].items()}
    with Stop() as stop, ConnectProxy(parse_address(job["listen"]), allow) as running:
        Path(job["answer"]).write_text("ready")
        while not stop.wait(0.2) and running.serving():
            pass
    return 0


def _warm() -> Any:
    """botocore's loader with the models read, for all children: reading them is most of a start."""
    loader = create_loader()
    session = botocore.session.Session()
    session.register_component("data_loader", loader)
    for service in ("s3", "sts"):
        session.create_client(
            service, region_name="eu-central-1", aws_access_key_id="a", aws_secret_access_key="b"
        )
    return loader


def main() -> None:
    """Serve until stdin ends."""
    assert threading.active_count() == 1
    loader = _warm()
    botocore.session.create_loader = lambda *_: loader
    # What waits for minutes in earnest waits for seconds here; a shorter wait hides nothing.
    EnclaveClient.__init__.__defaults__ = (REPLY_SECONDS,)
    for line in sys.stdin:
        job = json.loads(line)
        if job["op"] == "wait":
            status = os.waitstatus_to_exitcode(os.waitpid(job["pid"], 0)[1])
            print(json.dumps({"code": status}), flush=True)
            continue
        pid = os.fork()
        if not pid:
            code = CRASH
            try:
                code = {"open": open_once, "serve": serve, "proxy": run_proxy}[job["op"]](job)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(json.dumps({"pid": pid}), flush=True)


if __name__ == "__main__":
    main()
