"""boto3 clients with explicit region, endpoint, time-outs and bounded retries.

Nothing here logs. Credentials are in two places only: botocore's memory, and the one frame to the enclave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coattest.aws import aws_errors, aws_settings
from coattest.errors import UsageError
from coattest_parent.link.channels import endpoint_host_port, is_loopback

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sts import STSClient

# boto3 is an extra: it is imported where a session is made or used.

ATTEMPTS = 5
"""Attempts per call in all, with botocore's standard back-off and jitter."""

CONNECT_TIMEOUT = 10
"""Seconds to connect."""

READ_TIMEOUT = 60
"""Seconds to wait for bytes of a reply."""

SESSION_SECONDS = 3600
"""Seconds of an assumed role's session: the longest for a chained role (IAM User Guide, "Role chaining")."""


@dataclass(frozen=True, slots=True)
class SessionCredentials:
    """Temporary credentials of a role session; they stay out of ``repr``."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """AWS itself (``url`` None), or a local endpoint for all services with its own CA bundle."""

    url: str | None = None
    ca_bundle: Path | None = None

    def __post_init__(self) -> None:
        if self.url is not None and not is_loopback(endpoint_host_port(self.url)[0]):
            raise UsageError(
                "only an endpoint on this machine may stand in for AWS",
                where=self.url,
                hint="leave --endpoint-url out to use AWS",
                code="endpoint-not-loopback",
            )

    @property
    def target(self) -> tuple[str, int] | None:
        """Host and port of the local endpoint; None for AWS."""
        return endpoint_host_port(self.url) if self.url else None


@dataclass(frozen=True, slots=True)
class Aws:
    """A boto3 session at an endpoint."""

    session: boto3.Session
    endpoint: Endpoint
    renew: Callable[[], boto3.Session] | None = field(default=None, repr=False)

    def renewed(self) -> Aws:
        """The same with credentials read again, where they come from a chain that may have newer ones.

        Raises AwsFailure, as do the clients below, when the settings of AWS on this machine are damaged.
        """
        with aws_settings("credentials"):
            return replace(self, session=self.renew()) if self.renew else self

    def kms(self, region: str) -> KMSClient:
        """KMS in a region."""
        with aws_settings("kms"):
            return self.session.client("kms", region_name=region, **self._options())

    def s3(self, region: str) -> S3Client:
        """S3 in a region."""
        with aws_settings("s3"):
            return self.session.client("s3", region_name=region, **self._options())

    def sts(self, region: str) -> STSClient:
        """STS in a region."""
        with aws_settings("sts"):
            return self.session.client("sts", region_name=region, **self._options())

    def cloudformation(self, region: str) -> CloudFormationClient:
        """CloudFormation in a region."""
        with aws_settings("cloudformation"):
            return self.session.client("cloudformation", region_name=region, **self._options())

    def ec2(self, region: str) -> EC2Client:
        """EC2 in a region."""
        with aws_settings("ec2"):
            return self.session.client("ec2", region_name=region, **self._options())

    def autoscaling(self, region: str) -> Any:
        """Auto Scaling in a region."""
        with aws_settings("autoscaling"):
            return self.session.client("autoscaling", region_name=region, **self._options())

    def quotas(self, region: str) -> Any:
        """Service Quotas in a region."""
        with aws_settings("service-quotas"):
            return self.session.client("service-quotas", region_name=region, **self._options())

    def credentials(self) -> SessionCredentials:
        """The session's current credentials; raises AwsFailure (no-credentials) when there are none."""
        from botocore.exceptions import NoCredentialsError  # noqa: PLC0415

        with aws_settings("credentials"):
            found = self.session.get_credentials()
            if found is None:
                raise NoCredentialsError
            frozen = found.get_frozen_credentials()
        return SessionCredentials(frozen.access_key or "", frozen.secret_key or "", frozen.token or "")

    def assume(self, role_arn: str, region: str, name: str = "coattest") -> Aws:
        """A session of the role, as an instance profile gives one on an instance. Raises AwsFailure."""
        import boto3  # noqa: PLC0415

        with aws_errors(role_arn):
            given = self.sts(region).assume_role(
                RoleArn=role_arn, RoleSessionName=name, DurationSeconds=SESSION_SECONDS
            )["Credentials"]
        with aws_settings(role_arn):
            session = boto3.Session(
                aws_access_key_id=given["AccessKeyId"],
                aws_secret_access_key=given["SecretAccessKey"],
                aws_session_token=given["SessionToken"],
                region_name=region,
            )
        return Aws(session, self.endpoint)

    def _options(self) -> dict[str, Any]:
        from botocore.config import Config  # noqa: PLC0415

        config: dict[str, Any] = {
            "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": READ_TIMEOUT,
            "s3": {"addressing_style": "path" if self.endpoint.url else "auto"},
            # AWS_ENDPOINT_URL must not lead bids elsewhere: only --endpoint-url is checked.
            "ignore_configured_endpoint_urls": True,
        }
        return {
            "config": Config(**config),
            "endpoint_url": self.endpoint.url,
            "verify": str(self.endpoint.ca_bundle) if self.endpoint.ca_bundle else True,
        }


def parse_s3_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``; raises UsageError (bad-uri)."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or not key:
        raise UsageError("not s3://bucket/key", where=uri[:200], code="bad-uri")
    return bucket, key


def region_of(arn: str) -> str:
    """The region in an ARN; raises UsageError (bad-arn) when there is none."""
    parts = arn.split(":")
    if len(parts) < 6 or not parts[3]:
        raise UsageError("not an ARN with a region", where=arn[:200], code="bad-arn")
    return parts[3]
