"""The command line, one module per verb."""

from __future__ import annotations

import click

from coattest.shell import LazyGroup, run

VERBS = {
    "attestation": "coattest_verify.cli.attestation.command:attestation_command",
    "audit": "coattest_verify.cli.audit:audit_command",
    "bundle": "coattest_verify.cli.release.bundle:bundle",
    "commit": "coattest_verify.cli.commit:commit",
    "countersign": "coattest_verify.cli.members.countersign:countersign",
    "enroll": "coattest_verify.cli.members.enroll:enroll",
    "inputs": "coattest_verify.cli.inputs:inputs",
    "keygen": "coattest_verify.cli.keygen:keygen",
    "links": "coattest_verify.cli.release.links:links",
    "log": "coattest_verify.cli.log:log",
    "policy": "coattest_verify.cli.policy:policy_command",
    "quorum": "coattest_verify.cli.quorum:quorum",
    "quorum-init": "coattest_verify.cli.members.init:quorum_init",
    "quorum-policy": "coattest_verify.cli.members.show:quorum_policy",
    "rebuild": "coattest_verify.cli.rebuild:rebuild",
    "receipt": "coattest_verify.cli.receipt:receipt_command",
    "report": "coattest_verify.cli.report:report_command",
    "review": "coattest_verify.cli.release.votes:review",
    "revoke": "coattest_verify.cli.release.votes:revoke",
    "sign-pcrs": "coattest_verify.cli.sign_pcrs:sign_pcrs",
}

HEADINGS = {
    "A member's own work": ("keygen", "rebuild", "inputs", "commit", "sign-pcrs"),
    "Who decides, and what was decided": ("members", "quorum", "release", "log"),
    "Key policies": ("policy", "report"),
    "Check what others say": ("attestation", "receipt", "audit"),
}


@click.group(cls=LazyGroup, lazy=VERBS, headings=HEADINGS)
@click.version_option(package_name="coattest")
def cli() -> None:
    """Rebuild, sign, decide; check what others claim."""


def main() -> None:
    """Console script entry point."""
    run(cli, "verify")
