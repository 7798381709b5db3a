"""Every command that there is, groups and verbs."""

from __future__ import annotations

import click


def verbs(command: click.Command, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The path of a command and of everything below it."""
    found = [path]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            found += verbs(below, (*path, name))
    return found


def command_at(command: click.Command, path: tuple[str, ...]) -> click.Command:
    """The command of a path of ``verbs``, whose first name is the command itself."""
    for name in path[1:]:
        assert isinstance(command, click.Group)
        below = command.get_command(click.Context(command), name)
        assert below is not None
        command = below
    return command
