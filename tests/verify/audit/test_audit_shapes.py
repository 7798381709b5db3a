"""Records in every shape that CloudTrail, its exports and queries give them: each is judged, or unreadable.

CT is the CloudTrail User Guide, KMS the KMS Developer Guide; the sentence says why an answer is the right
one.
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from coattest_verify.audit import sources
from coattest_verify.audit.collect import Collected
from coattest_verify.audit.digests import DigestFile
from coattest_verify.audit.trails import records_kms
from coattest_verify.audit.verdict import AuditOutcome, conclude
from support.verify.trail_records import (
    EXPECTED,
    KEY,
    OTHER_KEY,
    TUPLE,
    audited,
    codes,
    collected,
    cross_account,
    record,
)

ID = KEY.rsplit("/", 1)[1]
ALIAS = "arn:aws:kms:eu-central-1:222233334444:alias/ours"
OTHERS = ("b0" * 48, "b1" * 48, "b2" * 48)
OPTIONAL = 'CT Record contents: "Optional: True"; a reader may find null, or nothing.'
QUERIES = "CT Lake and Athena: maps are exported as text, and what is null as an empty text or the word."
RECIPIENT = (
    "KMS Monitoring Nitro enclaves: a call with a document has additionalEventData.recipient, and registers."
)
BOTH = "CT Cross-account: the caller's account and the owner's each get a record of the call."
EVENTBRIDGE = 'EventBridge: "AWS API Call via CloudTrail" has the record in detail.'
PERHAPS = "CT Record contents: nothing says that such a text is an error code."


def bad(**changes: Any) -> dict[str, Any]:
    """A Decrypt without a document."""
    return record(id="bad", registers=None, **changes)


def without(raw: dict[str, Any], *names: str, **more: Any) -> dict[str, Any]:
    """A record without some fields and with others."""
    return {name: value for name, value in raw.items() if name not in names} | more


def recipient(**changes: Any) -> dict[str, Any]:
    """A Decrypt whose recipient is another one."""
    return record(additionalEventData={"recipient": changes})


def envelope(raw: Any, **more: Any) -> bytes:
    """EventBridge's."""
    outer = {"id": "x", "detail-type": "AWS API Call via CloudTrail", "source": "aws.kms", "detail": raw}
    return dumped({**outer, "region": "eu-central-1", "account": "222233334444", **more})


def dumped(value: Any) -> bytes:
    """As JSON."""
    return json.dumps(value).encode()


def changed_register(name: str, value: Any) -> dict[str, Any]:
    """An attested Decrypt with one field of its recipient changed."""
    raw = record()
    raw["additionalEventData"]["recipient"][f"attestationDocumentEnclave{name}"] = value
    return raw


@dataclass(frozen=True)
class Shape:
    """Log files, the codes of all findings, and the sentence."""

    name: str
    documents: tuple[Any, ...]
    source: str
    codes: tuple[str, ...] = ("unattested",)


NOT_OURS = ("unattested", "unexpected-context")
SHAPES = (
    # Where the key stands.
    Shape(
        "key-in-parameters",
        (without(bad(), "resources", requestParameters={"keyId": KEY}),),
        OPTIONAL,
        NOT_OURS,
    ),
    Shape(
        "id-in-capitals",
        (without(bad(), "resources", requestParameters={"keyId": ID.upper()}),),
        OPTIONAL,
        NOT_OURS,
    ),
    Shape(
        "parameters-as-text",
        (without(bad(), "resources", requestParameters=json.dumps({"keyId": KEY})),),
        QUERIES,
        NOT_OURS,
    ),
    Shape("resources-as-text", (bad(resources=json.dumps([{"ARN": KEY}])),), QUERIES),
    Shape("resources-as-an-object", (bad(resources={"ARN": KEY}),), QUERIES),
    Shape("arn-in-small-letters", (bad(resources=[{"arn": KEY}]),), QUERIES),
    Shape("no-key-at-all", (bad(resources=None, requestParameters=None),), OPTIONAL, ("unnamed-key",)),
    Shape(
        "of-an-account-that-is-another",
        (bad(resources=[{"ARN": KEY.replace("222233334444", "999999999999")}]),),
        "KMS Multi-Region keys: a key's id is unique; where the record has it, it is the key's.",
    ),
    Shape("other-key", (bad(resources=[{"ARN": OTHER_KEY}]),), "CT resources: the resources accessed.", ()),
    Shape(
        "by-an-alias-that-another-record-names",
        (
            record(eventName="UpdateAlias", resources=[{"ARN": ALIAS}, {"ARN": KEY}]),
            bad(resources=[{"ARN": ALIAS}]),
        ),
        "KMS UpdateAlias: associates an alias with a key.",
    ),
    # Who records it, and as what.
    Shape("source-in-capitals", (bad(eventSource="KMS.amazonaws.com"),), "CT eventSource: the service."),
    Shape("source-in-china", (bad(eventSource="kms.amazonaws.com.cn"),), "CT eventSource: the service."),
    Shape("no-source", (without(bad(), "eventSource"),), OPTIONAL, ("bad-event",)),
    Shape(
        "an-insight-that-names-the-key",
        (without(bad(), "eventSource", "eventName", insightDetails={}),),
        "CT Insights record contents: an Insights event has no resources.",
        ("bad-event",),
    ),
    Shape(
        "insight-details-in-a-call", (bad(insightDetails={"a": 1}),), "CT Insights: eventName is not there."
    ),
    Shape(
        "name-in-small-letters",
        (bad(eventName="decrypt"),),
        "CT eventName: of the API.",
        ("unknown-operation",),
    ),
    Shape(
        "new-name", (record(eventName="DecryptBatch"),), "CT eventName: of the API.", ("unknown-operation",)
    ),
    Shape("endpoint-of-fips", (bad(eventSource="kms-fips.amazonaws.com"),), "CT eventSource: the service."),
    Shape(
        "owner-does-not-record-it", (record(recipientAccountId="111122223333"),), BOTH, ("not-in-own-trail",)
    ),
    Shape(
        "network-activity-alone",
        (bad(eventCategory="NetworkActivity"),),
        "CT Network activity: events of a VPC endpoint, beside the management event.",
        ("not-in-own-trail",),
    ),
    Shape("same-id-and-another-content", (record(id="same"), without(bad(), eventID="same")), "CT eventID"),
    # Whether it succeeded.
    Shape(
        "refused", (bad(errorCode="AccessDenied"),), "CT errorCode: the error if the request returns one.", ()
    ),
    Shape("empty-error", (bad(errorCode=""),), QUERIES),
    Shape("error-that-is-blank", (bad(errorCode="  "),), QUERIES),
    *(
        Shape(f"error-{text}", (bad(errorCode=text),), f"{QUERIES} {PERHAPS}", ("bad-event", "unattested"))
        for text in ("null", "None", "-", "N/A", "undefined", "0", "\\N")
    ),
    Shape("error-that-is-an-object", (bad(errorCode={"code": "AccessDenied"}),), PERHAPS),
    Shape("message-alone", (bad(errorMessage="denied"),), "CT errorCode and errorMessage are two fields."),
    Shape(
        "a-copy-that-succeeded-beside-a-refusal",
        (bad(errorCode="null", requestID="r"), bad(errorCode="AccessDenied", requestID="r", eventID="two")),
        f"{BOTH} A refusal is no record of a success.",
        ("bad-event", "unattested"),
    ),
    # The document.
    Shape("recipient-is-null", (record(additionalEventData={"recipient": None}),), RECIPIENT),
    Shape("recipient-is-empty", (recipient(),), RECIPIENT),
    Shape(
        "recipient-is-a-list",
        (record(additionalEventData={"recipient": []}),),
        RECIPIENT,
        ("bad-event", "unattested"),
    ),
    Shape("recipient-is-garbage", (record(additionalEventData="x"),), RECIPIENT, ("bad-event", "unattested")),
    Shape(
        "recipient-as-text",
        (record(additionalEventData=json.dumps(record()["additionalEventData"])),),
        QUERIES,
        (),
    ),
    Shape("module-alone", (recipient(attestationDocumentModuleId="i-1"),), RECIPIENT, ("undecided-enclave",)),
    Shape(
        "nitrotpm",
        (recipient(attestationDocumentNitroTPMPCR4=TUPLE[0]),),
        "KMS Monitoring NitroTPM: such a call has the registers of a NitroTPM document.",
        ("undecided-enclave",),
    ),
    Shape(
        "image-that-is-two",
        (changed_register("PCR0", base64.b64encode(bytes.fromhex(OTHERS[0])).decode()),),
        f"{RECIPIENT} ImageDigest is PCR0.",
        ("bad-event",),
    ),
    Shape(
        "register-of-another-image", (changed_register("PCR1", OTHERS[1]),), RECIPIENT, ("undecided-enclave",)
    ),
    Shape("register-in-hex", (changed_register("PCR1", TUPLE[1]),), RECIPIENT, ()),
    # The caller.
    Shape("no-caller", (without(record(), "userIdentity"),), OPTIONAL, ("unexpected-role",)),
    Shape(
        "a-service",
        (record(userIdentity={"type": "AWSService", "invokedBy": "s3.amazonaws.com"}),),
        "CT userIdentity: type AWSService.",
        ("unexpected-role",),
    ),
    Shape(
        "role-of-that-name-elsewhere",
        (
            record(
                userIdentity={"type": "AssumedRole", "arn": "arn:aws:sts::999922223333:assumed-role/parent/x"}
            ),
        ),
        "IAM ARNs: the account is part of it.",
        ("unexpected-role",),
    ),
    Shape("account-alone", (cross_account(),), "CT userIdentity: type AWSAccount.", ("role-unconfirmed",)),
    Shape("no-region", (without(record(), "awsRegion"),), OPTIONAL, ("unexpected-region",)),
    Shape("time-as-a-number", (bad(eventTime=1764000000),), QUERIES, ("bad-event", "unattested")),
    # Files.
    Shape("envelope", (envelope(bad()),), EVENTBRIDGE),
    Shape("envelopes-in-records", (dumped({"Records": [json.loads(envelope(bad()))]}),), EVENTBRIDGE),
    Shape("envelope-with-text", (envelope(json.dumps(bad())),), EVENTBRIDGE, ("bad-event",)),
    Shape(
        "queue",
        (dumped({"Messages": [{"Body": envelope(bad()).decode()}]}),),
        "SQS ReceiveMessage: the record is text within text.",
        ("bad-event",),
    ),
    Shape(
        "records-in-small-letters", (dumped({"records": [bad()]}),), "CT Log files: Records.", ("bad-event",)
    ),
    Shape("records-in-records", (dumped({"Records": [{"Records": [bad()]}]}),), "CT Log files: Records."),
    Shape(
        "documents-without-a-break",
        (dumped(record()) + dumped(bad()),),
        "Firehose: records one after the other.",
    ),
    Shape(
        "packed-twice",
        (gzip.compress(gzip.compress(dumped(bad()))),),
        "CT Log files: gzip, once.",
        ("bad-event",),
    ),
    Shape(
        "a-table",
        (b"eventTime,eventName\n2026,Decrypt\n",),
        "CT Event history: also as CSV.",
        ("bad-event",) * 3,
    ),
    Shape(
        "a-number-without-end",
        (
            b'{"Records":[{"eventSource":"ec2.amazonaws.com","a":'
            + b"9" * 5000
            + b"},"
            + dumped(bad())
            + b"]}",
        ),
        "RFC 8259: no limit on the digits of a number.",
    ),
)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_record_of_any_shape_is_judged_or_said_to_be_unreadable(shape: Shape) -> None:
    """The codes of all findings; none is lost beside another."""
    assert tuple(sorted(codes(*shape.documents))) == shape.codes, shape.source


# Files in a folder.


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("trail.zip", b"PK\x03\x04rest"),
        ("trail.zst", b"\x28\xb5\x2f\xfdrest"),
        ("trail.bz2", b"BZh91AY"),
        ("trail.xz", b"\xfd7zXZ\x00rest"),
        ("trail.parquet", b"PAR1rest"),
        ("event_history.csv", b"Event name,Event time,Event source\nDecrypt,2026,kms.amazonaws.com\n"),
        ("trail.txt", b"# exported\n" + dumped(bad())),
        ("trail.utf16", "# exported eventSource\n".encode("utf-16-le")),
    ],
)
def test_what_may_be_a_log_and_is_not_read_is_a_finding(tmp_path: Path, name: str, content: bytes) -> None:
    """Beside a good log, which alone would be well: packed in another way, or with something in front."""
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.json").write_bytes(dumped({"Records": [record()]}))
    found = Collected(EXPECTED.key)
    sources.from_path(found, tmp_path)
    assert {finding.code for finding in found.findings} == {"bad-event"}
    assert found.coverage.skipped == []
    assert [event.identity for event in found.events] == (
        ["event-1", "bad"] if name == "trail.txt" else ["event-1"]
    )


def test_what_is_packed_says_how() -> None:
    """So that somebody can unpack it."""
    (finding,) = audited(b"\x28\xb5\x2f\xfdrest").findings
    assert "zstd" in finding.detail
    assert "unpack" in finding.detail


# Trails that stop recording.


def at(time: str) -> datetime:
    """A time of that day."""
    return datetime.fromisoformat(f"2026-11-23T{time}:00+00:00")


def of_a_trail(name: str, time: str = "09:00", /, **parameters: Any) -> dict[str, Any]:
    """A record of CloudTrail's own."""
    of_cloudtrail = {
        "eventSource": "cloudtrail.amazonaws.com",
        "resources": None,
        "eventTime": f"2026-11-23T{time}:00Z",
    }
    return record(**of_cloudtrail, eventName=name, requestParameters={"name": "ours", **parameters})


ALL = {"readWriteType": "All", "includeManagementEvents": True, "excludeManagementEventSources": []}
MANAGEMENT = {"fieldSelectors": [{"field": "eventCategory", "equals": ["Management"]}]}


@pytest.mark.parametrize(
    "raw",
    [
        of_a_trail("StopLogging"),
        of_a_trail("DeleteTrail"),
        of_a_trail("PutEventSelectors"),
        of_a_trail("PutEventSelectors", eventSelectors="?"),
        of_a_trail(
            "PutEventSelectors",
            eventSelectors=[{**ALL, "excludeManagementEventSources": ["kms.amazonaws.com"]}],
        ),
        of_a_trail("PutEventSelectors", eventSelectors=[{**ALL, "readWriteType": "WriteOnly"}]),
        of_a_trail("PutEventSelectors", eventSelectors=[{**ALL, "includeManagementEvents": False}]),
        of_a_trail(
            "PutEventSelectors",
            advancedEventSelectors=[
                {
                    "fieldSelectors": [
                        *MANAGEMENT["fieldSelectors"],
                        {"field": "eventSource", "notEquals": ["kms.amazonaws.com"]},
                    ]
                }
            ],
        ),
    ],
)
def test_a_trail_that_may_lack_calls_of_kms_leaves_the_audit_undecided(raw: dict[str, Any]) -> None:
    """CloudTrail's digest files would still say that every log is there."""
    found = collected(raw, record())
    (finding,) = found.changed(None, None)
    assert (finding.code, found.findings) == ("trail-changed", ())
    report = replace(audited(record()), undecided=((finding, None),))
    assert conclude(report, found.coverage, none_expected=False).outcome is AuditOutcome.UNDECIDED
    assert collected({**raw, "errorCode": "AccessDenied"}).changed(None, None) == ()
    assert collected({**raw, "recipientAccountId": "111122223333"}).changed(None, None) == ()
    moment = at("09:30")
    assert found.changed(moment, None) == found.changed(None, moment) == (finding,)
    assert found.changed(None, at("08:30")) == ()


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ([("09:00", "StopLogging", {}), ("09:10", "StartLogging", {})], 0),
        (
            [
                ("09:00", "StopLogging", {}),
                (
                    "09:10",
                    "StartLogging",
                    {"name": "arn:aws:cloudtrail:eu-central-1:222233334444:trail/ours"},
                ),
            ],
            0,
        ),
        ([("09:00", "StopLogging", {}), ("09:40", "StartLogging", {})], 1),
        ([("09:00", "DeleteTrail", {}), ("09:10", "StartLogging", {})], 1),
        ([("09:00", "StopLogging", {}), ("09:00", "StartLogging", {})], 1),
        ([("09:10", "StopLogging", {}), ("09:00", "StartLogging", {})], 1),
        ([("09:00", "StopLogging", {}), ("09:10", "StartLogging", {"name": "another"})], 1),
        ([("09:00", "StopLogging", {}), ("09:10", "PutEventSelectors", {"eventSelectors": [{}]})], 1),
        ([("09:00", "PutEventSelectors", {}), ("09:10", "PutEventSelectors", {"eventSelectors": [{}]})], 0),
        ([("09:00", "UpdateTrail", {"isMultiRegionTrail": False})], 1),
        (
            [
                ("09:00", "UpdateTrail", {"isMultiRegionTrail": False}),
                ("09:10", "UpdateTrail", {"isMultiRegionTrail": True, "s3BucketName": "b"}),
            ],
            0,
        ),
        ([("09:40", "UpdateTrail", {"s3BucketName": "elsewhere"})], 1),
        ([("09:40", "UpdateTrail", {"enableLogFileValidation": True})], 0),
        ([("09:00", "UpdateTrail", {"enableLogFileValidation": False})], 1),
        ([("09:00", "UpdateTrail", {"isMultiRegionTrail": False, "enableLogFileValidation": False})], 2),
    ],
)
def test_what_was_stopped_before_the_window_is_missing_in_it_until_it_is_undone(
    changes: list[tuple[str, str, dict[str, Any]]], count: int
) -> None:
    """A trail that was stopped the day before shows nothing of the day."""
    found = collected(*(of_a_trail(name, time, **more) for time, name, more in changes))
    found.digests = [DigestFile(b"", "", "")]
    assert [finding.code for finding in found.changed(at("09:30"), None)] == ["trail-changed"] * count
    found.digests, ending = [], sum("enableLogFileValidation" in more for *_, more in changes)
    assert len(found.changed(at("09:30"), None)) == max(0, count - ending)


@pytest.mark.parametrize(
    ("name", "seen", "changed"),
    [
        ("DeleteTrail", {}, False),
        ("StopLogging", {}, False),
        ("UpdateTrail", {}, False),
        ("PutEventSelectors", {}, True),
        ("DeleteTrail", {"awsRegion": "us-east-1"}, True),
        ("DeleteTrail", {"recipientAccountId": "111122223333"}, True),
        ("DeleteTrail", {"readOnly": False}, True),
        ("DeleteTrail", {"readOnly": None}, True),
        ("DeleteTrail", {"eventCategory": "NetworkActivity"}, True),
        ("DeleteTrail", {"eventTime": "2026-11-23T09:30:00Z"}, True),
        ("DeleteTrail", {"eventTime": "2026-11-23T12:00:00Z"}, True),
    ],
)
def test_a_trail_that_is_gone_is_not_missed_where_calls_were_recorded_after_it(
    name: str, seen: dict[str, Any], changed: bool
) -> None:
    """There is another trail: its records show it. What selectors leave out no other record shows."""
    later = record(**{"eventTime": "2026-11-23T11:30:00Z", "readOnly": True, **seen})
    found = collected(of_a_trail(name, isMultiRegionTrail=False), later)
    assert bool(found.changed(at("12:00"), None)) is changed


@pytest.mark.parametrize(
    "parameters",
    [
        {"eventSelectors": [ALL]},
        {"eventSelectors": [{}]},
        {"eventSelectors": [{**ALL, "readWriteType": "WriteOnly"}, ALL]},
        {"advancedEventSelectors": [MANAGEMENT]},
        {
            "advancedEventSelectors": [
                {"name": "all", "fieldSelectors": [{**MANAGEMENT["fieldSelectors"][0], "notEquals": []}]}
            ]
        },
    ],
)
def test_selectors_of_all_management_events_record_kms(parameters: dict[str, Any]) -> None:
    """ "if the event matches any event selector, the trail processes and logs the event"."""
    assert records_kms(parameters)
    assert collected(of_a_trail("PutEventSelectors", **parameters)).changed(None, None) == ()


def test_pages_that_are_taken_for_one_answer_are_told() -> None:
    """Nobody can tell a last page from a whole answer of another day: the verdict says what was assumed."""
    page = dumped({"Events": [{"CloudTrailEvent": json.dumps(record())}], "NextToken": "n"})
    last = dumped({"Events": [{"CloudTrailEvent": json.dumps(record(id="2"))}]})
    told = []
    for documents in ((page, last), (page + last,)):
        found = collected(*documents)
        assert found.unfinished == ()
        told.append(conclude(audited(*documents), found.coverage, none_expected=False).sentence)
    assert ["1 page(s) in files of their own" in sentence for sentence in told] == [True, False]
