"""``verify policy`` on a live key: ``--check`` compares it, ``--apply`` puts the policy on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coattest.errors import FoundFalse, UsageError
from coattest.files import write_atomic
from coattest.jsontext import emit_json
from coattest.shell import err, out, utc_now
from coattest_verify.cli.policy.made import DESCRIPTION, EXAMPLE_KEY, Made, document
from coattest_verify.keypolicy import live
from coattest_verify.keypolicy.compare import Drift, differences
from coattest_verify.keypolicy.generate import canonical
from coattest_verify.keypolicy.iam import parse_policy

NEW_KEY = "new"


class Drifted(FoundFalse):
    """The live key is not what the decision asks for; the message names each drift."""

    default_code = "drift"


def _client(service: str, given: Mapping[str, Any], key: str) -> Any:
    import boto3  # noqa: PLC0415  (half a second that printing a policy does not need)

    region = given["region"] or (key.split(":")[3] if key.startswith("arn:") else None)
    with live.aws_errors("cannot make a client"):
        session: Any = boto3.session.Session(region_name=region)
        return session.client(service, endpoint_url=given["endpoint_url"])


def check_key(made: Made, given: Mapping[str, Any]) -> int:
    """Name every drift of a live key from the decision: 0 without any. Raises Drifted (with JSON: 1)."""
    key = live.read_key(_client("kms", given, given["check_key"]), given["check_key"])
    drifts = live.drift(key, made.parsed, given["aliases"])
    if given["as_json"]:
        emit_json(document(made, key=key.arn, aliases=list(key.aliases), drift=_drift_json(drifts)))
        return 1 if drifts else 0
    for item in drifts:
        err().print(f"{item.code}: {item.detail}", style="red", markup=False)
    if drifts:
        raise Drifted(f"{len(drifts)} drift(s) from the decision", where=key.arn)
    out().print(f"{key.arn} is as decided", markup=False)
    return 0


def apply_policy(made: Made, given: Mapping[str, Any]) -> int:
    """Put the policy on a key, or on a new one, after the preflight; 0. Raises what live.preflight raises."""
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
            document(
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
