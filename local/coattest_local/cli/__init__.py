"""The command line, one module per verb."""

from __future__ import annotations

import click

from coattest.shell import LazyGroup, run

VERBS = {
    "boot": "coattest_local.cli.boot:boot_command",
    "demo": "coattest_local.cli.demo:demo_command",
    "run-enclave": "coattest_local.cli.run_enclave:run_enclave_command",
    "terminate-enclave": "coattest_local.cli.run_enclave:terminate_enclave_command",
    "up": "coattest_local.cli.up:up_command",
}

HEADINGS = {
    "The whole chain": ("demo", "up"),
    "One enclave": ("boot", "run-enclave", "terminate-enclave"),
}


@click.group(cls=LazyGroup, lazy=VERBS, headings=HEADINGS)
@click.version_option(package_name="coattest")
def cli() -> None:
    """Everything AWS provides, simulated on this machine."""


def main() -> None:
    """Console script entry point."""
    run(cli, "nitro-local")
