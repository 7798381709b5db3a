"""The ``coattest`` program: every other program as a group of it, found by name when it is used."""

from __future__ import annotations

import click

from coattest.parser import LazyGroup
from coattest.shell import run

PROGRAMS = {
    "auction": "coattest_parent.cli.auction:cli",
    "deploy-from-attestation": "coattest_parent.cli.deploy:cli",
    "eif": "coattest_build.cli:cli",
    "nitro-local": "coattest_local.cli:cli",
    "verify": "coattest_verify.cli:cli",
}
"""Each program and where its group of verbs is; nothing of it is imported before it is used."""

HEADINGS = {
    "Members and buyers": ("eif", "verify"),
    "The auction and its service": ("auction", "deploy-from-attestation"),
    "On this machine": ("nitro-local",),
}


@click.group(cls=LazyGroup, lazy=PROGRAMS, headings=HEADINGS)
@click.version_option(package_name="coattest")
def cli() -> None:
    """Rebuild an enclave image, decide by quorum, deploy and check what was decided."""


def main() -> None:
    """Console script entry point."""
    run(cli, "coattest")
