"""Verification of Signature Version 4 in the Authorization header, reckoned by botocore. Pure.

Source: IAM User Guide, "Create a signed AWS API request" and, for S3, "Authenticating Requests (AWS Signature
Version 4)". Presigned URLs, signed chunks and SigV4A are not supported, so they are refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from coattest_local.aws.http import HttpRequest, ServiceError

SKEW = timedelta(minutes=5)
S3_SKEW = timedelta(minutes=15)
"""How far a request's time may be from the service's. S3 documents 15 minutes (RequestTimeTooSkewed), the
signing documentation 5 minutes for the others.
"""

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=(?P<credential>[^,\s]+),\s*"
    r"SignedHeaders=(?P<headers>[a-z0-9;_.-]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)
_UNSIGNED_BODIES = ("UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")


class SignatureRefused(Exception):
    """Why a signature was not accepted: ``missing``, ``incomplete``, ``mismatch``, ``skew`` or ``body``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class AuthorizationHeader:
    """What the Authorization header says, still to be verified."""

    access_key: str
    day: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    time: datetime
    token: str | None

    @property
    def scope(self) -> str:
        """The credential scope."""
        return f"{self.day}/{self.region}/{self.service}/aws4_request"


def parse_authorization(request: HttpRequest) -> AuthorizationHeader:
    """Parse the Authorization header. Raises SignatureRefused; nothing is verified yet."""
    header = request.headers.get("authorization")
    if header is None:
        raise SignatureRefused("missing", "Request is missing Authentication Token")
    match = _AUTHORIZATION.fullmatch(header.strip())
    credential = match["credential"].split("/") if match else []
    if match is None or len(credential) != 5 or credential[4] != "aws4_request":
        raise SignatureRefused("incomplete", "Authorization header is not a complete Signature Version 4")
    stamp = request.headers.get("x-amz-date", "")
    try:
        time = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    except ValueError as error:
        raise SignatureRefused("incomplete", "X-Amz-Date is missing or not a basic ISO 8601 time") from error
    signed = tuple(match["headers"].split(";"))
    wanted = {"host", "x-amz-date", *(name for name in request.headers if name.startswith("x-amz-"))}
    unsigned = sorted(wanted - set(signed))
    if unsigned or list(signed) != sorted(set(signed)):
        raise SignatureRefused(
            "incomplete", f"these headers must be signed: {', '.join(unsigned) or 'in order'}"
        )
    if credential[1] != stamp[:8]:
        raise SignatureRefused("incomplete", "the credential's date is not the request's")
    return AuthorizationHeader(
        access_key=credential[0],
        day=credential[1],
        region=credential[2],
        service=credential[3],
        signed_headers=signed,
        signature=match["signature"],
        time=time,
        token=request.headers.get("x-amz-security-token"),
    )


def check_request_signature(
    request: HttpRequest, header: AuthorizationHeader, secret: str, now: datetime
) -> None:
    """Check time, body digest and signature. Raises SignatureRefused."""
    skew = S3_SKEW if header.service == "s3" else SKEW
    if abs(now - header.time) > skew:
        raise SignatureRefused(
            "skew", f"Signature not current: {header.time:%Y%m%dT%H%M%SZ} at {now:%Y%m%dT%H%M%SZ}"
        )
    _check_body(request, header.service)
    expected = expected_signature(request, header, secret)
    if not hmac.compare_digest(expected, header.signature):
        raise SignatureRefused(
            "mismatch",
            "The request signature we calculated does not match the signature you provided. "
            "Check your AWS Secret Access Key and signing method.",
        )


def expected_signature(request: HttpRequest, header: AuthorizationHeader, secret: str) -> str:
    """The signature that botocore gives this request under a secret, in hex."""
    kind = S3SigV4Auth if header.service == "s3" else SigV4Auth
    signer = kind(Credentials(header.access_key, secret), header.service, header.region)
    # No fragment is sent, and none may hide a part of the path.
    url = f"https://localhost{request.path}?{request.query}".replace("#", "%23")
    signed = {name: request.headers.get(name, "") for name in header.signed_headers}
    sent = AWSRequest(request.method, url, signed, request.body)
    sent.context["timestamp"] = header.time.strftime("%Y%m%dT%H%M%SZ")
    return signer.signature(signer.string_to_sign(sent, signer.canonical_request(sent)), sent)


def _check_body(request: HttpRequest, service: str) -> None:
    """What the header says of the body, which is what is signed; without it, the body itself is signed."""
    stated = request.headers.get("x-amz-content-sha256")
    if service == "s3":
        if stated is None:
            raise SignatureRefused(
                "incomplete", "Missing required header for this request: x-amz-content-sha256"
            )
        if stated in _UNSIGNED_BODIES:
            return
    if stated not in (None, hashlib.sha256(request.body).hexdigest()):
        raise SignatureRefused(
            "body", "The provided 'x-amz-content-sha256' header does not match what was computed."
        )


def as_service_error(refusal: SignatureRefused, service: str) -> ServiceError:
    """The error that a service answers with (KMS and STS: "Common Errors"; S3: "Error Responses")."""
    codes = {
        "kms": {
            "missing": ("MissingAuthenticationTokenException", 400),
            "incomplete": ("IncompleteSignatureException", 400),
            "mismatch": ("InvalidSignatureException", 400),
            "skew": ("InvalidSignatureException", 400),
            "body": ("InvalidSignatureException", 400),
        },
        "s3": {
            "missing": ("AccessDenied", 403),
            "incomplete": ("AccessDenied", 403),
            "mismatch": ("SignatureDoesNotMatch", 403),
            "skew": ("RequestTimeTooSkewed", 403),
            "body": ("XAmzContentSHA256Mismatch", 400),
        },
    }
    query = {
        "missing": ("MissingAuthenticationToken", 403),
        "incomplete": ("IncompleteSignature", 400),
        "mismatch": ("SignatureDoesNotMatch", 403),
        "skew": ("SignatureDoesNotMatch", 403),
        "body": ("SignatureDoesNotMatch", 403),
    }
    code, status = codes.get(service, query)[refusal.kind]
    return ServiceError(code, refusal.message, status)
