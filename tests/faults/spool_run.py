"""Several couriers on one spool in S3 under a schedule, each with its enclave; what must hold after it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from coattest_parent.auction.publish import Sealed
from coattest_parent.link.job_listing import FAILED
from faults import harness
from faults.harness import START, TIMEOUT, World, object_paths
from faults.invariants import (
    Outcome,
    broken_by,
    documented,
    events_only,
    losing_amounts,
    no_secret,
    one_right_result,
    require,
    result_in,
    right_outcomes,
)
from faults.schedule import SpoolSchedule
from support.enclave.running_enclave import Auction, trust_for
from support.parent.fault_cloud import SECRET
from support.parent.spools import job_files

SPOOL = "spools/jobs/0.1.0"
GARBLED = {"bad-manifest", "bad-seal", "wrong-result"}
LEASE_SECONDS = 1.0
"""Seconds of a lease here: put again every quarter of one, and an opening takes as long."""


class Parent:
    """A courier's machine: the enclave program with sockets of its own, started when it does not run."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.folder = world.directory / f"parent-{number}"
        self.folder.mkdir(exist_ok=True)
        trust = trust_for(world.cloud.authority, self.folder)
        trust["nsm"] = trust_for(world.cloud.authority, world.directory)["nsm"]
        (self.folder / "trust.json").write_text(json.dumps(trust))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Have its enclave run."""
        if self.process and self.process.poll() is None:
            return
        self.end()
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(self.folder / "trust.json")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout
        line = self.process.stdout.readline()
        require(b"serving" in line, f"the enclave did not start: {line!r}")

    def end(self) -> None:
        """Kill it and take what it wrote, in which there may be no secret."""
        if self.process and self.process.stdout:
            self.process.kill()
            with self.process.stdout as said:
                no_secret(said.read(), self.world.secrets, "the console")
            self.process.wait()
        self.process = None


class SpoolWorld:
    """The parties of all runs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.parents: list[Parent] = []

    def take(self, count: int) -> list[Parent]:
        """So many parents, whose enclaves run."""
        while len(self.parents) < count:
            self.parents.append(Parent(self.world, len(self.parents)))
        for parent in self.parents[:count]:
            parent.start()
        return self.parents[:count]


@contextlib.contextmanager
def world() -> Iterator[SpoolWorld]:
    """A world in a temporary directory."""
    with harness.world() as made:
        here = SpoolWorld(made)
        try:
            yield here
        finally:
            for parent in here.parents:
                parent.end()


@dataclasses.dataclass
class Job:
    """An auction of a run."""

    amounts: dict[str, list[int]]
    auction: Auction
    sealed: Sealed
    results: list[bytes] = dataclasses.field(default_factory=list)


class SpoolRun:
    """One spool under one schedule."""

    def __init__(self, here: SpoolWorld, schedule: SpoolSchedule) -> None:
        self.here, self.world, self.schedule = here, here.world, schedule
        self.cloud = here.world.cloud
        self.directory = Path(tempfile.mkdtemp(prefix=f"spool{schedule.seed}-", dir=here.world.directory))
        self.cloud.objects.clear()
        self.cloud.modified.clear()
        self.cloud.stored.clear()
        self.cloud.ahead = 0.0
        self.cloud.kms.requests.clear()
        self.jobs = {f"job-{number}": self._job(number) for number in range(schedule.auctions)}
        self.given = dict(self.cloud.objects)
        self.outcomes: list[Outcome] = []
        self._asked = 0

    def _job(self, number: int) -> Job:
        # Amounts that are looked for in everything that is written: long, and different everywhere.
        schedule, base = self.schedule, 7_000_000_000_000 + (self.schedule.seed * 7 + number) * 1_000_003
        amounts = {
            name: [base + 7919 * lot + 13 * ((place + lot) % 2) for lot in range(schedule.lots)]
            for place, name in enumerate(("buyer-1", "buyer-2"))
        }
        auction = Auction.make(amounts, rule=schedule.rule, auction=f"spool-{schedule.seed}-{number}")
        closed = int(time.time()) - 10
        auction.manifest = dataclasses.replace(auction.manifest, closes=closed, publish_by=closed + 3600)
        auction.encrypt(self.cloud.kms)
        for buyer, path in object_paths(auction).items():
            self.cloud.objects[path] = auction.files[buyer]
        files = job_files(auction)
        for name, content in files.items():
            self.cloud.objects[f"/{SPOOL}/job-{number}/{name}"] = content
        seals = tuple(files[f"{number}.seal"] for number in range(2))
        return Job(amounts, auction, Sealed(auction.manifest, seals))

    def go(self) -> None:
        """Couriers under faults, then one without any, what must hold after each; raises Broken."""
        schedule, cloud = self.schedule, self.cloud
        parents = self.here.take(schedule.couriers)
        cloud.clear()
        for service in ("s3", "results", "kms", "sts"):
            cloud.faults[service].extend(getattr(schedule, service))
        cloud.asked = self._jump
        try:
            self._serve(parents, schedule.seconds, schedule.kills, schedule.clocks)
        finally:
            cloud.asked = lambda: None
        self._check()
        cloud.clear()
        cloud.ahead += 10 * LEASE_SECONDS
        for path in [path for path in cloud.objects if path.endswith(f"/{FAILED}")]:
            said = json.loads(cloud.objects.pop(path))
            require(said["code"] != "too-late", f"{path}: the deadline is not over")
            # What S3 garbled is no manifest, and no seal.
            if said["exit"] != 2 or said["code"] not in GARBLED or "garbage" not in schedule.s3:
                documented(Outcome(said["exit"], said, 0.0))
        (last,) = self._serve(self.here.take(1), TIMEOUT / 2, ())
        require((last.code, last.answer.get("left")) == (0, 0), f"the last one did not finish: {last}")
        self._check()
        for name, job in self.jobs.items():
            require(job.results, f"{name} was lost")
            one_right_result(job.results, right_outcomes(job.amounts, schedule.rule))
            lease = cloud.objects[f"/{SPOOL}/{name}/lease"]
            require(lease.startswith(b"finished"), f"{name} was not finished: {lease!r}")

    def _jump(self) -> None:
        """S3's clock goes on by more than a lease at the schedule's requests: what was held is over."""
        self._asked += 1
        if self._asked in self.schedule.jumps:
            self.cloud.ahead += 2 * LEASE_SECONDS

    def _serve(
        self,
        parents: list[Parent],
        seconds: float,
        kills: tuple[tuple[str, int], ...],
        clocks: tuple[int, ...] = (),
    ) -> list[Outcome]:
        started, running = time.monotonic(), []
        for number, parent in enumerate(parents):
            what, at = kills[number] if number < len(kills) else ("", 0)
            assert parent.process
            answer = self.directory / f"answer-{len(self.outcomes)}-{number}"
            job = {
                "op": "serve",
                "secret": SECRET,
                "url": self.cloud.url,
                "ca": str(self.world.ca),
                "enclave": f"unix:{parent.folder / 'in_5005.sock'}",
                "proxy": None,
                "spool": f"s3://{SPOOL}",
                "uri": "s3://results/spool/" if self.schedule.publish else None,
                "lease_seconds": LEASE_SECONDS,
                "clock": clocks[number] if number < len(clocks) else 0,
                "attempts": self.schedule.attempts,
                "seconds": seconds,
                "log": str(self.directory / f"log-{number}.jsonl"),
                "answer": str(answer),
                "action": {"courier": "kill", "enclave": "kill-victim"}.get(what),
                "at": at,
                "victim": parent.process.pid,
            }
            running.append((self.world.tell(job)["pid"], answer, what))
        outcomes = []
        for pid, answer, what in running:
            watchdog = threading.Timer(seconds + TIMEOUT, os.kill, (pid, signal.SIGABRT))
            watchdog.start()
            code = self.world.tell({"op": "wait", "pid": pid})["code"]
            watchdog.cancel()
            said = json.loads(answer.read_text()) if answer.exists() else {}
            require(
                code == 0 or (code == -signal.SIGKILL and what == "courier"), f"a courier ended with {code}"
            )
            outcomes.append(Outcome(code, said, time.monotonic() - started))
        self.outcomes += outcomes
        return outcomes

    def _check(self) -> None:
        """What must hold whatever happened."""
        cloud = self.cloud
        for path, content in self.given.items():
            require(cloud.objects.get(path) == content, f"{path} was lost or changed")
        puts = Counter(path for path, _ in cloud.stored if not path.endswith("/lease"))
        require(max(puts.values(), default=0) <= 1, f"put twice: {puts.most_common(1)}")
        require({*puts} <= {*cloud.objects} | {path for path in puts if FAILED in path}, "a put is gone")
        for name, job in self.jobs.items():
            kept = cloud.objects.get(f"/{SPOOL}/{name}/result.cbor")
            published = [
                each for path, each in cloud.objects.items() if path.startswith(f"/results/spool/{name}/")
            ]
            require(kept is not None or not published, f"{name}: published without a result")
            require(all(each == kept for each in published), f"{name}: another result was published")
            if kept is not None:
                job.results.append(result_in(job.sealed, kept))
                lease = cloud.objects[f"/{SPOOL}/{name}/lease"]
                done = published or not self.schedule.publish
                require(done or not lease.startswith(b"finished"), f"{name}: finished and not published")
        log = b"".join(path.read_bytes() for path in self.directory.glob("log-*"))
        amounts = set().union(*(losing_amounts(job.amounts) for job in self.jobs.values()))
        no_secret(log, {*self.world.secrets, *amounts}, "the log")
        for path in self.directory.glob("log-*"):
            events_only(path.read_bytes())


def attempt(here: SpoolWorld, seed: int) -> tuple[SpoolRun, str]:
    """A run and what broke in it, "" for nothing."""
    run = SpoolRun(here, SpoolSchedule.of(seed))
    return run, broken_by(run)
