"""What an enclave's program prints: copied to a log of bounded size, its end told in one line."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

CONSOLE_MAX = 16 * 1024 * 1024
CONSOLE_TAIL = 8192
"""Bytes at a console's end in which its last lines are looked for."""
TAIL_LINES = 5
TAIL_CHARACTERS = 600
FOR_NITRO = re.compile(r"operation not permitted|address family not supported|vsock|/dev/nsm", re.IGNORECASE)
"""In the last words of a program that wants what only Nitro has."""


def console_tail(console: Path) -> str:
    """The last lines of a console log and its path, as one printable line: a program may write anything.

    The kernel's own lines, which begin with a time in brackets, are left out where there are others, and of a
    traceback of Python's all but its last line.
    """
    said = _last_words(console)
    return f"{said} (console: {console})" if said else "its console is empty"


def wants_nitro(console: Path) -> bool:
    """Whether the last words of a program are about what the software host lacks."""
    return FOR_NITRO.search(_last_words(console)) is not None


def _last_words(console: Path) -> str:
    read = _without_tracebacks(_tail(console).splitlines())
    words = ("".join(c if c.isprintable() else " " for c in line).split() for line in read)
    lines = [" ".join(line) for line in words if line]
    own = [line for line in lines if not re.match(r"\[ *[0-9]+\.[0-9]+\]", line)] or lines
    return " / ".join(own[-TAIL_LINES:])[-TAIL_CHARACTERS:]


def _tail(console: Path) -> str:
    try:
        return console.read_bytes()[-CONSOLE_TAIL:].decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _without_tracebacks(lines: list[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        if line.startswith("Traceback (most recent call last):"):
            inside = True
        elif not inside or not line.startswith((" ", "\t")):
            inside = False
            yield line


def copy_console(
    reader: int, console: Path, heard: Callable[[bytes], None] = lambda _: None
) -> threading.Thread:
    """Copy the console into a file of bounded size until no process can write to it any more.

    ``heard`` gets each piece.
    """

    def copy() -> None:
        room = CONSOLE_MAX
        with os.fdopen(reader, "rb", buffering=0) as source, console.open("wb", buffering=0) as log:
            while block := source.read(65536):
                log.write(block[:room])
                room -= len(block[:room])
                heard(block)

    console.unlink(missing_ok=True)
    thread = threading.Thread(target=copy, name="console", daemon=True)
    thread.start()
    return thread
