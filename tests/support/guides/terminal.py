"""A person at a terminal who says yes whenever a command asks: for one script, or command after command."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import tempfile
import termios
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

YES = 32
"""Times that the person says yes in one script, at most."""


QUESTION = "[y/N]"
"""What every question of a command ends with."""

END = "\x1e"
"""Around the exit code that the shell shows after a command: no program shows this character."""

SHELL = """
trap 'kill $(jobs -p) 2>/dev/null' EXIT
trap : INT
while IFS= read -r -u {scripts} file; do . "$file" {scripts}<&-; printf '\\036%s\\036' $?; done
"""


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


class Terminal:
    """A terminal of 80 columns: a shell that goes on, and a person who says yes whenever it is asked."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.shown = ""
        self._new = threading.Condition()
        self._person, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        scripts, self._scripts = os.pipe()
        # setsid: Ctrl-C reaches what runs, which a shell's background job would ignore otherwise.
        # The shell does not hand its script pipe on to what it starts.
        shell = ["bash", "-c", SHELL.format(scripts=scripts)]
        self._shell = subprocess.Popen(
            ["env", "--default-signal=INT,QUIT", "setsid", "--ctty", *shell],
            cwd=folder,
            env=environment,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            pass_fds=[scripts],
        )
        os.close(terminal)
        os.close(scripts)
        self._typed = tempfile.TemporaryDirectory(prefix="typed-")
        self._closing, self._close = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def type(self, command: str, *, code: int = 0, seconds: float = 900) -> str:
        """Type a command and return what it showed; it must end in time, with that exit code."""
        ended = self.start(command, f"{END}(\\d+){END}", seconds=seconds)
        assert int(ended[1]) == code, f"exit {ended[1]}, not {code}: {command}\n{ended.string[-3000:]}"
        return ended.string.partition(END)[0]

    def start(self, command: str, until: str, *, seconds: float = 120) -> re.Match[str]:
        """Type a command, and return when what it shows matches ``until``; it may go on."""
        script = Path(self._typed.name) / "command"
        script.write_text(f"{command}\n")
        with self._new:
            self.shown += f"$ {command}\n"
            begins = len(self.shown)
            os.write(self._scripts, f"{script}\n".encode())
            found = self._new.wait_for(
                lambda: re.compile(until).search(self.shown, begins) or self._shell.poll() is not None,
                seconds,
            )
            text = self.shown[begins:]
            assert isinstance(found, re.Match), f"{command}: not {until!r} in time: {text[-3000:]}"
            ended = re.search(until, text)
            assert ended is not None
            return ended

    def interrupt(self, seconds: float = 120) -> None:
        """Ctrl-C, and wait until what ran has ended."""
        with self._new:
            begins = len(self.shown)
            os.write(self._person, b"\x03")
            ended = self._new.wait_for(lambda: self.shown.count(END, begins) > 1, seconds)
        assert ended, f"it goes on after Ctrl-C: {self.shown[begins:]}"

    def close(self) -> None:
        """Close the terminal: what runs in it is ended."""
        os.close(self._scripts)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._shell.wait(20)
        self._shell.kill()
        self._shell.wait()
        # A reader that is left would read from the next terminal, whose descriptor may have the same number.
        os.close(self._close)
        self._reader.join()
        os.close(self._closing)
        os.close(self._person)
        self._typed.cleanup()

    def _read(self) -> None:
        decoder, unread = codecs.getincrementaldecoder("utf-8")("replace"), ""
        # OSError: nobody has the terminal open any more.
        with contextlib.suppress(OSError):
            while self._closing not in select.select([self._person, self._closing], [], [])[0]:
                more = os.read(self._person, 65536)
                with self._new:
                    text = decoder.decode(more).replace("\r", "")
                    self.shown += text
                    unread += text
                    while QUESTION in unread:
                        os.write(self._person, b"y\n")
                        unread = unread.partition(QUESTION)[2]
                    unread = unread[-len(QUESTION) :]
                    self._new.notify_all()
