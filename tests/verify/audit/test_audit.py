"""``verify audit``: events against the decision, digest files, hostile logs, and the local KMS's own
trail.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from coattest.errors import UsageError
from coattest_local.aws import services
from coattest_verify.audit.digests import DigestFile, check_digests, public_keys
from coattest_verify.audit.events import parse_event, read_events
from coattest_verify.audit.judge import Expected, judge_events
from coattest_verify.audit.sources import from_path
from coattest_verify.cli import main
from support.local import kms_world as world
from support.loopback import Handler, Loopback
from support.verify.members import NOW, Members, report_json
from support.verify.usage_errors import usage_error

KEY = "arn:aws:kms:eu-central-1:222233334444:key/1234abcd-12ab-34cd-56ef-1234567890ab"
TUPLE = tuple(f"a{index}" * 48 for index in range(3))
EXPECTED = Expected(
    KEY,
    (TUPLE,),
    (world.PARENT,),
    {"coattest:buyer": "buyer-1"},
    group_by=("coattest:auction", "coattest:buyer"),
)
ENCLAVE = "i-1234567890abcdef0-enc0123456789abcdef"


def record(**changes: Any) -> dict[str, Any]:
    """A Decrypt as CloudTrail records it; ``registers`` are hex and become base64, None is no document."""
    registers = changes.pop("registers", dict(enumerate(TUPLE)))
    raw: dict[str, Any] = {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "AssumedRole",
            "arn": "arn:aws:sts::111122223333:assumed-role/parent/i-1",
            "sessionContext": {"sessionIssuer": {"type": "Role", "arn": changes.pop("role", world.PARENT)}},
        },
        "eventTime": "2026-11-23T10:00:00Z",
        "eventSource": "kms.amazonaws.com",
        "eventName": "Decrypt",
        "awsRegion": "eu-central-1",
        "sourceIPAddress": "192.0.2.7",
        "requestParameters": {"encryptionContext": {"coattest:auction": "5e", "coattest:buyer": "buyer-1"}},
        "resources": [{"ARN": KEY, "accountId": "222233334444", "type": "AWS::KMS::Key"}],
        "eventID": changes.pop("id", "event-1"),
        "recipientAccountId": "222233334444",
    }
    if registers is not None:
        names = {0: "ImageDigest", **{index: f"PCR{index}" for index in range(1, 9)}}
        raw["additionalEventData"] = {
            "recipient": {
                "attestationDocumentModuleId": ENCLAVE,
                **{
                    f"attestationDocumentEnclave{names[index]}": base64.b64encode(
                        bytes.fromhex(value)
                    ).decode()
                    for index, value in registers.items()
                },
            }
        }
    return {**raw, **changes}


def codes(*records: dict[str, Any], expected: Expected = EXPECTED) -> list[str]:
    """The problems' codes."""
    events = [event for raw in records if (event := parse_event(raw, "test"))]
    return [finding.code for finding in judge_events(events, expected).findings]


def test_attested_decrypts_are_grouped_by_auction_buyer_and_enclave() -> None:
    """A retry by the same enclave is a second decrypt of the same group."""
    later = record(id="2", eventTime="2026-11-23T10:05:00Z")
    records = [record(id="1"), later, later]
    report = judge_events([event for raw in records if (event := parse_event(raw, "t"))], EXPECTED)
    assert report.ok
    (group,) = report.groups
    assert (group.values, group.module_id, group.count) == (("5e", "buyer-1"), ENCLAVE, 2)
    assert group.last - group.first == timedelta(minutes=5)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"registers": None}, ["unattested"]),
        ({"registers": {**dict(enumerate(TUPLE)), 0: "ff" * 48}}, ["undecided-enclave"]),
        ({"registers": {**dict(enumerate(TUPLE)), 2: "ff" * 48}}, ["undecided-enclave"]),
        ({"registers": {0: TUPLE[0], 1: TUPLE[1]}}, ["undecided-enclave"]),
        ({"registers": dict.fromkeys(range(3), "00" * 48)}, ["undecided-enclave"]),
        ({"role": "arn:aws:iam::111122223333:role/other"}, ["unexpected-role"]),
        ({"awsRegion": "eu-west-1"}, ["unexpected-region"]),
        ({"requestParameters": {"encryptionContext": {"coattest:buyer": "buyer-2"}}}, ["unexpected-context"]),
        ({"requestParameters": None}, ["unexpected-context"]),
        ({"eventName": "ReEncrypt"}, ["past-the-policy"]),
        ({"eventName": "CreateGrant"}, ["past-the-policy"]),
        ({"eventName": "PutKeyPolicy"}, []),
        ({"errorCode": "AccessDenied", "registers": None}, []),
        ({"eventSource": "s3.amazonaws.com", "registers": None}, []),
        ({"resources": [{"ARN": KEY + "x"}], "registers": None}, []),
        ({"recipientAccountId": "111122223333", "registers": None}, []),
        ({"eventName": "GenerateDataKey", "registers": None}, []),
    ],
)
def test_each_event_that_should_not_be_there_has_a_code(changes: dict[str, Any], found: list[str]) -> None:
    """Successful Decrypts are judged; refused ones, other keys' and the other account's copy are not
    problems.
    """
    assert codes(record(**changes)) == found


def test_an_event_does_not_hide_behind_the_id_of_another() -> None:
    """Only a copy in every field is the same event."""
    assert codes(record(id="1"), record(id="1", registers=None)) == ["unattested"]


def test_enclaves_that_are_no_auctions_may_be_many() -> None:
    """Without an auction in the context nothing was opened twice."""
    other = record(id="2", requestParameters={"encryptionContext": {"purpose": "draw"}})
    other["additionalEventData"]["recipient"]["attestationDocumentModuleId"] = f"{ENCLAVE}-other"
    first = record(id="1", requestParameters={"encryptionContext": {"purpose": "draw"}})
    events = [event for raw in (first, other) if (event := parse_event(raw, "t"))]
    report = judge_events(events, replace(EXPECTED, context={"purpose": "draw"}))
    assert report.ok
    assert len(report.groups) == 2
    assert report.reruns == ()


def test_another_enclave_for_the_same_auction_is_no_retry() -> None:
    """Both are attested; that there were two is shown."""
    other = record(id="2")
    other["additionalEventData"]["recipient"]["attestationDocumentModuleId"] = f"{ENCLAVE}-other"
    events = [event for raw in (record(id="1"), other) if (event := parse_event(raw, "t"))]
    report = judge_events(events, EXPECTED)
    assert report.ok
    assert report.reruns == (("5e", "buyer-1"),)
    assert judge_events(events[:1], EXPECTED).reruns == ()


def test_what_changed_the_policy_is_always_shown() -> None:
    """PutKeyPolicy is no problem by itself and is never silent; refusals are counted."""
    records = [record(id="1", eventName="PutKeyPolicy"), record(id="2", errorCode="AccessDenied")]
    report = judge_events([event for raw in records if (event := parse_event(raw, "t"))], EXPECTED)
    assert [event.name for event in report.notable] == ["PutKeyPolicy"]
    assert len(report.denied) == 1


def test_registers_in_hex_are_the_same_registers() -> None:
    """AWS's older examples have hex where today's have base64."""
    raw = record()
    raw["additionalEventData"]["recipient"]["attestationDocumentEnclaveImageDigest"] = TUPLE[0]
    assert codes(raw) == []


def test_only_the_window_is_judged() -> None:
    """From since, up to and without until."""
    window = replace(
        EXPECTED,
        since=datetime(2026, 11, 23, 10, tzinfo=timezone.utc),
        until=datetime(2026, 11, 23, 11, tzinfo=timezone.utc),
    )
    outside = [
        record(id=str(n), eventTime=f"2026-11-23T{hour}:00:00Z", registers=None)
        for n, hour in enumerate((11, 12))
    ]
    assert codes(*outside, record(eventTime="2026-11-23T09:59:59Z", registers=None), expected=window) == []
    assert codes(record(registers=None), expected=window) == ["unattested"]


def test_logs_are_read_in_every_form_they_come_in(tmp_path: Path) -> None:
    """A log file, gzipped; JSON lines; one event; the output of lookup-events."""
    raw = record()
    forms = [
        gzip.compress(json.dumps({"Records": [raw, raw]}).encode()),
        json.dumps(raw).encode() + b"\n" + json.dumps(raw).encode() + b"\n",
        json.dumps(raw).encode(),
        json.dumps({"Events": [{"CloudTrailEvent": json.dumps(raw)}]}).encode(),
    ]
    for index, data in enumerate(forms):
        path = tmp_path / f"{index}.json.gz"
        path.write_bytes(data)
        assert from_path(path).events
    assert len(from_path(tmp_path).events) == 6


@pytest.mark.parametrize(
    "data",
    [
        b"\x1f\x8b\x08nonsense",
        gzip.compress(b"{}", mtime=0)[:-4],
        b"not json",
        b"[]",
        b'{"Records":[1]}',
        b'{"Events":[{"CloudTrailEvent":"{"}]}',
        json.dumps({**record(), "eventTime": "yesterday"}).encode(),
        json.dumps({**record(), "eventID": None}).encode(),
        json.dumps(
            {**record(), "additionalEventData": {"recipient": {"attestationDocumentEnclavePCR1": "AA=="}}}
        ).encode(),
    ],
)
def test_a_log_that_cannot_be_read_is_an_error_and_never_skipped(tmp_path: Path, data: bytes) -> None:
    """What is skipped might have been a Decrypt."""
    path = tmp_path / "log.json"
    path.write_bytes(data)
    with usage_error("bad-event"):
        from_path(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.text() | st.integers(),
    lambda c: st.lists(c) | st.dictionaries(st.sampled_from([*record(), "Records", "Events"]), c),
)


@given(JSON)
def test_nothing_but_a_bad_event_leaves_the_reader(value: Any) -> None:
    """Any JSON is events or is refused."""
    with contextlib.suppress(UsageError):
        for raw in read_events(json.dumps(value).encode(), "x"):
            parse_event({**raw, "eventSource": "kms.amazonaws.com"}, "x")


# Digest files.

SIGNER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PKCS1 = SIGNER.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
LOGS = {f"logs/{hour}.json.gz": json.dumps({"Records": [], "hour": hour}).encode() for hour in range(3)}
START = datetime(2026, 11, 23, 10, tzinfo=timezone.utc)


def chain(region: str = "eu-central-1") -> list[DigestFile]:
    """Three hourly digests of a Region, signed and linked as CloudTrail does it."""
    made: list[DigestFile] = []
    for hour in range(3):
        previous = made[-1] if made else None
        log = f"logs/{hour}.json.gz"
        name = f"222233334444_CloudTrail-Digest_{region}_trail_eu-central-1_20261123T{hour + 11}0000Z.json.gz"
        path = f"CloudTrail-Digest/{region}/{name}"
        end = (START + timedelta(hours=hour + 1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        content = json.dumps(
            {
                "digestStartTime": (START + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "digestEndTime": end,
                "digestS3Bucket": "trail",
                "digestS3Object": path,
                "digestPublicKeyFingerprint": "f1",
                "previousDigestSignature": previous.signature if previous else None,
                "previousDigestHashValue": hashlib.sha256(previous.content).hexdigest() if previous else None,
                "logFiles": [
                    {"s3Bucket": "trail", "s3Object": log, "hashValue": hashlib.sha256(LOGS[log]).hexdigest()}
                ],
            }
        ).encode()
        signed = "\n".join(
            [
                end,
                f"trail/{path}",
                hashlib.sha256(content).hexdigest(),
                previous.signature if previous else "null",
            ]
        )
        signature = SIGNER.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()).hex()
        made.append(DigestFile(content, signature, path))
    return made


KEYS = public_keys({"PublicKeyList": [{"Fingerprint": "f1", "Value": base64.b64encode(PKCS1).decode()}]})


def broken(digests: list[DigestFile], **changes: Any) -> list[str]:
    """The codes of a check of the whole window."""
    arguments: dict[str, Any] = {
        "keys": KEYS,
        "logs": LOGS,
        "since": START,
        "until": START + timedelta(hours=3),
    }
    chosen = arguments | changes
    chosen["logs"] = {name: hashlib.sha256(content).hexdigest() for name, content in chosen["logs"].items()}
    return [problem.code for problem in check_digests(digests, **chosen)]


def test_a_whole_chain_of_digests_holds() -> None:
    """Signed, linked, hour by hour, every log as it was delivered; the order of the files does not matter."""
    assert broken(chain()) == []
    assert broken(chain()[::-1]) == []


def test_each_region_has_a_chain_of_its_own() -> None:
    """Two Regions' digests side by side hold; an hour that one of them lacks is missing."""
    here, elsewhere = chain(), chain("us-east-1")
    assert broken([*here, *elsewhere]) == []
    assert broken([*here, elsewhere[0], elsewhere[2]]) == ["hours-missing"]
    assert broken([*here, *elsewhere[:2]]) == ["hours-missing"]


def test_every_break_in_the_chain_is_named() -> None:
    """A missing hour, a changed or missing log, a changed digest, an unknown key, a window that is not
    covered.
    """
    first, second, third = chain()
    assert broken([first, third]) == ["hours-missing"]
    assert broken([second, third]) == ["hours-missing"]
    assert broken([first, second]) == ["hours-missing"]
    assert broken([]) == ["no-digests"]
    assert broken(chain(), logs={**LOGS, "logs/1.json.gz": b"{}"}) == ["log-changed"]
    assert broken(chain(), logs={"logs/0.json.gz": LOGS["logs/0.json.gz"]}) == ["log-missing", "log-missing"]
    assert broken(chain(), keys={}) == ["digest-key"] * 3
    changed = replace(second, content=second.content.replace(b'"f1"', b'"f1" '))
    assert broken([first, changed, third]) == ["digest-signature", "digest-chain"]
    assert broken([replace(first, signature=""), second, third]) == ["digest-signature", "digest-chain"]
    with usage_error("bad-event"):
        broken([replace(first, content=b"{}")])


# The command, on the trail of the local KMS.


@pytest.fixture(scope="module")
def quorum(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """Two members who agree."""
    quorum = Members.make(tmp_path_factory.mktemp("audit"), ["buyer-1", "buyer-2"])
    quorum.claim(report_json())
    for name in ("buyer-1", "buyer-2"):
        quorum.sign(name, report_json(), age=NOW - datetime.now(timezone.utc) + timedelta(hours=1))
    return quorum


@pytest.fixture(scope="module")
def trail(quorum: Members) -> Iterator[tuple[Path, str, services.Services, Any]]:
    """A key on which the decided enclave decrypted twice; the trail, the key, the services, the parent's
    client.
    """
    pcrs = dict(quorum.decide(profile="local", now=datetime.now(timezone.utc)).require().pcrs)
    with services.start(quorum.folder / "services", quiet=True) as running:
        role = world.make_role(running, "service", "parent", may=world.may("kms:*"))
        admin = running.client("kms", "buyer-1")
        policy = world.policy(
            world.administer("222233334444"),
            world.allow("arn:aws:iam::222233334444:user/admin", ["kms:GenerateDataKey", "kms:Decrypt"]),
            world.allow(role, "kms:Decrypt", world.attested(pcrs)),
        )
        arn = admin.create_key(Policy=policy)["KeyMetadata"]["Arn"]
        blob = admin.generate_data_key(KeyId=arn, KeySpec="AES_256", EncryptionContext=world.CONTEXT)[
            "CiphertextBlob"
        ]
        parent = running.client("kms", "service", session=world.assume(running, "service", role))
        enclave = world.Enclave(pcrs)
        request = {"KeyId": arn, "CiphertextBlob": blob, "EncryptionContext": world.CONTEXT}
        for _ in range(2):
            parent.decrypt(**request, Recipient=enclave.recipient())
        assert world.code_of(parent.decrypt, **request) == "AccessDeniedException"
        yield running.trail, arn, running, lambda: admin.decrypt(**request)


def audit(quorum: Members, source: str, key: str, *more: str) -> tuple[int, str, str]:
    """Run ``verify audit``: exit code, stdout, stderr."""
    command = [
        "verify",
        "audit",
        source,
        "--key",
        key,
        "--parent-role",
        world.PARENT,
        "--member",
        "buyer-1",
    ]
    command += ["--attestations", str(quorum.attestations), "--root", f"sha256:{quorum.root.hex()}"]
    command += ["--profile", "local", *more]
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        patch.setenv("COATTEST_CONFIG", str(quorum.folder / "config"))
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    assert isinstance(code, int)
    return code, stdout.getvalue(), stderr.getvalue()


def test_the_local_trail_shows_the_decided_enclave_and_then_the_way_around(
    quorum: Members, trail: tuple[Path, str, services.Services, Any]
) -> None:
    """Exit 0 while every Decrypt was attested; after one without a document, exit 1 with who and when."""
    path, key, _, decrypt_without_document = trail
    code, text, _ = audit(quorum, str(path), key, "--context", "coattest:buyer=buyer-1", "--json")
    assert code == 0
    document = json.loads(text)
    assert [(item["buyer"], item["count"], item["module_id"]) for item in document["decrypts"]] == [
        ("buyer-1", 2, ENCLAVE)
    ]
    assert [item["error"] for item in document["denied"]] == ["AccessDenied"]
    code, text, errors = audit(quorum, str(path), key)
    assert code == 0
    assert "buyer-1" in text
    assert "no digest files" in errors
    assert audit(quorum, str(path), key, "--require-digests")[0] == 1
    decrypt_without_document()
    code, _, errors = audit(quorum, str(path), key)
    assert code == 1
    assert "unattested" in errors
    assert "user/admin" in errors


def test_a_bucket_of_gzipped_logs_is_read_with_its_digests(
    quorum: Members, trail: tuple[Path, str, services.Services, Any], tmp_path: Path
) -> None:
    """s3://BUCKET/PREFIX: the logs, the digests, and the signature in the object's metadata."""
    _, key, running, _ = trail
    s3 = running.client("s3", "buyer-1")
    s3.create_bucket(Bucket="trail", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    for name, content in LOGS.items():
        s3.put_object(Bucket="trail", Key=name, Body=gzip.compress(content))
    for digest in chain():
        name = f"logs/{digest.where}"
        s3.put_object(
            Bucket="trail",
            Key=name,
            Body=gzip.compress(digest.content),
            Metadata={"signature": digest.signature},
        )
    listed = tmp_path / "keys.json"
    listed.write_text(
        json.dumps({"PublicKeyList": [{"Fingerprint": "f1", "Value": base64.b64encode(PKCS1).decode()}]})
    )
    arguments = [
        "--endpoint-url",
        running.endpoint,
        "--public-keys",
        str(listed),
        "--require-digests",
        "--json",
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment("buyer-1").items():
            patch.setenv(name, value)
        code, text, errors = audit(quorum, "s3://trail/logs/", key, *arguments)
        assert code == 0, (text, errors)
        s3.put_object(Bucket="trail", Key="logs/1.json.gz", Body=gzip.compress(b'{"Records":[]}'))
        code, text, _ = audit(quorum, "s3://trail/logs/", key, *arguments)
    assert code == 1
    assert [item["code"] for item in json.loads(text)["findings"]] == ["log-changed"]


class History(Handler):
    """CloudTrail's LookupEvents on loopback: two pages; the second has a Decrypt without a document."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        """Answer one page."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(request)
        second = "NextToken" in request
        raw = record(id="2", registers=None) if second else record(id="1")
        page: dict[str, Any] = {"Events": [{"EventId": raw["eventID"], "CloudTrailEvent": json.dumps(raw)}]}
        body = json.dumps(page if second else page | {"NextToken": "more"}).encode()
        self.answer(200, body, ("Content-Type", "application/x-amz-json-1.1"))


def test_the_event_history_is_asked_for_the_key_to_its_last_page(quorum: Members) -> None:
    """lookup-events: what stands on the second page is found too."""
    with Loopback.of(History) as server, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        code, text, errors = audit(quorum, "lookup-events", KEY, "--endpoint-url", server.url, "--json")
    assert code == 1, errors
    assert "unattested" in [item["code"] for item in json.loads(text)["findings"]]
    assert json.loads(text)["events"] == 2
    attribute = {"AttributeKey": "ResourceName", "AttributeValue": KEY}
    assert [request["LookupAttributes"] for request in History.asked] == [[attribute], [attribute]]
