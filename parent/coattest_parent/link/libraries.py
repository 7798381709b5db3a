"""Turns what libraries print into events, so that a service's log has nothing but JSON lines.

Python has many ways to write a line: logging (asyncio, botocore, urllib3), warnings, exceptions that end a
thread or cannot be raised, and plain writes to stderr (``http.server``, ``traceback``). Each
becomes a ``library-message``. A library may quote anything, so what it says is masked: see ``masked``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from coattest_parent.link.telemetry import TEXT_MAX, Telemetry

WORD_MAX = 24
"""Characters of a word that is shown. Keys, tokens and digests are longer or have digits in them."""

LINE_MAX = 4096
"""Characters of an unfinished line; a longer one becomes an event as it is."""

_HIDDEN = re.compile(rf"\S*\d\S*|\S{{{WORD_MAX + 1},}}")


def masked(text: str) -> str:
    """One line of ``text`` of at most TEXT_MAX characters, with ``*`` for each word that has a digit or is
    longer than WORD_MAX: no amount, key, token, digest or address is left.
    """
    words = text[: 10 * TEXT_MAX].split()  # cut first: strangers may have written it
    if len(text) > 10 * TEXT_MAX:
        del words[-1:]  # it may be the beginning of a longer one
    return _HIDDEN.sub("*", " ".join(words))[:TEXT_MAX]


@contextlib.contextmanager
def heard(telemetry: Telemetry, *, streams: bool) -> Iterator[None]:
    """Within the block, write to ``telemetry`` what libraries say. With ``streams`` that is everything that
    is printed to stdout and stderr as well.
    """
    with contextlib.ExitStack() as undo:
        hear(telemetry, undo, streams=streams)
        yield


def hear(telemetry: Telemetry, undo: contextlib.ExitStack, *, streams: bool) -> None:
    """As ``heard``, until ``undo`` is closed; a service never closes it, so its last line is an event too."""

    def tell(source: str, level: str, text: str) -> None:
        telemetry.event("library-message", source=source, level=level, text=text)

    def crash(source: str, error: BaseException | None, trace: TracebackType | None) -> None:
        tell(source, "error", crash_text(error, trace))

    def on_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        tell("warnings", "warning", f"{category.__name__}: {masked(str(message))}")

    handler = _Records(tell)
    logging.getLogger().addHandler(handler)
    undo.callback(logging.getLogger().removeHandler, handler)
    _replace(undo, warnings, "showwarning", on_warning)
    _replace(undo, threading, "excepthook", lambda it: crash("threading", it.exc_value, it.exc_traceback))
    _replace(undo, sys, "unraisablehook", lambda it: crash("unraisable", it.exc_value, it.exc_traceback))
    _replace(undo, sys, "excepthook", lambda _, error, trace: crash("main", error, trace))
    if streams:
        _take_streams(undo, tell)


def crash_text(error: BaseException | None, trace: TracebackType | None) -> str:
    """An exception's type and where it was raised; its own text could hold anything."""
    text = type(error).__qualname__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None:
        text += f" in {trace.tb_frame.f_globals.get('__name__', '?')}, line {trace.tb_lineno}"
    return text


_Tell = Callable[[str, str, str], None]


class _Records(logging.Handler):
    """Reports warnings and worse of every logger: a record's first line, or its format string if it has
    arguments."""

    def __init__(self, tell: _Tell) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        first = record.msg.partition("\n")[0] if isinstance(record.msg, str) else None
        text = masked(first) if first is not None else type(record.msg).__qualname__
        if record.exc_info and record.exc_info[1]:
            text += f": {crash_text(*record.exc_info[1:])}"
        self._tell(record.name, record.levelname.lower(), text)


class _Lines(io.TextIOBase):
    """A text stream whose lines become events; each thread's are kept apart until they are whole."""

    def __init__(self, source: str, tell: _Tell) -> None:
        self._source, self._tell = source, tell
        self._mine = threading.local()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        *lines, rest = f"{getattr(self._mine, 'rest', '')}{text}".split("\n")
        self._mine.rest = rest
        for line in lines:
            self._said(line)
        if len(rest) > LINE_MAX:
            self.flush()
        return len(text)

    def flush(self) -> None:
        rest = getattr(self._mine, "rest", "")
        self._mine.rest = ""
        self._said(rest)

    def _said(self, line: str) -> None:
        if line.strip():
            self._tell(self._source, "warning", masked(line))


def _take_streams(undo: contextlib.ExitStack, tell: _Tell) -> None:
    before = {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}
    for name in ("stdout", "stderr"):
        lines = _Lines(name, tell)
        _replace(undo, sys, name, lines)
        _replace(undo, sys, f"__{name}__", lines)
    # Handlers made earlier hold the old stream.
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and handler.stream in before:
                undo.callback(handler.setStream, handler.stream)
                handler.setStream(sys.stderr)


def _replace(undo: contextlib.ExitStack, module: Any, name: str, value: object) -> None:
    undo.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, value)
