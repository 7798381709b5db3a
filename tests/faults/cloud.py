"""``nitro-local``'s S3, STS and KMS as a process that can be killed at any request and comes back with what
it had stored.

What AWS has stored outlives any of its processes; the local services keep everything in memory. So each
change, before it is answered, leaves a copy of the process that sleeps: fork(2) as the disk. When the process
is gone and the harness says so on stdin, the newest copy listens at the same port. A change that was carried
out and not answered is there; one that was not carried out is not.

``python -m faults.cloud`` takes the arguments of ``python -m coattest_local.aws`` and prints a JSON line when
it listens. Nothing of the services is replaced: requests are counted on their way in and out, and the clock
has a skew that the harness chooses.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import stat
import sys
import threading
import warnings
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from coattest_local.aws import __main__ as program
from coattest_local.aws import server
from coattest_local.aws.gate import Gate
from coattest_local.aws.http import HttpRequest, HttpResponse, ServiceError
from coattest_local.aws.kms.operations import OPERATIONS
from coattest_local.aws.sigv4 import AuthorizationHeader
from faults.steps import ask

SLEEP, STALE = b"s", 5
"""What a copy says when it is ready to sleep, and the exit code of one that is not the newest."""


class Store:
    """The newest sleeping copy of this process."""

    def __init__(self, generation: Path) -> None:
        self.generation = generation
        self.number = 0
        self.skew = timedelta(0)
        self.listening: tuple[Any, ssl.SSLContext, int] | None = None
        self._alive = -1
        self._copy = 0

    def keep(self) -> None:
        """Leave a copy as of now; the one before it ends. In the copy this does not return."""
        ours, alive = os.pipe()
        ready, told = os.pipe()
        self.number += 1
        copy = os.fork()
        if not copy:
            try:
                self._sleep(ours, told)
            finally:
                os._exit(1)
        os.close(ours)
        os.close(told)
        assert os.read(ready, 1) == SLEEP
        os.close(ready)
        if self._copy:
            os.write(self._alive, SLEEP)
            os.close(self._alive)
            os.waitpid(self._copy, 0)
        self._alive, self._copy = alive, copy

    def _sleep(self, alive: int, told: int) -> None:
        """Until the process that is copied here has ended; then serve in its place."""
        beside = self.generation.with_name(f"{self.generation.name}.{os.getpid()}")
        beside.write_text(str(self.number))
        beside.replace(self.generation)
        _let_go({0, 1, 2, alive, told})
        with contextlib.suppress(BrokenPipeError):  # it has ended while it waited for this
            os.write(told, SLEEP)
        if os.read(alive, 1) or not os.read(0, 1):
            os._exit(0)  # a newer copy is there, or the harness has ended
        if self.number != int(self.generation.read_text()):
            _say({"stale": os.getpid()})
            os._exit(STALE)
        self._alive, self._copy = -1, 0
        assert self.listening
        gate, context, port = self.listening
        gate._lock = threading.RLock()  # held by whoever made this copy
        threading.Thread(target=_end_with_harness, daemon=True).start()
        again = server.TlsServer(gate, context, port)
        _say({"ready": os.getpid()})
        again.serve_forever(poll_interval=0.1)


STORE: Store


class CountedGate(Gate):
    """The gate, with a step before and after each request."""

    def _answer(self, request: HttpRequest, header: AuthorizationHeader) -> HttpResponse:
        target = request.headers.get("x-amz-target", "").removeprefix("TrentService.")
        key = json.loads(request.body)["KeyId"] if target == "Decrypt" else ""
        told = ask("request", key)
        STORE.skew = timedelta(seconds=told["skew"])
        if told["throttled"]:
            # KMS Developer Guide, "Throttling AWS KMS requests".
            raise ServiceError("ThrottlingException", "Rate exceeded", 400)
        with self._lock:
            answer = super()._answer(request, header)
            if request.method not in ("GET", "HEAD") and target not in OPERATIONS:
                STORE.keep()
        ask("answer")
        return answer


class KeptServer(server.TlsServer):
    """The server, whose parts are kept for the copy that is to take its place."""

    def __init__(self, application: Any, context: ssl.SSLContext, port: int = 0) -> None:
        super().__init__(application, context, port)
        STORE.listening = (application, context, self.port)


def now() -> datetime:
    """The services' clock."""
    return datetime.now(timezone.utc) + STORE.skew


def _let_go(kept: set[int]) -> None:
    """Give up every socket and pipe of the process that was copied; the numbers stay taken.

    Objects of its other threads still have them, and would close what has the same number later.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for name in list(Path("/proc/self/fd").iterdir()):
        number = int(name.name)
        with contextlib.suppress(OSError):
            mode = os.fstat(number).st_mode
            if number not in {*kept, null} and (stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)):
                os.dup2(null, number, inheritable=False)


def _end_with_harness() -> None:
    os.read(0, 1)
    os._exit(0)


def _say(line: dict[str, int]) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def main() -> None:
    """The services' own program with a gate that counts."""
    global STORE  # noqa: PLW0603
    # Since Python 3.12 a fork beside threads warns. Of the services these hold nothing but the gate's lock.
    warnings.filterwarnings("ignore", "This process", DeprecationWarning)
    STORE = Store(Path(sys.argv[sys.argv.index("--directory") + 1]) / "generation")
    announce = program._announce

    def announced(*arguments: Any) -> None:
        announce(*arguments)
        _say({"ready": os.getpid()})

    program.Gate = CountedGate  # type: ignore[misc]
    program.server.TlsServer = KeptServer  # type: ignore[misc]
    program._now, program._announce = now, announced
    program.run(program.main, "coattest_local.aws")


if __name__ == "__main__":
    main()
