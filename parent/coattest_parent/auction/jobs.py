"""What a spool is: jobs by name, each an auction's manifest and seals, and in the end its result.

A job is ``NAME/manifest.cbor`` and one ``NAME/*.seal`` per buyer. ``NAME/result.cbor`` ends it. A job that no
further attempt can finish gets ``NAME/failed.json`` and is left alone until that is removed.

Two kinds of spool have the same files: a folder (``folder_spool``), and a place in S3 (``bucket_spool``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from coattest.errors import UsageError
from coattest_enclave.protocol import canonical, cose
from coattest_enclave.protocol.errors import MessageError
from coattest_parent.auction.publish import ResultPlace, Sealed
from coattest_parent.link.job_listing import MANIFEST, NAME
from coattest_verify.auction import messages
from coattest_verify.auction.buyers import parse_manifest

SEAL = ".seal"


@dataclass(frozen=True, slots=True)
class Job:
    """An auction to open. With a different manifest in its place (``version``), it is a different job.

    ``opened``: a result is there. ``taken``: another courier works on it. ``left``: nobody does, and the
    spool knows that it is not finished. ``age``: for how many seconds the manifest has been there, if the
    spool's clock tells.
    """

    name: str
    version: tuple[int | str, ...] = ()
    opened: bool = field(default=False, compare=False)
    taken: bool = field(default=False, compare=False)
    left: bool = field(default=False, compare=False)
    age: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class JobsSeen:
    """What a look at a spool found: the jobs to open, in the order to take them, how many have failed, and
    what time it is by the spool's own clock, in Unix seconds, if it has one.
    """

    jobs: Sequence[Job]
    failed: int
    time: float | None = None


class JobSpool(Protocol):
    """Where jobs wait. What it raises: CoattestError and OSError."""

    def only(self) -> AbstractContextManager[None]:
        """Within the block nobody else serves it, where only one may; raises EnvironmentFailure otherwise."""
        ...

    def look(self) -> JobsSeen:
        """What is there now. The methods below are for jobs of the last look."""
        ...

    def where(self, job: Job, file: str = "") -> str:
        """The place of a job or of its file, for people."""
        ...

    def seals(self, job: Job) -> Sequence[str]:
        """Names of its files that end as seals do."""
        ...

    def read(self, job: Job, file: str, most: int) -> bytes:
        """A file of at most ``most`` bytes; raises UsageError for anything else."""
        ...

    def lease(self, job: Job) -> AbstractContextManager[bool]:
        """Within the block no other courier is to work on the job; False where another does. It saves work:
        what makes two at once safe is that one seal gives one result.
        """
        ...

    def result(self, job: Job) -> ResultPlace:
        """Where its result goes."""
        ...

    def fail(self, job: Job, content: bytes) -> None:
        """Set it aside; ``content`` says why."""
        ...

    def exists(self) -> bool:
        """Whether it is there, as far as that can be seen at once."""
        ...


def job_manifest(spool: JobSpool, job: Job) -> messages.Manifest:
    """A job's manifest; raises UsageError for a name or manifest that is none, and as ``JobSpool.read``."""
    if not NAME.fullmatch(job.name):
        raise UsageError("not a job's name", where=ascii(job.name), hint=NAME.pattern, code="bad-name")
    content = spool.read(job, MANIFEST, canonical.SIZE_MAX)
    return parse_manifest(content, spool.where(job, MANIFEST))


def load_sealed(spool: JobSpool, job: Job, manifest: messages.Manifest) -> Sealed:
    """The manifest with its seals; raises UsageError (``bad-seal``), and as ``JobSpool.read``."""
    names = spool.seals(job)[: messages.BUYERS_MAX + 1]
    seals = [spool.read(job, name, cose.SIGN1_MAX) for name in names]
    try:
        messages.check_seals(manifest, seals)
    except MessageError as error:
        raise UsageError(
            f"seals: {error}", where=spool.where(job), hint="one .seal per buyer", code="bad-seal"
        ) from None
    return Sealed(manifest, tuple(seals))
