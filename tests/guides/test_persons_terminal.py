"""The terminal in which the guides are typed notices what a person would."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.guides.terminal import Terminal

GOES_ON = "sh -c 'echo ready; exec sleep 600'"
"""A program that ends by Ctrl-C, as `nitro-local up` does."""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A shell in a new folder."""
    opened = Terminal(tmp_path, {"PATH": os.environ["PATH"], "TERM": "dumb"})
    yield opened
    opened.close()


def test_it_goes_on_from_command_to_command(terminal: Terminal, tmp_path: Path) -> None:
    """Variables and the folder stay; what a command shows is its own; the width is 80."""
    assert terminal.type('A="1 2"; mkdir sub; cd sub') == ""
    assert terminal.type("printf '%s|' $A \\\n  && pwd") == f"1|2|{tmp_path}/sub\n"
    assert terminal.type("stty size").split() == ["24", "80"]


def test_a_wrong_exit_code_is_an_error_of_the_page(terminal: Terminal) -> None:
    """Expected or not, each command is compared; the shell goes on after it."""
    terminal.type("false", code=1)
    with pytest.raises(AssertionError, match="exit 3, not 0"):
        terminal.type("(echo why; exit 3)")
    with pytest.raises(AssertionError, match="exit 0, not 1"):
        terminal.type("true", code=1)
    assert terminal.type("echo on") == "on\n"


def test_it_says_yes_once_for_each_question(terminal: Terminal) -> None:
    """Nothing is typed ahead: a command that asks nothing has nothing to read."""
    asked = terminal.type(
        'read -r -p "sign this? [y/N]: " one; read -r -p "sure? [y/N]: " two; echo "$one$two"'
    )
    assert asked.endswith("yy\n")
    assert terminal.type('read -r -t 0.2 ahead; echo "<$ahead>"').endswith("<>\n")


def test_what_never_ends_is_left_running_until_it_is_interrupted(terminal: Terminal) -> None:
    """As `nitro-local up` is: started, seen to have started, ended by Ctrl-C."""
    assert terminal.start(GOES_ON, "ready")[0] == "ready"
    terminal.interrupt()
    assert "after" in terminal.type("echo after")


def test_what_does_not_end_in_time_is_an_error(terminal: Terminal) -> None:
    """With what it showed until then."""
    with pytest.raises(AssertionError, match="in time"):
        terminal.type(GOES_ON, seconds=3)
    while "ready" not in terminal.shown:  # what has not begun cannot be interrupted
        time.sleep(0.02)
    terminal.interrupt()
