"""What commands print is text: a name from somebody's file is neither markup nor an order to a terminal."""

from __future__ import annotations

import io
import json
import sys

import click
import pytest
from rich.table import Table

from coattest.errors import FoundFalse
from coattest.jsontext import Rows, emit_json
from coattest.shell import byte_progress, err, out, run

SHOWN = {
    "[red]x[/red]": "[red]x[/red]",
    "[/]": "[/]",
    "[link=file:///etc/passwd]x": "[link=file:///etc/passwd]x",
    "lot:fire:1": "lot:fire:1",
    "\x1b]0;owned\x07": r"\x1b]0;owned\x07",
    "\x9b2J": r"\x9b2J",
    "a\u202eb": r"a\u202eb",
}


@pytest.mark.parametrize(("name", "shown"), [*SHOWN.items()])
def test_a_name_is_shown_as_it_is(name: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In a line, in a table's cell, head and caption: no markup, no emoji code, no escape sequence."""
    table = Table(name, caption=name)
    table.add_row(name)
    out().print(table)
    out().print(f"before {name} after")
    printed = capsys.readouterr().out
    assert printed.count(shown) == 4
    assert printed.replace("\n", "").isprintable()


def test_lines_and_tabs_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """Prose may have several lines; a backslash that was there is still one."""
    out().print("one\n\ttwo\\n\\t three")
    assert capsys.readouterr().out.expandtabs() == "one\n        two\\n\\t three\n"


def test_an_error_is_one_line_that_no_terminal_obeys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text may come from a service, and its place may be any file name."""

    @click.command()
    @click.option("--json", is_flag=True)
    def fails(**_: bool) -> None:
        raise FoundFalse("no: \x1b[2J[/x]", where="caf\udce9\x1b]0;x\x07", hint="\x9b1m")

    monkeypatch.setattr(sys, "argv", ["program", "--json"])
    with pytest.raises(SystemExit) as ended:
        run(fails, "program")
    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert captured.err == r"program: caf\udce9\x1b]0;x\x07: no: \x1b[2J[/x] (\x9b1m)" + "\n"
    assert json.loads(captured.out)["error"] == "no: \x1b[2J[/x]"
    assert captured.out.replace("\n", "").isprintable()


def test_a_progress_bar_takes_any_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an enclave says of itself is not markup."""
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    with byte_progress() as progress:
        progress.add_task("[/] [red]stage", total=1)
    assert "[/] [red]stage" in screen.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_json_document_holds_any_name(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is no text, also on a stdout that lacks letters; a terminal has nothing to obey."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding, newline="\n"))
    document = {"names": [*SHOWN, "Zürich \U0001f600", "caf\udce9"]}
    emit_json(document)
    text = written.getvalue().decode(encoding)
    assert json.loads(text) == document
    assert text.replace("\n", "").isprintable()
    assert ("Zürich \U0001f600" in text) is (encoding == "utf-8")


def test_rows_are_made_as_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    """The document is the one that a list would give; no row is made before it is its turn."""
    made = []

    def row(number: int) -> dict[str, int]:
        made.append(number)
        return {"b": number, "a": 1}

    rows, none = Rows(range(3), row), Rows((), row)
    assert not made
    emit_json({"rows": rows, "none": none})
    assert capsys.readouterr().out == (
        json.dumps({"none": [], "rows": [{"a": 1, "b": n} for n in range(3)]}, indent=2) + "\n"
    )
    assert made == [0, 1, 2]


def test_styles_are_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Markup is read where a caller says so, and a style is still a style."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    err().print("[bold]x[/bold]", markup=True)
    err().print("[bold]y", style="red")
    assert "[bold]x" not in screen.getvalue()
    assert "[bold]y" in screen.getvalue()
    assert "\x1b[31m" in screen.getvalue()


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", r"\xfc\u4e2d"), ("latin-1", "\u00fc\\u4e2d"), ("utf-8", "\u00fc\u4e2d")]
)
def test_what_an_encoding_does_not_have_is_an_escape(
    monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str
) -> None:
    """A name in the answer of a command is no reason for a traceback, whatever the terminal's encoding is."""
    for name, console in (("stdout", out), ("stderr", err)):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
        console().print("\u00fc\u4e2d")
        getattr(sys, name).flush()
        assert raw.getvalue().decode(encoding) == f"{shown}\n"


@pytest.mark.parametrize(("result", "code"), [(0, 0), (1, 1)])
def test_a_closed_stream_is_no_bug(monkeypatch: pytest.MonkeyPatch, result: int, code: int) -> None:
    """``verify .. >&-``: nobody reads the answer, and the exit code is the answer's."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    monkeypatch.setattr(sys, "argv", ["check"])

    @click.command()
    def check() -> int:
        out().print("as decided")
        err().print("all of it")
        return result

    with pytest.raises(SystemExit) as ended:
        run(check, "check")
    assert ended.value.code == code
