"""Verification of Signature Version 4 in the Authorization header. Pure.

Source: IAM User Guide, "Create a signed AWS API request" and, for S3, "Authenticating Requests (AWS Signature
Version 4)". Presigned URLs, signed chunks and SigV4A are not supported, so they are refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from coattest_local.aws.http import HttpRequest, ServiceError

ALGORITHM = "AWS4-HMAC-SHA256"

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
    digest = _body_digest(request, header.service)
    expected = expected_signature(request, header, secret, digest)
    if not hmac.compare_digest(expected, header.signature):
        raise SignatureRefused(
            "mismatch",
            "The request signature we calculated does not match the signature you provided. "
            "Check your AWS Secret Access Key and signing method.",
        )


def expected_signature(
    request: HttpRequest, header: AuthorizationHeader, secret: str, body_digest: str
) -> str:
    """The signature this request has under a secret, in hex."""
    canonical = "\n".join(
        [
            request.method,
            _canonical_path(request.path, header.service),
            _canonical_query(request.query),
            *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in header.signed_headers),
            "",
            ";".join(header.signed_headers),
            body_digest,
        ]
    )
    stamp = header.time.strftime("%Y%m%dT%H%M%SZ")
    to_sign = "\n".join([ALGORITHM, stamp, header.scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret}".encode()
    for part in (header.day, header.region, header.service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


def _body_digest(request: HttpRequest, service: str) -> str:
    stated = request.headers.get("x-amz-content-sha256")
    actual = hashlib.sha256(request.body).hexdigest()
    if stated is None:
        if service == "s3":
            raise SignatureRefused(
                "incomplete", "Missing required header for this request: x-amz-content-sha256"
            )
        return actual
    if service == "s3" and stated in _UNSIGNED_BODIES:
        return stated
    if stated != actual:
        raise SignatureRefused(
            "body", "The provided 'x-amz-content-sha256' header does not match what was computed."
        )
    return actual


def _canonical_path(path: str, service: str) -> str:
    # S3 encodes once and does not normalise; the other services sign the path encoded a second time.
    once = quote(unquote_to_bytes(path), safe="/-_.~")
    return (once if service == "s3" else quote(once, safe="/-_.~")) or "/"


def _canonical_query(query: str) -> str:
    # "?policy" without "=" is a key with an empty value.
    pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    encoded = sorted((_encode(name), _encode(value)) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


def _encode(text: str) -> str:
    return quote(text.encode("utf-8", "surrogateescape"), safe="-_.~")


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
