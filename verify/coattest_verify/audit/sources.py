"""Where events come from: a file, a folder of log files, a bucket, or CloudTrail's own lookup."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from coattest.aws import aws_errors
from coattest.errors import UsageError
from coattest.files import open_plain, read_whole
from coattest_verify.audit.collect import Collected
from coattest_verify.audit.records import GZIP, MAX_FILE, packed_as

DIGEST_FOLDER: Final = "CloudTrail-Digest"
SUFFIXES: Final = (".json", ".jsonl", ".ndjson", ".log", ".gz")
"""Names of what is read, in any case; of what has another name, what begins like a log is read too."""

_BEGINS: Final = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*[\[{]|\xff\xfe|\xfe\xff|" + re.escape(GZIP))
_NAMES: Final = re.compile(rb"eventsource|event.?source|kms\.amazonaws", re.IGNORECASE)
_BEGINNING: Final = 65536
"""Bytes in which a log's first bracket, or a name of CloudTrail's, is looked for."""

_DAY: Final = re.compile(r"/([0-9]{4})/([0-9]{2})/([0-9]{2})/")
"""CloudTrail's folders (User Guide, "Finding your CloudTrail log files"); a file elsewhere is of any day."""

SIGNATURE_SUFFIX: Final = ".signature"
MAX_SIGNATURE: Final = 4096
"""Bytes of a digest's signature in hex; RSA of 2,048 bits has 512."""

MAX_LOG_FILES: Final = 2_000_000
"""Files of one source. A trail of 17 Regions that is written to every five minutes has 1.8 million a year."""

MAX_FOLDERS_DEEP: Final = 64
"""AWSLogs/ORGANISATION/ACCOUNT/CloudTrail/REGION/YEAR/MONTH/DAY is eight deep."""

Step = Callable[[], None]
"""Called after each file, for a progress display."""


def from_path(
    found: Collected, path: Path, step: Step = lambda: None, *, days_of: datetime | None = None
) -> None:
    """Take in a log file, or a folder of them as ``aws s3 sync`` leaves it; for ``days_of`` see ``_earlier``.

    A digest's signature is S3 metadata, which a folder does not have: it is read from FILE.signature beside
    it. Links are not followed; they and all that cannot be read are findings. Raises UsageError where there
    is nothing, or a link.
    """
    if path.is_symlink():
        raise UsageError("a link, which is not followed", where=str(path), hint="name what it leads to")
    if path.is_file():
        _take(found, path.resolve(), path.name)
        step()
        return
    if not path.is_dir():
        raise UsageError("there is no such file or folder", where=str(path))
    for count, file in enumerate(_files(found, path), 1):
        if count > MAX_LOG_FILES:
            raise UsageError(f"more than {MAX_LOG_FILES} files", hint="take a smaller folder at a time")
        name = file.relative_to(path).as_posix()
        if not _earlier(name, days_of):
            _take(found, file, name)
            step()


def _files(found: Collected, top: Path) -> Iterator[Path]:
    """The files below a folder by name, in a fixed order."""
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        relative = folder.relative_to(top)
        try:
            with os.scandir(folder) as entries:
                names = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            found.flaw(relative.as_posix(), error.strerror or "cannot be opened")
            continue
        inner = [Path(entry.path) for entry in names if entry.is_dir(follow_symlinks=False)]
        if inner and len(relative.parts) >= MAX_FOLDERS_DEEP:
            found.flaw(relative.as_posix(), f"more than {MAX_FOLDERS_DEEP} folders deep")
            inner = []
        waiting += reversed(inner)
        for entry in names:
            if entry.is_dir(follow_symlinks=False) or _signs(entry, names):
                continue
            name = (relative / entry.name).as_posix()
            if entry.is_symlink():
                found.flaw(name, "a link, which is not followed")
            elif entry.name.lower().endswith(SUFFIXES) or _like_a_log(Path(entry.path)):
                yield Path(entry.path)
            else:
                found.coverage.skip(name)


def _signs(entry: os.DirEntry[str], beside: Sequence[os.DirEntry[str]]) -> bool:
    """Whether a file is the signature of a digest beside it, which is read with the digest."""
    signed = entry.name.removesuffix(SIGNATURE_SUFFIX)
    among_digests = DIGEST_FOLDER in Path(entry.path).parts
    return signed != entry.name and among_digests and any(other.name == signed for other in beside)


def _like_a_log(file: Path) -> bool:
    """Whether a file begins like a log; what cannot be opened is taken for one, and then said to be none."""
    try:
        with open_plain(file) as opened:
            return _may_be_a_log(opened.read(_BEGINNING))
    except (OSError, UsageError):
        return True


def _take(found: Collected, file: Path, name: str) -> None:
    try:
        data, signature = read_whole(file, MAX_FILE), b""
        beside = file.with_name(file.name + SIGNATURE_SUFFIX)
        among_digests = DIGEST_FOLDER in file.parts
        if among_digests and os.path.lexists(beside):
            signature = read_whole(beside, MAX_SIGNATURE)
    except (OSError, UsageError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.what
        found.coverage.files += 1
        found.flaw(name, reason or "cannot be read")
        return
    if among_digests:
        found.digest(data, signature.decode("ascii", "replace").strip(), name)
    else:
        found.log(data, name, name)


def _earlier(name: str, since: datetime | None) -> bool:
    """Whether a file's folders say a day from which nothing is needed to show a time from ``since`` on.

    Of digests the day before that time's is read, of logs two, as the first of those digests lists such logs.
    """
    day = _DAY.search(f"/{name}")
    if since is None or day is None:
        return False
    before = timedelta(days=1 if DIGEST_FOLDER in name else 2)
    return "-".join(day.groups()) < f"{since - before:%Y-%m-%d}"


def from_bucket(
    found: Collected, s3: Any, url: str, step: Step = lambda: None, *, days_of: datetime | None = None
) -> None:
    """Take in every log and digest below ``s3://bucket/prefix``, with a boto3 client.

    Raises AwsFailure where the bucket cannot be listed or S3 is not reached; an object that S3 refuses is a
    finding.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = prefix.lstrip("/")
    with aws_errors(url):
        for count, (name, size) in enumerate(_names(s3, bucket, prefix), 1):
            if count > MAX_LOG_FILES:
                raise UsageError(f"more than {MAX_LOG_FILES} objects", hint="take a smaller prefix at a time")
            if _earlier(name, days_of):
                continue
            if name.lower().endswith(SUFFIXES) or (size and _object_like_a_log(s3, bucket, name)):
                _take_object(found, s3, bucket, name)
                step()
            elif size or not name.endswith("/"):
                found.coverage.skip(name)


def _object_like_a_log(s3: Any, bucket: str, name: str) -> bool:
    """Whether an object begins like a log; what S3 refuses is taken for one, and then said to be refused."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    try:
        answer = s3.get_object(Bucket=bucket, Key=name, Range=f"bytes=0-{_BEGINNING - 1}")
    except ClientError:
        return True
    return _may_be_a_log(answer["Body"].read(_BEGINNING))


def _may_be_a_log(beginning: bytes) -> bool:
    """Whether a file begins like a log, packed in whatever way, or has the words of one."""
    if _BEGINS.match(beginning) or packed_as(beginning):
        return True
    return _NAMES.search(beginning.replace(b"\0", b"")) is not None


def _take_object(found: Collected, s3: Any, bucket: str, name: str) -> None:
    from botocore.exceptions import ClientError  # noqa: PLC0415

    try:
        answer = s3.get_object(Bucket=bucket, Key=name)
        data = answer["Body"].read(MAX_FILE + 1)
    except ClientError as error:
        found.coverage.files += 1
        found.flaw(name, str(error.response.get("Error", {}).get("Code", "refused")))
        return
    if f"/{DIGEST_FOLDER}/" in f"/{name}":
        found.digest(data, str(answer.get("Metadata", {}).get("signature", "")), name)
    else:
        found.log(data, name, f"{bucket}/{name}")


def _names(s3: Any, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Name and size (bytes) of each object."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from ((item["Key"], item["Size"]) for item in page.get("Contents", ()))


def from_lookup(
    found: Collected,
    cloudtrail: Any,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    step: Step = lambda: None,
) -> None:
    """Take in CloudTrail's event history of the key: 90 days, no digests.

    It has the events whose resources name the key, and those that name its id alone. Raises AwsFailure.
    """
    window = {name: value for name, value in (("StartTime", since), ("EndTime", until)) if value}
    with aws_errors("lookup-events"):
        for value in (found.key.arn, found.key.id):
            attributes = [{"AttributeKey": "ResourceName", "AttributeValue": value}]
            pages = cloudtrail.get_paginator("lookup_events").paginate(LookupAttributes=attributes, **window)
            for page in pages:
                for item in page["Events"]:
                    text = item.get("CloudTrailEvent")
                    found.text(text.encode() if isinstance(text, str) else b"", "lookup-events")
                step()
