"""Every event of a key is judged, whatever its record lacks, and what the key has been through is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from coattest.errors import UsageError
from coattest_build.formats.measure import pcr3
from coattest_verify.audit.events import KeyName
from coattest_verify.audit.operations import CHANGES, KNOWN, NEVER
from support.local.kms_world import PARENT
from support.verify.trail_records import (
    AUCTION,
    ENCLAVE,
    EXPECTED,
    KEY,
    OTHER_KEY,
    TUPLE,
    audited,
    codes,
    cross_account,
    record,
    record_of_s3,
)

OTHER_ROLE = "arn:aws:iam::111122223333:role/other"
NAMED_IN_PARAMETERS = {"keyId": KEY, **record()["requestParameters"]}


def test_attested_decrypts_are_grouped_by_auction_buyer_and_enclave() -> None:
    """A retry by the same enclave is a second decrypt of its group; an equal record is the same event."""
    later = record(id="2", eventTime="2026-11-23T10:05:00Z")
    report = audited(record(id="1"), later, later)
    assert not report.found_false
    (group,) = report.groups
    assert (group.values, group.module_id, group.count) == ((AUCTION, "buyer-1"), ENCLAVE, 2)
    assert group.last - group.first == timedelta(minutes=5)
    assert (report.events, report.copies) == (2, 1)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"registers": None}, ["unattested"]),
        ({"registers": {**dict(enumerate(TUPLE)), 0: "ff" * 48}}, ["undecided-enclave"]),
        ({"registers": {**dict(enumerate(TUPLE)), 2: "ff" * 48}}, ["undecided-enclave"]),
        ({"registers": {0: TUPLE[0], 1: TUPLE[1]}}, ["undecided-enclave"]),
        ({"registers": dict.fromkeys(range(3), "00" * 48)}, ["undecided-enclave"]),
        ({"role": OTHER_ROLE}, ["unexpected-role"]),
        ({"awsRegion": "eu-west-1"}, ["unexpected-region"]),
        ({"requestParameters": {"encryptionContext": {"coattest:buyer": "buyer-2"}}}, ["unexpected-context"]),
        ({"requestParameters": None}, ["unexpected-context"]),
        ({"eventName": "ReEncrypt"}, ["past-the-policy"]),
        ({"eventName": "CreateGrant"}, ["past-the-policy"]),
        ({"eventName": "DecryptTwice"}, ["unknown-operation"]),
        ({"eventName": "PutKeyPolicy"}, []),
        ({"errorCode": "AccessDenied", "registers": None}, []),
        ({"errorCode": "", "registers": None}, ["unattested"]),
        ({"errorCode": False, "registers": None}, ["unattested"]),
        ({"eventSource": "s3.amazonaws.com", "registers": None}, ["bad-event"]),
        (record_of_s3(), []),
        ({"eventSource": "s3.amazonaws.com", "eventName": "GetObject", "registers": None}, []),
        ({"resources": [{"ARN": KEY + "x"}, {"ARN": OTHER_KEY}], "registers": None}, []),
        ({"eventName": "GenerateDataKey", "registers": None}, []),
        ({"eventName": "DescribeKey", "registers": None}, []),
    ],
)
def test_each_event_that_should_not_be_there_has_a_code(changes: dict[str, Any], found: list[str]) -> None:
    """Successful Decrypts are judged; refused ones and other keys' are not problems."""
    assert codes(record(**changes)) == found


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"resources": None, "requestParameters": NAMED_IN_PARAMETERS}, ["unattested"]),
        ({"resources": [], "requestParameters": {"keyId": KEY.rsplit("/", 1)[1]}}, ["unattested"]),
        ({"resources": [{"ARN": OTHER_KEY}], "requestParameters": {"destinationKeyId": KEY}}, ["unattested"]),
        ({"resources": KEY}, ["unattested"]),
        ({"resources": json.dumps([{"ARN": KEY}])}, ["unattested"]),
        ({"resources": None, "requestParameters": json.dumps(NAMED_IN_PARAMETERS)}, ["unattested"]),
        ({"resources": None, "requestParameters": f"keyId={KEY}"}, ["bad-event", "unattested"]),
        ({"resources": None, "responseElements": {"keyId": KEY}}, ["unattested"]),
        ({"resources": None, "serviceEventDetails": {"keyId": KEY}}, ["unattested"]),
        ({"resources": None}, ["unnamed-key"]),
        ({"resources": None, "requestParameters": {"keyId": "alias/bids"}}, ["unnamed-key"]),
        ({"recipientAccountId": None}, ["unattested"]),
        ({"userIdentity": None}, ["unattested", "unexpected-role"]),
        ({"userIdentity": "root"}, ["unattested", "unexpected-role"]),
        ({"awsRegion": None}, ["unattested", "unexpected-region"]),
        ({"eventID": None}, ["unattested"]),
        ({"eventTime": None}, ["bad-event", "unattested"]),
        ({"eventTime": "yesterday"}, ["bad-event", "unattested"]),
        ({"eventTime": 1764000000}, ["bad-event", "unattested"]),
        ({"eventName": None}, ["bad-event", "unknown-operation"]),
        ({"additionalEventData": None}, ["unattested"]),
        ({"additionalEventData": "a text"}, ["bad-event", "unattested"]),
        ({"additionalEventData": {"recipient": []}}, ["bad-event", "unattested"]),
        ({"eventSource": None}, ["bad-event"]),
        ({"eventSource": "KMS.amazonaws.com"}, ["unattested"]),
    ],
)
def test_a_record_that_lacks_a_field_is_judged_or_shown_as_unreadable(
    changes: dict[str, Any], found: list[str]
) -> None:
    """A Decrypt without a document does not pass because something else of its record is missing too."""
    context = replace(EXPECTED, context={})
    assert sorted(codes(record(registers=None, **changes), expected=context)) == sorted(found)


def test_maps_that_stand_in_strings_are_maps() -> None:
    """Event data stores give maps as text: an honest Decrypt in that form is honest."""
    raw = record()
    fields = ("additionalEventData", "requestParameters", "userIdentity", "resources")
    assert codes({**raw, **{name: json.dumps(raw[name]) for name in fields}}) == []


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-23T10:00:00.123Z",
        "2026-11-23T10:00:00.123456789Z",
        "2026-11-23T12:00:00+02:00",
        "2026-11-23t10:00:00z",
    ],
)
def test_times_have_fractions_and_offsets(time: str) -> None:
    """Each of these is in the hour from ten o'clock UTC."""
    begin = datetime(2026, 11, 23, 10, tzinfo=timezone.utc)
    window = replace(EXPECTED, since=begin, until=begin + timedelta(seconds=1))
    assert audited(record(eventTime=time), expected=window).events == 1
    assert audited(record(eventTime=time), expected=replace(window, until=begin)).outside == 1


def test_registers_that_cannot_be_read_are_no_registers() -> None:
    """Neither base64 nor hex of 48 bytes, or two values for PCR0."""
    for value in ("AA==", "zz", 7, None):
        raw = record()
        raw["additionalEventData"]["recipient"]["attestationDocumentEnclavePCR1"] = value
        assert codes(raw) == ["bad-event", "undecided-enclave"]
    raw = record()
    raw["additionalEventData"]["recipient"]["attestationDocumentEnclavePCR0"] = "ff" * 48
    assert codes(raw) == ["bad-event"]
    raw["additionalEventData"]["recipient"]["attestationDocumentEnclavePCR0"] = TUPLE[0]
    assert codes(raw) == []


def test_an_event_does_not_hide_behind_the_id_of_another() -> None:
    """Only a copy in every field is the same event."""
    assert codes(record(id="1"), record(id="1", registers=None)) == ["unattested"]


def test_a_caller_of_another_account_is_known_by_its_unique_id() -> None:
    """Given, or seen beside the role's ARN in the same trail; any other id is not the role."""
    given = replace(EXPECTED, role_ids=("AROAEXAMPLE",))
    assert codes(cross_account(), expected=given) == []
    assert codes(cross_account("AROAOTHER:i-1"), expected=given) == ["unexpected-role"]
    beside = record(id="2")
    beside["userIdentity"]["sessionContext"]["sessionIssuer"]["principalId"] = "AROAEXAMPLE"
    assert codes(cross_account(), beside) == []
    beside["userIdentity"]["sessionContext"]["sessionIssuer"]["arn"] = OTHER_ROLE
    assert codes(cross_account(), beside) == ["unexpected-role", "unexpected-role"]


def test_a_caller_known_by_account_only_is_the_role_where_the_document_says_so() -> None:
    """PCR3 is of the parent's role. Without it nobody can tell, which is neither good nor found false."""
    registers = {**dict(enumerate(TUPLE)), 3: pcr3(PARENT)}
    assert codes(cross_account(registers=registers)) == []
    report = audited(cross_account())
    assert [finding.code for finding, _ in report.undecided] == ["role-unconfirmed"]
    assert "AROAEXAMPLE" in report.undecided[0][0].detail
    assert (report.findings, report.groups) == ((), ())
    elsewhere = cross_account(registers=registers)
    elsewhere["userIdentity"]["accountId"] = "999999999999"
    assert codes(elsewhere) == ["unexpected-role"]


def test_a_session_without_its_issuer_is_known_by_its_name() -> None:
    """A role's name is unique in its account."""
    raw = record()
    del raw["userIdentity"]["sessionContext"]
    assert codes(raw) == []
    raw["userIdentity"]["arn"] = "arn:aws:sts::111122223333:assumed-role/parents/i-1"
    assert codes(raw) == ["unexpected-role"]


def test_what_another_account_recorded_counts_only_beside_the_key_owners_record() -> None:
    """A copy of a call is one event. Alone it says that the key owner's trail lacks that call."""
    own = record(sharedEventID="call-1")
    theirs = record(id="2", sharedEventID="call-1", recipientAccountId="111122223333", registers=None)
    report = audited(own, theirs)
    assert (report.findings, report.events, report.copies) == ((), 1, 1)
    assert codes(theirs) == ["not-in-own-trail"]
    assert codes(own, {**theirs, "sharedEventID": "call-2"}) == ["not-in-own-trail"]
    assert codes({**theirs, "errorCode": "AccessDenied"}) == []


def test_network_activity_is_a_second_record_of_a_call() -> None:
    """A VPC endpoint's record has no document: beside the call's own record it is a copy, alone a finding."""
    own = record(requestID="request-1")
    network = record(id="2", requestID="request-1", eventCategory="NetworkActivity", registers=None)
    assert codes(own, network) == []
    assert codes(network) == ["not-in-own-trail"]
    unnamed = {**network, "resources": None, "requestParameters": None}
    assert codes(own, unnamed) == []
    other = record(id="3", requestID="request-3", resources=[{"ARN": OTHER_KEY}])
    assert codes(own, other, {**unnamed, "requestID": "request-3"}) == []
    assert codes(own, {**unnamed, "requestID": "request-4"}) == ["unnamed-key"]


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_change_of_a_key_is_shown(name: str) -> None:
    """With who made it and its parameters; it is no finding by itself."""
    parameters = {"keyId": KEY, "tags": [{"tagKey": "team", "tagValue": "red"}], "policy": "x" * 40_000}
    report = audited(record(eventName=name, requestParameters=parameters))
    (event,) = report.notable
    assert (event.name, report.findings) == (name, ())
    assert "red" in event.parameters
    assert "40000 characters" in event.parameters


@pytest.mark.parametrize("name", sorted(NEVER))
def test_what_no_policy_allows_is_a_finding_when_it_succeeds(name: str) -> None:
    """Refused it is one of the refusals."""
    assert codes(record(eventName=name)) == ["past-the-policy"]
    assert len(audited(record(eventName=name, errorCode="AccessDenied")).denied) == 1


def test_an_alias_that_goes_to_another_key_is_a_change_of_this_one() -> None:
    """The record of it names the other key alone."""
    made = record(
        id="1", eventName="CreateAlias", requestParameters={"aliasName": "alias/bids", "targetKeyId": KEY}
    )
    away = record(
        id="2",
        eventName="UpdateAlias",
        eventTime="2026-11-23T11:00:00Z",
        requestParameters={"aliasName": "alias/bids", "targetKeyId": OTHER_KEY},
        resources=[{"ARN": OTHER_KEY}],
    )
    gone = record(
        id="3", eventName="DeleteAlias", requestParameters={"aliasName": "alias/bids"}, resources=None
    )
    elsewhere = {**away, "requestParameters": {"aliasName": "alias/other", "targetKeyId": OTHER_KEY}}
    assert sorted(event.name for event in audited(made, away, gone, elsewhere).notable) == [
        "CreateAlias",
        "DeleteAlias",
        "UpdateAlias",
    ]


def test_only_the_window_is_judged_and_the_rest_is_counted() -> None:
    """From since, up to and without until."""
    begin = datetime(2026, 11, 23, 10, tzinfo=timezone.utc)
    window = replace(EXPECTED, since=begin, until=begin + timedelta(hours=1))
    times = ("2026-11-23T11:00:00Z", "2026-11-23T12:00:00Z", "2026-11-23T09:59:59Z")
    outside = [record(id=time, eventTime=time, registers=None) for time in times]
    report = audited(*outside, expected=window)
    assert (report.findings, report.events, report.outside) == ((), 0, 3)
    assert codes(record(registers=None), expected=window) == ["unattested"]


def test_another_enclave_for_the_same_auction_is_no_retry() -> None:
    """Both are attested; that there were two is shown. Without an auction nothing was opened twice."""
    other = record(id="2")
    other["additionalEventData"]["recipient"]["attestationDocumentModuleId"] = f"{ENCLAVE}-other"
    assert audited(record(id="1"), other).reruns == ((AUCTION, "buyer-1"),)
    assert audited(record(id="1")).reruns == ()
    draw = {"encryptionContext": {"purpose": "draw"}}
    both = [{**raw, "requestParameters": draw} for raw in (record(id="1"), other)]
    report = audited(*both, expected=replace(EXPECTED, context={"purpose": "draw"}))
    assert (len(report.groups), report.reruns, report.findings) == (2, (), ())


def test_registers_in_hex_are_the_same_registers() -> None:
    """AWS's older examples have hex where today's have base64."""
    raw = record()
    raw["additionalEventData"]["recipient"]["attestationDocumentEnclaveImageDigest"] = TUPLE[0]
    assert codes(raw) == []


def test_a_rule_of_ones_own_judges_decrypts_too() -> None:
    """Rules are functions: a comparison with a journal is one more."""
    from coattest_verify.audit.judge import DECRYPT_RULES, finding_of, judge_events
    from support.verify.trail_records import collected

    def never_sealed(event: Any, _expected: Any, _known: Any) -> list[Any]:
        sealed = event.context.get("coattest:auction") == "aa"
        return [] if sealed else [finding_of("unexpected-context", event, "never sealed here")]

    report = judge_events(collected(record()).events, EXPECTED, rules=(*DECRYPT_RULES, never_sealed))
    assert [finding.detail for finding in report.findings] == ["never sealed here"]


@pytest.mark.parametrize(
    "arn",
    [
        "",
        KEY.rsplit("/", 1)[1],
        KEY.replace("key/", "alias/"),
        KEY + "x",
        KEY[:-1],
        KEY.upper(),
        KEY.replace("222233334444", "22223333444"),
        KEY.replace("kms", "s3"),
        KEY.replace(":key/", ":key/*"),
        "arn:aws:kms:eu-central-1:222233334444:key/",
        f" {KEY}",
        f"{KEY}\n",
    ],
)
def test_a_malformed_key_is_a_usage_error(arn: str) -> None:
    """An audit of it would find no event and say that all is well."""
    with pytest.raises(UsageError):
        KeyName.parse(arn)


def test_a_multi_region_key_and_other_partitions_are_keys() -> None:
    """Their ARNs parse, and events of a replica in another Region are events of the key."""
    arn = "arn:aws-us-gov:kms:us-gov-west-1:222233334444:key/mrk-1234abcd12ab34cd56ef1234567890ab"
    mine = replace(EXPECTED, key=KeyName.parse(arn))
    replica = record(awsRegion="us-gov-east-1", resources=[{"ARN": arn.replace("-west-", "-east-")}])
    assert codes(replica, expected=mine) == ["unexpected-region"]


def test_every_operation_is_of_one_kind() -> None:
    """The sets of operations do not overlap."""
    from coattest_verify.audit import operations

    sets = (NEVER, CHANGES, operations.USES, operations.READS, operations.KEYLESS, {operations.DECRYPT})
    assert sum(map(len, sets)) == len(KNOWN)
