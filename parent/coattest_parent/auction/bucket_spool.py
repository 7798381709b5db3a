"""A spool that is a place in S3: any number of couriers, on any number of machines, serve it together.

Put a job's seals first and its manifest last. Sizes are looked at before anything is read.

A lease (``link.job_listing``) is put where there is none, or in place of the very one that was seen
(If-None-Match, If-Match), and is never deleted. One that was not put again for LEASE_SECONDS seconds is over.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import UsageError
from coattest_parent.auction.jobs import SEAL, Job, JobsSeen
from coattest_parent.auction.objects import LOST, get_whole, put_new, too_large
from coattest_parent.auction.publish import RESULT_FILE_MAX
from coattest_parent.auction.steps import Sessions
from coattest_parent.link.aws import parse_s3_uri
from coattest_parent.link.job_listing import (
    FAILED,
    FINISHED,
    FREE,
    HELD,
    KEYS_MAX,
    LEASE,
    MANIFEST,
    NAME,
    RESULT,
    TOKEN,
    ListedObject,
    is_finished,
    is_held,
    is_open,
    job_prefix,
    list_jobs,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LEASE_SECONDS = 300.0
"""Seconds, by S3's clock, for which a lease counts after it was put."""

RENEW = LEASE_SECONDS / 4
"""Seconds after which it is put again by the courier that works."""


@dataclass(slots=True)
class BucketSpool:
    """A ``JobSpool`` (``jobs``) at ``s3://bucket/prefix``."""

    uri: str
    sessions: Sessions
    lease_seconds: float = LEASE_SECONDS
    renew: float = RENEW
    _me: str = field(default_factory=lambda: secrets.token_hex(TOKEN))
    _found: Mapping[str, Mapping[str, ListedObject]] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _client: tuple[Any, Any] = (None, None)

    @contextlib.contextmanager
    def only(self) -> Iterator[None]:
        """Others may serve it too."""
        yield

    def look(self) -> JobsSeen:
        """Jobs in an order of this courier's own, so that several do not run for the same one.

        Raises AwsFailure.
        """
        with self._s3() as client:
            listing = list_jobs(client, self.uri)
        self._found = found = listing.jobs
        names = sorted(found, key=lambda name: hashlib.sha256(f"{self._me}{name}".encode()).digest())
        jobs = [job for name in names if (job := self._job(name, found[name])) is not None]
        named = (files for name, files in found.items() if NAME.fullmatch(name))
        failed = sum(FAILED in files and not is_finished(files) for files in named)
        return JobsSeen(jobs, failed, listing.time)

    def _job(self, name: str, files: Mapping[str, ListedObject]) -> Job | None:
        """The job, if there is anything to do for it."""
        if not is_open(files):
            return None
        # Nothing is written under such a name, so it is given out until it was told of.
        if not NAME.fullmatch(name) and (name in self._told or len(self._told) >= KEYS_MAX):
            return None
        manifest = files[MANIFEST]
        taken = is_held(files) and files[LEASE].age <= self.lease_seconds
        return Job(
            name, (manifest.etag,), opened=RESULT in files, taken=taken, left=not taken, age=manifest.age
        )

    def where(self, job: Job, file: str = "") -> str:
        """An address in S3."""
        bucket, prefix = job_prefix(self.uri)
        return f"s3://{bucket}/{prefix}{job.name}/{file}"

    def seals(self, job: Job) -> Sequence[str]:
        """By the listing."""
        return sorted(name for name in self._found[job.name] if name.endswith(SEAL))

    def read(self, job: Job, file: str, most: int) -> bytes:
        """The object that was listed, if it is no larger; raises UsageError (``too-large``), AwsFailure."""
        listed, where = self._found[job.name].get(file), self.where(job, file)
        if listed is not None and listed.size > most:
            raise too_large(where, most)
        same = {"IfMatch": listed.etag} if listed is not None else {}
        with self._s3() as client:
            content, _ = get_whole(client, where, most, **same)
        return content

    @contextlib.contextmanager
    def lease(self, job: Job) -> Iterator[bool]:
        """Hold the lease and put it again while the block runs. Afterwards it says that the job is finished;
        after an exception it is free: a result may be there by then, and is still to be published.

        Raises AwsFailure.
        """
        listed = self._found[job.name].get(LEASE)
        condition = {"IfMatch": listed.etag} if listed else {"IfNoneMatch": "*"}
        with self._s3() as client:
            lease = _Lease(client, self.where(job, LEASE))
            ours = lease.put(HELD, **condition)
        if not ours:
            yield False
            return
        ended = threading.Event()
        renewing = threading.Thread(target=lease.renew, args=(ended, self.renew), daemon=True)
        renewing.start()
        try:
            yield True
        except BaseException:
            with contextlib.suppress(AwsFailure):  # what ended the attempt is the reason; the lease ends too
                _end(lease, FREE, renewing, ended)
            raise
        _end(lease, FINISHED, renewing, ended)

    def result(self, job: Job) -> ObjectPlace:
        """An object beside the manifest."""
        return ObjectPlace(self, job)

    def put_new(self, job: Job, file: str, content: bytes) -> bool:
        """Put a file of the job where there is none; False where one is."""
        with self._s3() as client:
            return put_new(client, self.where(job, file), content)

    def fail(self, job: Job, content: bytes) -> None:
        """Put why, where no other courier has."""
        if NAME.fullmatch(job.name):
            self.put_new(job, FAILED, content)
        else:
            self._told.add(job.name)

    def exists(self) -> bool:
        """A look tells."""
        return True

    @contextlib.contextmanager
    def _s3(self) -> Iterator[S3Client]:
        """A client with credentials that were good when last used."""
        with self.sessions.one() as session:
            if session is not self._client[0]:
                self._client = session, session.s3(self.sessions.region)
            yield self._client[1]


@dataclass(slots=True)
class ObjectPlace:
    """A ``ResultPlace`` (``publish``): the job's result as an object."""

    spool: BucketSpool
    job: Job
    _met: bool = False

    @property
    def where(self) -> str:
        """Its address in S3."""
        return self.spool.where(self.job, RESULT)

    def read(self) -> bytes | None:
        """What the last look or a put has met there."""
        if not self.job.opened and not self._met:
            return None
        return self.spool.read(self.job, RESULT, RESULT_FILE_MAX)

    def put(self, content: bytes) -> bool:
        """Put it where there is none."""
        self._met = not self.spool.put_new(self.job, RESULT, content)
        return not self._met


@dataclass(slots=True)
class _Lease:
    """The lease of a job, as this courier put it last: ``etag`` is of nobody else's."""

    client: S3Client
    uri: str
    etag: str = ""
    _own: set[bytes] = field(default_factory=set)

    def put(self, word: str, **condition: Any) -> bool:
        """Put it on a condition; False when another courier has it. Raises AwsFailure."""
        # Never the same twice: an ETag stands for one put.
        body = f"{word}{secrets.token_hex(TOKEN)}".encode()
        self._own.add(body)
        if self._put(body, condition):
            return True
        # A put whose answer was lost is made again by botocore, and meets itself; or the next one meets it.
        try:
            there, etag = get_whole(self.client, self.uri, len(FINISHED) + 2 * TOKEN)
        except UsageError:  # larger
            return False
        if there not in self._own:
            return False
        self.etag = etag
        return there == body or self._put(body, {"IfMatch": etag})

    def _put(self, body: bytes, condition: Mapping[str, Any]) -> bool:
        bucket, key = parse_s3_uri(self.uri)
        try:
            with aws_errors(self.uri):
                self.etag = self.client.put_object(Bucket=bucket, Key=key, Body=body, **condition)["ETag"]
        except AwsFailure as error:
            if error.service_code not in LOST:
                raise
            return False
        return True

    def renew(self, ended: threading.Event, every: float) -> None:
        """Put it again and again until ``ended``, or until another courier has it: then both go on, and the
        first result stays.
        """
        while not ended.wait(every):
            with contextlib.suppress(AwsFailure):
                if not self.put(HELD, IfMatch=self.etag):
                    return


def _end(lease: _Lease, word: str, renewing: threading.Thread, ended: threading.Event) -> None:
    ended.set()
    renewing.join()
    lease.put(word, IfMatch=lease.etag)
