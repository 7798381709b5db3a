"""The ``deploy-from-attestation`` program: deploys what the recomputed decision says."""

from __future__ import annotations

import click

from coattest.shell import LazyGroup, run

VERBS = {
    "apply": "coattest_parent.cli.deploy.command:apply_command",
    "destroy": "coattest_parent.cli.deploy.command:destroy_command",
    "live": "coattest_parent.cli.deploy.live:live_command",
    "plan": "coattest_parent.cli.deploy.command:plan_command",
    "smoke": "coattest_parent.cli.deploy.smoke:smoke_command",
    "status": "coattest_parent.cli.deploy.command:status_command",
}

HEADINGS = {
    "Deploy": ("plan", "apply", "status", "destroy"),
    "Check": ("live", "smoke"),
}


@click.group(cls=LazyGroup, lazy=VERBS, headings=HEADINGS)
@click.version_option(package_name="coattest")
def cli() -> None:
    """Deploy the image that the members decided on, and nothing else."""


def main() -> None:
    """Console script entry point."""
    run(cli, "deploy-from-attestation")
