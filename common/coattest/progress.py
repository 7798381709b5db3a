"""Progress of long operations, which need not know about a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from coattest.shell import byte_progress, err, step_progress
from coattest.text import printable


class Reporter:
    """Receives the progress of a long operation; this one shows nothing."""

    def note(self, text: str) -> None:
        """Show one line."""

    def step(self, text: str) -> AbstractContextManager[None]:
        """A step of unknown length runs while the context is open."""
        return contextlib.nullcontext()

    def transfer(self, text: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """``total`` bytes are transferred while the context is open; call the value with each increment."""
        return contextlib.nullcontext(lambda _: None)


class Quiet(Reporter):
    """A reporter that shows nothing."""


class Terminal(Reporter):
    """A reporter on stderr: bars and spinners on a terminal, one line per step elsewhere."""

    def __init__(self) -> None:
        self._console = err()

    def note(self, text: str) -> None:
        """Print one line."""
        self._console.print(text)

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A spinner with the time elapsed, or the text alone."""
        if not self._console.is_terminal:
            self.note(text)
            yield
            return
        with step_progress() as progress:
            progress.add_task(printable(text))
            yield

    @contextlib.contextmanager
    def transfer(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar of bytes, or the text and the size alone."""
        if not self._console.is_terminal:
            self.note(f"{text} ({total / 1e6:.0f} MB)")
            yield lambda _: None
            return
        with byte_progress() as progress:
            task = progress.add_task(printable(text), total=total)
            yield lambda count: progress.advance(task, count)
