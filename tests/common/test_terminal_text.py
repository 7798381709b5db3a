"""Names from elsewhere reach a terminal as text: no escape of theirs, no line of their making."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from coattest.command import PROGRAMS

NAME = "x\x1b]0;title\x07\x1b[8m\x9b2J\u202e\nError: all is well"
"""A file's name: a window's title, hidden text, a cleared screen, another direction, a line."""

STEP = """
import sys
from coattest.progress import Terminal
with Terminal().step(sys.argv[1]):
    pass
with Terminal().transfer(sys.argv[1], 10) as advance:
    advance(10)
"""


def on_a_terminal(command: Sequence[str], folder: Path) -> str:
    """What a program writes to the terminal that it runs on."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "NO_COLOR": "1"}
    environment.pop("CI", None)
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        said = b""
        while select.select([ours], [], [], 60)[0]:
            try:
                said += os.read(ours, 1 << 16)
            except OSError:  # EIO: nobody has it open any more
                break
        process.wait(60)
    os.close(ours)
    return said.decode()


def holds_nothing_of(name: str, said: str) -> None:
    """Nothing of the name that a terminal would obey, or that stands for a line."""
    assert not {"\x07", "\x9b", "\u202e"} & {*said}, said
    assert "\x1b]0" not in said
    assert "\x1b[8m" not in said
    assert not any(line.startswith(name.rpartition("\n")[2]) for line in said.splitlines()), said
    assert "\\x1b[8m" in said, "the name is shown, as text"


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_a_word_that_the_parser_refuses_is_shown_as_text(program: str, tmp_path: Path) -> None:
    """``eif describe *`` in somebody else's folder: their names are words of the line."""
    script = str(Path(sys.executable).with_name(program))
    holds_nothing_of(NAME, on_a_terminal([script, NAME], tmp_path))


@pytest.mark.parametrize("words", [("a", NAME), (NAME,), (f"--{NAME}",)])
def test_a_file_that_the_parser_refuses_is_shown_as_text(words: Sequence[str], tmp_path: Path) -> None:
    """One too many, one that is not there, one that looks like an option."""
    (tmp_path / "a").touch()
    script = str(Path(sys.executable).with_name("eif"))
    holds_nothing_of(NAME, on_a_terminal([script, "measure", *words], tmp_path))


def test_what_a_step_is_called_is_shown_as_text(tmp_path: Path) -> None:
    """``nitro-local boot IMAGE`` names the image while it boots."""
    holds_nothing_of(NAME, on_a_terminal([sys.executable, "-c", STEP, NAME], tmp_path))
