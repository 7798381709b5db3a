"""``verify policy apply``: the policy of a decision, put on a key after the preflight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coattest.aws import aws_errors
from coattest.errors import UsageError
from coattest.files import write_atomic
from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.shell import err, json_option, needs_extra, out, utc_now
from coattest_verify.cli.options import FOLDER
from coattest_verify.cli.policy.making import (
    DESCRIPTION,
    EXAMPLE_KEY,
    MadePolicy,
    made_document,
    make_policy,
)
from coattest_verify.cli.policy.options import aws_client, aws_options, check_simulator, making_options
from coattest_verify.keypolicy import live
from coattest_verify.keypolicy.generate import policy_text

NEW_KEY = "new"


@needs_extra("aws")
@click.command()
@click.argument("key", metavar="KEY|new")
@making_options
@click.option("--dry-run", is_flag=True, help="Do the preflight and show the difference only.")
@click.option(
    "--retire-all",
    is_flag=True,
    help="No release that decrypts now needs to stay (for a revocation).",
)
@click.option(
    "--save-previous",
    type=FOLDER,
    default=Path(),
    help="Folder to save the previous policy in (default: here).",
)
@aws_options
@json_option
def policy_apply_command(**given: Any) -> None:
    """Put the policy on KEY, or on a new key.

    A preflight refuses what would lock somebody out. The difference is shown first, and the previous policy
    is saved.
    """
    check_simulator(given)
    if given["key"] == NEW_KEY:
        refuse_ignored(("retire_all",), "for a new key")
    made = make_policy(given)
    kms, sts, iam = (aws_client(service, given, given["key"]) for service in ("kms", "sts", "iam"))
    with aws_errors("GetCallerIdentity"):
        caller = sts.get_caller_identity()["Arn"]
    key = None if given["key"] == NEW_KEY else live.read_key(kms, given["key"])
    key_arn = key.arn if key else f"arn:{given['partition']}:kms:-:{made.account}:{EXAMPLE_KEY}"
    if key_arn.split(":")[4] != made.account:
        raise UsageError(f"the key is in account {key_arn.split(':')[4]}", where="--account")
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
    changes = live.replaced(key, made.parsed) if key else ()
    for item in changes:
        err().print(f"was {item.code}: {item.detail}")
    saved = None
    if not given["dry_run"]:
        saved = _save(key, given["save_previous"]) if key else None
        key_arn = _put(kms, made, key)
    if given["as_json"]:
        emit_json(
            made_document(
                made,
                key=key_arn if key or not given["dry_run"] else None,
                applied=not given["dry_run"],
                previous=str(saved) if saved else None,
                changes=[item.to_json() for item in changes],
            )
        )
    elif given["dry_run"]:
        err().print("dry run: nothing was changed")
    else:
        out().print(key_arn)
        err().print("applied: the key has the policy of the decision")
        err().print(f"next: verify policy check {key_arn}, with the same options")


def _put(kms: Any, made: MadePolicy, key: live.KeyState | None) -> str:
    text, identifier = policy_text(made.document), str(made.document["Id"])
    if key is None:
        return live.create_key(kms, text, identifier, DESCRIPTION)
    live.put_policy(kms, key.arn, text, identifier)
    return key.arn


def _save(key: live.KeyState, folder: Path) -> Path:
    # To the microsecond: a second change in the same second must not replace what the first one saved.
    moment = utc_now().strftime("%Y%m%dT%H%M%S.%fZ")
    path = folder / f"key-policy-{key.arn.rsplit('/', 1)[-1]}-{moment}.json"
    write_atomic(path, key.policy.encode() + b"\n", mode=0o600)
    err().print(f"the previous policy is in {path}")
    return path
