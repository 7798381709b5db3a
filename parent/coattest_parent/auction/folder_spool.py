"""A spool that is a folder of this machine: one courier at a time serves it.

Move a job's directory in when it is complete. Names that begin with a dot, and links, are left out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from coattest.errors import EnvironmentFailure, Rejected, UsageError
from coattest.files import Folder, write_atomic
from coattest_parent.auction.jobs import SEAL, Job, JobsSeen
from coattest_parent.auction.publish import ResultFileAt
from coattest_parent.link.job_listing import FAILED, MANIFEST, RESULT


@dataclass(frozen=True, slots=True)
class FolderSpool:
    """A ``JobSpool`` (``jobs``): a directory per job in ``folder``."""

    folder: Path

    @contextlib.contextmanager
    def only(self) -> Iterator[None]:
        """Lock the folder; raises EnvironmentFailure when another process has, UsageError for a link.

        The lock ends with the process.
        """
        Folder(self.folder).close()  # a link is refused
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EnvironmentFailure(
                    "another courier serves this spool",
                    where=str(self.folder),
                    hint="stop the other one, or give another --spool",
                    code="spool-in-use",
                ) from None
            yield
        finally:
            os.close(handle)

    def look(self) -> JobsSeen:
        """Every job by name."""
        return JobsSeen(list(self._jobs()), sum(1 for _ in self.folder.glob(f"*/{FAILED}")))

    def _jobs(self) -> Iterator[Job]:
        for directory in sorted(self.folder.iterdir()):
            if directory.name.startswith(".") or directory.is_symlink():
                continue
            try:
                found = (directory / MANIFEST).stat()
                if stat.S_ISREG(found.st_mode) and not (directory / FAILED).exists():
                    version = (found.st_ino, found.st_mtime_ns)
                    yield Job(directory.name, version, opened=(directory / RESULT).exists())
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                yield Job(directory.name)  # loading it will report the error

    def where(self, job: Job, file: str = "") -> str:
        """A path."""
        return str(self.folder / job.name / file)

    def seals(self, job: Job) -> Sequence[str]:
        """Names of its files that end as seals do."""
        with self._opened(job) as folder:
            return [name for name in folder.names() if name.endswith(SEAL)]

    def read(self, job: Job, file: str, most: int) -> bytes:
        """A plain file. What is in a spool comes from buyers, maybe in an archive."""
        with self._opened(job) as folder:
            try:
                return folder.read(file, most)
            except Rejected as error:
                if error.code == "absent":
                    raise _gone(self.where(job, file)) from None
                raise UsageError(error.what, where=self.where(job, file), code=error.code) from None

    def _opened(self, job: Job) -> Folder:
        """The job's directory. Raises EnvironmentFailure (``absent``) when it was moved away since the look:
        then it is no job, and nothing is wrong with it.
        """
        if not os.path.lexists(self.folder / job.name):
            raise _gone(self.where(job))
        return Folder(self.folder / job.name)

    @contextlib.contextmanager
    def lease(self, job: Job) -> Iterator[bool]:
        """It is ours: nobody else serves the folder."""
        yield True

    def result(self, job: Job) -> ResultFileAt:
        """A file in the job's directory."""
        return ResultFileAt(self.folder / job.name / RESULT)

    def fail(self, job: Job, content: bytes) -> None:
        """Write why."""
        self._opened(job).close()  # nothing is made where the job is gone
        write_atomic(self.folder / job.name / FAILED, content)

    def exists(self) -> bool:
        """Whether the folder is there."""
        return self.folder.is_dir()


def _gone(where: str) -> EnvironmentFailure:
    return EnvironmentFailure("it was there and is gone", where=where, code="absent")
