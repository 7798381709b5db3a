"""How a program ends: exit codes 0, 1, 2, 3 and 70, one line on stderr, one document on stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest

from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse, UsageError
from coattest.jsontext import emit_json
from coattest.shell import json_option, run


def raises(error: BaseException | None, document: Any = None) -> click.Command:
    """A verb that prints a document, or none, and then raises."""

    @click.command()
    @click.option("--needed", required=True)
    @click.option("--also", required=True)
    @click.argument("words", nargs=-1)
    @json_option
    def verb(**_: Any) -> None:
        if document is not None:
            emit_json(document)
        if error is not None:
            raise error

    return verb


Ended = tuple[int, str, str]
Run = Callable[..., Ended]
GOOD = ("--needed", "1", "--also", "2")


@pytest.fixture
def end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command as a program: exit code, stdout, stderr."""

    def call(command: click.Command, *words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["program", *words])
        with pytest.raises(SystemExit) as ended:
            run(command, "program")
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (FoundFalse("no"), 1, "program: no\n"),
        (UsageError("what"), 2, "program: what\n"),
        (EnvironmentFailure("down"), 3, "program: down\n"),
        (
            FileNotFoundError(2, "No such file or directory", "x"),
            3,
            "program: x: No such file or directory\n",
        ),
        (KeyboardInterrupt(), 3, "program: interrupted\n"),
        (click.exceptions.Abort(), 3, "program: interrupted\n"),
        (ModuleNotFoundError(name="z3"), 3, None),
        (ModuleNotFoundError("No module named 'x'", name="x"), 70, None),
        (
            ValueError("odd"),
            70,
            "program: a bug in coattest: ValueError: odd; COATTEST_DEBUG=1 shows the traceback\n",
        ),
        (LookupError("code 'x' is not registered"), 70, None),
        (AssertionError(), 70, None),
        (RecursionError(), 70, None),
        (MemoryError(), 70, None),
        (GeneratorExit(), 70, None),
    ],
)
def test_every_end_has_its_exit_code(
    end: Run, error: BaseException | None, code: int, line: str | None
) -> None:
    """One line on stderr, and with --json one document on stdout; never a traceback."""
    ended, out, words = end(raises(error), *GOOD)
    assert (ended, out) == (code, "")
    assert line is None or words.lstrip("\n") == line
    assert len(words.strip().splitlines()) == (error is not None)
    ended, out, _ = end(raises(error, {} if error is None else None), *GOOD, "--json")
    assert ended == code
    assert bool(json.loads(out)) is (error is not None)


def test_the_traceback_is_for_those_who_ask(end: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With COATTEST_DEBUG=1 it stands before the line, for bugs only."""
    monkeypatch.setenv("COATTEST_DEBUG", "1")
    assert "Traceback" in end(raises(KeyError("x")), *GOOD)[2]
    assert "Traceback" not in end(raises(FoundFalse("x")), *GOOD)[2]


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (("--json",), ["--needed", "--also"]),
        (("--json", "--no-such-option"), []),
        (("--no-such-option", "--json"), []),
        (("--needed", "1", "word", "--json", "--", "x"), []),
        (("--needed", "--json"), []),
    ],
)
def test_a_usage_error_is_one_document_too(end: Run, words: tuple[str, ...], missing: list[str]) -> None:
    """Wherever --json stands before ``--``; all that is missing is listed as findings."""
    code, out, err = end(raises(None), *words)
    document = json.loads(out)
    assert (code, document["code"], document["where"]) == (2, "usage", "program")
    assert [each["where"] for each in document.get("findings", [])] == missing
    assert "Usage: program" in err


def test_a_usage_error_is_shown_with_the_oldest_click_too(end: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """click 8.1, which pyproject.toml allows, knows no NoArgsIsHelpError: no traceback for want of it."""
    monkeypatch.delattr(click.exceptions, "NoArgsIsHelpError", raising=False)
    code, out, err = end(raises(None), "--no-such-option")
    assert (code, out) == (2, "")
    assert "Usage: program" in err


def test_json_after_the_end_of_options_is_a_word(end: Run) -> None:
    """``-- --json`` names an argument: stdout stays empty."""
    assert end(raises(FoundFalse("no")), *GOOD, "--", "--json")[:2] == (1, "")


@pytest.mark.parametrize("error", [FoundFalse("late"), ValueError("late")])
def test_a_second_document_is_never_printed(end: Run, error: Exception) -> None:
    """What fails after its document says so by its exit code and on stderr."""
    code, out, err = end(raises(error, {"done": True}), *GOOD, "--json")
    assert json.loads(out) == {"done": True}
    assert code != 0
    assert "late" in err


def test_an_error_in_the_middle_of_the_next_program_is_printed_again(end: Run) -> None:
    """What an earlier program printed does not silence this one."""
    end(raises(None, {"first": 1}), *GOOD, "--json")
    assert json.loads(end(raises(FoundFalse("no")), *GOOD, "--json")[1])["error"] == "no"


def test_an_error_of_ours_has_one_of_the_documented_codes() -> None:
    """No class of ours ends with another number."""
    kinds = [CoattestError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.exit_code for kind in kinds} == {1, 2, 3, 70}


@pytest.mark.parametrize("size", [1, 300_000])
@pytest.mark.parametrize("call", ["out().print", "err().print", "emit_json", "print"])
def test_nobody_who_reads_is_never_found_false(call: str, size: int) -> None:
    """Exit 3, not rich's 1, and silence: for a little, and for more than a pipe holds."""
    program = (
        "import click\n"
        "from coattest.jsontext import emit_json\n"
        "from coattest.shell import err, out, run\n"
        f"@click.command()\ndef verb():\n    {call}('x' * {size})\n"
        "run(verb, 'program')\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    try:
        both = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=writer, check=False)
        one = subprocess.run(
            [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert both.returncode == 3
    if call != "err().print":
        assert (one.returncode, one.stderr) == (3, b"")


def test_what_was_found_false_stays_so_when_nobody_reads_the_error() -> None:
    """The line on stderr goes nowhere; the exit code is what counts."""
    program = (
        "import click\n"
        "from coattest.errors import FoundFalse\n"
        "from coattest.shell import run\n"
        "@click.command()\ndef verb():\n    raise FoundFalse('no')\n"
        "run(verb, 'program')\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=writer, check=False)
    finally:
        os.close(writer)
    assert done.returncode == 1


def test_without_a_verb_the_help_is_shown_as_help(end: Run) -> None:
    """On stderr, its lines as lines, and exit 2: nothing was done."""

    @click.group()
    def group() -> None:
        """Do one thing or another."""

    @group.command()
    def one() -> None:
        """Do one thing."""

    code, shown, words = end(group)
    helped, expected, _ = end(group, "-h")
    assert (code, shown, words) == (2, "", expected)
    assert helped == 0
    assert "\n  one  Do one thing.\n" in words


def test_a_missing_choice_is_one_line(end: Run) -> None:
    """click puts each value on a line of its own; here none is shown as an escape."""

    @click.command()
    @click.option("--style", type=click.Choice(["one", "two"]), required=True)
    @json_option
    def verb(**_: Any) -> None: ...

    said = "Missing option '--style'. Choose from: one, two"
    code, _, words = end(verb)
    assert (code, words.splitlines()[-1]) == (2, f"Error: {said}")
    assert json.loads(end(verb, "--json")[1])["error"] == said


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [[], ["-h"]])
@pytest.mark.parametrize("place", ["/dev/full", "closed pipe"])
def test_a_stdout_that_takes_nothing_is_the_environments_fault(
    place: str, words: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3, from a process of its own: what is flushed at the end counts too. A closed pipe is silent."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    program = (
        "import sys, click\n"
        "from coattest.shell import run\n"
        "@click.command()\ndef verb():\n    sys.stdout.write('x')\n"
        "run(verb, 'program')\n"
    )
    if place == "closed pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(place, os.O_WRONLY)
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    expected = "" if place == "closed pipe" else "program: No space left on device ("
    assert (done.returncode, done.stderr[: len(expected)]) == (3, expected)
    assert len(done.stderr.splitlines()) == (place != "closed pipe")
