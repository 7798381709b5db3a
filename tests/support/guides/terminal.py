"""A person at a terminal who runs a script and says yes whenever a command asks."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

YES = 32
"""Times that the person says yes in one script, at most."""


@dataclass(frozen=True, slots=True)
class Told:
    """How a script ended, what it printed, and what its terminal showed."""

    returncode: int
    stdout: str
    shown: str


def at_a_terminal(script: str, folder: Path, environment: Mapping[str, str]) -> Told:
    """Run a script of bash whose input and errors are a terminal."""
    person, terminal = pty.openpty()
    os.write(person, b"y\n" * YES)
    with tempfile.TemporaryFile() as printed:
        with subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            stdin=terminal,
            stdout=printed,
            stderr=terminal,
        ) as shell:
            os.close(terminal)
            shown = b""
            # EIO: nobody has the terminal open any more.
            with contextlib.suppress(OSError):
                while more := os.read(person, 65536):
                    shown += more
        os.close(person)
        printed.seek(0)
        return Told(shell.returncode, printed.read().decode(errors="replace"), shown.decode(errors="replace"))
