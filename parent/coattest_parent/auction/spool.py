"""The courier's loop over a spool (``jobs``): each job is opened after its closing time.

No job waits for the next attempt at a different one: nothing sleeps here, and each job that failed has its
own time for the next attempt (ADR 150). One attempt runs at a time, as the enclave opens one auction at a
time.

Times are this machine's. A spool in S3 has a clock too: there an auction has closed, or is too late for good,
when both clocks say so. A courier whose clock differs too much leaves every job to the others, and sets none
aside. Whoever can make up S3's time can keep couriers from working, and no more: a receipt's time, by which
a result is of its auction's time or not, is the enclave's.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone

from coattest.errors import CoattestError, EnvironmentFailure
from coattest.shell import from_os_error
from coattest_parent.auction.finish import Check, Opener, finish
from coattest_parent.auction.jobs import Job, JobSpool, job_manifest, load_sealed
from coattest_parent.auction.publish import Sealed, check_opened
from coattest_parent.auction.steps import Way, open_sealed
from coattest_parent.link.channels import parse_address
from coattest_parent.link.enclave import live_document
from coattest_parent.link.retry import Backoff, may_pass
from coattest_parent.link.telemetry import Telemetry, codes_of

PAUSE = Backoff(base=1.0, cap=60.0)
"""Bounds of a job's wait between two attempts, in seconds."""

ALIVE_EVERY = 15.0
"""Seconds between two ``alive`` requests to the enclave."""

READY_FOR = 3 * ALIVE_EVERY
"""Seconds for which an answer of the enclave counts as recent."""

TELL_EVERY = 60.0
"""Seconds between two events that say how the spool is."""

UNREAD_FOR = 900.0
"""Seconds after which a job whose manifest could not be read counts as closed since it was put."""


CLOCKS_DIFFER = 60.0
"""Seconds that this machine's clock may be ahead of the spool's, or behind: S3 tells whole seconds, and an
answer may take some. It is less than a receipt's time may be ahead (``receipt.SKEW``).
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """When a job was first seen, is next due and closes (infinite until its manifest was read), in Unix
    seconds, and how many attempts at it have failed.
    """

    seen: float
    due: float = 0.0
    failures: int = 0
    closes: float = math.inf

    def is_due(self, now: float) -> bool:
        """Whether the job is due, also if the clock was set back during a wait."""
        return self.due <= now or (self.failures > 0 and self.due > now + PAUSE.cap)

    def waits_for(self, job: Job) -> bool:
        """Whether its time is this courier's: of a job that another one has, only the manifest is read."""
        return not job.taken or self.closes == math.inf

    def age(self, job: Job, now: float) -> float:
        """Seconds since the job closed, as far as that is known."""
        if self.closes < math.inf:
            return now - self.closes
        unread = now - self.seen
        return max(job.age, unread) if unread >= UNREAD_FOR else 0.0


@dataclass(slots=True)
class Courier:
    """Opens the jobs of a spool and watches the enclave; ``publish`` is ``s3://bucket/prefix/`` or None.

    ``way`` must have no back-off: waiting for one job would hold up all the others.
    """

    spool: JobSpool
    way: Way
    telemetry: Telemetry
    publish: str | None = None
    opener: Opener = open_sealed
    check: Check = check_opened
    dice: Callable[[float, float], float] = random.uniform
    _done: set[Job] = field(default_factory=set)
    _turns: dict[Job, Turn] = field(default_factory=dict)
    _now: Callable[[], float] = time.time
    _differs: bool = False
    _answered: float | None = None
    _told: float = -math.inf
    _watch: threading.Thread | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _telling: threading.Lock = field(default_factory=threading.Lock)

    def round(self, now: Callable[[], datetime]) -> int:
        """Try every job that is due once, the longest due one first. Returns how many jobs are not finished.

        ``now`` is this machine's clock; it is called again for each job, or once where the spool has a clock.
        """
        self._look(now)
        tried: set[Job] = set()
        while True:
            time_now = self._now()
            self._tell(time_now)
            due = (
                job
                for job, turn in self._turns.items()
                if turn.waits_for(job) and job not in tried and turn.is_due(time_now)
            )
            job = min(due, key=lambda job: self._turns[job].due, default=None)
            if job is None:
                return len(self._turns)
            tried.add(job)
            if not self._take(job):
                self._look(now)  # another courier was faster: what else has it done meanwhile?

    def _look(self, now: Callable[[], datetime]) -> None:
        seen = self.spool.look()
        self._now = self._clock(now, seen.time)
        jobs = [dataclasses.replace(job, taken=True) for job in seen.jobs] if self._differs else seen.jobs
        new = Turn(self._now())
        # One that another courier took over, before the end of this one's work, and left is not done.
        self._done.intersection_update(job for job in jobs if not job.left)
        self._turns = {job: self._turns.get(job, new) for job in jobs if job not in self._done}
        self.telemetry.metrics.set("coattest_jobs_failed", seen.failed)

    def _clock(self, now: Callable[[], datetime], spools: float | None) -> Callable[[], float]:
        """The clock until the next look, in Unix seconds: of this machine's and the spool's the one that is
        behind; the spool's where they differ too much, by which ages are told and nothing is decided.
        """
        if spools is None:
            return lambda: now().timestamp()
        own, began, before = now().timestamp(), self.telemetry.clock(), self._differs
        self._differs = abs(own - spools) > CLOCKS_DIFFER
        if self._differs and not before:
            self.telemetry.event("clock-differs", seconds=round(own - spools))
        start = spools if self._differs else min(own, spools)
        # This machine's clock may be set before the next look: that plays no part.
        return lambda: start + self.telemetry.clock() - began

    def _tell(self, now: float) -> None:
        """How many jobs are not finished, and for how long the oldest of those has been closed."""
        age = max((0.0, *(turn.age(job, now) for job, turn in self._turns.items())))
        self.telemetry.metrics.set("coattest_jobs_waiting", len(self._turns))
        self.telemetry.metrics.set("coattest_jobs_oldest_seconds", age)
        if abs(now - self._told) >= TELL_EVERY:
            self._told = now
            self.telemetry.event("spool-seen", jobs=len(self._turns), age=round(age))

    def rest(self) -> float:
        """Seconds until the next job of the last round is due; infinite without jobs of this courier."""
        due = min((turn.due for job, turn in self._turns.items() if turn.waits_for(job)), default=math.inf)
        return max(due - self._now(), 0.0)

    def _take(self, job: Job) -> bool:
        """One attempt, after which the job is done, has failed, or has a next turn; False if another courier
        has it.
        """
        turn = self._turns.pop(job)
        ours = True
        try:
            manifest = job_manifest(self.spool, job)
            turn = dataclasses.replace(turn, closes=manifest.closes)
            if job.taken or manifest.closes > self._now():
                self._turns[job] = Turn(turn.seen, due=manifest.closes, closes=manifest.closes)
                return True
            with self.spool.lease(job) as ours:
                if ours:
                    self._finish(job, load_sealed(self.spool, job, manifest), turn)
            if ours:
                self._done.add(job)
            else:
                self._turns[job] = turn
        except Exception as error:
            # OSError: the directory is being changed. finish() has reported what it raised. Anything else is
            # a bug of ours, which must not end the service: it would meet the same job after each start.
            failure = _failure(error)
            passes = job.taken or isinstance(failure, EnvironmentFailure) or may_pass(failure)
            if passes or not self._fail(job, failure):
                self._turns[job] = self._next(job, turn, failure)
        return ours

    def _next(self, job: Job, turn: Turn, failure: CoattestError) -> Turn:
        failures = turn.failures + 1
        wait = self.dice(0.0, PAUSE.bound(failures))
        self.telemetry.metrics.add("coattest_open_retries_total")
        self.telemetry.event(
            "open-retry", job=job.name, attempt=failures, **codes_of(failure), wait=round(wait, 3)
        )
        return dataclasses.replace(turn, due=self._now() + wait, failures=failures)

    def _finish(self, job: Job, sealed: Sealed, turn: Turn) -> None:
        uri = f"{self.publish}{job.name}/" if self.publish else None
        way = self.way
        if turn.failures:
            # The credentials may have been the cause.
            way = dataclasses.replace(way, aws=way.aws.renewed())
        elif not job.opened:
            self.telemetry.event("job-found", job=job.name, auction=sealed.manifest.digest.hex())
        finish(
            sealed,
            self.spool.result(job),
            way,
            now=datetime.fromtimestamp(self._now(), timezone.utc),
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
            self.spool.fail(job, f"{json.dumps(document)}\n".encode())
        except (CoattestError, OSError):
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
        return bool(self._watch and self._watch.is_alive() and self.spool.exists())

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
            live_document(parse_address(self.way.enclave))
        except (CoattestError, OSError):
            return False
        self._answered = time.monotonic()
        return True


def _failure(error: Exception) -> CoattestError:
    if isinstance(error, CoattestError):
        return error
    if isinstance(error, OSError):
        return from_os_error(error)
    return EnvironmentFailure(
        "unforeseen error", hint="run 'auction open' by hand to see it", code="internal"
    )
