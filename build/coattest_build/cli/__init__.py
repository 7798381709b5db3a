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

HEADINGS = {
    "Make an image": ("lock", "build", "stage", "sign"),
    "Look at an image": ("measure", "describe", "diff", "sbom"),
}


@click.group(cls=LazyGroup, lazy=VERBS, headings=HEADINGS)
@click.version_option(package_name="coattest")
def cli() -> None:
    """Build, measure and explain enclave images."""


def main() -> None:
    """Console script entry point."""
    run(cli, "eif")
