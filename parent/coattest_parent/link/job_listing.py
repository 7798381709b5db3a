"""Jobs that lie in S3 as ``PREFIX/NAME/FILE``: what one listing of the prefix tells of them.

All that is there may be hostile: names have a grammar, and there is an end to how many are looked at.

``NAME/claim`` says who works on a job. It is a lease, and its age is by S3's clock alone: the listing's Date
less its LastModified. Size tells a held claim from a free one, so nothing has to be read. A result beside a
claim that is held is not finished yet: its courier may have died before it was published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast

from coattest.aws import AwsFailure, aws_errors
from coattest_parent.link.aws import parse_s3_uri

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MANIFEST, RESULT, FAILED, CLAIM = "manifest.cbor", "result.cbor", "failed.json", "claim"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""The form of a job's name, and of its files'."""

TOKEN = 16
HELD, FREE = "held", "freed"
HELD_SIZE = len(HELD) + 2 * TOKEN
"""Bytes of a claim that is held: the word, and a token in hex. One of any other size is free."""

KEYS_MAX = 100_000
"""Objects below the prefix that are listed, in pages of 1,000: some 20,000 auctions of three buyers."""


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object of a listing; ``age`` is in seconds, by S3's clock."""

    etag: str
    size: int
    age: float


def list_jobs(client: S3Client, uri: str) -> dict[str, dict[str, ListedObject]]:
    """The files of every job below ``uri`` (``s3://bucket/prefix``), by the job's name, which may be any.

    Raises AwsFailure: also ``too-many-files``, for more than KEYS_MAX objects, and ``bad-answer``.
    """
    found: dict[str, dict[str, ListedObject]] = {}
    for key, listed in _objects(client, uri):
        name, _, file = key.partition("/")
        if NAME.fullmatch(file):
            found.setdefault(name, {})[file] = listed
    return found


def is_held(files: Mapping[str, ListedObject]) -> bool:
    """Whether a claim is held, or was by somebody who died."""
    return CLAIM in files and files[CLAIM].size == HELD_SIZE


def is_open(files: Mapping[str, ListedObject]) -> bool:
    """Whether there is anything left to do for the job."""
    return MANIFEST in files and (is_held(files) if RESULT in files else FAILED not in files)


def job_prefix(uri: str) -> tuple[str, str]:
    """Bucket and prefix, with its slash."""
    bucket, key = parse_s3_uri(uri)
    return bucket, f"{key.rstrip('/')}/"


def _objects(client: S3Client, uri: str) -> Iterator[tuple[str, ListedObject]]:
    """Every object below the prefix: the rest of its key, and what the listing says of it."""
    bucket, prefix = job_prefix(uri)
    more: dict[str, Any] = {}
    count = 0
    while True:
        with aws_errors(uri):
            page = client.list_objects_v2(Bucket=bucket, Prefix=prefix, **more)
        now = _date(page, uri)
        for item in cast("Sequence[Any]", page.get("Contents", ())):
            count += 1
            age = (now - item["LastModified"]).total_seconds()
            yield item["Key"].removeprefix(prefix), ListedObject(item["ETag"], item["Size"], age)
        token = page.get("NextContinuationToken")
        if not page.get("IsTruncated") or not token:
            return
        if count >= KEYS_MAX:
            raise AwsFailure(
                f"over {KEYS_MAX} objects",
                where=uri,
                hint="move auctions that have ended elsewhere",
                code="too-many-files",
            )
        more = {"ContinuationToken": token}


def _date(page: Any, where: str) -> datetime:
    """S3's time, from an answer's Date."""
    try:
        said = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError, TypeError):
        raise AwsFailure("S3's answer has no date", where=where, code="bad-answer") from None
    return said.replace(tzinfo=timezone.utc)  # RFC 9110, 5.6.7: always GMT
