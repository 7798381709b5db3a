"""Signatures, TLS and S3: what stands between a request and the store."""

from __future__ import annotations

import io
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from coattest_local.aws.http import HttpRequest, ServiceError
from coattest_local.aws.s3 import target_of
from coattest_local.aws.server import HANDSHAKE_TIMEOUT
from coattest_local.aws.services import Services
from support.local import kms_world as world

BUCKET = "auction-bids"


def call(running: Services, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
    """POST to KMS; status and answer."""
    context = ssl.create_default_context(cafile=str(running.ca_bundle))
    request = urllib.request.Request(running.endpoint + "/", data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        return error.code, json.loads(error.read())


def signed(
    running: Services, body: bytes, *, at: float | None = None, secret: str | None = None
) -> dict[str, str]:
    """Headers of ListKeys by buyer-1's admin, signed by botocore."""
    account = running.accounts["buyer-1"]
    request = AWSRequest(
        "POST",
        running.endpoint + "/",
        data=body,
        headers={"X-Amz-Target": "TrentService.ListKeys", "Content-Type": "application/x-amz-json-1.1"},
    )
    credentials = Credentials(account.access_key, secret or account.secret_key)
    if at is None:
        SigV4Auth(credentials, "kms", running.region).add_auth(request)
    else:
        with pytest.MonkeyPatch.context() as patch:
            frozen = datetime.fromtimestamp(at, timezone.utc)
            patch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: frozen)
            SigV4Auth(credentials, "kms", running.region).add_auth(request)
    return dict(request.headers.items()) | {"Host": urlsplit(running.endpoint).netloc}


def test_a_request_signed_by_botocore_is_accepted(running: Services) -> None:
    """botocore's signer and this verifier agree."""
    status, answer = call(running, signed(running, b"{}"), b"{}")
    assert (status, list(answer)) == (200, ["Keys", "NextMarker", "Truncated"])


def test_signatures_that_do_not_hold_are_refused(running: Services) -> None:
    """No signature, a wrong secret, another body, another target, an old one: each has its error."""
    good = signed(running, b"{}")
    assert call(running, {"X-Amz-Target": "TrentService.ListKeys"}, b"{}")[1]["__type"] == (
        "MissingAuthenticationTokenException"
    )
    refused = [
        (signed(running, b"{}", secret="x" * 40), b"{}"),
        (good, b'{"Limit":1}'),
        ({**good, "X-Amz-Target": "TrentService.ListAliases"}, b"{}"),
        (signed(running, b"{}", at=time.time() - 360), b"{}"),
        (signed(running, b"{}", at=time.time() + 360), b"{}"),
    ]
    for headers, body in refused:
        status, answer = call(running, headers, body)
        assert (status, answer["__type"]) == (400, "InvalidSignatureException")
    assert call(running, signed(running, b"{}", at=time.time() - 240), b"{}")[0] == 200


def test_a_header_that_matters_must_be_signed(running: Services) -> None:
    """An x-amz header that the signature does not cover is not taken."""
    headers = {**signed(running, b"{}"), "X-Amz-Extra": "x"}
    assert call(running, headers, b"{}")[1]["__type"] == "IncompleteSignatureException"


def test_the_account_header_of_the_store_is_not_taken_from_a_client(running: Services, buyer: Any) -> None:
    """Nobody becomes another account by saying so."""
    mine = {key["KeyArn"] for key in buyer.list_keys()["Keys"]}
    headers = {**signed(running, b"{}"), "X-Moto-Account-Id": "111122223333"}
    status, answer = call(running, headers, b"{}")
    assert status == 200
    assert {key["KeyArn"] for key in answer["Keys"]} == mine


def test_unknown_keys_and_stale_or_foreign_tokens_are_refused(
    running: Services, parent: dict[str, str]
) -> None:
    """An access key nobody has, a session without its token, a token of another session."""

    def kms(**changes: str | None) -> Any:
        arguments = {
            "aws_access_key_id": parent["AccessKeyId"],
            "aws_secret_access_key": parent["SecretAccessKey"],
            "aws_session_token": parent["SessionToken"],
        } | changes
        session: Any = boto3.session.Session()
        return session.client(
            "kms",
            region_name="eu-central-1",
            endpoint_url=running.endpoint,
            verify=str(running.ca_bundle),
            **arguments,
        )

    assert world.code_of(kms().list_keys) == "none"
    for changes in (
        {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE"},
        {"aws_session_token": None},
        {"aws_session_token": "another"},
    ):
        assert world.code_of(kms(**changes).list_keys) == "UnrecognizedClientException"


def test_twenty_silent_clients_do_not_hold_up_another(running: Services, buyer: Any, key: str) -> None:
    """The TLS handshake happens in the connection's own thread."""
    host, port = "127.0.0.1", urlsplit(running.endpoint).port
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection((host, port)))
        fast = running.client("kms", "buyer-1")
        started = time.monotonic()
        fast.describe_key(KeyId=key)
        # Even one of them would have held it up for that long.
        assert time.monotonic() - started < HANDSHAKE_TIMEOUT


def test_the_endpoint_proves_its_names_under_the_local_authority(running: Services) -> None:
    """KMS's regional name is in the certificate; a name that is not, and the system's authorities, are
    refused.
    """
    port = urlsplit(running.endpoint).port
    context = ssl.create_default_context(cafile=str(running.ca_bundle))

    def handshake(trust: ssl.SSLContext, name: str) -> str:
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            trust.wrap_socket(plain, server_hostname=name) as secured,
        ):
            return str(secured.version())

    assert handshake(context, "kms.eu-central-1.coattest.test") == "TLSv1.3"
    assert handshake(context, f"{BUCKET}.s3.eu-central-1.coattest.test") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, "kms.eu-central-1.amazonaws.com")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(ssl.create_default_context(), "kms.eu-central-1.coattest.test")


@pytest.fixture
def bucket(running: Services) -> Iterator[str]:
    """A bucket of the service's account with one object and no policy."""
    s3 = running.client("s3", "service")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    s3.put_object(Bucket=BUCKET, Key="bids/buyer-1", Body=b"sealed")
    yield BUCKET
    for each in s3.list_objects_v2(Bucket=BUCKET)["Contents"]:
        s3.delete_object(Bucket=BUCKET, Key=each["Key"])
    s3.delete_bucket(Bucket=BUCKET)


def test_an_object_comes_back_as_it_was_put(running: Services, bucket: str) -> None:
    """Names with spaces and signs, an empty object, one of several megabytes by multipart upload."""
    s3 = running.client("s3", "service")
    for name, body in (("a b/ü+%c", b"x"), ("empty", b""), ("big", os.urandom(9 * 1024 * 1024))):
        if name == "big":
            s3.upload_fileobj(io.BytesIO(body), bucket, name)
        else:
            s3.put_object(Bucket=bucket, Key=name, Body=body)
        assert s3.get_object(Bucket=bucket, Key=name)["Body"].read() == body


def test_another_account_reads_nothing_unless_the_bucket_policy_says_so(
    running: Services, bucket: str
) -> None:
    """Prefix by prefix, and action by action."""
    s3, other = running.client("s3", "service"), running.client("s3", "buyer-1")
    mine = {"Bucket": bucket, "Key": "bids/buyer-1"}
    assert world.code_of(other.get_object, **mine) == "AccessDenied"
    assert world.code_of(other.put_object, **mine, Body=b"x") == "AccessDenied"
    assert world.code_of(other.list_objects_v2, Bucket=bucket) == "AccessDenied"
    statement = world.allow("arn:aws:iam::222233334444:user/admin", ["s3:PutObject", "s3:GetObject"])
    statement["Resource"] = f"arn:aws:s3:::{bucket}/bids/buyer-1*"
    s3.put_bucket_policy(Bucket=bucket, Policy=world.policy(statement))
    assert world.code_of(other.put_object, **mine, Body=b"mine") == "none"
    assert s3.get_object(**mine)["Body"].read() == b"mine"
    assert world.code_of(other.put_object, Bucket=bucket, Key="bids/buyer-2", Body=b"x") == "AccessDenied"
    assert world.code_of(running.client("s3", "buyer-2").get_object, **mine) == "AccessDenied"
    assert (
        world.code_of(other.put_bucket_policy, Bucket=bucket, Policy=world.policy(statement))
        == "AccessDenied"
    )


def test_only_who_may_list_is_told_that_an_object_is_not_there(running: Services, bucket: str) -> None:
    """Others get 403 for what may be read and is not there; a prefix that may be listed does not count."""
    s3, other = running.client("s3", "service"), running.client("s3", "buyer-1")
    gone = {"Bucket": bucket, "Key": "bids/gone"}
    s3.put_object(**gone, Body=b"x")
    s3.delete_object(**gone)
    reading = world.allow("arn:aws:iam::222233334444:user/admin", "s3:GetObject")
    reading["Resource"] = f"arn:aws:s3:::{bucket}/*"
    listing = {**reading, "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{bucket}"}
    below = {**listing, "Condition": {"StringLike": {"s3:prefix": "bids/*"}}}
    for statements, codes in (
        ([reading], ("AccessDenied", "403")),
        ([reading, below], ("AccessDenied", "403")),
        ([reading, listing], ("NoSuchKey", "404")),
        ([listing], ("AccessDenied", "403")),
    ):
        s3.put_bucket_policy(Bucket=bucket, Policy=world.policy(*statements))
        found = tuple(world.code_of(call, **gone) for call in (other.get_object, other.head_object))
        assert found == codes
    assert world.code_of(s3.get_object, **gone) == "NoSuchKey"
    assert world.code_of(other.get_object, Bucket="no-such-bucket", Key="x") == "NoSuchBucket"


def test_conditional_writes_are_as_s3_documents_them(running: Services, bucket: str) -> None:
    """If-None-Match and If-Match of puts, If-Match of a delete, in a versioned bucket: an object under a
    delete marker is not there. Who asks about an ETag must be allowed to read.
    """
    s3, name = running.client("s3", "service"), "conditional"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    it = {"Bucket": name, "Key": "claim"}
    assert world.code_of(s3.put_object, **it, Body=b"x", IfMatch='"none"') == "NoSuchKey"
    first = s3.put_object(**it, Body=b"1", IfNoneMatch="*")["ETag"]
    assert world.code_of(s3.put_object, **it, Body=b"2", IfNoneMatch="*") == "PreconditionFailed"
    second = s3.put_object(**it, Body=b"2", IfMatch=first)["ETag"]
    assert world.code_of(s3.put_object, **it, Body=b"3", IfMatch=first) == "PreconditionFailed"
    assert world.code_of(s3.delete_object, **it, IfMatch=first) == "PreconditionFailed"
    assert s3.get_object(**it)["Body"].read() == b"2"
    s3.delete_object(**it, IfMatch=second)
    assert world.code_of(s3.put_object, **it, Body=b"4", IfMatch=second) == "NoSuchKey"
    third = s3.put_object(**it, Body=b"4", IfNoneMatch="*")["ETag"]
    other = running.client("s3", "buyer-1")
    writing = world.allow("arn:aws:iam::222233334444:user/admin", ["s3:PutObject", "s3:DeleteObject"])
    s3.put_bucket_policy(Bucket=name, Policy=world.policy({**writing, "Resource": f"arn:aws:s3:::{name}/*"}))
    assert world.code_of(other.put_object, **it, Body=b"5", IfMatch=third) == "AccessDenied"
    assert world.code_of(other.delete_object, **it, IfMatch=third) == "AccessDenied"
    assert world.code_of(other.put_object, **it, Body=b"5") == "none"


def test_bucket_in_the_host_name_is_the_same_bucket(running: Services, bucket: str) -> None:
    """Virtual-host addressing is read here, so the authorisation sees the bucket that is meant."""
    account = running.accounts["buyer-2"]
    session: Any = boto3.session.Session()
    port = urlsplit(running.endpoint).port
    s3 = session.client(
        "s3",
        region_name="eu-central-1",
        endpoint_url=f"https://s3.eu-central-1.coattest.test:{port}",
        verify=str(running.ca_bundle),
        aws_access_key_id=account.access_key,
        aws_secret_access_key=account.secret_key,
        config=Config(s3={"addressing_style": "virtual"}, retries={"max_attempts": 1}),
    )
    real = socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        local = isinstance(host, str) and host.endswith(".coattest.test")
        return real("127.0.0.1" if local else host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve)
        assert world.code_of(s3.get_object, Bucket=bucket, Key="bids/buyer-1") == "AccessDenied"


def test_the_stores_own_back_doors_are_closed(running: Services) -> None:
    """moto's reset and state pages are not reachable, with a signature or without."""
    context = ssl.create_default_context(cafile=str(running.ca_bundle))
    for path in ("/moto-api/reset", "/moto-api/data.json", "/latest/meta-data/"):
        request = urllib.request.Request(running.endpoint + path, data=b"", method="POST")
        with pytest.raises(HTTPError) as refused:
            urllib.request.urlopen(request, context=context, timeout=60)
        assert refused.value.code == 403
    s3 = running.client("s3", "buyer-2")
    assert world.code_of(s3.put_object, Bucket="moto-api", Key="reset", Body=b"") == "NoSuchBucket"
    assert running.client("kms", "buyer-1").list_keys()["Keys"] is not None


def test_an_action_in_the_query_does_not_run_in_place_of_the_authorised_one(
    running: Services, buyer: Any, key: str
) -> None:
    """moto prefers a query's Action to X-Amz-Target; nothing with a query reaches it."""
    account = running.accounts["buyer-1"]
    url = running.endpoint + "/?Action=ScheduleKeyDeletion"
    body = json.dumps({"KeyId": key, "PendingWindowInDays": 7}).encode()
    headers = {"X-Amz-Target": "TrentService.ListKeys", "Content-Type": "application/x-amz-json-1.1"}
    request = AWSRequest("POST", url, data=body, headers=headers)
    SigV4Auth(Credentials(account.access_key, account.secret_key), "kms", running.region).add_auth(request)
    context = ssl.create_default_context(cafile=str(running.ca_bundle))
    sent = urllib.request.Request(url, data=body, headers=dict(request.headers.items()), method="POST")
    with pytest.raises(HTTPError) as refused:
        urllib.request.urlopen(sent, context=context, timeout=60)
    assert refused.value.code == 404
    assert buyer.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("GET", "/", "s3:ListAllMyBuckets"),
        ("GET", "/b", "s3:ListBucket"),
        ("GET", "/b?list-type=2&prefix=x", "s3:ListBucket"),
        ("GET", "/b?policy", "s3:GetBucketPolicy"),
        ("PUT", "/b?policy=", "s3:PutBucketPolicy"),
        ("GET", "/b/k", "s3:GetObject"),
        ("GET", "/b/k?versionId=1", "s3:GetObjectVersion"),
        ("PUT", "/b/k?partNumber=1&uploadId=2", "s3:PutObject"),
        ("DELETE", "/b/k?uploadId=2", "s3:AbortMultipartUpload"),
        ("POST", "/b?delete", "s3:DeleteObject"),
        ("GET", "/b?tagging&policy", None),
        ("GET", "/b?acl", None),
        ("GET", "/b?anything-new", None),
        ("POST", "/b", None),
        ("POST", "/b?policy", None),
        ("PUT", "/b/k?versionId=1", None),
        ("GET", "//b/k", None),
        ("PATCH", "/b/k", None),
    ],
)
def test_a_request_is_one_action_or_refused(method: str, path: str, action: str | None) -> None:
    """What cannot be told apart, or is not known, is never authorised as something else."""
    target, _, query = path.partition("?") if not path.startswith("//") else (path, "", "")
    request = HttpRequest(method, target, query, {}, b"", "127.0.0.1")
    if action is None:
        with pytest.raises(ServiceError):
            target_of(request)
    else:
        assert target_of(request).action == action


def test_secrets_are_readable_by_their_owner_only(running: Services) -> None:
    """ready.json and the server's key: mode 0600."""
    for name in ("ready.json", "server.pem"):
        assert stat.S_IMODE((running.directory / name).stat().st_mode) == 0o600


def test_the_process_says_that_it_is_a_simulator(tmp_path: Path) -> None:
    """On stderr, in the first line."""
    command = [sys.executable, "-m", "coattest_local.aws", "--directory", str(tmp_path), "--exit-with-parent"]
    process = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "SIMULATOR" in process.stderr.splitlines()[0]


def test_what_only_a_deployment_asks_is_not_loaded_before() -> None:
    """moto's models of EC2 and CloudFormation take more time and memory than all else together."""
    heavy = {"moto.autoscaling.models", "moto.cloudformation.models", "moto.ec2.models"}
    code = f"import sys, coattest_local.aws.gate; print(*{heavy!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    code = f"import sys, coattest_local.aws.groups.controller; print(*{heavy!r} - set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
