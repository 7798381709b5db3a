"""``coattest`` has every program as a group, and finds it by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
import pytest

from coattest.command import PROGRAMS, cli
from coattest.parser import VerbGroup

BIN = Path(sys.executable).parent


def test_every_program_is_a_group_of_it() -> None:
    """The five names of pyproject.toml and no other; each group is the program's own."""
    scripts = {each.name for each in metadata.distribution("coattest").entry_points}
    assert scripts == {*PROGRAMS, "coattest"}
    context = click.Context(cli)
    for name in PROGRAMS:
        group = cli.get_command(context, name)
        assert isinstance(group, click.Group)
        assert group.list_commands(context)


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_help_of_a_group_is_the_help_of_the_program(program: str) -> None:
    """But for the name in the first line."""
    shown = [
        subprocess.run([BIN / name, *words, "-h"], capture_output=True, text=True, check=True).stdout
        for name, words in (("coattest", [program]), (program, []))
    ]
    assert shown[0].replace(f"coattest {program}", program) == shown[1]


def test_no_program_is_imported_before_it_is_used() -> None:
    """The help of ``coattest`` loads none of the modules that it names."""
    code = (
        "import sys\nfrom coattest.command import PROGRAMS, cli\ncli(['-h'], standalone_mode=False)\n"
        "print(*{p.split(':')[0] for p in PROGRAMS.values()} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "deploy-from-attestation" in done.stdout
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_every_verb_stands_under_a_heading(program: str) -> None:
    """Each once, and no heading names a verb that is not there."""
    context = click.Context(cli)
    group = cli.get_command(context, program)
    assert isinstance(group, VerbGroup)
    headed = [verb for verbs in group.headings.values() for verb in verbs]
    assert sorted(headed) == group.list_commands(context)


def commands(
    group: click.Group, context: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every command below a group, with its name and context."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        below = click.Context(command, info_name=name, parent=context)
        yield below.command_path, command, below
        if isinstance(command, click.Group):
            yield from commands(command, below)


def test_every_option_says_what_it_is_for() -> None:
    """In a sentence, with a word for its value: no format of strptime, and no option without help."""
    silent = []
    for path, command, context in commands(cli, click.Context(cli, info_name="coattest")):
        for option in command.get_params(context):
            if isinstance(option, click.Option) and (not option.help or "%" in option.make_metavar(context)):
                silent.append(f"{path} {option.opts[0]}")
    assert silent == []
