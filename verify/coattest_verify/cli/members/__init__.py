"""``verify members``: init, enroll, countersign, show."""

from __future__ import annotations

import click

from coattest.shell import LazyGroup

VERBS = {
    "countersign": "coattest_verify.cli.members.countersign:countersign_command",
    "enroll": "coattest_verify.cli.members.enroll:enroll_command",
    "init": "coattest_verify.cli.members.init:init_members_command",
    "show": "coattest_verify.cli.members.show:show_members_command",
}


@click.group("members", cls=LazyGroup, lazy=VERBS)
def members_command() -> None:
    """Who decides: the members file quorum.toml and its versions."""
