"""A folder of small records that survive a crash and a power cut: what must never be forgotten once signed.

A record is whole and on the disk, with its name, before the call that writes it returns.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from coattest.errors import EnvironmentFailure
from coattest.files import write_plain

_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class DurableFolder:
    """Records in one folder; safe against crashes, and against two processes at once inside ``locked``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self, name: str) -> bytes | None:
        """A record's bytes, or None without one. Raises EnvironmentFailure for a link that leads nowhere."""
        path = self.directory / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            if path.is_symlink():
                raise damaged_record(
                    "an earlier record is a dangling link", path, "restore the file that the link names"
                ) from None
            return None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other processes out of it in the block."""
        _make_directories(self.directory)
        with write_plain(self.directory / ".lock", append=True) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                raise _unsafe(error, "locked", self.directory) from error
            yield

    def write(self, name: str, content: bytes) -> None:
        """Temporary file, fsync, rename, fsync of the directory: the file is whole or absent after a power
        cut.
        """
        path = self.directory / name
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            handle = os.open(temporary, _NEW, 0o600)
            try:
                rest = memoryview(content)
                while rest:
                    rest = rest[os.write(handle, rest) :]
                os.fsync(handle)
            finally:
                os.close(handle)
            os.rename(temporary, path)  # noqa: PTH104 - bare calls, so that a test can stop at each
        finally:
            temporary.unlink(missing_ok=True)
        _sync(self.directory, os.O_RDONLY | os.O_DIRECTORY)

    def sync(self, *names: str) -> None:
        """Make records durable that are there: their writer may have been killed before they were."""
        for name in names:
            _sync(self.directory / name, os.O_RDONLY)
        _sync(self.directory, os.O_RDONLY | os.O_DIRECTORY)


def damaged_record(what: str, path: Path, hint: str | None = None) -> EnvironmentFailure:
    """The error for a record that cannot be read: it might have said anything, so nothing is signed."""
    return EnvironmentFailure(what, where=str(path), hint=hint, code="journal-damaged")


def _make_directories(directory: Path) -> None:
    missing = []
    path = directory
    while not path.exists():
        missing.append(path)
        path = path.parent
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    # All of them, because an earlier process may have been killed before it synced what it made.
    device = directory.stat().st_dev
    for path in directory.absolute().parents:
        if path.stat().st_dev != device:
            break
        # We did not make a directory that we may not read.
        with contextlib.suppress(PermissionError):
            _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        raise _unsafe(error, "synced", path) from error
    finally:
        os.close(handle)


def _unsafe(error: OSError, what: str, path: Path) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"cannot be {what}: {error.strerror}",
        where=str(path),
        hint="nothing was signed; keep the record on a local disk: --journal, or COATTEST_STATE",
        code="journal-unsafe",
    )
