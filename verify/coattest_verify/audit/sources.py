"""Where events come from: a file, a folder of log files, a bucket, or CloudTrail's own lookup."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coattest.aws import aws_errors
from coattest.errors import Rejected, UsageError
from coattest.files import Folder, read_whole
from coattest_verify.audit.digests import DigestFile
from coattest_verify.audit.events import MAX_FILE, Event, inflate, parse_event, read_events

DIGEST_FOLDER = "CloudTrail-Digest"
SUFFIXES = (".json", ".json.gz", ".jsonl")
SIGNATURE_SUFFIX = ".signature"
MAX_EVENTS = 500_000
"""Events of KMS that one run holds in memory, about a kilobyte each."""
MAX_LOGS = 200_000
"""Files of one folder; CloudTrail writes one every five minutes in each region."""
MAX_READ = 16 * 1024 * 1024 * 1024
"""Bytes of all files together, as they are stored."""
MAX_SIGNATURE = 4096


@dataclass(slots=True)
class Collected:
    """What was read. ``logs`` maps each log's path to the SHA-256 (hex) of its uncompressed content."""

    events: list[Event] = field(default_factory=list)
    digests: list[DigestFile] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)

    def log(self, data: bytes, where: str, path: str) -> None:
        """Add a log file."""
        content = inflate(data, where)
        self.logs[path] = hashlib.sha256(content).hexdigest()
        self._take(content, where)

    def _take(self, content: bytes, where: str) -> None:
        for raw in read_events(content, where):
            event = parse_event(raw, where)
            if event is not None:
                self.events.append(event)
            if len(self.events) > MAX_EVENTS:
                raise UsageError(f"more than {MAX_EVENTS} events", hint="narrow the source down")

    def looked_up(self, text: str, where: str) -> None:
        """Add one event of lookup-events."""
        self._take(text.encode(), where)


def from_path(path: Path) -> Collected:
    """A log file, or a folder of them as ``aws s3 sync`` leaves it.

    A digest's signature is S3 metadata, which a folder does not have: it is read from FILE.signature beside
    it. Raises UsageError where there is nothing, and for what does not parse.
    """
    found = Collected()
    if not os.path.lexists(path):
        raise UsageError("there is no such file or folder", where=str(path))
    if not path.is_dir():
        found.log(read_whole(path, MAX_FILE), str(path), path.name)
        return found
    with Folder(path, total=MAX_READ) as folder:
        try:
            for name, status in folder.walk(most=MAX_LOGS):
                if stat.S_ISREG(status.st_mode) and name.endswith(SUFFIXES):
                    _add(found, folder, name)
        except Rejected as error:
            raise UsageError(error.what, where=error.where or str(path), code=error.code) from None
    return found


def _add(found: Collected, folder: Folder, name: str) -> None:
    try:
        content = folder.read_status(name, MAX_FILE)[0]
        if DIGEST_FOLDER not in name.split("/"):
            found.log(content, name, name)
            return
        beside = name + SIGNATURE_SUFFIX
        signature = folder.read_status(beside, MAX_SIGNATURE)[0] if folder.status(beside) else b""
    except Rejected as error:
        raise UsageError(error.what, where=name, code=error.code) from None
    text = signature.decode("ascii", "replace").strip()
    found.digests.append(DigestFile(inflate(content, name), text, name))


def from_bucket(s3: Any, url: str) -> Collected:
    """Every log and digest below ``s3://bucket/prefix``, with a boto3 client."""
    parts = urlsplit(url)
    bucket, prefix = parts.netloc, parts.path.lstrip("/")
    found = Collected()
    with aws_errors(url):
        for name in _names(s3, bucket, prefix):
            if not name.endswith(SUFFIXES):
                continue
            answer = s3.get_object(Bucket=bucket, Key=name)
            data = answer["Body"].read()
            if f"/{DIGEST_FOLDER}/" in name:
                signature = answer.get("Metadata", {}).get("signature", "")
                found.digests.append(DigestFile(inflate(data, name), signature, name))
            else:
                found.log(data, name, f"{bucket}/{name}")
    return found


def _names(s3: Any, bucket: str, prefix: str) -> Iterator[str]:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from (item["Key"] for item in page.get("Contents", ()))


def from_lookup(cloudtrail: Any, key_arn: str) -> Collected:
    """CloudTrail's event history for a key: 90 days, no digests."""
    found = Collected()
    attributes = [{"AttributeKey": "ResourceName", "AttributeValue": key_arn}]
    with aws_errors("lookup-events"):
        for page in cloudtrail.get_paginator("lookup_events").paginate(LookupAttributes=attributes):
            for item in page["Events"]:
                found.looked_up(item["CloudTrailEvent"], "lookup-events")
    return found
