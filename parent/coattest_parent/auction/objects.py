"""Objects in S3 that are written once: put where there is none, never replaced."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import FoundFalse
from coattest_parent.link.aws import parse_s3_uri

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

TAKEN = frozenset({"412", "PreconditionFailed"})
"""S3's codes for a conditional write that found an object there (Amazon S3 User Guide, "How to prevent object
overwrites with conditional writes").
"""

UNDER_WAY = frozenset({"409", "ConditionalRequestConflict"})
"""S3's codes for a conditional write during another write of the object: to be tried again (same page)."""

ATTEMPTS = 5
"""Tries of one put that meets other writes; they wait 0.2, 0.4, .. seconds."""


def put_once(client: S3Client, uri: str, content: bytes, **more: Any) -> bool:
    """Put ``content`` at ``uri`` if nothing is there; False when the same bytes are there already.

    S3 checks a checksum of the content. Raises FoundFalse (``wrong-object``) when something else is there,
    which stays as it is, and AwsFailure.
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
                break
            if error.service_code not in UNDER_WAY or attempt == ATTEMPTS:
                raise
            time.sleep(0.2 * attempt)
        else:
            return True
    with aws_errors(uri):
        there = client.get_object(Bucket=bucket, Key=key)["Body"].read(len(content) + 1)
    if there != content:
        raise FoundFalse(
            "something else is there; nothing was replaced",
            where=uri,
            hint="find out who wrote it; whoever owns the bucket can remove it",
            code="wrong-object",
        )
    return False
