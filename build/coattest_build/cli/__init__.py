"""The command line, one module per verb."""

from __future__ import annotations

import click

from coattest.shell import LazyGroup, run

VERBS = {
    "build": "coattest_build.cli.build:build",
    "describe": "coattest_build.cli.describe:describe",
    "diff": "coattest_build.cli.diff:diff",
    "lock": "coattest_build.cli.lock:lock",
    "measure": "coattest_build.cli.measure:measure",
    "sbom": "coattest_build.cli.sbom:sbom",
    "sign": "coattest_build.cli.sign:sign",
    "stage": "coattest_build.cli.stage:stage",
}


@click.group(cls=LazyGroup, lazy=VERBS)
@click.version_option(package_name="coattest")
def cli() -> None:
    """Build, measure and explain enclave images."""


def main() -> None:
    """Console script entry point."""
    run(cli, "eif")
