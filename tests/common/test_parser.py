"""What every command line has without saying so: headings, -h, similar names, all that is missing at once."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from coattest.errors import EnvironmentFailure
from coattest.parser import LazyGroup, MissingParameters, adopted, option_group
from coattest.shell import json_option

LONG = "Say at some length, and without a full stop before the end of it, what this verb does to each file"


@click.group(
    cls=LazyGroup,
    lazy={"late": "late_verbs:late", "needs": "late_verbs:needs"},
    headings={"Now": ("early", "below")},
)
def cli() -> None:
    """A program."""


@cli.command(help=f"{LONG}. And more.")
@click.argument("image")
@click.option("--key", required=True)
@option_group(click.option("--member", required=True), click.option("--pin"), heading="Signing")
@json_option
def early(**_: object) -> None:
    raise click.ClickException("reached")


@cli.group()
def below() -> None:
    """A group in a group."""


@below.command()
def show() -> None:
    """Show."""


@cli.command(hidden=True)
def secret() -> None:
    """Not for people."""


@pytest.fixture(autouse=True)
def late_verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with verbs that is imported late, and one verb of it that lacks a library."""
    (tmp_path / "late_verbs.py").write_text(
        "import click\nfrom coattest.parser import needs_extra\n\n\n"
        "@click.command()\ndef late():\n    '''Come late.'''\n\n\n"
        "@needs_extra('local')\n@click.command()\n@click.option('--image', required=True)\n"
        "def needs(image):\n    '''Need moto.'''\n    raise click.ClickException('reached')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "late_verbs", raising=False)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli, words, prog_name="program")


@pytest.mark.parametrize("name", ["-h", "--help"])
@pytest.mark.parametrize("path", [(), ("early",), ("below",), ("below", "show"), ("late",)])
def test_help_has_a_short_name_everywhere(path: tuple[str, ...], name: str) -> None:
    """In programs, groups, verbs and verbs that are imported late."""
    done = invoke(*path, name)
    assert done.exit_code == 0
    assert "-h, --help" in done.output


def test_a_short_name_that_a_verb_uses_stays_its_own() -> None:
    """``-h`` means what the verb says."""

    @click.command()
    @click.option("-h", "--host")
    def verb(host: str) -> None:
        click.echo(host)

    assert CliRunner().invoke(adopted(verb), ["-h", "x"]).output == "x\n"


def test_verbs_stand_under_headings_with_their_first_sentence_whole() -> None:
    """Those without a heading come last; no sentence ends in dots; nothing is imported for it."""
    output = invoke("-h").output
    assert " ".join(output.partition("early")[2].split()).startswith(f"{LONG}.")
    assert "And more" not in output
    assert "..." not in output.partition("\n")[2]
    assert (
        output.index("Now:") < output.index("early") < output.index("Commands:") < output.index("Come late")
    )
    assert "secret" not in output
    assert "late_verbs" not in sys.modules


def test_options_stand_under_headings() -> None:
    """The verb's own first, then each shared group of options."""
    output = invoke("early", "-h").output
    positions = [output.index(word) for word in ("Options:", "--key", "Signing:", "--member", "--pin")]
    assert positions == sorted(positions)
    assert output.index("Output:") < output.index("--json")


@pytest.mark.parametrize(
    ("words", "similar"), [(("erly",), "early"), (("lat",), "late"), (("below", "shwo"), "show")]
)
def test_a_verb_that_is_not_there_names_those_of_a_similar_name(words: tuple[str, ...], similar: str) -> None:
    """Also in a group in a group, and for verbs that are imported late."""
    done = invoke(*words)
    assert done.exit_code == 2
    assert f"No such command {words[-1]!r}. Did you mean {similar!r}?" in done.output
    assert "Did you mean" not in invoke("entirely-else").output


def test_an_option_where_a_verb_belongs_is_said_to_be_an_option() -> None:
    """click's own words for it."""
    assert "No such option" in invoke("--versoin").output


def test_a_missing_value_is_told_with_the_command() -> None:
    """click leaves the usage out there, and with it which program speaks."""
    output = invoke("early", "image", "--key").output
    assert "early [OPTIONS] IMAGE" in output
    assert "Option '--key' requires an argument." in output


def test_all_that_is_missing_is_one_error() -> None:
    """Options and arguments; one alone is click's own error."""
    done = CliRunner().invoke(cli, ["early", "--pin", "1"], standalone_mode=False)
    assert isinstance(done.exception, MissingParameters)
    assert done.exception.names == ("IMAGE", "--key", "--member")
    assert (
        done.exception.format_message() == "Missing argument 'IMAGE', option '--key' and option '--member'."
    )
    assert "Missing option '--key'." in invoke("early", "image", "--member", "a").output
    assert "reached" in invoke("early", "image", "--member", "a", "--key", "b").output


@pytest.mark.parametrize("words", [(), ("--image", "x"), ("--imge", "x")])
def test_a_missing_extra_is_said_before_anything_else(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else is missing or wrong on the line: nothing on it would help."""
    monkeypatch.setitem(sys.modules, "moto", None)
    done = CliRunner().invoke(cli, ["needs", *words], standalone_mode=False)
    assert isinstance(done.exception, EnvironmentFailure)
    assert done.exception.code == "missing-extra"
    assert str(done.exception) == (
        "moto is not installed: this needs the extra 'local' "
        "(install it again from the same URL and commit, with [local] after the name)"
    )


def test_help_needs_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there to be read before anything is installed."""
    monkeypatch.setitem(sys.modules, "moto", None)
    done = invoke("needs", "-h")
    assert done.exit_code == 0
    assert "Need moto." in done.output


def test_a_verb_whose_extra_is_installed_runs() -> None:
    """The error of its parser, or its own, comes through."""
    assert "reached" in invoke("needs", "--image", "x").output
    assert "Missing option '--image'." in invoke("needs").output


def test_completion_leaves_out_a_verb_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It offers the verbs beside it, and says nothing of what failed."""
    (tmp_path / "late_verbs.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.setenv("_PROGRAM_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "program late ")
    monkeypatch.setenv("COMP_CWORD", "2")
    done = CliRunner().invoke(cli, [], prog_name="program")
    assert done.exit_code == 0
    assert all(line.startswith("plain,") for line in done.output.splitlines())
