"""The product's own software host under faults: every party is a process of its own, and the real one.

S3, STS and KMS are ``nitro-local``'s, over TLS; the enclave is an image that ``nitro-local run-enclave`` has
measured and unpacked, beside its NSM; the proxy is ``auction proxy``. What is killed is started again as an
member or systemd would do it: the same command.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from coattest_build.formats.measure import measure
from coattest_local.aws import services
from coattest_verify.quorum.decision import Decision
from faults.invariants import Broken, no_secret, require
from faults.link import Link
from faults.steps import VARIABLE, Steps
from support.auction.auctions import ACCOUNTS, KEYS, spki
from support.local.local_enclave import INSTANCE, ROOT, Cloud
from support.loopback import free_port
from support.verify.members import NOW, Members, profile_json, report_json

BIN = Path(sys.executable).parent
REGION = "eu-central-1"
RESULTS = "auction-results"
BUYERS = tuple(sorted(ACCOUNTS))
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(ROOT / "tests"),
    "NO_COLOR": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
PATIENCE = 60.0
"""Seconds for a process to start or to end."""


class CloudProcess:
    """S3, STS and KMS: ``faults.cloud``, and the copies that take its place."""

    def __init__(self, directory: Path, steps: Path) -> None:
        directory.mkdir()
        self.log = directory / "services.log"
        accounts = ["service=111122223333", *(f"{name}={number}" for name, number in ACCOUNTS.items())]
        command = [sys.executable, "-m", "faults.cloud", "--directory", str(directory), "--exit-with-parent"]
        command += ["--region", REGION, *(word for item in accounts for word in ("--account", item))]
        # A copy takes the port of the process that was killed: nobody else gets it between the two.
        self._place = contextlib.ExitStack()
        command += ["--port", str(self._place.enter_context(free_port()))]
        with self.log.open("ab") as log:
            self._first = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env={**ENVIRONMENT, VARIABLE: str(steps)},
            )
        self._handle = -1
        require(self._listens(), "the services did not start")
        self.services = services.read_ready(directory)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        require(select.select([self._handle], [], [], PATIENCE)[0], "the services do not die")
        os.close(self._handle)
        self._handle = -1
        self._first.poll()

    def start(self) -> None:
        """The newest copy takes the place of the process that was killed."""
        assert self._first.stdin
        while self._handle < 0:
            self._first.stdin.write(b"g")
            self._listens()

    def end(self) -> None:
        """All of it ends."""
        assert self._first.stdin
        assert self._first.stdout
        self._first.stdin.close()
        if self._handle >= 0:
            select.select([self._handle], [], [], PATIENCE)
            os.close(self._handle)
        self._first.wait(PATIENCE)
        self._first.stdout.close()
        self._place.close()

    def _listens(self) -> bool:
        """Whether the next line is of a process that listens; otherwise it is of a copy that is not the
        newest.
        """
        assert self._first.stdout
        line = json.loads(self._first.stdout.readline() or b"{}")
        require(line, f"the services ended: {self.log.read_text()[-500:]}")
        if "ready" in line:
            self._handle = os.pidfd_open(line["ready"])
        return "ready" in line


class Program:
    """A process that is started by a command, killed, and started again by the same command.

    ``events``: it says that it is ready on stderr.
    """

    def __init__(
        self, name: str, command: Callable[[], list[str]], log: Path, *, events: bool = False
    ) -> None:
        self.name, self.log, self.events = name, log, events
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> dict[str, Any]:
        """Start it unless it runs; the JSON document that it says first when it is ready."""
        if self.runs:
            return {}
        self.kill()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if self.events else log,
                env=ENVIRONMENT,
            )
        assert self._process.stdout
        said = b""
        while line := self._process.stdout.readline():
            said += line
            with contextlib.suppress(ValueError):
                document: dict[str, Any] = json.loads(said)
                return document
        raise Broken(f"{self.name} did not start: {said!r} {self.log.read_text()[-500:]}")

    def kill(self, inner: bool = False) -> None:
        """SIGKILL, to it or to its child; returns when it is gone."""
        if self._process is None:
            return
        if inner and self._process.poll() is None:
            for child in _children(self._process.pid):
                os.kill(child, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait(PATIENCE)
        assert self._process.stdout
        with self._process.stdout as rest, self.log.open("ab") as log:
            log.write(rest.read())
        self._process = None


class World:
    """The parties of all runs. ``parent`` is who opens an auction now, if anybody does."""

    def __init__(self, directory: Path, image: Path) -> None:
        self.directory, self.image = directory, image
        measured = measure(image)
        self.pcr0 = bytes.fromhex(measured.pcr0)
        self.quorum, self.decision = _quorum(
            directory / "quorum", {"PCR0": measured.pcr0, "PCR1": measured.pcr1, "PCR2": measured.pcr2}
        )
        self.parent: subprocess.Popen[bytes] | None = None
        self.at_once = True
        self.modules: set[str] = set()
        self.secrets: set[bytes] = set()
        self._down: set[str] = set()
        machine = threading.Lock()
        self._locks = {"host": machine, "enclave": machine}
        self._locks |= {name: threading.Lock() for name in ("cloud", "parent", "proxy")}
        self._joining = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self._clients: dict[str, Any] = {}
        self.steps = Steps(directory / "steps.sock", self._end)
        self.cloud = CloudProcess(directory / "cloud", directory / "steps.sock")
        self.accounts = Cloud.make(self.cloud.services, BUYERS)
        self._prepare()
        self.machine = directory / "machine"
        self.host = Program("host", self._run_enclave, directory / "host.log")
        self.proxy = Program("proxy", self._run_proxy, directory / "proxy.log", events=True)
        self.start("host")
        self.link = Link(
            directory / "link.sock", self.current / "in_5005.sock", lambda: self.steps.step("frame")
        )

    @property
    def current(self) -> Path:
        """A link to the directory with the sockets of the enclave that runs now."""
        return self.directory / "current"

    def start(self, name: str) -> None:
        """Start a party unless it runs, as whoever operates it would."""
        with self._locks[name]:
            if name == "cloud":
                self.cloud.start()
            elif name == "proxy":
                self.proxy.start()
            elif record := self.host.start():
                self.modules.add(record["EnclaveID"])
                beside = self.directory / "next"
                beside.symlink_to(Path(record["address"].removeprefix("unix:")).parent)
                beside.replace(self.current)
        self._join()

    def kill(self, name: str) -> None:
        """SIGKILL to a party; returns when it is gone. One that is being started is killed when it runs."""
        with self._locks[name]:
            match name:
                case "cloud":
                    self.cloud.kill()
                case "proxy":
                    self.proxy.kill()
                case "parent":
                    if self.parent:
                        self.parent.kill()
                        self.parent.wait(PATIENCE)
                case _:
                    self.host.kill(inner=name == "enclave")

    def _join(self) -> None:
        """The proxy's port is the parent's, whichever enclave runs, as over vsock: its socket gets a second
        name where the enclave looks for it.
        """
        with self._joining:
            if self.proxy.runs:
                there = self.current / "out_8000.sock"
                there.unlink(missing_ok=True)
                there.hardlink_to(self.directory / "proxy.sock")

    def s3(self, account: str) -> Any:
        """S3 as an account's administrator."""
        if account not in self._clients:
            self._clients[account] = self.cloud.services.client("s3", account)
        return self._clients[account]

    def settle(self) -> None:
        """Return when everything that was killed runs again."""
        while self._threads:
            self._threads.pop().join()
        while self._down:
            self.start(self._down.pop())
        if self._failures:
            raise self._failures.pop()

    def check_consoles(self) -> None:
        """What the enclave, the host, the proxy and the services wrote has no secret, and no stack trace."""
        for path in (self.machine / "console.log", self.host.log, self.proxy.log, self.cloud.log):
            said = path.read_bytes() if path.exists() else b""
            no_secret(said, self.secrets, path.name)
            require(b"Traceback" not in said, f"{path.name}: {said[-800:].decode(errors='replace')}")

    def end(self) -> None:
        """Everything ends."""
        with contextlib.ExitStack() as stack:
            for last in (self.steps.close, self.cloud.end, self.host.kill, self.proxy.kill, self.settle):
                stack.callback(last)

    def _end(self, victim: str) -> None:
        """Called at the step of a kill."""
        self.kill(victim)
        if victim == "parent":
            return
        again = "host" if victim == "enclave" else victim
        if again == "cloud" or self.at_once:
            thread = threading.Thread(target=self._again, args=(again,))
            self._threads.append(thread)
            thread.start()
        else:
            self._down.add(again)

    def _again(self, name: str) -> None:
        try:
            self.start(name)
        except BaseException as error:
            self._failures.append(error)

    def _run_enclave(self) -> list[str]:
        # A host that was killed leaves what it had unpacked.
        for left in self.machine.glob("tree-*"):
            shutil.rmtree(left, ignore_errors=True)
        command = [str(BIN / "nitro-local"), "run-enclave", str(self.image), "--directory", str(self.machine)]
        return [*command, "--role-arn", self.accounts.role, "--instance-id", INSTANCE, "--json"]

    def _run_proxy(self) -> list[str]:
        listen = f"unix:{self.directory / 'proxy.sock'}"
        command = [str(BIN / "auction"), "proxy", "--listen", listen, "--region", REGION]
        return [*command, "--endpoint-url", self.cloud.services.endpoint]

    def _prepare(self) -> None:
        """Key policies for the decision, and a bucket for results that the parent's role may write to."""
        for name in BUYERS:
            self.accounts.allow(name, self.decision, seal_key=spki(KEYS[name].public_key()))
        place = {"LocationConstraint": REGION}
        iam = self.cloud.services.client("iam", "service")
        self.s3("service").create_bucket(Bucket=RESULTS, CreateBucketConfiguration=place)
        may = {"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"]}
        may |= {"Resource": f"arn:aws:s3:::{RESULTS}/*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [may]})
        iam.put_role_policy(RoleName="coattest-parent", PolicyName="publish", PolicyDocument=document)
        admin = self.cloud.services.accounts["service"]
        bidders = (self.accounts.buyers[name].access for name in BUYERS)
        self.secrets = {admin.secret_key.encode(), *(secret.encode() for _, secret in bidders)}


@contextlib.contextmanager
def world(image: Path) -> Iterator[World]:
    """A world in a temporary directory, with an enclave of this image."""
    with tempfile.TemporaryDirectory(prefix="coattest-host-") as name:
        made = World(Path(name), image)
        try:
            with made.link:
                yield made
        finally:
            made.end()


def _quorum(folder: Path, pcrs: dict[str, str]) -> tuple[Members, Decision]:
    """Buyers who have all rebuilt and signed an image with these registers, and their decision."""
    quorum = Members.make(folder, BUYERS)
    local = profile_json("local", "image.local.eif") | {"pcrs": pcrs}
    report = report_json(profiles={"aws": profile_json("aws"), "local": local})
    quorum.claim(report)
    for name in BUYERS:
        quorum.sign(name, report, age=NOW - datetime.now(timezone.utc) + timedelta(hours=1))
    return quorum, quorum.decide(profile="local", now=datetime.now(timezone.utc)).require()


def _children(pid: int) -> list[int]:
    """The processes whose parent is ``pid`` (proc(5), stat, field 4)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found
