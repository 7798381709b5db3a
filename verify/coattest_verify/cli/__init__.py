"""The command line, one module per verb."""

from __future__ import annotations

import click

from coattest.shell import LazyGroup, run

VERBS = {
    "attestation": "coattest_verify.cli.attestation.command:attestation_command",
    "audit": "coattest_verify.cli.audit:audit_command",
    "commit": "coattest_verify.cli.commit:commit_command",
    "fleet": "coattest_verify.cli.fleet.command:fleet_command",
    "inputs": "coattest_verify.cli.inputs:inputs_command",
    "keygen": "coattest_verify.cli.keygen:keygen_command",
    "lint-change": "coattest_verify.cli.lint_change:lint_change_command",
    "log": "coattest_verify.cli.log:log_command",
    "members": "coattest_verify.cli.members:members_command",
    "policy": "coattest_verify.cli.policy:policy_command",
    "quorum": "coattest_verify.cli.quorum:quorum_command",
    "rebuild": "coattest_verify.cli.rebuild:rebuild_command",
    "receipt": "coattest_verify.cli.receipt:receipt_command",
    "release": "coattest_verify.cli.release:release_command",
    "report": "coattest_verify.cli.report:report_command",
    "sign-pcrs": "coattest_verify.cli.sign_pcrs:sign_pcrs_command",
    "turn": "coattest_verify.cli.turn:turn_command",
}

HEADINGS = {
    "A member's own work": ("keygen", "rebuild", "inputs", "turn", "commit", "sign-pcrs"),
    "Who decides, and what was decided": ("members", "quorum", "release", "log", "lint-change"),
    "Key policies": ("policy", "report"),
    "Check what others say": ("attestation", "receipt", "audit", "fleet"),
}


@click.group(cls=LazyGroup, lazy=VERBS, headings=HEADINGS)
@click.version_option(package_name="coattest")
def cli() -> None:
    """Rebuild, sign, decide; check what others claim."""


def main() -> None:
    """Console script entry point."""
    run(cli, "verify")
