"""The ``eif`` command, one module per verb."""

from __future__ import annotations

import click

from coattest.shell import LazyGroup, run

VERBS = {
    "build": "coattest_build.cli.build:build_command",
    "container": "coattest_build.cli.container:container_command",
    "describe": "coattest_build.cli.describe:describe_command",
    "diff": "coattest_build.cli.diff:diff_command",
    "init": "coattest_build.cli.init:init_command",
    "lock": "coattest_build.cli.lock:lock_command",
    "measure": "coattest_build.cli.measure:measure_command",
    "sbom": "coattest_build.cli.sbom:sbom_command",
    "sign": "coattest_build.cli.sign:sign_command",
    "stage": "coattest_build.cli.stage:stage_command",
}

HEADINGS = {
    "Make an image": ("init", "lock", "sbom", "build", "stage", "sign"),
    "Look at an image": ("measure", "describe", "diff"),
    "Start from a container image": ("container",),
}


@click.group(cls=LazyGroup, lazy=VERBS, headings=HEADINGS)
@click.version_option(package_name="coattest")
def cli() -> None:
    """Build, measure and explain enclave images."""


def main() -> None:
    """Console script entry point."""
    run(cli, "eif")
