"""SIGTERM and SIGINT, for a command that has something to end.

A handler that raises at any point ends in a traceback where nothing catches it, and can cut short a clean-up
that is running. So the handler here only notes the signal and wakes the thread that waits.
It raises in one place, the work that ``Stop.cut`` calls, and there not while a context manager is entered or
left: what a ``with`` statement has begun, it also ends.

Python runs a handler at the next step of the main thread. If a call that waits is that step, the handler runs
when the call is over. So a second thread reads the byte that Python writes at once, in C
(``signal.set_wakeup_fd``), and sends the signal once more: that one interrupts the call.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from coattest.errors import EnvironmentFailure

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

SIGNALS = (signal.SIGTERM, signal.SIGINT)

AGAIN = 0.005
"""Seconds until work is cut that could not be cut when the signal came, or that did not see it."""

_WHOLE = frozenset({"__enter__", "__exit__", "__del__"})
_WHOLE_MODULES = frozenset({"logging", "weakref", "_weakrefset"})
"""Code that is not cut. Python drops what a ``__del__`` or a weak reference's callback raises, and logging
takes its locks without ``with``.
"""


class Stopped(EnvironmentFailure):
    """The program was told to stop before it was done."""

    default_code = "stopped"


class _Cut(BaseException):
    """Not an Exception: libraries catch those and go on."""


class Stop:
    """Whether this process was told to stop; a context manager that handles the signals meanwhile.

    ``hint`` tells the user what to do after a stop. With ``last`` the process ends after the block: signals
    are ignored from there on, so that one on the way out does not change the exit code. In a thread other
    than the main one, where signals are not delivered, only ``tell`` stops it. Everything but ``tell`` is for
    the thread that entered it.
    """

    def __init__(self, hint: str | None = None, *, last: bool = False) -> None:
        self._hint, self._last = hint, last
        self._told = False
        self._number: int | None = None
        self._may_cut = False
        self._reader = self._writer = self._noted = self._note = self._note_before = -1
        self._before: dict[int, Any] = {}
        self._again: threading.Thread | None = None
        self._over = False
        self._sending = threading.Lock()

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._arrived)
            self._noted, self._note = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._note, False)
            self._note_before = signal.set_wakeup_fd(self._note, warn_on_full_buffer=False)
            self._again = threading.Thread(target=self._send_again, daemon=True)
            self._again.start()
        return self

    def __exit__(self, *_: object) -> None:
        if signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        with self._sending:
            self._over = True
        for number, handler in self._before.items():
            _hand_over(number, signal.SIG_IGN if self._last else handler)
        if self._again:
            signal.set_wakeup_fd(self._note_before)
            _write(self._note)
            self._again.join()
        if not self._last:  # otherwise a handler that runs now still finds its pipe
            for descriptor in (self._reader, self._writer, self._noted, self._note):
                if descriptor >= 0:
                    os.close(descriptor)

    @property
    def told(self) -> bool:
        """Whether it was told to stop; that stays."""
        return self._told

    def tell(self) -> None:
        """Stop, as a signal does; from any thread. Work that runs is not cut."""
        self._told = True
        _write(self._writer)

    def wait(self, seconds: float | None = None, *, readable: int | None = None) -> bool:
        """Return after ``seconds`` (None: never), when told to stop, or when the descriptor is readable.

        Returns whether it was told. A signal handler can end this wait, unlike ``threading.Event.wait``.
        """
        poll = select.poll()
        for descriptor in (self._reader, readable):
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
        poll.poll(None if seconds is None else max(seconds, 0) * 1000)
        return self._told

    def check(self) -> None:
        """Raise Stopped once told."""
        if self._told:
            raise self._stopped()

    def cut(self, work: Callable[..., T], *arguments: Any) -> T:
        """What ``work`` returns. Raises Stopped when told to stop, then or before; a signal ends the work
        where it is, once: what comes while it unwinds is only noted.
        """
        try:
            try:
                self._may_cut = True
                if not self._told:
                    return work(*arguments)
            finally:
                # Until this is done a signal raises, and the outer block catches it; afterwards none does.
                self._may_cut = False
        except _Cut:
            pass
        raise self._stopped()

    def _send_again(self) -> None:
        """In a thread: send the signal to the main thread until its handler ran there."""
        while not self._over and {*SIGNALS}.isdisjoint(os.read(self._noted, 64)):
            pass
        while not (self._told or self._over):
            time.sleep(AGAIN)
            with self._sending:
                if not (self._told or self._over):
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _stopped(self) -> Stopped:
        by = f" by {signal.Signals(self._number).name}" if self._number else ""
        return Stopped(f"stopped{by}", hint=self._hint)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        # Handlers interrupt each other too: each step here may be followed by all of another signal's.
        if number in SIGNALS:
            self._number = self._number or number
        self.tell()
        if self._may_cut and _is_whole(frame):
            if signal.SIGALRM not in self._before:
                self._before[signal.SIGALRM] = signal.getsignal(signal.SIGALRM)
            signal.signal(signal.SIGALRM, self._arrived)
            # Again and again, until one is seen.
            signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
            return
        if signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if not self._may_cut:
            return
        self._may_cut = False
        raise _Cut


def _write(descriptor: int) -> None:
    # A full pipe wakes as well as one more byte.
    with contextlib.suppress(BlockingIOError):
        os.write(descriptor, b"\0")


def _hand_over(number: int, handler: Any) -> None:
    """``signal.signal``, also for a signal that comes while it runs.

    Python's own handler notes a signal, and what it stands for is done a moment later. If the signal is
    ignored by then, or has its default, Python drops it and reports an OSError without a number to
    ``sys.unraisablehook`` (Modules/signalmodule.c, "ignored due to race condition"). Here it is ignored
    without a word, or its default is done.
    """
    before = sys.unraisablehook
    raced = []

    def look(it: sys.UnraisableHookArgs) -> None:
        if it.exc_type is OSError and it.object is None and getattr(it.exc_value, "errno", None) is None:
            raced.append(number)
        else:
            before(it)

    sys.unraisablehook = look
    try:
        signal.signal(number, handler)
    finally:
        sys.unraisablehook = before
    if raced and handler == signal.SIG_DFL:
        signal.raise_signal(number)


def _is_whole(frame: FrameType | None) -> bool:
    """Whether the work of ``Stop.cut`` is within something that is not cut."""
    while frame is not None and frame.f_code is not Stop.cut.__code__:
        if frame.f_code.co_name in _WHOLE or frame.f_globals.get("__name__") in _WHOLE_MODULES:
            return True
        frame = frame.f_back
    return False
