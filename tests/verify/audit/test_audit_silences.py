"""Ways in which an event of the key could be passed over: each is judged, or said to be unreadable."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import UsageError
from coattest_verify.audit import records, sources
from coattest_verify.audit.collect import Collected
from coattest_verify.audit.judge import AuditReport, judge_events
from support.verify.trail_records import EXPECTED, KEY, OTHER_KEY, audited, codes, record, record_of_s3

BAD = record(id="bad", registers=None)
ALIAS = "arn:aws:kms:eu-central-1:222233334444:alias/ours"
SOMEBODY = "111122223333"


def dumped(value: Any) -> bytes:
    """As JSON."""
    return json.dumps(value).encode()


def history(*raws: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A page of lookup-events' output."""
    return {"Events": [{"CloudTrailEvent": json.dumps(raw)} for raw in raws], **more}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(gzip.compress(dumped(BAD)) + gzip.compress(b" " * 99)[:-9], id="a later member cut"),
        pytest.param(gzip.compress(dumped(BAD)) + b"\x1f\x8b no gzip", id="a later member damaged"),
        pytest.param(gzip.compress(dumped(BAD)) + b"more", id="something behind the members"),
        pytest.param(dumped({**BAD, "userAgent": "@"}).replace(b"@", b"\xff"), id="a byte that is no UTF-8"),
        pytest.param(
            b'{"Records":[{"eventSource":"a","eventSource":"b"},' + dumped(BAD) + b"]}", id="a name twice"
        ),
        pytest.param(
            b'{"Records":[{"x":{"y":1,"y":2}},' + dumped(BAD) + b"]}", id="a name twice further inside"
        ),
        pytest.param(
            b'{"Events":[{"a":1,"a":2},' + dumped(history(BAD)["Events"][0]) + b"]}",
            id="a name twice in an item",
        ),
        pytest.param(
            b'{"Events":[' + dumped(history(BAD)["Events"][0]) + b'],"a":1,"a":2}', id="a name twice beside"
        ),
    ],
)
def test_damage_is_said_and_hides_nothing_beside_it(data: bytes) -> None:
    """In one and the same file."""
    assert sorted(codes(data)) == ["bad-event", "unattested"]


def test_zeros_behind_gzip_are_padding() -> None:
    """As gzip itself takes them; and members of more than a piece are read whole."""
    assert codes(gzip.compress(dumped(BAD)) + b"\0" * 512) == ["unattested"]
    noise = record(id="noise", userAgent=os.urandom(3 * records._PIECE).hex())
    data = gzip.compress(dumped(noise) + b"\n") + gzip.compress(dumped(BAD) + b"\n")
    assert codes(data) == ["unattested"]


def test_a_record_with_the_name_of_a_list_is_a_record() -> None:
    """Its own list, which is empty, does not stand for it."""
    assert codes(dumped({**BAD, "events": [], "Records": []})) == ["unattested"]


@pytest.mark.parametrize("name", [[], ["Decrypt"], {"a": 1}, 7, True, None, ""])
def test_an_event_whose_name_is_no_text_is_shown(name: Any) -> None:
    """And is no traceback."""
    found = codes({**BAD, "eventName": name})
    assert found[0] == "bad-event"
    assert codes({**BAD, "eventName": name, "resources": [{"ARN": OTHER_KEY}]}) == []


# Pages.


@pytest.mark.parametrize("token", ["NextToken", "nextToken", "nextForwardToken"])
def test_a_page_of_any_service_may_say_that_another_follows(token: str) -> None:
    """CloudWatch Logs has names of its own."""
    page = {"events": [{"message": json.dumps(record())}], token: "more"}
    assert codes(dumped(page)) == ["pages-missing"]
    assert codes(dumped(page) + dumped({**page, token: None})) == []


def test_the_last_page_of_one_answer_does_not_end_another() -> None:
    """Two whole answers, and a third that goes on: nobody can tell where."""
    whole = [dumped(history(record(id=name))) for name in "ab"]
    assert codes(*whole, dumped(history(record(id="c"), NextToken="n"))) == ["pages-missing"]
    assert codes(whole[0], whole[1] + dumped(history(record(id="c"), NextToken="n"))) == []
    after = dumped(history(record(id="c"), NextToken="n"))
    assert codes(whole[0] + after) == ["pages-missing"]
    assert codes(after + whole[0], whole[1]) == []


# What an event says of its key.


def unnamed(**changes: Any) -> dict[str, Any]:
    """A record whose resources are missing."""
    return {**record(registers=None), "resources": None, **changes}


def test_a_text_of_the_callers_choice_does_not_name_another_key() -> None:
    """A grant's name may be any UUID, also that of another key."""
    other = OTHER_KEY.rsplit("/", 1)[1]
    grant = unnamed(eventName="CreateGrant", requestParameters={"name": other, "keyId": "alias/x"})
    assert codes(grant) == ["unnamed-key"]
    assert codes({**grant, "requestParameters": {"name": "g", "keyId": other}}) == []
    assert codes({**grant, "requestParameters": {"name": other, "keyId": KEY}}) == ["past-the-policy"]


def test_one_of_two_keys_does_not_name_another() -> None:
    """ReEncrypt from another key to an alias, which may be ours."""
    call = unnamed(eventName="ReEncrypt", requestParameters={"sourceKeyId": OTHER_KEY})
    assert codes(call) == []
    parameters = {"sourceKeyId": OTHER_KEY, "destinationKeyId": "alias/x"}
    assert codes({**call, "requestParameters": parameters}) == ["unnamed-key"]
    resources = [{"ARN": OTHER_KEY}]
    assert codes({**call, "requestParameters": parameters, "resources": resources}) == []


@pytest.mark.parametrize("source", [" kms.amazonaws.com", "KMS.amazonaws.com\n", "kms-fips.amazonaws.com"])
def test_the_service_is_kms_however_it_is_written(source: str) -> None:
    """And one without a name is no other service."""
    assert codes({**BAD, "eventSource": source}) == ["unattested"]
    assert codes({**BAD, "eventSource": " "}) == ["bad-event"]
    assert codes(record_of_s3()) == []
    assert codes(record_of_s3(resources=[{"ARN": KEY}])) == []


@pytest.mark.parametrize("source", ["xkms.amazonaws.com", "k.ms.amazonaws.com", "s3.amazonaws.com"])
@pytest.mark.parametrize("name", ["Decrypt", "ReEncrypt", "CreateGrant", "PutKeyPolicy"])
def test_what_kms_did_to_the_key_is_no_other_services(source: str, name: str) -> None:
    """One byte in eventSource would hide a Decrypt that has all else; of another key it is nobody's here."""
    changed = {**BAD, "eventSource": source, "eventName": name}
    assert codes(changed) == codes({**changed, "resources": json.dumps(BAD["resources"])}) == ["bad-event"]
    assert codes({**changed, "resources": [{"ARN": OTHER_KEY}]}) == []


def test_an_envelope_around_something_else_does_not_hide_the_record_that_it_is() -> None:
    """Nor the other way round: with both, nobody can tell which of them is the event."""
    assert codes({**BAD, "detail-type": "x", "detail": record_of_s3()}) == ["bad-event"]
    assert codes({**record_of_s3(), "detail-type": "x", "detail": BAD}) == ["bad-event"]


def test_a_map_by_arn_names_the_key() -> None:
    """Names of a map count as its values do."""
    assert codes(unnamed(resources={KEY: {"type": "AWS::KMS::Key"}})) == ["unattested"]


def test_another_accounts_record_that_names_our_alias_is_not_passed_over() -> None:
    """By its ARN: a plain alias is one of the caller's own account."""
    call = unnamed(requestParameters={"keyId": ALIAS}, recipientAccountId=SOMEBODY)
    assert codes(call) == ["unnamed-key"]
    assert codes({**call, "requestParameters": {"keyId": ALIAS.replace("222233334444", SOMEBODY)}}) == []
    assert codes({**call, "requestParameters": {"keyId": ALIAS.replace("eu-central-1", "us-east-1")}}) == []


@pytest.mark.parametrize("changes", [{"errorCode": "AccessDenied"}, {"eventName": "DescribeKey"}])
def test_a_success_is_no_copy_of_something_else_with_its_id(changes: dict[str, Any]) -> None:
    """Of a refusal, or of another operation."""
    own = {**record(sharedEventID="s", requestID="r"), **changes}
    theirs = record(id="2", sharedEventID="s", requestID="r", recipientAccountId=SOMEBODY)
    report = audited(own, theirs)
    assert [finding.code for finding in report.findings] == ["not-in-own-trail"]
    assert report.copies == 0


# Files and folders.


def folder_audit(path: Path) -> tuple[AuditReport, Collected]:
    """The judgement of a folder."""
    found = Collected(EXPECTED.key)
    sources.from_path(found, path)
    return judge_events(found.events, EXPECTED, found.findings, calls=found.calls), found


@pytest.mark.parametrize(
    "name",
    [
        "events",
        "events.txt",
        "log.json.gz.1",
        "log.json.signature",
        "CloudTrail-Digest/log.json",
        "CloudTrail-Digest/log.json.signature",
        "CloudTrail-Digest/eu-central-1/notes",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_a_log_by_its_content_is_read_under_any_name(tmp_path: Path, name: str, packed: bool) -> None:
    """Among the digests too, whose files nobody looks at without public keys."""
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    content = dumped({"Records": [BAD]})
    file.write_bytes(gzip.compress(content) if packed else content)
    report, found = folder_audit(tmp_path)
    assert [finding.code for finding in report.findings] == ["unattested"]
    assert (found.coverage.skipped, found.coverage.digests) == ([], 0)


def test_the_signature_of_a_digest_is_read_with_it_and_no_other_is_passed_over(tmp_path: Path) -> None:
    """A signature without its digest is listed."""
    folder = tmp_path / "CloudTrail-Digest"
    folder.mkdir()
    (folder / "one.json").write_bytes(dumped({"digestEndTime": "x"}))
    (folder / "one.json.signature").write_text("ab" * 256)
    (folder / "two.json.signature").write_text("ab" * 256)
    (tmp_path / "one.json.signature").write_text("ab" * 256)
    _, found = folder_audit(tmp_path)
    assert [digest.signature for digest in found.digests] == ["ab" * 256]
    assert sorted(found.coverage.skipped) == ["CloudTrail-Digest/two.json.signature", "one.json.signature"]


def test_a_digest_that_cannot_be_read_is_a_finding_without_public_keys_too(tmp_path: Path) -> None:
    """It could be a log."""
    folder = tmp_path / "CloudTrail-Digest"
    folder.mkdir()
    (folder / "one.json").write_bytes(b"{")
    report, found = folder_audit(tmp_path)
    assert [finding.code for finding in report.findings] == ["bad-event"]
    assert found.coverage.digests == 0


def test_more_files_than_are_listed_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is bounded, the count is not."""
    monkeypatch.setattr("coattest_verify.audit.coverage.MAX_NAMES", 2)
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("none")
    _, found = folder_audit(tmp_path)
    assert (len(found.coverage.skipped), found.coverage.to_json()["skipped_count"]) == (2, 5)


def test_a_pipe_without_a_logs_name_is_a_finding_and_a_name_may_be_any_bytes(tmp_path: Path) -> None:
    """Nothing waits for the pipe; the name can be printed."""
    os.mkfifo(tmp_path / "pipe")
    strange = os.fsencode(tmp_path) + b"/\xff\xfe"
    Path(os.fsdecode(strange)).write_bytes(b"{")
    report, _ = folder_audit(tmp_path)
    assert [finding.code for finding in report.findings] == ["bad-event", "bad-event"]


@pytest.mark.parametrize("name", ["private", "private/log"])
def test_what_the_user_names_may_not_be_a_link(tmp_path: Path, name: str) -> None:
    """In a checkout from elsewhere it would lead to a private file, or to every file of a private folder."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "log").write_bytes(dumped({"Records": [BAD]}))
    (tmp_path / "link").symlink_to(name)
    with pytest.raises(UsageError, match="a link, which is not followed"):
        folder_audit(tmp_path / "link")
