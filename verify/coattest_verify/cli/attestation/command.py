"""``verify attestation``: documents against the pinned root, the expected measurements, and time."""

from __future__ import annotations

import hashlib
import re
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from coattest.errors import Rejected, UsageError
from coattest.files import MAX_TOTAL, Folder, read_bounded, read_whole
from coattest.findings import Finding
from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.shell import err, json_option, utc_now
from coattest.text import printable
from coattest_verify.attestation import (
    ChainCache,
    ExpectAnyPcrs,
    Expectation,
    ExpectModule,
    ExpectNonce,
    ExpectPcrs,
    ExpectPublicKey,
    ExpectUserData,
    Malformed,
    MaxAge,
    Root,
    UnsafeAllowDebug,
    UnsafeAnyMeasurement,
    Verdict,
    parse_unverified,
    verify_document,
    verify_many,
)
from coattest_verify.attestation.expectations import pins_code
from coattest_verify.attestation.files import (
    DOCUMENT_SUFFIXES,
    FILE_MAX,
    INDEX_NAME,
    IndexEntry,
    decode_document,
    parse_time,
)
from coattest_verify.attestation.limits import SKEW_MAX_MS
from coattest_verify.attestation.measurements import (
    MEASUREMENTS_MAX,
    MeasurementSet,
    choose_set,
    missing_registers,
    read_measurements,
)
from coattest_verify.attestation.profiles import PROFILES, root_for
from coattest_verify.cli.attestation.archive import (
    ARCHIVE_FIELDS,
    CAVEAT,
    GENUINE,
    archive_report,
    index_of,
    is_archive,
    verify_archive,
)
from coattest_verify.cli.attestation.report import (
    ACCEPTED,
    Item,
    document_report,
    show_document,
    show_documents,
)

AT_DOCUMENT, AT_INDEX = "document", "index"
STDIN = Path("-")
NOT_A_DOCUMENT = "not-a-document"
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
FIELDS: Mapping[str, Callable[[bytes | None], Expectation]] = {
    "nonce": ExpectNonce,
    "user_data": ExpectUserData,
    "public_key": ExpectPublicKey,
}


@click.command()
@click.argument("path", metavar="DOC|DIR|-", type=click.Path(exists=True, path_type=Path, allow_dash=True))
@click.option(
    "--at",
    metavar="TIME",
    help="Verify at this time (ISO 8601 with zone; default: now). 'document': each at the time it claims, "
    "'index': each at the time in DIR/INDEX.tsv. Both show only that a document was genuine once.",
)
@click.option(
    "--expect",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measurements that the enclave must have: what nitro-cli, `eif measure` or `eif describe --json` "
    "print, or any file of PCR0, PCR1, .. in JSON, TOML or lines.",
)
@click.option("--set", "set_name", metavar="NAME", help="Which set of the --expect file is meant.")
@click.option("--any-set", is_flag=True, help="Accept every set of the --expect file, each as a whole.")
@click.option("--nonce", metavar="HEX|null", help="The nonce it must carry.")
@click.option("--user-data", metavar="HEX|null", help="The user_data it must carry.")
@click.option("--public-key", metavar="HEX|null", help="The public_key it must carry.")
@click.option("--module-id", help="The module_id it must carry.")
@click.option(
    "--max-age", metavar="MS", type=click.IntRange(min=0), help="How old it may be, in milliseconds."
)
@click.option(
    "--clock-skew",
    metavar="MS",
    type=click.IntRange(0, SKEW_MAX_MS),
    help="How far ahead of this machine's clock its time may be, in milliseconds (default: 0).",
)
@click.option(
    "--root",
    default="aws",
    show_default=True,
    metavar="aws|local|sha256:HEX",
    help="Root of trust: AWS's, the simulator's (attests nothing), or SHA-256 of a root's DER.",
)
@click.option("--strict", is_flag=True, help="Refuse what is otherwise accepted with a notice.")
@click.option("--unsafe-allow-debug", is_flag=True, help="Accept debug enclaves, whose memory is open.")
@click.option("--unsafe-any-measurement", is_flag=True, help="Accept any code: only 'genuine' is verified.")
@json_option
@click.pass_context
def attestation_command(ctx: click.Context, /, path: Path, as_json: bool, **options: Any) -> None:
    """Verify one attestation document, or every one in a directory; - reads one from stdin.

    A document is binary, hex, base64 or JSON as an endpoint sends it. Something must be expected of the
    enclave: --expect, or --unsafe-any-measurement. Only a directory with an INDEX.tsv needs neither: it is an
    archive, whose documents are each judged at their own time. That shows nothing about today or about
    measurements. Exit code 0: every document passed; 1: one did not.
    """
    root = root_named(options["root"])
    if options["expect"] is None:
        refuse_ignored(("set_name", "any_set"), "without --expect")
    archive = is_archive(path, options)
    if archive:
        items, verdicts, skipped = verify_archive(path, root, strict=options["strict"])
        err().print(Text(CAVEAT))
    else:
        expectations = expectations_of(options)
        for name in ("max_age", "clock_skew"):
            if options["at"] == AT_DOCUMENT and options[name] is not None:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(
                    f"{option} checks nothing with --at document: at its own time every document is new",
                    hint=f"give the time at which it arrived, or leave {option} out",
                )
        items, skipped = read_items(path, options["at"], utc_now())
        verdicts = judge_items(items, expectations, root, strict=options["strict"])
    accepted = sum(verdict.ok for verdict in verdicts)
    if as_json:
        one = archive_report if archive else document_report
        reports = [one(item, verdict) for item, verdict in zip(items, verdicts, strict=True)]
        batch = {
            **(ARCHIVE_FIELDS if archive else {}),
            "documents": reports,
            "accepted": accepted,
            "refused": len(items) - accepted,
            "skipped": skipped,
        }
        emit_json(batch if path.is_dir() else reports[0])
    elif path.is_dir():
        show_documents(items, verdicts, skipped, passed=GENUINE if archive else ACCEPTED)
    else:
        show_document(items[0], verdicts[0], at=options["at"] is not None)
    ctx.exit(0 if accepted == len(items) else 1)


def expectations_of(options: dict[str, Any]) -> list[Expectation]:
    """The expectations that the options name; verification itself refuses when they pin no code."""
    expectations: list[Expectation] = []
    if options["expect"] is not None:
        expectations.append(_measurements(options))
    for name, kind in FIELDS.items():
        if options[name] is not None:
            where = f"--{name.replace('_', '-')}"
            expectations.append(kind(None if options[name] == "null" else _hex(options[name], where)))
    if options["module_id"] is not None:
        expectations.append(ExpectModule(options["module_id"]))
    if options["max_age"] is not None or options["clock_skew"] is not None:
        expectations.append(MaxAge(options["max_age"], skew_ms=options["clock_skew"] or 0))
    if options["unsafe_allow_debug"]:
        expectations.append(UnsafeAllowDebug())
    if options["unsafe_any_measurement"]:
        expectations.append(UnsafeAnyMeasurement())
    if options["expect"] is None and not options["unsafe_any_measurement"]:
        raise UsageError(
            "no measurements are expected, so that any enclave would pass",
            hint="give --expect MEASUREMENTS.json, or --unsafe-any-measurement to ask only whether it is "
            "genuine (and --unsafe-allow-debug to let debug enclaves pass)",
            code="empty-expectations",
        )
    return expectations


def _measurements(options: dict[str, Any]) -> Expectation:
    """The set that --expect and --set name, or each of them with --any-set; notes go to stderr."""
    path, name = options["expect"], options["set_name"]
    if name is not None and options["any_set"]:
        raise UsageError("give either --set or --any-set")
    where = str(path)
    sets: Sequence[MeasurementSet] = read_measurements(read_whole(path, MEASUREMENTS_MAX), where=where)
    if not options["any_set"]:
        sets = choose_set(sets, name, where=where)
    for each in sets:
        label = f"{where}: {each.name}" if each.name else where
        if not pins_code(each.pcrs):
            raise UsageError(
                f"{missing_registers(each.pcrs, (0, 1, 2))}, and these pin no code",
                where=label,
                hint="PCR0, or PCR1 and PCR2, or PCR8 pin it",
                code="empty-expectations",
            )
        for note in each.notes:
            err().print(Text(printable(f"note: {label}: {note}"), "yellow"))
    return ExpectAnyPcrs([ExpectPcrs(each.pcrs) for each in sets])


def root_named(text: str) -> Root:
    """The root that --root names."""
    if text in PROFILES:
        return root_for(text)
    scheme, _, digits = text.partition(":")
    if scheme.lower() != "sha256" or not _SHA256.fullmatch(digits):
        raise UsageError(
            f"{text[:80]!r} names no root",
            where="--root",
            hint="aws, local, or sha256: and the 64 hex digits of the SHA-256 of a root certificate in DER",
            code="bad-root",
        )
    return Root(f"root sha256:{digits.lower()}", bytes.fromhex(digits))


def read_items(path: Path, at: str | None, now: datetime) -> tuple[list[Item], list[str]]:
    """The documents to verify, each with its time, and the names of the other files of the directory."""
    if at not in (None, AT_DOCUMENT, AT_INDEX):
        now = parse_time(at)
    folder = path != STDIN and path.is_dir()
    index, files = _index_and_files(path) if folder else ({}, [])
    if at == AT_INDEX and not index:
        where = "stdin" if path == STDIN else str(path)
        raise UsageError(f"--at index needs a directory with {INDEX_NAME}", where=where)
    if path == STDIN:
        data = sys.stdin.buffer.read(FILE_MAX + 1)
        return [_read_item(Path("stdin"), data, at, now, None)], []
    if not folder:
        return [_read_item(path, read_bounded(path, FILE_MAX), at, now, None)], []
    chosen = [file for file in files if file.name in index or file.suffix in DOCUMENT_SUFFIXES]
    missing = sorted(set(index) - {file.name for file in files})
    if missing:
        raise UsageError(f"{INDEX_NAME} names files that do not exist", where=missing[0])
    if not chosen:
        suffixes = ", ".join(DOCUMENT_SUFFIXES)
        raise UsageError("no documents", where=str(path), hint=f"their suffixes are {suffixes}")
    items, total = [], 0
    for file in chosen:
        items.append(_read_item(file, read_bounded(file, FILE_MAX), at, now, index.get(file.name)))
        total += len(items[-1].document)
        if total > MAX_TOTAL:
            raise UsageError(f"documents of more than {MAX_TOTAL} bytes", where=str(path), code="too-large")
    skipped = [file.name for file in files if file not in chosen and file.name != INDEX_NAME]
    return items, sorted(skipped + [f"{entry.name}/" for entry in path.iterdir() if entry.is_dir()])


def judge_items(
    items: Sequence[Item], expectations: list[Expectation], root: Root, *, strict: bool
) -> list[Verdict]:
    """One verdict per item, each at its own time; what is wrong with its file is in it too."""
    cache = ChainCache()
    times = {item.at for item in items}
    if len(times) == 1:
        documents = [item.document for item in items]
        found = verify_many(documents, expectations, now=times.pop(), root=root, cache=cache, strict=strict)
    else:
        found = [
            verify_document(item.document, expectations, now=item.at, root=root, cache=cache, strict=strict)
            for item in items
        ]
    return [_with_file(item.finding, verdict) for item, verdict in zip(items, found, strict=True)]


def _with_file(finding: Finding | None, verdict: Verdict) -> Verdict:
    """The verdict on a document and its file; where the file is no document there is nothing more to say."""
    if finding is None:
        return verdict
    more = () if finding.code == NOT_A_DOCUMENT else verdict.findings
    return replace(verdict, findings=(finding, *more))


def _index_and_files(path: Path) -> tuple[Mapping[str, IndexEntry], list[Path]]:
    """The index of a folder, empty when it has none, and everything in it but folders, sorted.

    What is not a plain file is refused when it is read.
    """
    with Folder(path) as folder:
        names = folder.names()
        index = index_of(folder) if INDEX_NAME in names else {}
        found = [(name, folder.status(name)) for name in names]
    return index, [path / name for name, status in found if status and not stat.S_ISDIR(status.st_mode)]


def _read_item(path: Path, data: bytes, at: str | None, now: datetime, entry: IndexEntry | None) -> Item:
    try:
        document = decode_document(data)
    except Rejected as refused:
        return Item(path, b"", now, Finding(refused.code, "", f"{refused.what} ({refused.hint})"))
    finding = None
    if entry is not None and entry.sha256 is not None and hashlib.sha256(data).digest() != entry.sha256:
        finding = Finding("index", "", f"not the file that {INDEX_NAME} names: its SHA-256 differs")
    elif at == AT_INDEX and (entry is None or entry.at is None):
        finding = Finding("index", "", f"{INDEX_NAME} has no time for it")
    return Item(path, document, _time(document, at, now, entry), finding)


def _time(document: bytes, at: str | None, now: datetime, entry: IndexEntry | None) -> datetime:
    if at not in (AT_DOCUMENT, AT_INDEX):
        return now
    if at == AT_INDEX and entry is not None and entry.at is not None:
        return entry.at
    try:
        return parse_unverified(document).timestamp
    except Malformed:
        return now  # refused at any time


def _hex(text: str, where: str) -> bytes:
    if not text.strip():
        # Of a variable that is not set. A host may leave a field empty, and would be believed.
        raise UsageError("empty", where=where, hint="hex digits, or null for a field that is not set")
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(
            "not hex", where=where, hint="hex digits, or null for a field that is not set"
        ) from None
