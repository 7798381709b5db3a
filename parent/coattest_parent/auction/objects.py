"""Objects in S3 that are read whole, and written once: put where there is none, never replaced."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import FoundFalse, UsageError
from coattest_parent.link.aws import parse_s3_uri

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

TAKEN = frozenset({"412", "PreconditionFailed"})
"""S3's codes for a conditional write that found an object there (Amazon S3 User Guide, "How to prevent object
overwrites with conditional writes").
"""

UNDER_WAY = frozenset({"409", "ConditionalRequestConflict"})
"""S3's codes for a conditional write during another write of the object: to be tried again (same page)."""

LOST = TAKEN | UNDER_WAY | {"404", "NoSuchKey"}
"""S3's codes for a conditional write that did not happen; also: the object to replace is gone (same page).
"""

ATTEMPTS = 5
"""Tries of one put that meets other writes; they wait 0.2, 0.4, .. seconds."""


def get_whole(client: S3Client, uri: str, most: int, **conditions: Any) -> tuple[bytes, str]:
    """An object of at most ``most`` bytes, and its ETag.

    Raises UsageError (``too-large``) before any of it is read, and AwsFailure: also for an answer that ends
    early, does not say how long it is, or is not what its checksum says.
    """
    bucket, key = parse_s3_uri(uri)
    with aws_errors(uri):
        answer = client.get_object(Bucket=bucket, Key=key, **conditions)
        with contextlib.closing(answer["Body"]) as body:
            size, etag = answer.get("ContentLength"), answer.get("ETag")
            if not isinstance(size, int) or size < 0 or not etag:
                raise AwsFailure("S3's answer has no length or ETag", where=uri, code="bad-answer")
            if size > most:
                raise too_large(uri, most)
            content = b""
            # An answer in chunks may be longer than it said. Only a read at the end compares the checksum.
            while len(content) <= size and (piece := body.read(size + 1 - len(content))):
                content += piece
            if len(content) != size:
                code = "unreachable" if len(content) < size else "bad-answer"
                raise AwsFailure("S3's answer is not as long as it said", where=uri, code=code)
            return content, etag


def too_large(uri: str, most: int) -> UsageError:
    """The error for an object that is larger than anything that may be there."""
    return UsageError(f"larger than {most} bytes", where=uri, code="too-large")


def put_new(client: S3Client, uri: str, content: bytes, **more: Any) -> bool:
    """Put ``content`` at ``uri`` if nothing is there; False when something is, which stays: it may be this
    content, from a put whose answer was lost.

    S3 checks a checksum of the content. Raises AwsFailure.
    """
    bucket, key = parse_s3_uri(uri)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with aws_errors(uri):
                client.put_object(
                    Bucket=bucket, Key=key, Body=content, ChecksumAlgorithm="SHA256", IfNoneMatch="*", **more
                )
        except AwsFailure as error:
            if error.service_code in TAKEN:
                return False
            if error.service_code not in UNDER_WAY or attempt == ATTEMPTS:
                raise
            time.sleep(0.2 * attempt)
        else:
            return True
    return False


def put_once(client: S3Client, uri: str, content: bytes, **more: Any) -> bool:
    """Put ``content`` at ``uri`` if nothing is there; False when the same bytes are there already.

    Raises FoundFalse (``wrong-object``) when something else is there, and as ``put_new``.
    """
    if put_new(client, uri, content, **more):
        return True
    try:
        there, _ = get_whole(client, uri, len(content))
    except UsageError:  # larger
        there = b""
    if there != content:
        raise FoundFalse(
            "something else is there; nothing was replaced",
            where=uri,
            hint="find out who wrote it; whoever owns the bucket can remove it",
            code="wrong-object",
        )
    return False
