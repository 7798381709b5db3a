"""Jobs that lie in S3 as ``PREFIX/NAME/FILE``: what one listing of the prefix tells of them.

All that is there may be hostile: names have a grammar, and there is an end to how many are looked at.

``NAME/lease`` says who works on a job. Its age is by S3's clock alone: the listing's Date less its
LastModified. Size tells which word it is, so nothing has to be read. A result without a lease that
says it is finished may not be published yet, whoever put it: it is verified and published by who comes next.
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

MANIFEST, RESULT, FAILED, LEASE = "manifest.cbor", "result.cbor", "failed.json", "lease"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""The form of a job's name, and of its files'."""

TOKEN = 16
HELD, FREE, FINISHED = "held", "freed", "finished"
"""A lease's words, of different lengths, before a token in hex. What is neither held nor finished is free."""

KEYS_MAX = 100_000
"""Objects below the prefix that are listed, in pages of 1,000: some 20,000 auctions of three buyers."""


SPOOLS_MAX = 256
"""Spools, one for each release: who looks at all lists each, and a parent can put a lease below any name."""


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object of a listing; ``age`` is in seconds, by S3's clock."""

    etag: str
    size: int
    age: float


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of every job, by the job's name, which may be any: with slashes, or empty for what lies
    straight below the prefix; and S3's time in Unix seconds.
    """

    jobs: Mapping[str, Mapping[str, ListedObject]]
    time: float


def list_jobs(client: S3Client, uri: str) -> Listing:
    """What is below ``uri`` (``s3://bucket/prefix``).

    Raises AwsFailure: also ``too-many-files``, for more than KEYS_MAX objects, and ``bad-answer``.
    """
    found: dict[str, dict[str, ListedObject]] = {}
    time, (_, prefix) = 0.0, job_prefix(uri)
    for page in _pages(client, uri):
        now = _date(page, uri)
        time = now.timestamp()
        for item in cast("Sequence[Any]", page.get("Contents", ())):
            match item:
                case {"Key": str(key), "ETag": str(etag), "Size": int(size), "LastModified": put} if (
                    put.tzinfo
                ):
                    pass
                case _:
                    raise _bad_answer("S3 lists an object without key, ETag, size or time", uri)
            name, _, file = key.removeprefix(prefix).rpartition("/")
            if NAME.fullmatch(file):
                age = (now - put).total_seconds()
                found.setdefault(name, {})[file] = ListedObject(etag, size, age)
    return Listing(found, time)


def list_spools(client: S3Client, uri: str) -> list[str]:
    """Names of the spools below ``uri``, which may be any, in order.

    Raises as ``list_jobs``, ``too-many-files`` for more than SPOOLS_MAX.
    """
    pages = _pages(client, uri, Delimiter="/")
    found = (str(each.get("Prefix")) for page in pages for each in page.get("CommonPrefixes", ()))
    _, prefix = job_prefix(uri)
    names = sorted(name for each in found if (name := each.removeprefix(prefix).rstrip("/")))
    if len(names) > SPOOLS_MAX:
        raise AwsFailure(
            f"over {SPOOLS_MAX} spools",
            where=uri,
            hint="remove those of no release, and find out who made them",
            code="too-many-files",
        )
    return names


def open_jobs(client: S3Client, uri: str) -> list[str]:
    """Addresses of the open jobs below ``uri``, in order, ``uri`` itself if one lies straight in it; other
    names that no job has are left out. Raises as ``list_jobs``.
    """
    found = list_jobs(client, uri).jobs.items()
    names = (name for name, files in found if is_open(files) and (not name or NAME.fullmatch(name)))
    return sorted(f"{uri}/{name}/" if name else f"{uri}/" for name in names)


def is_held(files: Mapping[str, ListedObject]) -> bool:
    """Whether a lease is held, or was by somebody who died."""
    return _says(files, HELD)


def is_finished(files: Mapping[str, ListedObject]) -> bool:
    """Whether there is a result, and a courier has published it."""
    return RESULT in files and _says(files, FINISHED)


def is_open(files: Mapping[str, ListedObject]) -> bool:
    """Whether there is anything left to do for the job."""
    return MANIFEST in files and FAILED not in files and not is_finished(files)


def _says(files: Mapping[str, ListedObject], word: str) -> bool:
    return LEASE in files and files[LEASE].size == len(word) + 2 * TOKEN


def job_prefix(uri: str) -> tuple[str, str]:
    """Bucket and prefix, with its slash."""
    bucket, key = parse_s3_uri(uri)
    return bucket, f"{key.rstrip('/')}/"


def _pages(client: S3Client, uri: str, **more: Any) -> Iterator[Any]:
    """Every page of the listing of the prefix, and at least one."""
    bucket, prefix = job_prefix(uri)
    count = 0
    with aws_errors(uri):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **more):
            yield page
            count += len(page.get("Contents", ())) + len(page.get("CommonPrefixes", ()))
            if count >= KEYS_MAX and page.get("IsTruncated"):
                raise AwsFailure(
                    f"over {KEYS_MAX} objects",
                    where=uri,
                    hint="move auctions that have ended elsewhere",
                    code="too-many-files",
                )


def _date(page: Any, where: str) -> datetime:
    """S3's time, from an answer's Date."""
    try:
        said = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError, TypeError, OverflowError):
        raise _bad_answer("S3's answer has no date", where) from None
    return said.replace(tzinfo=timezone.utc)  # RFC 9110, 5.6.7: always GMT


def _bad_answer(what: str, where: str) -> AwsFailure:
    return AwsFailure(what, where=where, code="bad-answer")
