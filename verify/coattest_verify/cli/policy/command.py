"""``verify policy``: the buyer's key policy for what was decided; printed, explained, put, or compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from rich.table import Table

from coattest.errors import UsageError
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, out, utc_now
from coattest_verify.cli.options import EXISTING_FILE, EXISTING_FOLDER, decision_from, decision_options
from coattest_verify.cli.policy.key import apply_policy, check_key
from coattest_verify.cli.policy.made import (
    DESCRIPTION,
    EXAMPLE_KEY,
    Made,
    document,
    further,
    make_policy,
    pairs,
)
from coattest_verify.cli.policy.prove import prove_file
from coattest_verify.keypolicy import snippets
from coattest_verify.keypolicy.explain import explain as explain_policy
from coattest_verify.keypolicy.generate import canonical

LOOPBACK = ("localhost", "127.0.0.1", "::1")

MULTIPLE: dict[str, Any] = {"multiple": True, "metavar": "ARN"}


@click.command()
@decision_options
@click.option("--member", help="Your name in quorum.toml: your own agreeing statement must be there.")
@click.option(
    "--also-attestations",
    multiple=True,
    type=EXISTING_FOLDER,
    help="A second release, for a rotation: both decrypt until the old one is left out.",
)
@click.option("--account", help="The account that owns the key, 12 digits.")
@click.option("--partition", default="aws", show_default=True)
@click.option("--parent-role", "parent_roles", help="The service's instance role.", **MULTIPLE)
@click.option("--administrator", "administrators", help="Manages the key; cannot decrypt.", **MULTIPLE)
@click.option("--encrypter", "encrypters", help="Encrypts what the enclave is to read.", **MULTIPLE)
@click.option("--break-glass", metavar="ARN", help="One more administrator, for emergencies.")
@click.option(
    "--context", "context", multiple=True, metavar="KEY=VALUE", help="Encryption context to require."
)
@click.option("--pcr3", "pcr3_role", metavar="ROLE-ARN", help="Require PCR3: the parent instance's role.")
@click.option("--pcr4", "pcr4_instance", metavar="INSTANCE-ID", help="Require PCR4: one parent instance.")
@click.option(
    "--register", "registers", multiple=True, metavar="N=HEX", help="A further PCR to require (3, 4, 8)."
)
@click.option(
    "--until", type=click.DateTime(["%Y-%m-%dT%H:%M:%SZ"]), help="Decrypting ends by itself then (UTC)."
)
@click.option(
    "--delegate-to-account", is_flag=True, help="RISK: the account's IAM policies name administrators too."
)
@click.option(
    "--simulator", is_flag=True, help="Take a local profile's decision, for a KMS on loopback only."
)
@click.option(
    "--format",
    "notation",
    type=click.Choice(["json", "canonical", "cloudformation", "terraform"]),
    default="json",
    show_default=True,
)
@click.option(
    "--stack",
    "as_stack",
    is_flag=True,
    help="Your whole CloudFormation stack: key, private bucket, bucket policy for the parent's role.",
)
@click.option("--explain", is_flag=True, help="Who may do what, asked of the evaluator.")
@click.option("--apply", "apply_to", metavar="KEY", help='Put the policy on this key; "new" creates one.')
@click.option("--dry-run", is_flag=True, help="With --apply: the preflight and the difference only.")
@click.option(
    "--retire-all",
    is_flag=True,
    help="With --apply: none that decrypts now needs to stay (a revocation).",
)
@click.option(
    "--alias",
    "aliases",
    multiple=True,
    metavar="alias/NAME",
    help="With --check: a name of the key; all of them.",
)
@click.option(
    "--check", "check_key", metavar="KEY", help="Compare a live key with the decision; exit 1 names drifts."
)
@click.option(
    "--prove",
    "prove_file",
    type=EXISTING_FILE,
    metavar="FILE",
    help="Prove or refute any key policy for --tuple or the decision; exit 1 shows what gets in.",
)
@click.option("--tuple", "tuples", multiple=True, metavar="PCR0,PCR1,PCR2", help="With --prove; repeatable.")
@click.option("--key", "key_arn", metavar="ARN", help="With --prove: the key that the policy is on.")
@click.option("--endpoint-url", help="KMS, STS and IAM somewhere else than AWS: the simulator.")
@click.option("--region", help="The key's region; from its ARN or the environment by default.")
@click.option(
    "--save-previous",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Where --apply keeps the policy that was there.",
)
@json_option
def policy(**given: Any) -> int:
    """Print the KMS key policy under which only the decided enclave decrypts.

    Administrators manage the key and do not decrypt. That means: not without a PutKeyPolicy, which
    CloudTrail logs.
    """
    if given["apply_to"] and given["check_key"]:
        raise UsageError("--apply and --check are two commands: give one")
    if given["prove_file"]:
        return prove_file(given)
    for option in ("member", "account"):
        if not given[option]:
            raise UsageError("missing", where=f"--{option}")
    _check_simulator(given)
    now = utc_now()
    # What binds the buyer needs the buyer's own agreeing statement: ``own``.
    decisions = tuple(
        decision_from({**given, "attestations": folder}, now=now, own=given["member"])
        for folder in (given["attestations"], *given["also_attestations"])
    )
    made = make_policy(given, decisions, now)
    for warning in made.warnings:
        err().print(f"warning: {warning}", style="yellow", markup=False)
    if given["check_key"]:
        return check_key(made, given)
    if given["apply_to"]:
        return apply_policy(made, given)
    if given["explain"]:
        return _explain(made, given)
    if given["as_json"]:
        emit_json(document(made))
    else:
        click.echo(_notation(made, given))
    return 0


def _check_simulator(given: Mapping[str, Any]) -> None:
    endpoint = given["endpoint_url"]
    if not given["simulator"] or not (given["apply_to"] or given["check_key"]):
        return
    if not endpoint or urlsplit(endpoint).hostname not in LOOPBACK:
        raise UsageError(
            "--simulator goes with an --endpoint-url on loopback and with nothing else",
            where=endpoint or "AWS",
            code="simulator-not-loopback",
        )


def _notation(made: Made, given: Mapping[str, Any]) -> str:
    notation = given["notation"]
    if given["as_stack"]:
        return snippets.stack(made.document, DESCRIPTION, given["parent_roles"])
    if notation == "canonical":
        return canonical(made.document)
    if notation == "cloudformation":
        return snippets.cloudformation(made.document, DESCRIPTION)
    if notation == "terraform":
        return snippets.terraform(made.document, DESCRIPTION)
    return json.dumps(made.document, indent=2)


def _explain(made: Made, given: Mapping[str, Any]) -> int:
    principals = {
        "parent": given["parent_roles"][0],
        "administrator": made.administrators[0],
        "encrypter": given["encrypters"][0],
        "anyone else": f"arn:{given['partition']}:iam::{made.account}:role/anyone-else",
    }
    enclaves: dict[str, Mapping[int, str]] = {
        f"release {decision.release}": {**decision.pcrs, **further(given)} for decision in made.decisions
    }
    enclaves["another image"] = {0: "11" * 48, 1: "22" * 48, 2: "33" * 48}
    lines = explain_policy(
        made.parsed,
        principals=principals,
        enclaves=enclaves,
        encryption_context=_example_context(given),
        key_arn=f"arn:{given['partition']}:kms:eu-central-1:{made.account}:{EXAMPLE_KEY}",
    )
    if given["as_json"]:
        rows = [
            {
                "who": line.who,
                "enclave": line.enclave,
                "operation": line.operation,
                "allowed": line.allowed,
                "by": list(line.by),
            }
            for line in lines
        ]
        emit_json(document(made, explanation=rows))
        return 0
    table = Table("who", "attestation document", "operation", "allowed", "by statement")
    for line in lines:
        table.add_row(
            line.who,
            line.enclave,
            line.operation,
            "yes" if line.allowed else "no",
            ", ".join(line.by) or "(no Allow)",
        )
    out().print(table)
    err().print(
        "Administrators do not decrypt: not without a PutKeyPolicy, which CloudTrail logs. "
        "Another account's role needs its own IAM policy too.",
        markup=False,
    )
    return 0


def _example_context(given: Mapping[str, Any]) -> dict[str, str]:
    wanted = pairs(given["context"], "--context")
    example = {"coattest:auction": "00" * 48, "coattest:buyer": given["member"]}
    return {**example, **wanted} if set(wanted) <= set(example) else wanted
