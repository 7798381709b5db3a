"""Where AWS is, and what its errors become."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import UsageError
from coattest_parent.auction.courier import manifest_allow_list
from coattest_parent.link.aws import Aws, Endpoint, parse_s3_uri, region_of
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


def test_an_unreachable_endpoint_is_an_environment_failure() -> None:
    """A refused connection is exit 3 and names what was asked for."""
    session = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-central-1")
    aws = Aws(session, Endpoint("https://127.0.0.1:9"))
    with pytest.raises(AwsFailure, match="s3://b/k") as caught, aws_errors("s3://b/k"):
        aws.s3("eu-central-1").head_object(Bucket="b", Key="k")
    assert caught.value.exit_code == 3


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
