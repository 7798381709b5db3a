"""``verify policy``: the buyer's key policy for what was decided; printed, explained, put, or compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from rich.table import Table

from coattest_build.measure import pcr3, pcr4
from coattest_verify.cli.options import EXISTING_FILE, EXISTING_FOLDER, decision_from, decision_options
from coattest_verify.cli.policy_prove import prove_file
from coattest_verify.decision import Decision
from coattest_verify.iam import Policy, parse_policy
from coattest_verify.keypolicy import live, snippets
from coattest_verify.keypolicy.compare import Drift, differences
from coattest_verify.keypolicy.explain import explain as explain_policy
from coattest_verify.policy import Options, canonical, generate
from coattest_verify.shell import (
    FoundFalse,
    UsageError,
    emit_json,
    err,
    json_option,
    out,
    utc_now,
    write_atomic,
)

NEW_KEY = "new"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
DESCRIPTION = "coattest: decrypts only in the decided enclave"
EXAMPLE_KEY = "key/00000000-0000-0000-0000-000000000000"
MULTIPLE: dict[str, Any] = {"multiple": True, "metavar": "ARN"}


class Drifted(FoundFalse):
    """The live key is not what the decision asks for; the message names each drift."""

    default_reason = "drift"


@dataclass(frozen=True, slots=True)
class Made:
    """A generated policy with what it was made from."""

    document: dict[str, Any]
    parsed: Policy
    decisions: tuple[Decision, ...]
    account: str
    administrators: tuple[str, ...]
    break_glass: str | None
    warnings: tuple[str, ...]


@click.command()
@decision_options
@click.option("--operator", help="Your name in quorum.toml: your own agreeing statement must be there.")
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
    for option in ("operator", "account"):
        if not given[option]:
            raise UsageError("missing", where=f"--{option}")
    _check_simulator(given)
    made = _make(given)
    for warning in made.warnings:
        err().print(f"warning: {warning}", style="yellow", markup=False)
    if given["check_key"]:
        return _check(made, given)
    if given["apply_to"]:
        return _apply(made, given)
    if given["explain"]:
        return _explain(made, given)
    if given["as_json"]:
        emit_json(_document(made))
    else:
        click.echo(_notation(made, given))
    return 0


def _make(given: Mapping[str, Any]) -> Made:
    now = utc_now()
    # What binds the buyer needs the buyer's own agreeing statement: ``own``.
    decisions = tuple(
        decision_from({**given, "attestations": folder}, now=now, own=given["operator"])
        for folder in (given["attestations"], *given["also_attestations"])
    )
    options = Options(
        registers=_further(given),
        break_glass=given["break_glass"],
        until=given["until"].replace(tzinfo=timezone.utc) if given["until"] else None,
        delegate_to_account=given["delegate_to_account"],
    )
    document = generate(
        decisions,
        account=given["account"],
        parent_roles=given["parent_roles"],
        administrators=given["administrators"],
        encrypters=given["encrypters"],
        now=now,
        encryption_context=_pairs(given["context"], "--context"),
        partition=given["partition"],
        simulator=given["simulator"],
        options=options,
    )
    return Made(
        document,
        parse_policy(canonical(document)),
        decisions,
        given["account"],
        tuple(dict.fromkeys(given["administrators"])),
        given["break_glass"],
        _warnings(given),
    )


def _warnings(given: Mapping[str, Any]) -> tuple[str, ...]:
    found = []
    if given["simulator"]:
        found.append("SIMULATOR: the local profile's documents can be made by anyone; this protects nothing")
    if given["delegate_to_account"]:
        found.append(
            "RISK: whoever writes IAM policies in this account can become an administrator of the key"
        )
    if not given["context"]:
        found.append("no --context: the enclave may decrypt any ciphertext of this key, made for whatever")
    return tuple(found)


def _check_simulator(given: Mapping[str, Any]) -> None:
    endpoint = given["endpoint_url"]
    if not given["simulator"] or not (given["apply_to"] or given["check_key"]):
        return
    if not endpoint or urlsplit(endpoint).hostname not in LOOPBACK:
        raise UsageError(
            "--simulator goes with an --endpoint-url on loopback and with nothing else",
            where=endpoint or "AWS",
            reason="simulator-not-loopback",
        )


def _pairs(items: tuple[str, ...], option: str, valid: Callable[[str], bool] = bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not value or not valid(key) or key in found:
            raise UsageError(f"{item!r} is not KEY=VALUE, or given twice", where=option)
        found[key] = value
    return found


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


def _document(made: Made, **more: Any) -> dict[str, Any]:
    return {
        "policy": made.document,
        "canonical": canonical(made.document),
        "decisions": [decision.to_json() for decision in made.decisions],
        "warnings": list(made.warnings),
        **more,
    }


def _explain(made: Made, given: Mapping[str, Any]) -> int:
    principals = {
        "parent": given["parent_roles"][0],
        "administrator": made.administrators[0],
        "encrypter": given["encrypters"][0],
        "anyone else": f"arn:{given['partition']}:iam::{made.account}:role/anyone-else",
    }
    enclaves: dict[str, Mapping[int, str]] = {
        f"release {decision.release}": {**decision.pcrs, **_further(given)} for decision in made.decisions
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
        emit_json(_document(made, explanation=rows))
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
    wanted = _pairs(given["context"], "--context")
    example = {"coattest:auction": "00" * 48, "coattest:buyer": given["operator"]}
    return {**example, **wanted} if set(wanted) <= set(example) else wanted


def _further(given: Mapping[str, Any]) -> dict[int, str]:
    """The registers that are required beside the decided ones."""
    found = {int(key): value for key, value in _pairs(given["registers"], "--register", str.isdigit).items()}
    derived = {
        3: pcr3(given["pcr3_role"]) if given["pcr3_role"] else None,
        4: pcr4(given["pcr4_instance"]) if given["pcr4_instance"] else None,
    }
    return {**found, **{index: value for index, value in derived.items() if value}}


def _client(service: str, given: Mapping[str, Any], key: str) -> Any:
    import boto3  # noqa: PLC0415  (half a second that printing a policy does not need)

    region = given["region"] or (key.split(":")[3] if key.startswith("arn:") else None)
    with live.aws_errors("cannot make a client"):
        session: Any = boto3.session.Session(region_name=region)
        return session.client(service, endpoint_url=given["endpoint_url"])


def _check(made: Made, given: Mapping[str, Any]) -> int:
    key = live.read_key(_client("kms", given, given["check_key"]), given["check_key"])
    drifts = live.drift(key, made.parsed, given["aliases"])
    if given["as_json"]:
        emit_json(_document(made, key=key.arn, aliases=list(key.aliases), drift=_drift_json(drifts)))
        return 1 if drifts else 0
    for item in drifts:
        err().print(f"{item.code}: {item.detail}", style="red", markup=False)
    if drifts:
        raise Drifted(f"{len(drifts)} drift(s) from the decision", where=key.arn)
    out().print(f"{key.arn} is as decided", markup=False)
    return 0


def _apply(made: Made, given: Mapping[str, Any]) -> int:
    target = given["apply_to"]
    kms, sts, iam = (_client(service, given, target) for service in ("kms", "sts", "iam"))
    with live.aws_errors("cannot tell who is asking"):
        caller = sts.get_caller_identity()["Arn"]
    key = None if target == NEW_KEY else live.read_key(kms, target)
    key_arn = key.arn if key else f"arn:{given['partition']}:kms:-:{made.account}:{EXAMPLE_KEY}"
    if key_arn.split(":")[4] != made.account:
        raise UsageError(f"the key is of account {key_arn.split(':')[4]}", where="--account")
    live.preflight(
        made.parsed,
        caller_arn=caller,
        key_arn=key_arn,
        administrators=made.administrators,
        break_glass=made.break_glass,
        missing=live.missing_principals(iam, made.parsed, made.account),
        key=key,
        retire_all=given["retire_all"],
    )
    changes = differences(made.parsed, parse_policy(key.policy)) if key else ()
    for item in changes:
        err().print(f"now {item.code}: {item.detail}", markup=False)
    saved = None
    if not given["dry_run"]:
        saved = _save(key, given["save_previous"]) if key else None
        key_arn = _put(kms, made, key)
    if given["as_json"]:
        emit_json(
            _document(
                made,
                key=key_arn if key or not given["dry_run"] else None,
                applied=not given["dry_run"],
                previous=str(saved) if saved else None,
                changes=_drift_json(changes),
            )
        )
    elif given["dry_run"]:
        err().print("dry run: nothing was changed", markup=False)
    else:
        out().print(key_arn, markup=False)
    return 0


def _put(kms: Any, made: Made, key: live.KeyState | None) -> str:
    text, identifier = canonical(made.document), str(made.document["Id"])
    if key is None:
        return live.create_key(kms, text, identifier, DESCRIPTION)
    live.put_policy(kms, key.arn, text, identifier)
    return key.arn


def _save(key: live.KeyState, folder: Path) -> Path:
    # To the microsecond: a second change in the same second must not replace what the first one kept.
    moment = utc_now().strftime("%Y%m%dT%H%M%S.%fZ")
    path = folder / f"key-policy-{key.arn.rsplit('/', 1)[-1]}-{moment}.json"
    write_atomic(path, key.policy.encode() + b"\n", mode=0o600)
    err().print(f"the previous policy is in {path}", markup=False)
    return path


def _drift_json(drifts: tuple[Drift, ...]) -> list[dict[str, str]]:
    return [{"code": item.code, "detail": item.detail} for item in drifts]
