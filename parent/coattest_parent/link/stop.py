"""A graceful end: SIGTERM and SIGINT unwind the program like an error does, so that tunnels are closed and
temporary files removed.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from coattest.errors import EnvironmentFailure

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(EnvironmentFailure):
    """The program was told to stop before it was done."""

    default_code = "stopped"


class _Stop(BaseException):
    """Not an Exception: libraries catch those and go on."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stops(hint: str) -> Iterator[None]:
    """Within the block, SIGTERM and SIGINT end in Stopped, once; what comes while it unwinds is ignored.

    In a thread other than the main one, where signals are not delivered, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise _Stop(number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except _Stop as stopped:
        raise Stopped(f"stopped by {signal.Signals(stopped.number).name}", hint=hint) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_event() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set: for a service that ends what it does at a place of its choice."""
    event = threading.Event()
    before = {number: signal.signal(number, lambda *_: event.set()) for number in SIGNALS}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
