"""The courier's spool: a directory per auction, which is opened after its closing time.

A job is ``SPOOL/NAME/manifest.cbor`` and one ``SPOOL/NAME/*.seal`` per buyer; move the directory in when it
is complete. ``SPOOL/NAME/result.cbor`` ends the job. A job that no further attempt can finish gets
``SPOOL/NAME/failed.json`` and is left alone until that file is removed.

No job waits for the next attempt at a different one: nothing sleeps here, and each job that failed has its
own time for the next attempt (ADR 150). One attempt runs at a time, as the enclave opens one auction at a
time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import random
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from coattest.errors import CoattestError, EnvironmentFailure, Rejected, UsageError
from coattest.files import Folder, write_atomic
from coattest.shell import from_os_error
from coattest_enclave.protocol import canonical, cose
from coattest_enclave.protocol.errors import MessageError
from coattest_parent.auction.finish import Check, Opener, Way, finish
from coattest_parent.auction.publish import Sealed, check_opened
from coattest_parent.auction.steps import open_sealed
from coattest_parent.link.channels import parse_address
from coattest_parent.link.enclave import EnclaveClient
from coattest_parent.link.retry import Backoff, may_pass
from coattest_parent.link.telemetry import Telemetry, codes_of
from coattest_verify.auction import messages
from coattest_verify.auction.buyers import parse_manifest

MANIFEST, RESULT, FAILED, SEAL = "manifest.cbor", "result.cbor", "failed.json", ".seal"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""The form of a job's directory name, which also names the object in S3."""

PAUSE = Backoff(base=1.0, cap=60.0)
"""Bounds of a job's wait between two attempts, in seconds."""

ALIVE_EVERY = 15.0
"""Seconds between two ``alive`` requests to the enclave."""

READY_FOR = 3 * ALIVE_EVERY
"""Seconds for which an answer of the enclave counts as recent."""


@dataclass(frozen=True, slots=True)
class Job:
    """A directory of the spool to open. With a different manifest in it, it is a different job."""

    directory: Path
    inode: int = 0
    changed: int = 0

    @property
    def name(self) -> str:
        """The directory's name, which also names the object in S3."""
        return self.directory.name

    def load(self) -> Sealed:
        """Manifest and seals; raises UsageError for invalid files, OSError for unreadable ones."""
        if not NAME.fullmatch(self.name):
            raise UsageError("not a job's name", where=ascii(self.name), hint=NAME.pattern, code="bad-name")
        with Folder(self.directory) as folder:
            manifest = parse_manifest(
                _read(folder, MANIFEST, canonical.SIZE_MAX), str(folder.path / MANIFEST)
            )
            names = [name for name in folder.names() if name.endswith(SEAL)]
            seals = [_read(folder, name, cose.SIGN1_MAX) for name in names[: messages.BUYERS_MAX + 1]]
        try:
            messages.check_seals(manifest, seals)
        except MessageError as error:
            raise UsageError(
                f"seals: {error}", where=str(self.directory), hint="one .seal per buyer", code="bad-seal"
            ) from None
        return Sealed(manifest, tuple(seals))


def jobs(spool: Path) -> Iterator[Job]:
    """Every job that has not failed, by name; links and names that begin with a dot are left out."""
    for directory in sorted(spool.iterdir()):
        if directory.name.startswith(".") or directory.is_symlink():
            continue
        try:
            found = (directory / MANIFEST).stat()
            if stat.S_ISREG(found.st_mode) and not (directory / FAILED).exists():
                yield Job(directory, found.st_ino, found.st_mtime_ns)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            yield Job(directory)  # loading it will report the error


@dataclass(frozen=True, slots=True)
class Turn:
    """When a job is next due, in Unix seconds, and how many attempts at it have failed."""

    due: float = 0.0
    failures: int = 0

    def is_due(self, now: float) -> bool:
        """Whether the job is due, also if the clock was set back during a wait."""
        return self.due <= now or (self.failures > 0 and self.due > now + PAUSE.cap)


@dataclass(slots=True)
class Courier:
    """Opens the jobs of a spool and watches the enclave; ``publish`` is ``s3://bucket/prefix/`` or None.

    ``way`` must have no back-off: waiting for one job would hold up all the others.
    """

    spool: Path
    way: Way
    telemetry: Telemetry
    publish: str | None = None
    opener: Opener = open_sealed
    check: Check = check_opened
    dice: Callable[[float, float], float] = random.uniform
    _done: set[Job] = field(default_factory=set)
    _turns: dict[Job, Turn] = field(default_factory=dict)
    _answered: float | None = None
    _watch: threading.Thread | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _telling: threading.Lock = field(default_factory=threading.Lock)

    def round(self, now: Callable[[], datetime]) -> int:
        """Try every job that is due once, the longest due one first. Returns how many jobs are not finished.

        ``now`` is called again for each job.
        """
        found = list(jobs(self.spool))
        self._done.intersection_update(found)
        self._turns = {job: self._turns.get(job, Turn()) for job in found if job not in self._done}
        for job in sorted(self._turns, key=lambda job: self._turns[job].due):
            if self._turns[job].is_due(now().timestamp()):
                self._take(job, now)
        failed = sum(1 for _ in self.spool.glob(f"*/{FAILED}"))
        self.telemetry.metrics.set("coattest_jobs_waiting", len(self._turns))
        self.telemetry.metrics.set("coattest_jobs_failed", failed)
        return len(self._turns)

    def rest(self, now: datetime) -> float:
        """Seconds until the next job of the last round is due; infinite without jobs."""
        due = min((turn.due for turn in self._turns.values()), default=math.inf)
        return max(due - now.timestamp(), 0.0)

    def _take(self, job: Job, now: Callable[[], datetime]) -> None:
        """One attempt, after which the job is done, has failed, or has a next turn."""
        turn = self._turns.pop(job)
        try:
            sealed = job.load()
            if sealed.manifest.closes > now().timestamp():
                self._turns[job] = Turn(sealed.manifest.closes)
                return
            self._finish(job, sealed, turn, now())
            self._done.add(job)
        except Exception as error:
            # OSError: the directory is being changed. finish() has reported what it raised. Anything else is
            # a bug of ours, which must not end the service: it would meet the same job after each start.
            failure = _failure(error)
            passes = isinstance(failure, EnvironmentFailure) or may_pass(failure)
            if passes or not self._fail(job, failure):
                self._turns[job] = self._next(job, turn, failure, now())

    def _next(self, job: Job, turn: Turn, failure: CoattestError, now: datetime) -> Turn:
        failures = turn.failures + 1
        wait = self.dice(0.0, PAUSE.bound(failures))
        self.telemetry.metrics.add("coattest_open_retries_total")
        self.telemetry.event(
            "open-retry", job=job.name, attempt=failures, **codes_of(failure), wait=round(wait, 3)
        )
        return Turn(now.timestamp() + wait, failures)

    def _finish(self, job: Job, sealed: Sealed, turn: Turn, now: datetime) -> None:
        uri = f"{self.publish}{job.name}/" if self.publish else None
        way = self.way
        if turn.failures:
            # The credentials may have been the cause.
            way = dataclasses.replace(way, aws=way.aws.renewed())
        elif not (job.directory / RESULT).exists():
            self.telemetry.event("job-found", job=job.name, auction=sealed.manifest.digest.hex())
        finish(
            sealed,
            job.directory / RESULT,
            way,
            now=now,
            uri=uri,
            telemetry=self.telemetry,
            opener=self.opener,
            check=self.check,
        )

    def _fail(self, job: Job, error: CoattestError) -> bool:
        """Mark a job as failed; False when that cannot be written, so that it is tried again."""
        self.telemetry.event("job-failed", job=job.name, **codes_of(error), exit=error.exit_code)
        document = {"code": error.code, "exit": error.exit_code, "error": str(error)[:1000]}
        try:
            write_atomic(job.directory / FAILED, f"{json.dumps(document)}\n".encode())
        except OSError:
            return False
        return True

    def watch(self, stop: threading.Event) -> None:
        """Ask the enclave whether it is alive, in a thread, until ``stop`` or ``unwatch``."""
        self._ended = stop
        self._watch = threading.Thread(target=self._ask_on, args=(stop,), daemon=True)
        self._watch.start()

    def unwatch(self) -> None:
        """End the watch: it reports nothing more, even if an answer is still to come."""
        with self._telling:
            self._ended.set()

    def healthy(self) -> bool:
        """Whether this process works: the watching thread runs and the spool is there."""
        return bool(self._watch and self._watch.is_alive() and self.spool.is_dir())

    def ready(self) -> bool:
        """Whether the enclave answered recently."""
        return self._answered is not None and time.monotonic() - self._answered < READY_FOR

    def _ask_on(self, stop: threading.Event) -> None:
        up: bool | None = None
        while not stop.is_set():
            now_up = self._ask()
            with self._telling:
                if stop.is_set():
                    return
                if now_up != up:
                    name = "enclave-up" if now_up else "enclave-down"
                    self.telemetry.event(name, address=self.way.enclave)
            up = now_up
            self.telemetry.metrics.set("coattest_enclave_up", up)
            stop.wait(ALIVE_EVERY)

    def _ask(self) -> bool:
        try:
            with EnclaveClient(parse_address(self.way.enclave)) as client:
                client.alive(secrets.token_bytes(32))
        except (CoattestError, OSError):
            return False
        self._answered = time.monotonic()
        return True


@contextlib.contextmanager
def only_courier(spool: Path) -> Iterator[None]:
    """Lock the spool; raises EnvironmentFailure when another process has, UsageError for a link.

    The lock ends with the process.
    """
    Folder(spool).close()  # a link is refused
    handle = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentFailure(
                "another courier serves this spool",
                where=str(spool),
                hint="stop the other one, or give another --spool",
                code="spool-in-use",
            ) from None
        yield
    finally:
        os.close(handle)


def _failure(error: Exception) -> CoattestError:
    if isinstance(error, CoattestError):
        return error
    if isinstance(error, OSError):
        return from_os_error(error)
    return EnvironmentFailure(
        "unforeseen error", hint="run 'auction open' by hand to see it", code="internal"
    )


def _read(folder: Folder, name: str, most: int) -> bytes:
    """A plain file's bytes; raises UsageError. What is in a spool comes from buyers, maybe in an archive."""
    try:
        return folder.read(name, most)
    except Rejected as error:
        raise UsageError(error.what, where=str(folder.path / name), code=error.code) from None
