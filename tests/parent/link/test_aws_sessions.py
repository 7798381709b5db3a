"""Where AWS is, and what its errors become."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.exceptions import ClientError, NoCredentialsError

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import EnvironmentFailure, UsageError
from coattest_parent.auction.courier import manifest_allow_list
from coattest_parent.cli.options import aws_from
from coattest_parent.link.aws import Aws, Endpoint, parse_s3_uri, region_of
from coattest_parent.link.job_listing import SPOOLS_MAX, list_jobs, list_spools
from support.auction.auctions import manifest


@pytest.mark.parametrize("url", ["https://10.0.0.1:4566", "https://kms.example.com", "http://localhost:1"])
def test_only_this_machine_stands_in_for_aws(url: str) -> None:
    """Bids and credentials do not go to an endpoint elsewhere, nor without TLS."""
    with pytest.raises(UsageError):
        Endpoint(url)


def test_the_environment_cannot_redirect_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_ENDPOINT_URL is ignored: only a checked --endpoint-url leads elsewhere."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://elsewhere.example")
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "https://elsewhere.example")
    session = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-central-1")
    assert (
        Aws(session, Endpoint()).kms("eu-west-1").meta.endpoint_url == "https://kms.eu-west-1.amazonaws.com"
    )
    local = Aws(session, Endpoint("https://localhost:4443"))
    assert local.s3("eu-west-1").meta.endpoint_url == "https://localhost:4443"
    assert local.endpoint.target == ("localhost", 4443)


def test_no_credentials_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without any credentials the message says how to get some."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(AwsFailure, match="AWS_PROFILE"):
        Aws(boto3.Session(), Endpoint()).credentials()


DAMAGED = {
    "no section": "aws_access_key_id = x\n",
    "not text": b"\xff\xfe[default]\n".decode("latin-1"),
    "no key": "[default]\naws_access_key_id\n",
    "half of a key": "[default]\naws_access_key_id = AKIDEXAMPLE\n",
    "a process that says nothing": "[default]\ncredential_process = /bin/echo SECRET\n",
    "a process that is not there": "[default]\ncredential_process = /nonexistent/program\n",
    "a number that is none": "[default]\nmetadata_service_timeout = SECRET\nmax_attempts = SECRET\n",
    "a role by itself": "[default]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = default\n",
    "nested": "[default]\ns3 =\n  SECRET\n",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_settings_of_aws_are_one_line(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3 from whatever asks for a client or credentials, and nothing of the file in the message."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for variable in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        path = tmp_path / variable
        path.write_bytes(DAMAGED[damage].encode("latin-1"))
        monkeypatch.setenv(variable, str(path))

    def use() -> None:
        aws = aws_from(None, None)
        aws.renewed().s3("eu-central-1")
        aws.credentials()

    with pytest.raises(EnvironmentFailure) as caught:
        use()
    assert "SECRET" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_auction_serve_with_damaged_credentials_ends_with_3(tmp_path: Path) -> None:
    """As the service's own program: it says which file, and is not taken for a bug."""
    path = tmp_path / "credentials"
    path.write_text("no section\n")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_SHARED_CREDENTIALS_FILE": str(path),
    }
    spool = tmp_path / "spool"
    spool.mkdir()
    done = subprocess.run(
        [
            Path(sys.executable).with_name("auction"),
            "serve",
            "--spool",
            str(spool),
            "--enclave",
            "vsock:16:9000",
            "--once",
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 3, done.stderr
    assert str(path) in done.stderr


def test_an_unreachable_endpoint_is_an_environment_failure() -> None:
    """A refused connection is exit 3 and names what was asked for."""
    session = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-central-1")
    aws = Aws(session, Endpoint("https://127.0.0.1:9"))
    with pytest.raises(AwsFailure, match="s3://b/k") as caught, aws_errors("s3://b/k"):
        aws.s3("eu-central-1").head_object(Bucket="b", Key="k")
    assert caught.value.exit_code == 3


def test_a_service_may_answer_that_there_is_none() -> None:
    """Only with a code that is expected, and only a service: what was not reached is an error."""

    def answer(code: str) -> None:
        raise ClientError({"Error": {"Code": code}}, "GetObject")

    with aws_errors("s3://b/k", "NoSuchKey", "404"):
        answer("NoSuchKey")
    with pytest.raises(AwsFailure, match="GetObject: AccessDenied"), aws_errors("s3://b/k", "NoSuchKey"):
        answer("AccessDenied")
    with pytest.raises(AwsFailure, match="no AWS credentials"), aws_errors("s3://b/k", "NoSuchKey"):
        raise NoCredentialsError


@pytest.mark.parametrize("uri", ["", "s3://", "s3://b", "s3://b/", "https://b/k", "b/k"])
def test_an_s3_uri_has_bucket_and_key(uri: str) -> None:
    """Anything else is a usage error."""
    with pytest.raises(UsageError):
        parse_s3_uri(uri)
    assert parse_s3_uri("s3://b/a/c.cose") == ("b", "a/c.cose")


def test_a_region_comes_from_an_arn() -> None:
    """An ARN without a region is refused."""
    assert region_of("arn:aws:kms:eu-west-3:111122223333:key/x") == "eu-west-3"
    for arn in ("arn:aws:iam::111122223333:role/x", "eu-west-3", ""):
        with pytest.raises(UsageError):
            region_of(arn)


def test_the_proxy_knows_the_manifests_regions_only() -> None:
    """With AWS each host is itself; with a local endpoint the local profile's names lead there."""
    assert manifest_allow_list(manifest(), None) == {
        "kms.eu-central-1.amazonaws.com:443": ("kms.eu-central-1.amazonaws.com", 443)
    }
    assert manifest_allow_list(manifest(), ("localhost", 4443)) == {
        "kms.eu-central-1.coattest.test:443": ("localhost", 4443)
    }


def answering(status: int, body: str, kind: str = "text/xml") -> Aws:
    """AWS that answers every request so."""
    session = boto3.Session("AKIAFAULTFAULTFAULT0", "secret", region_name="eu-central-1")

    class Raw(io.BytesIO):
        def stream(self, *_: object, **__: object) -> Iterator[bytes]:
            yield self.read()

    def answer(request: AWSRequest, **_: object) -> AWSResponse:
        headers = {"content-type": kind, "date": "Mon, 30 Nov 2026 00:00:00 GMT"}
        return AWSResponse(request.url, status, headers, Raw(body.encode()))

    session.events.register("before-send", answer)
    return Aws(session, Endpoint("https://127.0.0.1:9"))


GIVEN = (
    "<AccessKeyId>ASIASECRET</AccessKeyId><SecretAccessKey>SECRET</SecretAccessKey>"
    "<SessionToken>SECRET</SessionToken>"
)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "SECRET",
        f"<AssumeRoleResponse><AssumeRoleResult><Credentials>{GIVEN}",
        f"<AssumeRoleResponse><AssumeRoleResult>{GIVEN}</AssumeRoleResult></AssumeRoleResponse>",
        f"<AssumeRoleResponse><AssumeRoleResult><Credentials>{GIVEN}<Expiration>SECRET</Expiration>"
        "</Credentials></AssumeRoleResult></AssumeRoleResponse>",
        "<SECRET/>",
    ],
)
def test_a_damaged_answer_with_credentials_is_not_repeated(body: str) -> None:
    """Nor is it a bug of ours: exit 3, and which role it was."""
    with pytest.raises(AwsFailure, match=r"role/parent") as caught:
        answering(200, body).assume("arn:aws:iam::111122223333:role/parent", "eu-central-1")
    assert (caught.value.code, caught.value.exit_code) == ("bad-answer", 3)
    assert "SECRET" not in str(caught.value)


OBJECT = (
    "<Contents><Key>jobs/a/lease</Key><ETag>x</ETag><Size>5</Size>"
    "<LastModified>2026-11-30T00:00:00Z</LastModified></Contents>"
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<Key>jobs/a/lease</Key>", ""),
        ("<Key>jobs/a/lease</Key>", "<Key>a</Key><Key>b</Key>"),
        ("<ETag>x</ETag>", ""),
        ("<ETag>x</ETag>", "<ETag>x</ETag><ETag>y</ETag>"),
        ("<Size>5</Size>", ""),
        ("<Size>5</Size>", "<Size>many</Size>"),
        ("<LastModified>2026-11-30T00:00:00Z</LastModified>", ""),
        ("00:00Z", "00:00"),
        ("2026-11-30T00:00:00Z", "yesterday"),
        ("2026-11-30T00:00:00Z", "1e300"),
    ],
)
def test_a_listing_that_s3_does_not_give_is_no_bug_of_ours(before: str, after: str) -> None:
    """A courier says that the spool is unread, and looks again."""
    page = f"<ListBucketResult><IsTruncated>false</IsTruncated>{OBJECT}</ListBucketResult>"
    client = answering(200, page).s3("eu-central-1")
    assert list_jobs(client, "s3://bucket/jobs").jobs["a"]["lease"].size == 5
    client = answering(200, page.replace(before, after)).s3("eu-central-1")
    with pytest.raises(AwsFailure) as caught:
        list_jobs(client, "s3://bucket/jobs")
    assert caught.value.code == "bad-answer"


def test_more_spools_than_anybody_has_releases_are_not_looked_at_one_by_one() -> None:
    """A parent that somebody took over can put leases below any name: ``status`` says so in one line."""

    def page(count: int) -> str:
        names = "".join(
            f"<CommonPrefixes><Prefix>jobs/{each:05}/</Prefix></CommonPrefixes>" for each in range(count)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{names}</ListBucketResult>"

    def listed(count: int) -> list[str]:
        return list_spools(answering(200, page(count)).s3("eu-central-1"), "s3://bucket/jobs")

    assert len(listed(SPOOLS_MAX)) == SPOOLS_MAX
    with pytest.raises(AwsFailure) as caught:
        listed(SPOOLS_MAX + 1)
    assert caught.value.code == "too-many-files"


@pytest.mark.parametrize(
    "body", ['{"__type": 5}', '{"__type": "X", "message": null}', '{"message": {"a": 1}}', "[1]", "{"]
)
def test_an_error_that_aws_does_not_give_is_one_line(body: str) -> None:
    """Whatever is in the places of code and message."""
    kms = answering(400, body, "application/x-amz-json-1.1").kms("eu-central-1")
    with pytest.raises(AwsFailure) as caught, aws_errors("key"):
        kms.describe_key(KeyId="x")
    assert caught.value.exit_code == 3
