"""Who is served when: requests beside each other, secret work alone, and its answer at a tick.

What an answer says beyond itself could lie in when it is said. So it leaves at a multiple of a quantum that
what is public sets, failures too, and until then nothing else is served: a second connection could otherwise
time the work by how long its own answers take.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from coattest_enclave.payload.transport import cut

GRACE = 1.0
"""Seconds in which an answer that has begun can end before work alone cuts its connection."""


@dataclass(slots=True)
class Tick:
    """How many quanta the work took; more than one is an overrun, and a fact about its time."""

    count: int = 1


class Turns:
    """Lets many requests be served at a time, or one work alone."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._change = threading.Condition()
        self._alone = False
        self._served: set[socket.socket] = set()

    @contextlib.contextmanager
    def served(self, stream: socket.socket) -> Iterator[None]:
        """Within it a request of this connection is read and answered; it waits while one is alone."""
        with self._change:
            self._change.wait_for(lambda: not self._alone)
            self._served.add(stream)
        try:
            yield
        finally:
            with self._change:
                self._served.discard(stream)
                self._change.notify_all()

    @contextlib.contextmanager
    def alone(self, seconds: float, tell: Callable[[], None] = lambda: None) -> Iterator[Tick]:
        """Within it nothing is served, and it ends at a multiple of ``seconds`` after its start, also when
        it fails. One at a time.

        ``tell`` says that it starts. However long that takes the parent, it is no part of the time.
        """
        with self._change:
            self._alone = True
            if not self._change.wait_for(lambda: not self._served, GRACE):
                for stream in self._served:
                    cut(stream)
                self._change.wait_for(lambda: not self._served)
        try:
            tell()
            started, tick = self._clock(), Tick()
            try:
                yield tick
            finally:
                spent = self._clock() - started
                tick.count = math.floor(spent / seconds) + 1
                self._sleep(tick.count * seconds - spent)
        finally:
            with self._change:
                self._alone = False
                self._change.notify_all()
