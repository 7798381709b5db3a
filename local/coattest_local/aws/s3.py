"""Which S3 action a request is, on which bucket and key, and whether its caller may.

Source: Amazon S3 User Guide, "Required permissions for Amazon S3 API operations" and "Policies and
permissions in Amazon S3" (same account: either side allows; another account: both). ACLs never allow
anything here, as in buckets with "bucket owner enforced", the default since 2023. Anonymous requests are
refused.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, unquote

from moto.s3.models import s3_backends

from coattest_local.aws.accounts import PARTITION, SignedCaller, missing_principal
from coattest_local.aws.http import Forward, HttpRequest, HttpResponse, ServiceError
from coattest_local.aws.kms import keys
from coattest_verify.keypolicy.iam import Policy, PolicyError, PolicyKind, parse_policy

_BUCKET_SUBRESOURCES: dict[str, tuple[str | None, str | None, str | None]] = {
    "encryption": ("GetEncryptionConfiguration", "PutEncryptionConfiguration", "PutEncryptionConfiguration"),
    "lifecycle": ("GetLifecycleConfiguration", "PutLifecycleConfiguration", "PutLifecycleConfiguration"),
    "location": ("GetBucketLocation", None, None),
    "object-lock": ("GetBucketObjectLockConfiguration", "PutBucketObjectLockConfiguration", None),
    "ownershipControls": (
        "GetBucketOwnershipControls",
        "PutBucketOwnershipControls",
        "PutBucketOwnershipControls",
    ),
    "policy": ("GetBucketPolicy", "PutBucketPolicy", "DeleteBucketPolicy"),
    "publicAccessBlock": (
        "GetBucketPublicAccessBlock",
        "PutBucketPublicAccessBlock",
        "PutBucketPublicAccessBlock",
    ),
    "tagging": ("GetBucketTagging", "PutBucketTagging", "PutBucketTagging"),
    "uploads": ("ListBucketMultipartUploads", None, None),
    "versioning": ("GetBucketVersioning", "PutBucketVersioning", None),
    "versions": ("ListBucketVersions", None, None),
}
"""Subresource of a bucket: the action of GET, PUT and DELETE; None where there is no such action."""

_NONE = (None, None, None)
_OBJECT_SUBRESOURCES: dict[str, tuple[str | None, str | None, str | None]] = {
    "attributes": ("GetObject", None, None),
    "legal-hold": ("GetObjectLegalHold", "PutObjectLegalHold", None),
    "retention": ("GetObjectRetention", "PutObjectRetention", None),
    "tagging": ("GetObjectTagging", "PutObjectTagging", "DeleteObjectTagging"),
}
_READS = frozenset({"s3:GetObject", "s3:GetObjectVersion"})
_PARAMETERS = frozenset(
    {
        "continuation-token",
        "delimiter",
        "encoding-type",
        "fetch-owner",
        "key-marker",
        "list-type",
        "marker",
        "max-keys",
        "max-parts",
        "max-uploads",
        "part-number-marker",
        "partNumber",
        "prefix",
        "response-cache-control",
        "response-content-disposition",
        "response-content-encoding",
        "response-content-language",
        "response-content-type",
        "response-expires",
        "start-after",
        "upload-id-marker",
        "uploadId",
        "version-id-marker",
        "versionId",
        "x-id",
    }
)
"""Parameters of listings, parts, versions and answers; beside them at most one subresource. Everything else
is refused, so that what moto makes of a query is what was authorised.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """The bucket, key and action of a request."""

    bucket: str | None
    key: str | None
    action: str

    @property
    def arn(self) -> str:
        """The resource of the authorisation."""
        if self.bucket is None:
            return "*"
        return f"arn:aws:s3:::{self.bucket}" + (f"/{self.key}" if self.key is not None else "")


def path_style(request: HttpRequest) -> HttpRequest:
    """The request with a bucket in its host name moved into its path."""
    host = request.headers.get("host", "").split(":")[0]
    bucket, dot, rest = host.partition(".s3.")
    if not dot or not rest or not bucket:
        return request
    return replace(
        request, path=f"/{bucket}{request.path}", headers={**request.headers, "host": f"s3.{rest}"}
    )


def target_of(request: HttpRequest) -> Target:
    """Bucket, key and action of a path-style request. Raises ServiceError for what is not emulated."""
    if not request.path.startswith("/") or request.path.startswith("//"):
        raise ServiceError("InvalidURI", "a path is /BUCKET/KEY")
    bucket, _, key = unquote(request.path[1:]).partition("/")
    query = set(parse_qs(request.query, keep_blank_values=True))
    subresources = query - _PARAMETERS
    if len(subresources) > 1:
        raise _unknown(request)
    subresource = next(iter(subresources), None)
    if not bucket:
        if request.method != "GET" or subresource:
            raise _unknown(request)
        return Target(None, None, "s3:ListAllMyBuckets")
    name = _object_action(request, query, subresource) if key else _bucket_action(request, subresource)
    return Target(bucket, key or None, f"s3:{name}")


def _bucket_action(request: HttpRequest, subresource: str | None) -> str:
    if subresource == "delete" and request.method == "POST":
        return "DeleteObject"
    if subresource is not None:
        return _of_method(request, _BUCKET_SUBRESOURCES.get(subresource, _NONE))
    plain = {"GET": "ListBucket", "HEAD": "ListBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}
    if request.method not in plain:
        raise _unknown(request)
    return plain[request.method]


def _object_action(request: HttpRequest, query: set[str], subresource: str | None) -> str:
    if "uploadId" in query or subresource == "uploads":
        names = {"GET": "ListMultipartUploadParts", "DELETE": "AbortMultipartUpload"}
        return names.get(request.method, "PutObject")
    if subresource is not None:
        return _of_method(request, _OBJECT_SUBRESOURCES.get(subresource, _NONE))
    suffix = "Version" if "versionId" in query else ""
    plain = {"GET": "GetObject", "HEAD": "GetObject", "DELETE": "DeleteObject"}
    if request.method == "PUT" and not suffix:
        return "PutObject"
    if request.method not in plain:
        raise _unknown(request)
    return plain[request.method] + suffix


def _of_method(request: HttpRequest, names: tuple[str | None, str | None, str | None]) -> str:
    by_method: dict[str, str | None] = dict(zip(("GET", "PUT", "DELETE"), names, strict=True))
    name = by_method.get(request.method)
    if name is None:
        raise _unknown(request)
    return name


def _unknown(request: HttpRequest) -> ServiceError:
    return ServiceError("NotImplemented", f"{request.method} with ?{request.query} is not emulated", 501)


def answer_s3(forward: Forward, request: HttpRequest, caller: SignedCaller) -> HttpResponse:
    """Authorisation here, storage in moto. Raises ServiceError."""
    request = path_style(request)
    target = target_of(request)
    owner = owner_of(target.bucket) or caller.principal.account
    expected = request.headers.get("x-amz-expected-bucket-owner")
    if expected is not None and expected != owner:
        raise ServiceError("AccessDenied", "Access Denied", 403)
    context = {"aws:ResourceAccount": (owner,), **_request_keys(request, target.action)}
    if target.action == "s3:DeleteObject" and target.key is None:
        # Several objects in one request: allowed only where every object of the bucket is.
        target = replace(target, key="*")
    _authorize(caller, target, owner, context)
    if "if-match" in request.headers and target.action in ("s3:PutObject", "s3:DeleteObject"):
        # S3 User Guide, "Enforce conditional deletes": who asks about an ETag may read the object.
        _authorize(caller, replace(target, action="s3:GetObject"), owner, context)
    source = request.headers.get("x-amz-copy-source")
    if source is not None:
        _authorize_copy(caller, source, context)
    if target.action == "s3:PutBucketPolicy":
        _check_bucket_policy(request.body)
    _check_digest(request)
    answer = forward("s3", _naming_checksum(request), owner)
    if answer.status == 404 and target.action in _READS and owner_of(target.bucket) is not None:
        # S3 API Reference, "GetObject" and "HeadObject": 404 only for who may list the bucket.
        _authorize(caller, Target(target.bucket, None, "s3:ListBucket"), owner, context)
    return answer


def _authorize(
    caller: SignedCaller, target: Target, owner: str, context: Mapping[str, tuple[str, ...]]
) -> None:
    policy = _bucket_policy(target.bucket, owner)
    answer = caller.may(target.action, target.arn, context, owner=owner, policy=policy)
    if not answer.allowed:
        raise ServiceError(
            "AccessDenied",
            f"User: {caller.principal.arn} is not authorized to perform: {target.action} on resource: "
            f'"{target.arn}" {answer.reason}',
            403,
        )


def _authorize_copy(caller: SignedCaller, source: str, context: Mapping[str, tuple[str, ...]]) -> None:
    bucket, _, key = unquote(source.split("?", maxsplit=1)[0].lstrip("/")).partition("/")
    owner = owner_of(bucket)
    if owner is None or not key:
        raise ServiceError("NoSuchBucket", "The specified bucket does not exist", 404)
    if owner != caller.principal.account:
        raise ServiceError("NotImplemented", "copying from another account's bucket is not emulated", 501)
    _authorize(caller, Target(bucket, key, "s3:GetObject"), owner, context)


def _request_keys(request: HttpRequest, action: str) -> dict[str, tuple[str, ...]]:
    """The condition keys that a request itself gives (Service Authorization Reference, "Amazon S3")."""
    found: dict[str, tuple[str, ...]] = {}
    for name in ("if-none-match", "if-match"):
        if action in ("s3:PutObject", "s3:DeleteObject") and name in request.headers:
            found[f"s3:{name}"] = (request.headers[name],)
    if action == "s3:ListBucket":
        found["s3:prefix"] = (parse_qs(request.query).get("prefix", [""])[0],)
    return found


def owner_of(bucket: str | None) -> str | None:
    """The account that owns a bucket; None when there is no such bucket."""
    found = s3_backends.bucket_accounts.get(bucket) if bucket else None
    return str(found[1]) if found else None


def _bucket_policy(bucket: str | None, owner: str) -> Policy | None:
    if bucket is None or owner_of(bucket) is None:
        return None
    policy = s3_backends[owner][PARTITION].buckets[bucket].policy
    return keys.parsed(policy.decode() if isinstance(policy, bytes) else policy) if policy else None


def _check_digest(request: HttpRequest) -> None:
    """Refuse a body that does not match its SHA-256; moto takes chunks with a trailer apart."""
    given = request.headers.get("x-amz-checksum-sha256")
    if given is None or "aws-chunked" in request.headers.get("content-encoding", ""):
        return
    if base64.b64encode(hashlib.sha256(request.body).digest()).decode() != given:
        raise ServiceError("BadDigest", "The SHA256 you specified did not match the calculated checksum.")


def _naming_checksum(request: HttpRequest) -> HttpRequest:
    """The request with the name of the checksum that it has: moto keeps none without it, S3 does."""
    if "x-amz-checksum-sha256" not in request.headers:
        return request
    return replace(request, headers={"x-amz-sdk-checksum-algorithm": "SHA256", **request.headers})


def _check_bucket_policy(body: bytes) -> None:
    try:
        policy = parse_policy(body, kind=PolicyKind.OTHER)
    except PolicyError as error:
        raise ServiceError("MalformedPolicy", str(error), 400) from error
    if any(statement.principals is None for statement in policy.statements):
        raise ServiceError("MalformedPolicy", "Missing required field Principal", 400)
    if missing_principal(policy) is not None:
        raise ServiceError("MalformedPolicy", "Invalid principal in policy", 400)
