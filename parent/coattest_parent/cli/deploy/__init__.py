"""The ``deploy-from-attestation`` program: deployment whose one authority is the decision."""

from __future__ import annotations

import click

from coattest.shell import LazyGroup, run

VERBS = {
    "apply": "coattest_parent.cli.deploy.command:apply",
    "destroy": "coattest_parent.cli.deploy.command:destroy",
    "live": "coattest_parent.cli.deploy.live:live_command",
    "plan": "coattest_parent.cli.deploy.command:plan",
    "smoke": "coattest_parent.cli.deploy.smoke:smoke_command",
    "status": "coattest_parent.cli.deploy.command:status",
}

HEADINGS = {
    "Deploy": ("plan", "apply", "status", "destroy"),
    "Check": ("live", "smoke"),
}


@click.group(cls=LazyGroup, lazy=VERBS, headings=HEADINGS, extra="aws")
@click.version_option(package_name="coattest")
def cli() -> None:
    """Deploy what the members decided on, and nothing else."""


def main() -> None:
    """Console script entry point."""
    run(cli, "deploy-from-attestation")
