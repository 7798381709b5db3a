"""``verify audit``: CloudTrail's Decrypt events of a key against the decision."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from coattest.aws import aws_errors
from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest.extras import need_extra
from coattest.files import read_whole
from coattest.findings import Finding
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, out, step_progress, utc_now
from coattest.strictjson import shown
from coattest_enclave.protocol.binding import AUCTION, BUYER
from coattest_verify.auction.journal import SealJournal, default_journal
from coattest_verify.auction.openings import WasSealed, context_is_whole
from coattest_verify.audit import digests, sources
from coattest_verify.audit.collect import Collected
from coattest_verify.audit.coverage import Coverage
from coattest_verify.audit.events import Event, KeyName
from coattest_verify.audit.judge import (
    DECRYPT_RULES,
    AuditReport,
    DecryptRule,
    EventFinding,
    Expected,
    judge_events,
)
from coattest_verify.audit.operations import DECRYPT
from coattest_verify.audit.verdict import AuditOutcome, AuditVerdict, conclude
from coattest_verify.cli.options import (
    EXISTING_FILE,
    EXISTING_FOLDER,
    decisions_from,
    decisions_options,
    endpoint_option,
)
from coattest_verify.cli.policy.making import pairs
from coattest_verify.cli.policy.options import aws_client

LOOKUP = "lookup-events"
MOMENT = click.DateTime(["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"])
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,512}", re.ASCII)
_ROLE_ID = re.compile(r"AROA[A-Z0-9]{4,124}")


@click.command()
@click.argument("source")
@decisions_options(required=False)
@click.option("--member", help="Your name in quorum.toml: the decision must be yours too.")
@click.option("--key", "key_arn", required=True, metavar="ARN", help="The key: its full ARN.")
@click.option(
    "--parent-role",
    "roles",
    multiple=True,
    required=True,
    metavar="ARN",
    help="Who may decrypt: a role's ARN, or its unique id (AROA..); repeatable.",
)
@click.option(
    "--context", multiple=True, metavar="KEY=VALUE", help="Encryption context of every Decrypt; repeatable."
)
@click.option(
    "--journal",
    type=EXISTING_FOLDER,
    help="Your seal journal, to compare openings with (default: as for auction seal).",
)
@click.option(
    "--no-journal", is_flag=True, help="Compare with no seal journal: this is not the machine that seals."
)
@click.option(
    "--since",
    type=MOMENT,
    metavar="TIME",
    help="Events from this time on: 2026-11-23, or 2026-11-23T12:00:00Z (UTC).",
)
@click.option("--until", type=MOMENT, metavar="TIME", help="Events up to this time.")
@click.option(
    "--allow-none",
    is_flag=True,
    help="The key may be unused: exit 0 and not 3 when the logs have no event of it.",
)
@click.option(
    "--public-keys",
    type=EXISTING_FILE,
    help="Output of `aws cloudtrail list-public-keys`, to check digest files with.",
)
@click.option(
    "--require-digests", is_flag=True, help="Fail unless digest files show that the logs are complete."
)
@endpoint_option("Where S3 and CloudTrail are, if not at AWS.")
@click.option("--region", help="For s3:// and lookup-events; the key's own by default.")
@json_option
def audit_command(**given: Any) -> int:
    """Check that every Decrypt in SOURCE was by a decided enclave.

    SOURCE is a log file, a folder of log files, s3://BUCKET/PREFIX, or lookup-events. Exit code 1: something
    was not as decided, or cannot be read; 3: nothing was looked at, or the logs cannot show it.
    """
    if given["source"] == LOOKUP or given["source"].startswith("s3://"):
        need_extra("aws")
    done = audited(given, utc_now())
    report, verdict = done.report, conclude(done.report, done.coverage, none_expected=given["allow_none"])
    if given["as_json"]:
        emit_json(_document(report, done.expected, done.coverage, verdict))
        return verdict.outcome
    _show(report, done.coverage)
    if verdict.outcome is not AuditOutcome.AS_DECIDED:
        undecided = verdict.outcome is AuditOutcome.UNDECIDED
        raise (EnvironmentFailure if undecided else FoundFalse)(
            verdict.sentence,
            where=given["key_arn"],
            hint=verdict.next,
            code=verdict.code,
            findings=[finding for finding, _ in (report.undecided if undecided else report.found_false)],
        )
    out().print(verdict.sentence)
    err().print(f"next: {verdict.next}")
    return 0


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit looked for, looked at and found."""

    expected: Expected
    coverage: Coverage
    report: AuditReport


def audited(given: Mapping[str, Any], now: datetime) -> Audited:
    """The audit that the command's options ask for. Raises CoattestError, OSError."""
    expected = _expected(given, now)
    collected = _collect(given, expected)
    missing = (
        *collected.findings,
        *collected.unfinished,
        *collected.changed(expected.since, expected.until),
        *_missing(given, collected, expected),
    )
    report = judge_events(collected.events, expected, missing, calls=collected.calls, rules=_rules(given))
    return Audited(expected, collected.coverage, report)


def _expected(given: Mapping[str, Any], now: datetime) -> Expected:
    key = KeyName.parse(given["key_arn"])
    for role in given["roles"]:
        if not _ROLE.fullmatch(role) and not _ROLE_ID.fullmatch(role):
            raise UsageError(
                f"{role!r} is neither the ARN of a role nor its unique id",
                where="--parent-role",
                hint="arn:aws:iam::ACCOUNT:role/NAME, or AROA.. as `aws iam get-role` shows it",
            )
    since, until = _utc(given["since"]), _utc(given["until"])
    if since is not None and since >= (until or now):
        raise UsageError("no time is between --since and --until", where="--since")
    # A decision that has expired since was one then: it is recomputed as of the end of the window.
    moment = min(filter(None, (now, until)))
    decisions = decisions_from(given, now=moment, own=given["member"])
    return Expected(
        key=key,
        tuples=tuple((item.pcrs[0], item.pcrs[1], item.pcrs[2]) for item in decisions),
        roles=tuple(role for role in given["roles"] if _ROLE.fullmatch(role)),
        role_ids=tuple(role for role in given["roles"] if _ROLE_ID.fullmatch(role)),
        context=pairs(given["context"], "--context"),
        group_by=(AUCTION, BUYER),
        since=since,
        until=until,
    )


def _rules(given: Mapping[str, Any]) -> tuple[DecryptRule, ...]:
    """What a Decrypt is judged by: for an auction's also the seal journal. Raises UsageError."""
    if given["no_journal"]:
        if given["journal"]:
            raise UsageError("--journal and --no-journal", where="--no-journal")
        return (*DECRYPT_RULES, context_is_whole)
    journal = SealJournal(given["journal"] or default_journal())
    return (*DECRYPT_RULES, context_is_whole, WasSealed(journal))


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=timezone.utc) if moment else None


def _collect(given: Mapping[str, Any], expected: Expected) -> Collected:
    source = given["source"]
    found = Collected(expected.key)
    found.coverage.source = source
    with step_progress() as progress:
        task = progress.add_task("reading the logs")

        def step() -> None:
            progress.update(task, description=f"reading the logs: {found.coverage.files} file(s)")

        if source == LOOKUP:
            client = aws_client("cloudtrail", given, given["key_arn"])
            sources.from_lookup(found, client, since=expected.since, until=expected.until, step=step)
        elif source.startswith("s3://"):
            client = aws_client("s3", given, given["key_arn"])
            sources.from_bucket(found, client, source, step, days_of=given.get("days_of"))
        else:
            sources.from_path(found, Path(source), step, days_of=given.get("days_of"))
    return found


def _missing(given: Mapping[str, Any], collected: Collected, expected: Expected) -> tuple[Finding, ...]:
    asked = given["require_digests"] or given["public_keys"]
    if not collected.digests and not asked:
        return ()
    if given["public_keys"]:
        keys = digests.public_keys(_json_file(given["public_keys"]))
    elif collected.digests:
        with_window = {"StartTime": expected.since, "EndTime": expected.until}
        client = aws_client("cloudtrail", given, given["key_arn"])
        with aws_errors("CloudTrail's public keys"):
            keys = digests.public_keys(client.list_public_keys(**{k: v for k, v in with_window.items() if v}))
    else:
        keys = {}
    key = expected.key
    collected.coverage.digests_checked = bool(collected.digests)
    collected.coverage.digests_of = digests.digest_range(
        collected.digests, region=key.region, account=key.account
    )
    return digests.check_digests(
        collected.digests,
        keys=keys,
        logs=collected.logs,
        since=expected.since,
        until=expected.until,
        region=key.region,
        account=key.account,
    )


def _json_file(path: Path) -> Any:
    try:
        return json.loads(read_whole(path))
    except (ValueError, RecursionError) as error:
        raise UsageError("not JSON", where=str(path)) from error


def _show(report: AuditReport, coverage: Coverage) -> None:
    rows = []
    for group in report.groups:
        auction, buyer = group.values
        first, last = _stamp(group.first), _stamp(group.last)
        rows.append((auction or "-", buyer or "-", group.module_id, str(group.count), first, last))
    out().show_rows(("auction", "buyer", "enclave", "decrypts", "first", "last"), rows)
    for finding, event in (*report.found_false, *report.undecided):
        text = f"{finding.code}: {finding.detail} ({_line(event) if event else finding.where})"
        err().print(text, style="red")
    for auction, buyer in report.reruns:
        text = f"note: auction {auction} of {buyer or '-'}: decrypted by more than one enclave"
        err().print(text)
    for auction, buyer, count in _openings(report):
        if count > 1:
            text = f"note: auction {auction} of {buyer or '-'}: its bid was decrypted {count} times"
            err().print(text)
    for event in _probes(report):
        err().print(f"probe: a Decrypt that KMS refused, {event.error} ({_line(event)})")
    for event in report.notable:
        err().print(f"changed: {event.name} ({_line(event)}) {event.parameters}".rstrip())
    if coverage.skipped:
        names = ", ".join(map(shown, coverage.skipped[:10]))
        err().print(f"not read, no log: {coverage.skipped_count} file(s): {names}")
    err().print(
        f"{report.events} event(s) of the key, {len(report.denied)} refused by KMS; read: {coverage.told}",
    )


def _openings(report: AuditReport) -> list[tuple[str, str, int]]:
    """How often each auction's bid of each buyer was decrypted, by whatever enclaves."""
    counted: Counter[tuple[str, ...]] = Counter()
    for group in report.groups:
        if group.values[0]:
            counted[group.values] += group.count
    return [(values[0], values[1], count) for values, count in sorted(counted.items())]


def _probes(report: AuditReport) -> list[Event]:
    """Decrypts that KMS refused: somebody tried."""
    return [event for event in report.denied if event.name == DECRYPT]


def _line(event: Event) -> str:
    return f"{_stamp(event.time)} {event.caller.shown} from {event.source or 'an unknown address'}"


def _stamp(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else "at an unknown time"


def _document(
    report: AuditReport, expected: Expected, coverage: Coverage, verdict: AuditVerdict
) -> dict[str, Any]:
    return {
        "ok": verdict.outcome is AuditOutcome.AS_DECIDED,
        "verdict": verdict.sentence,
        "next": verdict.next,
        "key": expected.key.arn,
        "events": report.events,
        "operations": dict(report.operations),
        "copies": report.copies,
        "outside_window": report.outside,
        "coverage": coverage.to_json(),
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
        "openings": [
            {**_names((auction, buyer)), "count": count} for auction, buyer, count in _openings(report)
        ],
        "probes": [_event(event) for event in _probes(report)],
        "reruns": [_names(values) for values in report.reruns],
        "findings": _findings(report.found_false),
        "undecided": _findings(report.undecided),
        "denied": [_event(event) for event in report.denied],
        "notable": [_event(event) for event in report.notable],
    }


def _findings(found: tuple[EventFinding, ...]) -> list[dict[str, Any]]:
    return [{**finding.to_json(), "event": _event(event) if event else None} for finding, event in found]


def _names(values: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(("auction", "buyer"), values, strict=True))


def _event(event: Event) -> dict[str, Any]:
    return {
        "id": event.identity,
        "name": event.name,
        "time": _stamp(event.time) if event.time else None,
        "principal": event.caller.shown,
        "role": event.caller.role,
        "source": event.source,
        "region": event.region,
        "error": event.error,
        "module_id": event.module_id,
        "context": dict(event.context),
        "parameters": event.parameters or None,
    }
