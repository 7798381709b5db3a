"""``verify audit`` as a command: digest files, the local KMS's own trail, a bucket, the event history."""

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

from coattest_local.aws import services
from coattest_verify.audit.digests import DigestFile, check_digests
from coattest_verify.cli import main
from support.local import kms_world as world
from support.loopback import Handler, Loopback
from support.verify.audit.digest_chain import KEYS, LOGS, PKCS1, START, chain
from support.verify.members import NOW, Members, report_json
from support.verify.trail_records import ENCLAVE, KEY, record

# Digest files.


def hashed(logs: dict[str, bytes]) -> dict[str, str]:
    """Logs as the check takes them: the SHA-256 of each."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in logs.items()}


def broken(digests: list[DigestFile], **changes: Any) -> list[str]:
    """The codes of a check of the whole window."""
    arguments: dict[str, Any] = {
        "keys": KEYS,
        "logs": hashed(LOGS),
        "since": START,
        "until": START + timedelta(hours=3),
    }
    return [problem.code for problem in check_digests(digests, **(arguments | changes))]


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
    assert broken(chain(), logs=hashed({**LOGS, "logs/1.json.gz": b"{}"})) == ["log-changed"]
    first_log = {"logs/0.json.gz": LOGS["logs/0.json.gz"]}
    assert broken(chain(), logs=hashed(first_log)) == ["log-missing", "log-missing"]
    assert broken(chain(), keys={}) == ["digest-key"] * 3
    changed = replace(second, content=second.content.replace(b'"f1"', b'"f1" '))
    assert broken([first, changed, third]) == ["digest-signature", "digest-chain"]
    assert broken([replace(first, signature=""), second, third]) == ["digest-signature", "digest-chain"]


def test_a_digest_that_cannot_be_read_hides_no_other() -> None:
    """It is a finding; so is each hour that it should have covered."""
    first, second, third = chain()
    for content in (b"{}", b"[]", b"not json", b"[" * 100_000, b'{"a":1,"a":2}'):
        assert broken([first, replace(second, content=content), third]) == ["bad-event", "hours-missing"]
    for field in ("digestPublicKeyFingerprint", "previousDigestSignature", "digestS3Object", "logFiles"):
        changed = json.dumps({**json.loads(second.content), field: [7]}).encode()
        assert broken([first, replace(second, content=changed), third]) == ["bad-event", "hours-missing"]


def test_digests_of_another_region_or_account_show_nothing_about_the_keys_own() -> None:
    """Whoever insists on digests wants those of the Region whose logs were read."""
    assert broken(chain(), region="eu-central-1") == []
    assert broken(chain("us-east-1"), region="eu-central-1") == ["no-digests"]
    assert broken(chain(), region="eu-central-1", account="222233334444") == []
    assert broken(chain(), region="eu-central-1", account="111122223333") == ["no-digests"]
    assert broken(chain("eu-central-1x"), region="eu-central-1", account="222233334444") == ["no-digests"]


def test_a_log_is_found_by_any_end_of_its_path_in_time_that_its_length_sets() -> None:
    """A folder may begin anywhere in the bucket."""
    log = json.loads(chain()[0].content)["logFiles"][0]["s3Object"]
    for name in (f"trail/{log}", log, log.rsplit("/", 1)[1]):
        found = broken(chain()[:1], logs={name: hashlib.sha256(LOGS[log]).hexdigest()}, until=None)
        assert found == []


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
        context = {**world.CONTEXT, "coattest:image": pcrs[0], "coattest:seal-key": "5e" * 32}
        blob = admin.generate_data_key(KeyId=arn, KeySpec="AES_256", EncryptionContext=context)[
            "CiphertextBlob"
        ]
        parent = running.client("kms", "service", session=world.assume(running, "service", role))
        enclave = world.Enclave(pcrs)
        request = {"KeyId": arn, "CiphertextBlob": blob, "EncryptionContext": context}
        for _ in range(2):
            parent.decrypt(**request, Recipient=enclave.recipient())
        assert world.code_of(parent.decrypt, **request) == "AccessDeniedException"
        yield running.trail, arn, running, lambda: admin.decrypt(**request)


def journal(quorum: Members) -> Path:
    """buyer-1's record of its one seal."""
    folder = quorum.folder / "seals"
    folder.mkdir(exist_ok=True)
    (folder / f"{world.CONTEXT['coattest:auction']}.seal").write_bytes(b"the payload")
    return folder


def audit(quorum: Members, source: str, key: str, *more: str, seals: bool = True) -> tuple[int, str, str]:
    """Run ``verify audit``: exit code, stdout, stderr. ``seals``: with buyer-1's record of its seals."""
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
    command += ["--release", "0.1.0", "--attestations", str(quorum.attestations)]
    command += ["--root", f"sha256:{quorum.root.hex()}"]
    command += ["--profile", "local", *(["--journal", str(journal(quorum))] if seals else []), *more]
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
    assert code == 0, text
    document = json.loads(text)
    assert [(item["buyer"], item["count"], item["module_id"]) for item in document["decrypts"]] == [
        ("buyer-1", 2, ENCLAVE)
    ]
    assert [item["error"] for item in document["denied"]] == ["AccessDenied"]
    coverage = document["coverage"]
    assert (coverage["files"], coverage["regions"]) == (1, ["eu-central-1"])
    assert coverage["digests"] == {"files": 0, "checked": False, "first": None, "last": None}
    assert coverage["records"] >= document["events"] == sum(document["operations"].values())
    code, text, errors = audit(quorum, str(path), key)
    assert code == 0, text
    assert "buyer-1" in text
    verdict = text.splitlines()[-1]
    assert verdict.startswith("verified: 2 Decrypt(s), each attested by a decided enclave")
    assert "no digest files" in verdict
    assert verdict == document["verdict"]
    assert errors.splitlines()[-1] == f"next: {document['next']}"
    assert "audit again after the next auction" in document["next"]
    assert audit(quorum, str(path), key, "--require-digests")[0] == 1
    assert [(item["buyer"], item["count"]) for item in document["openings"]] == [("buyer-1", 2)]
    assert [item["name"] for item in document["probes"]] == ["Decrypt"]
    elsewhere = ("--no-journal", "--json")
    assert audit(quorum, str(path), key, *elsewhere, seals=False)[0] == 0
    decrypt_without_document()
    code, _, errors = audit(quorum, str(path), key)
    assert code == 1
    assert "unattested" in errors
    assert "user/admin" in errors
    assert "2 finding(s) in " in errors.splitlines()[-1]
    assert "encrypt nothing more under this key" in errors.splitlines()[-1]


def test_an_audit_that_looked_at_nothing_does_not_succeed(
    quorum: Members, trail: tuple[Path, str, services.Services, Any], tmp_path: Path
) -> None:
    """Exit 3 without an event of the key, unless none are expected; without a record also then."""
    path, key, _, _ = trail
    other = key[:-4] + "0000"
    for more in ((), ("--json",)):
        code, text, errors = audit(quorum, str(path), other, *more)
        assert code == 3
        assert "nothing was looked at" in (text if more else errors.splitlines()[-1])
    code, text, _ = audit(quorum, str(path), other, "--allow-none")
    assert code == 0, text
    assert text.splitlines()[-1].startswith("verified: no successful Decrypt; 0 event(s) of the key in ")
    assert audit(quorum, str(path), key, "--until", "2020-01-01")[0] == 3  # no decision then
    assert audit(quorum, str(tmp_path), key, "--allow-none")[0] == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("--parent-role", "arn:aws:iam::111122223333:user/parent"),
        ("--parent-role", "arn:aws:sts::111122223333:assumed-role/parent/i-1"),
        ("--parent-role", "arn:aws:iam::111122223333:role/*"),
        ("--parent-role", "parent"),
        ("--parent-role", "AIDAEXAMPLE"),
        ("--parent-role", ""),
        ("--context", "coattest:buyer"),
        ("--context", "=buyer-1"),
        ("--context", "coattest:buyer="),
        ("--since", "2026-11-23", "--until", "2026-11-23"),
        ("--since", "2026-11-24", "--until", "2026-11-23"),
        ("--since", "2999-01-01"),
    ],
)
def test_what_would_match_nothing_is_a_usage_error(
    quorum: Members, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """A role, pair or window that no event can have is refused before anything is read."""
    assert audit(quorum, str(tmp_path), KEY, *arguments)[0] == 2


def test_a_file_that_cannot_be_read_does_not_hide_the_rest(quorum: Members, tmp_path: Path) -> None:
    """Exit 1, with the file's name beside what the other file shows."""
    (tmp_path / "1.json").write_bytes(b"no log")
    (tmp_path / "2.json").write_bytes(json.dumps(record(registers=None)).encode())
    code, text, _ = audit(quorum, str(tmp_path), KEY, "--json")
    assert code == 1
    found = [(item["code"], item["where"]) for item in json.loads(text)["findings"]]
    assert ("bad-event", "1.json") in found
    assert ("unattested", "event event-1") in found


def test_public_keys_without_digests_to_check_are_not_ignored(quorum: Members, tmp_path: Path) -> None:
    """Whoever gives CloudTrail's keys wants digests checked."""
    (tmp_path / "log.json").write_bytes(json.dumps(record(eventName="DescribeKey")).encode())
    keys = tmp_path.parent / "keys.json"
    keys.write_text('{"PublicKeyList": []}')
    code, text, _ = audit(quorum, str(tmp_path), KEY, "--public-keys", str(keys), "--json")
    assert code == 1
    assert [item["code"] for item in json.loads(text)["findings"]] == ["no-digests"]


def test_public_keys_that_are_none_are_a_wrong_use_or_verify_nothing(quorum: Members, tmp_path: Path) -> None:
    """Text that is no base64 at all, and a key on a curve that nobody has."""
    (tmp_path / "log.json").write_bytes(json.dumps(record(eventName="DescribeKey")).encode())
    digest, keys = chain()[0], tmp_path.parent / "none.json"
    (tmp_path / digest.where).parent.mkdir(parents=True)
    (tmp_path / digest.where).write_bytes(digest.content)
    (tmp_path / f"{digest.where}.signature").write_text(digest.signature)
    strange = base64.b64encode(bytes.fromhex("3012300d06072a8648ce3d020106022a03030100")).decode()
    for value, code, said in (("\u00e9", 2, "bad-event"), (strange, 1, "digest-signature")):
        keys.write_text(json.dumps({"PublicKeyList": [{"Fingerprint": "f1", "Value": value}]}))
        found, text, errors = audit(quorum, str(tmp_path), KEY, "--public-keys", str(keys), "--json")
        assert (found, said in text + errors) == (code, True), (text, errors)


def test_a_bucket_that_cannot_be_one_is_no_traceback(quorum: Members) -> None:
    """Python's reader of URLs refuses a bracket by an error of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        code, _, errors = audit(quorum, "s3://[/x", KEY, "--endpoint-url", "http://127.0.0.1:1")
    assert code == 3, errors


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
        code, text, errors = audit(quorum, "s3://trail/logs/", key, *arguments, "--allow-none")
        assert code == 3, (text, errors)
        assert json.loads(text)["verdict"] == "nothing was looked at: there are no records"
        looked = gzip.compress(json.dumps(record(eventName="DescribeKey", resources=[{"ARN": key}])).encode())
        s3.put_object(Bucket="trail", Key="logs/now.json.gz", Body=looked)
        code, text, errors = audit(quorum, "s3://trail/logs/", key, *arguments)
        assert code == 0, (text, errors)
        range_of_all = {"first": "2026-11-23T10:00:00Z", "last": "2026-11-23T13:00:00Z"}
        assert json.loads(text)["coverage"]["digests"] == {"files": 3, "checked": True, **range_of_all}
        assert "from 2026-11-23T10:00:00Z to 2026-11-23T13:00:00Z" in json.loads(text)["verdict"]
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
    asked = [request["LookupAttributes"][0]["AttributeValue"] for request in History.asked]
    assert asked == [KEY, KEY, KEY.rsplit("/", 1)[1], KEY.rsplit("/", 1)[1]]
