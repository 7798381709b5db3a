"""The forms in which CloudTrail's records are stored, damaged ones, and hostile files and folders."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest_verify.audit import collect, records, sources
from coattest_verify.audit.collect import Collected
from coattest_verify.audit.judge import AuditReport, judge_events
from coattest_verify.audit.verdict import AuditOutcome, conclude
from support.verify.trail_records import EXPECTED, KEY, audited, codes, collected, record, record_of_s3

CASES = Path(__file__).resolve().parents[4] / "shared/cases/audit"
BAD = record(id="bad", registers=None)


def dumped(value: Any) -> bytes:
    """As JSON."""
    return json.dumps(value).encode()


def history(*raws: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A page of lookup-events' output."""
    return {"Events": [{"EventId": "x", "CloudTrailEvent": json.dumps(raw)} for raw in raws], **more}


def bridged(raw: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An event in EventBridge's envelope."""
    envelope = {
        "version": "0",
        "detail-type": "AWS API Call via CloudTrail",
        "source": "aws.kms",
        "detail": raw,
    }
    return {**envelope, **more}


FORMS = {
    "log file": dumped({"Records": [BAD]}),
    "gzip": gzip.compress(dumped({"Records": [BAD]})),
    "two gzip members": gzip.compress(b'{"Records":[') + gzip.compress(dumped(BAD) + b"]}"),
    "a log file behind a log file": gzip.compress(dumped({"Records": []}))
    + gzip.compress(dumped({"Records": [BAD]})),
    "one event": dumped(BAD),
    "JSON lines": dumped(record()) + b"\n" + dumped(BAD) + b"\n",
    "pretty-printed one after the other": json.dumps(record(), indent=2).encode()
    + json.dumps(BAD, indent=2).encode(),
    "array": dumped([record(), BAD]),
    "array of log files": dumped([{"Records": [record()]}, {"Records": [BAD]}]),
    "lookup-events": dumped(history(record(), BAD)),
    "pages in an array": dumped([history(record(), NextToken="n"), history(BAD)]),
    "pages one after the other": dumped(history(BAD, NextToken="n")) + b"\n" + dumped(history(record())),
    "EventBridge": dumped(bridged(BAD)),
    "EventBridge in lines": dumped(bridged(record())) + b"\n" + dumped(bridged(BAD)),
    "EventBridge in an array": dumped([bridged(record()), bridged(BAD)]),
    "CloudWatch Logs": dumped({"events": [{"timestamp": 1, "message": json.dumps(BAD)}]}),
    "CloudWatch Logs to a stream": dumped(
        {"messageType": "DATA_MESSAGE", "logEvents": [{"message": json.dumps(BAD)}]}
    ),
    "two lists": b'{"Records": [' + dumped(BAD) + b'], "Records": []}',
    "byte order mark": b"\xef\xbb\xbf" + dumped({"Records": [BAD]}),
    "UTF-16": json.dumps({"Records": [BAD]}).encode("utf-16"),
    "behind an empty list": dumped({"Records": []}) + dumped({"Records": [BAD]}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_decrypt_without_a_document_is_found_in_every_form(form: str) -> None:
    """None of these is refused, and none hides its last event."""
    assert codes(FORMS[form]) == ["unattested"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"   ",
        b"\x1f\x8b\x08nonsense",
        gzip.compress(b"{}", mtime=0)[:-4],
        gzip.compress(b"{}", mtime=0) + b"and more",
        b"not json",
        b"\xff\xfe\xff",
        b"[1]",
        b'"text"',
        b'{"Records":[1]}',
        b'{"Records":{"a":1}}',
        b'{"Records":"none"}',
        b'{"Records":[{}',
        b'{"Events":[{"CloudTrailEvent":"{"}]}',
        b'{"Events":[{"CloudTrailEvent":"[]"}]}',
        b'{"Events":[{}]}',
        b'{"Events":[null]}',
        b'{"eventSource":"s3.amazonaws.com","eventSource":"kms.amazonaws.com"}',
        b'{"detail-type":"AWS API Call via CloudTrail","detail":[]}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" + b"9" * 5000 + b"]",
        b"{}",
    ],
)
def test_what_cannot_be_read_is_a_finding_and_hides_nothing(data: bytes) -> None:
    """The file is named; the events of the file beside it are judged all the same."""
    found = codes(data, dumped({"Records": [BAD]}))
    assert "bad-event" in found
    assert found[-1] == "unattested"


def test_what_stands_before_and_after_a_damaged_line_is_read() -> None:
    """JSON lines with one line that was cut."""
    lines = dumped(BAD) + b"\n" + dumped(record())[:-40] + b"\n" + dumped({**BAD, "eventID": "2"}) + b"\n"
    assert sorted(codes(lines)) == ["bad-event", "unattested", "unattested"]


def test_a_file_that_was_cut_gives_the_events_that_are_whole() -> None:
    """The rest is named as unreadable."""
    assert sorted(codes(dumped({"Records": [BAD, record()]})[:-50])) == ["bad-event", "unattested"]


def test_a_page_that_has_a_next_one_is_not_the_whole_history() -> None:
    """A page with NextToken and no last page leaves the rest unknown, which is undecided."""
    report = audited(dumped(history(record(), NextToken="more")))
    assert [finding.code for finding, _ in report.undecided] == ["pages-missing"]
    assert (
        conclude(report, collected(FORMS["gzip"]).coverage, none_expected=False).outcome
        is AuditOutcome.UNDECIDED
    )
    assert codes(dumped(history(record(), NextToken="more")), dumped(history(record(id="2")))) == []


def test_kms_own_events_of_eventbridge_are_changes_of_the_key() -> None:
    """Rotation, expiry of imported material and deletion have a detail that is no record of CloudTrail."""
    for name in ("KMS CMK Rotation", "KMS CMK Deletion", "KMS Imported Key Material Expiration"):
        envelope = {
            "detail-type": name,
            "source": "aws.kms",
            "account": "222233334444",
            "time": "2026-11-23T10:00:00Z",
            "region": "eu-central-1",
            "resources": [KEY],
            "detail": {"key-id": KEY.rsplit("/", 1)[1]},
        }
        assert [event.name for event in audited(dumped(envelope)).notable] == [name]


JSON = st.recursive(
    st.none() | st.booleans() | st.text() | st.integers() | st.floats(),
    lambda c: (
        st.lists(c)
        | st.dictionaries(st.sampled_from([*record(), "Records", "Events", "detail-type", "detail"]), c)
    ),
)


@pytest.mark.slow
@given(JSON)
def test_any_json_is_events_or_findings(value: Any) -> None:
    """Nothing raises."""
    audited(dumped(value))
    audited({**record(), "requestParameters": value, "resources": value, "userIdentity": value})
    audited({**record(), "additionalEventData": value, "eventTime": value, "errorCode": value})


@given(st.binary(max_size=300), st.integers(0, 2000))
def test_any_damage_to_a_log_is_a_finding_or_leaves_its_events(noise: bytes, position: int) -> None:
    """Bytes put into a file with a Decrypt that should not be there: a finding of some kind is left."""
    data = dumped({"Records": [BAD]})
    damaged = data[:position] + noise + data[position:]
    assert audited(damaged).findings or audited(damaged).undecided


@pytest.mark.parametrize("noise", [b"!", b"x", b"0", b".", b" ", b'"', b"\n", b"\\", b"\xff"])
def test_one_byte_of_damage_hides_nothing_wherever_it_is(noise: bytes) -> None:
    """Also in a name, where the record is JSON as before: the service's, the operation's, the key's."""
    data = dumped({"Records": [BAD]})
    silent = [
        position for position in range(len(data) + 1) if not codes(data[:position] + noise + data[position:])
    ]
    assert silent == []


def test_many_broken_places_cost_no_more_than_the_file_is_long() -> None:
    """After a hundred the rest of the file is given up, and said to be."""
    found = collected(b"{]\n" * 1_000_000)
    assert len(found.findings) == records.MAX_FLAWS + 2
    assert "given up" in found.findings[-1].detail


def test_the_number_of_findings_about_what_is_unreadable_is_bounded() -> None:
    """A million records that are none: a thousand are named, the rest is counted."""
    found = collected(dumped({"Records": [1] * (collect.MAX_UNREADABLE + 5)}))
    assert len(found.findings) == collect.MAX_UNREADABLE + 1
    assert found.findings[-1].detail.startswith("5 more")


def test_a_file_that_unpacks_to_more_than_the_limit_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bomb: the limit holds for the content, and the memory with it."""
    monkeypatch.setattr(records, "MAX_FILE", 1_000_000)
    bomb = gzip.compress(b" " * 50_000_000)
    tracemalloc.start()
    try:
        assert codes(bomb) == ["bad-event"]
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_log_is_not_held_as_objects() -> None:
    """Other keys' events are dropped as they are read: memory is of the text, not of what it parses to."""
    other = {**record(registers=None), "resources": [{"ARN": KEY.replace("1234abcd", "99999999")}]}
    data = dumped({"Records": [other] * 20_000})
    found = Collected(EXPECTED.key)
    tracemalloc.start()
    try:
        found.log(data, "log", "log")
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
    finally:
        tracemalloc.stop()
    assert (found.coverage.records, found.events) == (20_000, [])


# Folders.


def folder_audit(path: Path) -> tuple[AuditReport, Collected]:
    """The judgement of a folder."""
    found = Collected(EXPECTED.key)
    sources.from_path(found, path)
    return judge_events(found.events, EXPECTED, found.findings, calls=found.calls), found


def test_a_folder_is_read_whole_and_what_is_no_log_by_its_name_is_listed(tmp_path: Path) -> None:
    """Suffixes in any case; other files are in the coverage by name."""
    inner = tmp_path / "AWSLogs/222233334444"
    inner.mkdir(parents=True)
    for number, suffix in enumerate((".json", ".JSON.GZ", ".jsonl", ".ndjson", ".log", ".gz")):
        raw = record(id=str(number))
        (inner / f"{number}{suffix}").write_bytes(dumped({"Records": [raw]}))
    (tmp_path / "notes.txt").write_text("none")
    report, found = folder_audit(tmp_path)
    assert (report.events, report.findings) == (6, ())
    assert found.coverage.skipped == ["notes.txt"]
    assert found.coverage.to_json()["regions"] == ["eu-central-1"]
    assert found.coverage.to_json()["hours"] == {
        "count": 1,
        "first": "2026-11-23T10",
        "last": "2026-11-23T10",
    }


def test_links_pipes_and_folders_too_deep_are_findings(tmp_path: Path) -> None:
    """None is followed or waited for, and none is passed over in silence."""
    (tmp_path / "good.json").write_bytes(dumped({"Records": [record()]}))
    (tmp_path / "link.json").symlink_to(tmp_path / "good.json")
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "pipe.json")
    deep = tmp_path.joinpath(*["d"] * (sources.MAX_FOLDERS_DEEP + 1))
    deep.mkdir(parents=True)
    report, _ = folder_audit(tmp_path)
    assert sorted(finding.where for finding in report.findings) == [
        "/".join(["d"] * sources.MAX_FOLDERS_DEEP),
        "link.json",
        "linked",
        "pipe.json",
    ]
    assert report.events == 1


def test_an_empty_source_has_looked_at_nothing(tmp_path: Path) -> None:
    """Also where none are expected: there is no record at all."""
    report, found = folder_audit(tmp_path)
    for none_expected in (False, True):
        verdict = conclude(report, found.coverage, none_expected=none_expected)
        assert (verdict.outcome, verdict.code) == (AuditOutcome.UNDECIDED, "no-records")
    (tmp_path / "other.json").write_bytes(dumped({"Records": [record_of_s3()]}))
    report, found = folder_audit(tmp_path)
    assert conclude(report, found.coverage, none_expected=False).code == "no-events"
    assert conclude(report, found.coverage, none_expected=True).outcome is AuditOutcome.AS_DECIDED


# The cases that came with the review.


@pytest.mark.parametrize(
    ("name", "outcome", "found"),
    [
        ("honest_cross_account_AWSAccount", AuditOutcome.AS_DECIDED, []),
        ("insight", AuditOutcome.UNDECIDED, []),
        ("no_resources_success", AuditOutcome.FOUND_FALSE, ["unattested"]),
        ("op_TagResource", AuditOutcome.AS_DECIDED, []),
    ],
)
def test_each_case_has_its_answer(name: str, outcome: AuditOutcome, found: list[str]) -> None:
    """An honest call across accounts is honest by the role's unique id; the others are as their names say."""
    from dataclasses import replace

    from coattest_verify.audit.events import KeyName, parse_event

    path = CASES / f"{name}.json"
    if not path.exists():
        pytest.skip("no ../shared/cases/audit")
    key = KeyName.parse("arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab")
    honest = json.loads((CASES / "honest_cross_account_AWSAccount.json").read_bytes())["Records"][0]
    event = parse_event(honest, key)
    registers = getattr(event, "registers", {})
    decided = (registers[0].hex(), registers[1].hex(), registers[2].hex())
    role = "arn:aws:iam::444455556666:role/parent"
    expected = replace(EXPECTED, key=key, tuples=(decided,), roles=(role,), role_ids=("AROAEXAMPLE",))
    collection = Collected(key)
    sources.from_path(collection, path)
    report = judge_events(collection.events, expected, collection.findings, calls=collection.calls)
    assert [finding.code for finding in report.findings] == found
    assert conclude(report, collection.coverage, none_expected=False).outcome is outcome
    if name == "op_TagResource":
        assert [(event.name, event.caller.shown) for event in report.notable] == [
            ("TagResource", "arn:aws:iam::111122223333:user/eve")
        ]
