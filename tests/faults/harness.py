"""A run under a schedule of faults, and what must hold after it whatever happened."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from coattest_parent.auction.courier import LOCAL_KMS
from coattest_parent.auction.publish import Sealed
from coattest_parent.link.proxy import kms_allow_list
from coattest_verify.auction import messages
from coattest_verify.auction.place import bid_uri
from faults.invariants import (
    Outcome,
    broken_by,
    documented,
    events_only,
    losing_amounts,
    no_secret,
    nothing_half_written,
    one_right_result,
    require,
    result_in,
    right_outcomes,
)
from faults.link import Link
from faults.schedule import Schedule
from support.enclave.fake_nsm import FakeNsm
from support.enclave.running_enclave import ROOT, Auction, trust_for
from support.parent.fault_cloud import SECRET, FaultCloud

START = """
import sys
from pathlib import Path
from coattest_enclave.payload import kms, server
from coattest_enclave.__main__ import main
server.IDLE_TIMEOUT, kms.TIMEOUT, kms.PAUSES = 1.5, 1.5, (0.1,)
sys.exit(main(Path(sys.argv[1])))
"""
"""The enclave program with waits of seconds, not a minute: a garbled length waits for what never comes."""

TIMEOUT = 180.0
"""Seconds that any one opening may take here."""


class World:
    """The parties of all runs: cloud, simulated NSM, a line, the enclave program, a process that forks."""

    def __init__(self, directory: Path, program: str) -> None:
        self.directory, self.program = directory, program
        self.cloud = FaultCloud(directory)
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(self.cloud.authority[0].public_bytes(Encoding.PEM))
        (directory / "trust.json").write_text(json.dumps(trust_for(self.cloud.authority, directory)))
        self.nsm = FakeNsm(directory / "nsm.sock", signs=True)
        self.link = Link(directory / "link.sock", directory / "in_5005.sock")
        self.enclave: subprocess.Popen[bytes] | None = None
        self.server = subprocess.Popen(
            [sys.executable, "-m", "faults.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "AWS_EC2_METADATA_DISABLED": "true"},
        )
        self.secrets: set[bytes] = {SECRET.encode(), b"fault-TOKEN"}

    def tell(self, job: dict[str, Any]) -> dict[str, Any]:
        """Ask the forking process."""
        assert self.server.stdin
        assert self.server.stdout
        self.server.stdin.write(json.dumps(job).encode() + b"\n")
        self.server.stdin.flush()
        answer: dict[str, Any] = json.loads(self.server.stdout.readline())
        return answer

    def start_enclave(self) -> None:
        """Have the enclave program run, a new one if the last has ended."""
        if self.enclave and self.enclave.poll() is None:
            return
        self.end_enclave()
        self.enclave = subprocess.Popen(
            [sys.executable, "-c", self.program, str(self.directory / "trust.json")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.enclave.stdout
        line = self.enclave.stdout.readline()
        if b"serving" not in line:
            # It cannot start without an NSM: it ends, and the next start is another process.
            self.end_enclave()
            broken = self.nsm.broken is not None or self.nsm.timestamp is not None
            require(broken, f"the enclave did not start: {line!r}")

    def end_enclave(self) -> None:
        """Kill it and take what it wrote, in which there may be no secret."""
        if self.enclave and self.enclave.stdout:
            self.enclave.kill()
            said = self.enclave.stdout.read()
            self.enclave.stdout.close()
            self.enclave.wait()
            no_secret(said, self.secrets, "the console")
        self.enclave = None

    @property
    def allow(self) -> dict[str, tuple[str, int]]:
        """The proxy's allow-list here."""
        port = int(self.cloud.url.rpartition(":")[2])
        return kms_allow_list(frozenset({"eu-central-1"}), LOCAL_KMS, ("localhost", port))


@contextlib.contextmanager
def world(program: str = START) -> Iterator[World]:
    """A world in a temporary directory, whose enclave is this program."""
    with tempfile.TemporaryDirectory(prefix="coattest-faults-") as name:
        made = World(Path(name), program)
        with made.cloud, made.nsm, made.link:
            try:
                yield made
            finally:
                made.end_enclave()
                assert made.server.stdin
                assert made.server.stdout
                made.server.stdin.close()
                made.server.wait(60)
                made.server.stdout.close()


def object_paths(auction: Auction) -> dict[str, str]:
    """Where the cloud has each buyer's bid file."""
    return {
        buyer.name: bid_uri(
            buyer, auction.manifest.digest, messages.bid_digest(auction.files[buyer.name])
        ).removeprefix("s3:/")
        for buyer in auction.manifest.buyers
    }


class Run:
    """One auction under one schedule."""

    def __init__(self, world: World, schedule: Schedule) -> None:
        self.world, self.schedule = world, schedule
        self.directory = Path(tempfile.mkdtemp(prefix=f"run{schedule.seed}-", dir=world.directory))
        self.out = self.directory / "result.cbor"
        count = schedule.lots
        # Amounts that are looked for in everything that is written: long, and different everywhere.
        base = 7_000_000_000_000 + schedule.seed * 1_000_003
        self.amounts = {
            "buyer-1": [base + 7919 * lot for lot in range(count)],
            "buyer-2": [base + 7919 * lot + (-1 if lot % 2 else 1) * 13 for lot in range(count)],
        }
        name = f"faults-{schedule.seed}"
        self.auction = Auction.make(self.amounts, rule=schedule.rule, auction=name)
        closed = int(time.time()) - 10
        self.auction.manifest = dataclasses.replace(
            self.auction.manifest, closes=closed, publish_by=closed + 3600
        )
        self.auction.encrypt(world.cloud.kms)
        self.paths = object_paths(self.auction)
        self.sealed = Sealed(self.auction.manifest, tuple(self.auction.seals()))
        world.cloud.objects.clear()
        world.cloud.kms.requests.clear()
        for buyer, path in self.paths.items():
            world.cloud.objects[path] = self.auction.files[buyer]
        self.results: list[bytes] = []
        self.outcomes: list[Outcome] = []
        self._number = 0

    def go(self) -> None:
        """Faults, an opening under them, another without them, what must hold after each; raises Broken."""
        world, schedule = self.world, self.schedule
        world.cloud.clear()
        world.start_enclave()
        with self._faults() as changes:
            self._open(**changes)
            self._check(killed=schedule.place == "kill-parent")
        world.cloud.clear()
        world.link.fault, world.nsm.timestamp, world.nsm.broken = "", None, None
        world.start_enclave()
        there = self.out.exists()
        again = self._open(seconds=60.0)
        require(again.code == 0, f"the retry did not finish the job: {again.code} {again.answer}")
        self._check(killed=False)
        require(self.out.exists(), "no result file after a good end")
        require(again.answer["resumed"] == there, "a result was decided again")
        if schedule.seed % 3 == 0:
            fresh = self._open(out=self.directory / "fresh.cbor", seconds=60.0)
            require(fresh.code == 0, f"a fresh opening failed: {fresh.answer}")
            self._result((self.directory / "fresh.cbor").read_bytes())
        one_right_result(self.results, right_outcomes(self.amounts, schedule.rule))

    @contextlib.contextmanager
    def _faults(self) -> Iterator[dict[str, Any]]:
        world, schedule = self.world, self.schedule
        cloud, place, other = world.cloud, schedule.place, schedule.other
        for service, faults in (("s3", schedule.s3), ("kms", schedule.kms), ("sts", schedule.sts)):
            cloud.faults[service].extend(faults)
        keys = (buyer.kms for buyer in self.auction.manifest.buyers)
        cloud.throttled.update(dict(zip(keys, schedule.throttled, strict=True)))
        world.link.fault, world.link.offset, world.link.seed = (
            schedule.link, schedule.offset, schedule.seed
        )  # fmt: skip
        changes: dict[str, Any] = {"seconds": schedule.seconds}
        action = {"kill-parent": "kill", "stop-parent": "stop"}.get(place)
        with contextlib.ExitStack() as stack:
            if action:
                changes |= {"action": action, "at": schedule.at}
            if place == "kill-enclave":
                assert world.enclave
                changes |= {"action": "kill-victim", "at": schedule.at, "victim": world.enclave.pid}
                stack.enter_context(self._later(0.3, world.start_enclave))
            if place == "enclave-away":
                world.end_enclave()
                stack.enter_context(self._later(0.2, world.start_enclave))
            if place in ("kill-proxy", "proxy-away"):
                changes["proxy"] = "none"
                if place == "kill-proxy":
                    changes |= {
                        "action": "kill-victim",
                        "at": schedule.at,
                        "victim": stack.enter_context(self._proxy()),
                    }
            if other == "disk":
                changes["disk"] = 64 + schedule.at * 40
            if other == "cloud-down":
                cloud.down = True
                stack.enter_context(self._later(0.2, lambda: setattr(cloud, "down", False)))
            if other == "clock":
                world.nsm.timestamp = int((time.time() - 86400 * 400) * 1000) if schedule.at % 2 else "late"
            if other == "nsm":
                world.nsm.broken = b"\xff" * schedule.at
            if other == "flood":
                stack.enter_context(flood(world.directory / "link.sock", 100))
            yield changes

    def _open(self, **changes: Any) -> Outcome:
        self._number += 1
        answer = self.directory / f"answer{self._number}.json"
        job = {
            "op": "open",
            "manifest": self.auction.manifest.encode().hex(),
            "seals": [seal.hex() for seal in self.sealed.seals],
            "secret": SECRET,
            "url": self.world.cloud.url,
            "ca": str(self.world.ca),
            "enclave": f"unix:{self.world.directory / 'link.sock'}",
            "proxy": f"unix:{self.world.directory / 'out_8000.sock'}",
            "log": str(self.directory / "log.jsonl"),
            "out": str(self.out),
            "uri": "s3://results/spring/" if self.schedule.publish else None,
            "answer": str(answer),
            **{name: str(value) if isinstance(value, Path) else value for name, value in changes.items()},
        }
        started = time.monotonic()
        pid = self.world.tell(job)["pid"]
        watchdog = threading.Timer(TIMEOUT, os.kill, (pid, signal.SIGABRT))
        watchdog.start()
        code = self.world.tell({"op": "wait", "pid": pid})["code"]
        watchdog.cancel()
        said = json.loads(answer.read_text()) if answer.exists() and answer.stat().st_size else {}
        outcome = Outcome(code, said, time.monotonic() - started)
        self.outcomes.append(outcome)
        return outcome

    def _check(self, *, killed: bool) -> None:
        """What must hold after each opening."""
        outcome = self.outcomes[-1]
        for buyer, path in self.paths.items():
            kept = self.world.cloud.objects.get(path)
            require(kept == self.auction.files[buyer], "a bid was lost or changed")
        if not (killed and outcome.code == -signal.SIGKILL):
            documented(outcome)
            nothing_half_written(self.out)
        if self.out.exists():
            self._result(self.out.read_bytes())
        stored = self.world.cloud.objects
        if published := next((stored[name] for name in stored if name.startswith("/results/spring/")), None):
            self._result(published)
        if outcome.code == 0:
            require(self.out.exists(), "success without a result file")
            require(published or not self.schedule.publish, "success without the object")
        self._log()

    def _result(self, content: bytes) -> None:
        self.results.append(result_in(self.sealed, content))

    def _log(self) -> None:
        log = (self.directory / "log.jsonl").read_bytes()
        words = log + b"".join(json.dumps(outcome.answer).encode() for outcome in self.outcomes)
        secrets = {*self.world.secrets, *losing_amounts(self.amounts)}
        secrets |= {wrapped.data_key.hex().encode() for wrapped in self.world.cloud.kms.keys.values()}
        no_secret(words, secrets, "the log or an error")
        if self.schedule.other != "disk":  # a full disk cuts lines too
            events_only(log)

    @contextlib.contextmanager
    def _later(self, seconds: float, action: Any) -> Iterator[None]:
        timer = threading.Timer(seconds, action)
        timer.start()
        yield
        timer.join()

    @contextlib.contextmanager
    def _proxy(self) -> Iterator[int]:
        answer = self.directory / "proxy"
        listen = f"unix:{self.world.directory / 'out_8000.sock'}"
        job = {"op": "proxy", "listen": listen, "allow": self.world.allow, "answer": str(answer)}
        pid = self.world.tell(job)["pid"]
        while not answer.exists():
            time.sleep(0.01)
        try:
            yield pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            self.world.tell({"op": "wait", "pid": pid})


@contextlib.contextmanager
def flood(path: Path, count: int) -> Iterator[int]:
    """So many connections to a Unix socket, held open; as many as its backlog takes at once."""
    with contextlib.ExitStack() as stack:
        held = 0
        for _ in range(count):
            stream = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            stream.setblocking(False)
            with contextlib.suppress(OSError):
                stream.connect(str(path))
                held += 1
        yield held


def attempt(here: World, seed: int) -> tuple[Run, str]:
    """A run and what broke in it, "" for nothing."""
    run = Run(here, Schedule.of(seed))
    return run, broken_by(run)
