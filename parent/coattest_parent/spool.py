"""The courier's spool: a directory per auction, opened when its closing time has passed.

``SPOOL/NAME/manifest.cbor`` and one ``SPOOL/NAME/*.seal`` per buyer make a job; move the directory in when it
is whole. ``SPOOL/NAME/result.cbor`` ends it. A job that another try cannot help gets
``SPOOL/NAME/failed.json`` and is left alone until that file is removed.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from coattest_enclave import cose, messages
from coattest_enclave.canonical import MessageError
from coattest_parent.channels import parse_address
from coattest_parent.enclave import EnclaveClient
from coattest_parent.finish import Way, finish
from coattest_parent.publish import Sealed
from coattest_parent.telemetry import Telemetry
from coattest_verify.buyers import load_manifest
from coattest_verify.shell import CoattestError, EnvironmentFailure, FoundFalse, UsageError, write_atomic

MANIFEST, RESULT, FAILED = "manifest.cbor", "result.cbor", "failed.json"
SEALS = "*.seal"

ALIVE_EVERY = 15.0
"""Seconds between two questions to the enclave."""

READY_FOR = 3 * ALIVE_EVERY
"""Seconds for which an answer of the enclave counts."""


@dataclass(frozen=True, slots=True)
class Job:
    """A directory of the spool that is to be opened."""

    directory: Path

    @property
    def name(self) -> str:
        """The directory's name; the object in S3 is named for it."""
        return self.directory.name

    def load(self) -> Sealed:
        """Manifest and seals; raises UsageError for files that are not."""
        manifest = load_manifest(self.directory / MANIFEST)
        seals = []
        for path in sorted(self.directory.glob(SEALS)):
            with path.open("rb") as file:
                seals.append(file.read(cose.SIGN1_MAX + 1))
        try:
            messages.check_seals(manifest, seals)
        except MessageError as error:
            raise UsageError(
                f"seals: {error}", where=str(self.directory), hint="one .seal per buyer", reason="bad-seal"
            ) from None
        return Sealed(manifest, tuple(seals))


def jobs(spool: Path) -> Iterator[Job]:
    """Every job that is neither done nor failed, by name."""
    for directory in sorted(spool.iterdir()):
        try:
            wanted = (directory / MANIFEST).is_file() and not (directory / FAILED).exists()
        except OSError:
            wanted = True  # it cannot be looked into; who loads it hears why
        if wanted:
            yield Job(directory)


@dataclass(slots=True)
class Courier:
    """Opens what is in the spool and watches the enclave; ``publish`` is ``s3://bucket/prefix/`` or None."""

    spool: Path
    way: Way
    telemetry: Telemetry
    publish: str | None = None
    _done: set[Path] = field(default_factory=set)
    _answered: float | None = None
    _watch: threading.Thread | None = None

    def round(self, now: datetime) -> int:
        """Open every job that is due; the number of those that are waiting or could not be finished yet."""
        waiting = 0
        for job in list(jobs(self.spool)):
            if job.directory in self._done:
                continue
            try:
                sealed = job.load()
                if sealed.manifest.closes > now.timestamp():
                    waiting += 1
                    continue
                if sealed.manifest.publish_by < now.timestamp() and not (job.directory / RESULT).exists():
                    raise FoundFalse(
                        "the publication deadline has passed: a receipt from after it does not verify",
                        where=str(job.directory),
                        hint="a new manifest",
                        reason="too-late",
                    )
                self._finish(job, sealed)
                self._done.add(job.directory)
            except EnvironmentFailure:
                waiting += 1  # the next round tries again; finish() has told of it
            except OSError:
                waiting += 1  # the directory is being changed
            except CoattestError as error:
                waiting += not self._fail(job, error)
        failed = sum(1 for _ in self.spool.glob(f"*/{FAILED}"))
        self.telemetry.metrics.set("coattest_jobs_waiting", waiting)
        self.telemetry.metrics.set("coattest_jobs_failed", failed)
        return waiting

    def _finish(self, job: Job, sealed: Sealed) -> None:
        uri = f"{self.publish}{job.name}.cbor" if self.publish else None
        if not (job.directory / RESULT).exists():
            self.telemetry.event("job-found", job=job.name, auction=sealed.manifest.digest.hex())
        finish(sealed, job.directory / RESULT, self.way, uri=uri, telemetry=self.telemetry)

    def _fail(self, job: Job, error: CoattestError) -> bool:
        """Set a job aside; False when that cannot be written, so that the next round judges it again."""
        self.telemetry.event("job-failed", job=job.name, reason=error.reason, exit=error.exit_code)
        document = {"reason": error.reason, "exit": error.exit_code, "error": str(error)[:1000]}
        try:
            write_atomic(job.directory / FAILED, f"{json.dumps(document)}\n".encode())
        except OSError:
            return False
        return True

    def watch(self, stop: threading.Event) -> None:
        """Ask the enclave for signs of life, in a thread of its own, until ``stop``."""
        self._watch = threading.Thread(target=self._ask_on, args=(stop,), daemon=True)
        self._watch.start()

    def healthy(self) -> bool:
        """Whether this process does its work: the watch runs and the spool is there."""
        return bool(self._watch and self._watch.is_alive() and self.spool.is_dir())

    def ready(self) -> bool:
        """Whether an auction could be opened now, as far as the enclave goes."""
        return self._answered is not None and time.monotonic() - self._answered < READY_FOR

    def _ask_on(self, stop: threading.Event) -> None:
        up: bool | None = None
        while not stop.is_set():
            now_up = self._ask()
            if now_up != up:
                self.telemetry.event("enclave-up" if now_up else "enclave-down", address=self.way.enclave)
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
