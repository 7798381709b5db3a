"""``verify policy check``: a live key against the policy of a decision."""

from __future__ import annotations

from typing import Any

import click

from coattest.errors import FoundFalse
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, needs_extra, out
from coattest_verify.cli.policy.making import made_document, make_policy
from coattest_verify.cli.policy.options import aws_client, aws_options, check_simulator, making_options
from coattest_verify.keypolicy import live


@needs_extra("aws")
@click.command()
@click.argument("key", metavar="KEY")
@making_options
@click.option(
    "--alias",
    "aliases",
    multiple=True,
    metavar="alias/NAME",
    help="A name that the key should have; given any, it should have no others.",
)
@aws_options
@json_option
def policy_check_command(**given: Any) -> int:
    """Compare the live KEY with the policy. Exit code 1 names every difference."""
    check_simulator(given)
    made = make_policy(given)
    key = live.read_key(aws_client("kms", given, given["key"]), given["key"])
    findings = live.key_findings(key, made.parsed, given["aliases"])
    if given["as_json"]:
        rows = [finding.to_json() for finding in findings]
        emit_json(made_document(made, key=key.arn, aliases=list(key.aliases), findings=rows))
        return 1 if findings else 0
    for finding in findings:
        err().print(f"{finding.code}: {finding.detail}", style="red")
    if findings:
        raise FoundFalse(
            f"{len(findings)} difference(s) from the decision",
            where=key.arn,
            code="drift",
            findings=findings,
        )
    out().print(f"{key.arn} is as decided")
    return 0
