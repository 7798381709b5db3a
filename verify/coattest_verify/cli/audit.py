"""``verify audit``: CloudTrail's Decrypt events of a key against the decision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from coattest.aws import aws_errors
from coattest.errors import FoundFalse, UsageError
from coattest.extras import need_extra
from coattest.files import read_whole
from coattest.findings import Finding
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, out, utc_now
from coattest_verify.auction.context import AUCTION, BUYER
from coattest_verify.audit import digests, sources
from coattest_verify.audit.events import Event
from coattest_verify.audit.judge import AuditReport, Expected, judge_events
from coattest_verify.cli.options import EXISTING_FILE, EXISTING_FOLDER, decision_from, decision_options

LOOKUP = "lookup-events"
MOMENT = click.DateTime(["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"])


@click.command()
@click.argument("source")
@decision_options
@click.option("--member", help="Your name in quorum.toml: the decision must be yours too.")
@click.option(
    "--also-attestations",
    multiple=True,
    type=EXISTING_FOLDER,
    help="Another release that was decided on in this time; repeatable.",
)
@click.option("--key", "key_arn", required=True, metavar="ARN", help="The key: its full ARN.")
@click.option(
    "--parent-role", "roles", multiple=True, required=True, metavar="ARN", help="Who may decrypt; repeatable."
)
@click.option(
    "--context", multiple=True, metavar="KEY=VALUE", help="Encryption context of every Decrypt; repeatable."
)
@click.option("--since", type=MOMENT, help="From this moment (UTC).")
@click.option("--until", type=MOMENT, help="Up to this moment (UTC).")
@click.option(
    "--public-keys",
    type=EXISTING_FILE,
    help="Output of `aws cloudtrail list-public-keys`, to check digest files with.",
)
@click.option(
    "--require-digests", is_flag=True, help="Fail unless digest files show that the logs are complete."
)
@click.option("--endpoint-url", help="Where S3 and CloudTrail are, if not at AWS.")
@click.option("--region", help="For s3:// and lookup-events; the key's own by default.")
@json_option
def audit_command(**given: Any) -> int:
    """Check that every Decrypt in SOURCE was by a decided enclave.

    SOURCE is a log file, a folder of log files, s3://BUCKET/PREFIX, or lookup-events.
    """
    if given["source"] == LOOKUP or given["source"].startswith("s3://"):
        need_extra("aws")
    if given["key_arn"].count(":") != 5 or ":key/" not in given["key_arn"]:
        raise UsageError("give the full ARN of a key", where="--key")
    expected = _expected(given)
    collected = _collect(given)
    report = judge_events(collected.events, expected, _missing(given, collected, expected))
    if given["as_json"]:
        emit_json(_document(report, expected))
        return 0 if report.ok else 1
    _show(report)
    if not report.ok:
        raise FoundFalse(
            f"{len(report.findings)} finding(s): not every use of the key is as decided",
            where=given["key_arn"],
            code="not-as-decided",
            findings=report.findings,
        )
    return 0


def _expected(given: Mapping[str, Any]) -> Expected:
    # A decision that has expired since was one then: it is recomputed as of the end of the window.
    moment = min(filter(None, (utc_now(), _utc(given["until"]))))
    decisions = [
        decision_from({**given, "attestations": folder}, now=moment, own=given["member"])
        for folder in (given["attestations"], *given["also_attestations"])
    ]
    context = dict(item.partition("=")[::2] for item in given["context"])
    if any("=" not in item for item in given["context"]):
        raise UsageError("give KEY=VALUE", where="--context")
    return Expected(
        key_arn=given["key_arn"],
        tuples=tuple((item.pcrs[0], item.pcrs[1], item.pcrs[2]) for item in decisions),
        roles=given["roles"],
        context=context,
        group_by=(AUCTION, BUYER),
        since=_utc(given["since"]),
        until=_utc(given["until"]),
    )


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=timezone.utc) if moment else None


def _collect(given: Mapping[str, Any]) -> sources.Collected:
    source = given["source"]
    if source == LOOKUP:
        return sources.from_lookup(_client("cloudtrail", given), given["key_arn"])
    if source.startswith("s3://"):
        return sources.from_bucket(_client("s3", given), source)
    return sources.from_path(Path(source))


def _client(service: str, given: Mapping[str, Any]) -> Any:
    import boto3  # noqa: PLC0415  (not needed for files)

    session: Any = boto3.session.Session(region_name=given["region"] or given["key_arn"].split(":")[3])
    return session.client(service, endpoint_url=given["endpoint_url"])


def _missing(
    given: Mapping[str, Any], collected: sources.Collected, expected: Expected
) -> tuple[Finding, ...]:
    if not collected.digests and not given["require_digests"]:
        err().print("no digest files: nothing shows that the logs are complete", style="yellow", markup=False)
        return ()
    if given["public_keys"]:
        keys = digests.public_keys(_json_file(given["public_keys"]))
    elif collected.digests:
        with_window = {"StartTime": expected.since, "EndTime": expected.until}
        client = _client("cloudtrail", given)
        with aws_errors("CloudTrail's public keys"):
            keys = digests.public_keys(client.list_public_keys(**{k: v for k, v in with_window.items() if v}))
    else:
        keys = {}
    return digests.check_digests(
        collected.digests, keys=keys, logs=collected.logs, since=expected.since, until=expected.until
    )


def _json_file(path: Path) -> Any:
    try:
        return json.loads(read_whole(path))
    except (ValueError, RecursionError) as error:
        raise UsageError("not JSON", where=str(path)) from error


def _show(report: AuditReport) -> None:
    table = Table("auction", "buyer", "enclave", "decrypts", "first", "last")
    for group in report.groups:
        auction, buyer = group.values
        table.add_row(
            auction[:16] or "-",
            buyer or "-",
            group.module_id,
            str(group.count),
            _stamp(group.first),
            _stamp(group.last),
        )
    out().print(table)
    for finding, event in report.problems:
        text = f"{finding.code}: {finding.detail}" + (f" ({_line(event)})" if event else "")
        err().print(text, style="red", markup=False)
    for auction, buyer in report.reruns:
        text = f"note: auction {auction[:16]} of {buyer or '-'}: decrypted by more than one enclave"
        err().print(text, markup=False)
    for event in report.notable:
        err().print(f"note: {event.name} ({_line(event)})", markup=False)
    err().print(
        f"{report.events} event(s) of the key, {len(report.denied)} of them refused by KMS", markup=False
    )


def _line(event: Event) -> str:
    return f"{_stamp(event.time)} {event.principal} from {event.source}"


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _document(report: AuditReport, expected: Expected) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "key": expected.key_arn,
        "events": report.events,
        "decrypts": [
            {
                **_names(group.values),
                "module_id": group.module_id,
                "count": group.count,
                "first": _stamp(group.first),
                "last": _stamp(group.last),
            }
            for group in report.groups
        ],
        "reruns": [_names(values) for values in report.reruns],
        "findings": [
            {**finding.to_json(), "event": _event(event) if event else None}
            for finding, event in report.problems
        ],
        "denied": [_event(event) for event in report.denied],
        "notable": [_event(event) for event in report.notable],
    }


def _names(values: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(("auction", "buyer"), values, strict=True))


def _event(event: Event) -> dict[str, Any]:
    return {
        "id": event.identity,
        "name": event.name,
        "time": _stamp(event.time),
        "principal": event.principal,
        "role": event.role,
        "source": event.source,
        "region": event.region,
        "error": event.error,
        "module_id": event.module_id,
        "context": dict(event.context),
    }
