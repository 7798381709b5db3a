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
