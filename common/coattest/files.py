"""Writes files atomically (a temporary file, then a rename), and reads folders that anybody may write to.

A hostile folder is read without following links, without opening devices, and with limits on everything.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from coattest.errors import EnvironmentFailure, Rejected, UsageError
from coattest.strictjson import MAX_SIZE

NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})
"""Errors of link(2) on file systems without hard links (FAT, some of FUSE's)."""

MAX_FILES = 16384
"""Names looked at in one folder; a quorum of 1,024 members has about 4,000."""

MAX_HELD = 256 * 1024 * 1024
"""Bytes of all files of one folder that are held at a time; 1,000 statements have about 50 MB."""

MAX_NAME = 200
"""Characters of a file name; a signature on the members file, for the longest member name, has 60."""

STATE_VARIABLE = "COATTEST_STATE"
"""Environment variable with the folder of everything that coattest must not forget."""


def state_folder(name: str) -> Path:
    """``$COATTEST_STATE/NAME``, else ``$XDG_DATA_HOME/coattest/NAME``, else
    ``~/.local/share/coattest/NAME``.
    """
    if state := os.environ.get(STATE_VARIABLE):
        return Path(state) / name
    data = os.environ.get("XDG_DATA_HOME")
    try:
        base = Path(data) if data and Path(data).is_absolute() else Path.home() / ".local" / "share"
    except RuntimeError:
        raise EnvironmentFailure("there is no home folder", hint=f"set {STATE_VARIABLE}") from None
    return base / "coattest" / name


@contextlib.contextmanager
def atomic_file(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and renamed, on failure removed."""
    with _beside(path) as temporary:
        yield temporary
        _finished(temporary, mode)
        temporary.replace(path)


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the whole new one."""
    with atomic_file(path, mode) as temporary:
        temporary.write_bytes(content)


def write_new(path: Path, content: bytes, mode: int = 0o644) -> bool:
    """Write ``content`` to ``path``, whole, if nothing is there; False when something is, which stays.

    Of two processes at once one gets True, unless the file system has no hard links.
    """
    with _beside(path) as temporary:
        temporary.write_bytes(content)
        _finished(temporary, mode)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if os.path.lexists(path):
                return False
            temporary.replace(path)
    return True


def read_bounded(path: Path, limit: int) -> bytes:
    """A file's first ``limit`` + 1 bytes: the last one shows the caller that the file is too large."""
    with path.open("rb") as file:
        return file.read(limit + 1)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, which is gone afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _finished(temporary: Path, mode: int) -> None:
    temporary.chmod(mode)
    with temporary.open("rb") as written:
        os.fsync(written.fileno())


class Evidence(Protocol):
    """Named files: a folder, or a bundle."""

    def names(self) -> tuple[str, ...]:
        """Every name, sorted, so that nothing depends on the order of a folder."""
        ...

    def read(self, name: str, limit: int = MAX_SIZE) -> bytes:
        """A file's bytes. Raises Rejected for what is absent, larger than ``limit`` or not a plain file."""
        ...


class Folder:
    """A folder on disk, opened once; names are resolved in it and never through a symbolic link."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError("no such folder", where=str(path), hint="check the path") from None
        except OSError as error:
            raise EnvironmentFailure(error.strerror or "cannot be opened", where=str(path)) from None

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def names(self) -> tuple[str, ...]:
        """Every name, sorted. Raises Rejected when there are more than MAX_FILES."""
        return tuple(sorted(self._scan()))

    def _scan(self) -> Iterator[str]:
        with os.scandir(self._handle) as entries:
            for count, entry in enumerate(entries):
                if count >= MAX_FILES:
                    raise Rejected(
                        f"more than {MAX_FILES} files", where=str(self.path), code="too-many-files"
                    )
                yield entry.name

    def read(self, name: str, limit: int = MAX_SIZE) -> bytes:
        """A file's bytes; see Evidence."""
        parts = name.split("/")
        if any(part in {"", ".", ".."} for part in parts) or len(name) > MAX_NAME:
            raise Rejected("not a plain relative name", code="bad-name")
        try:
            handle = self._open(parts)
        except FileNotFoundError:
            raise Rejected("no such file", code="absent") from None
        except OSError:
            raise Rejected("not a plain file that can be read", code="not-a-file") from None
        try:
            return _content(handle, limit)
        except OSError as error:
            raise Rejected(f"cannot be read: {error.strerror}", code="not-a-file") from None
        finally:
            os.close(handle)

    def _open(self, parts: list[str]) -> int:
        """Open a file below this folder; no component of its path may be a link."""
        # O_NONBLOCK: opening a FIFO must not wait for a writer. O_NOCTTY: a terminal does not become ours.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        folder = os.dup(self._handle)
        try:
            for part in parts[:-1]:
                inner = os.open(part, flags | os.O_DIRECTORY, dir_fd=folder)
                os.close(folder)
                folder = inner
            return os.open(parts[-1], flags, dir_fd=folder)
        finally:
            os.close(folder)


def _content(handle: int, limit: int) -> bytes:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise Rejected("not a plain file", code="not-a-file")
    # By size first: 100 MB of spaces are not worth reading.
    if status.st_size <= limit:
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(limit + 1)
        if len(content) <= limit:
            return content
    raise Rejected(f"larger than {limit} bytes", code="too-large")


class Held:
    """Files held in memory: what a proof bundle unpacks to."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def names(self) -> tuple[str, ...]:
        """Every name, sorted."""
        return tuple(sorted(self._files))

    def read(self, name: str, limit: int = MAX_SIZE) -> bytes:
        """A file's bytes; see Evidence."""
        content = self._files.get(name)
        if content is None:
            raise Rejected("no such file", code="absent")
        if len(content) > limit:
            raise Rejected(f"larger than {limit} bytes", code="too-large")
        return content


class ReadOnce:
    """Evidence of which each file is read at most once: what is checked, what is shown and what is signed are
    the same bytes, whatever happens to the files meanwhile.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._names: tuple[str, ...] | None = None
        self._files: dict[str, bytes | Rejected] = {}
        self._held = 0

    def names(self) -> tuple[str, ...]:
        """Every name, as it was at the first call."""
        if self._names is None:
            self._names = self._evidence.names()
        return self._names

    def read(self, name: str, limit: int = MAX_SIZE) -> bytes:
        """A file's bytes, or why there are none, as at the first call; see Evidence.

        Files that would bring all of them over MAX_HELD bytes are refused.
        """
        if name not in self._files:
            try:
                content = self._evidence.read(name, limit)
                if self._held + len(content) > MAX_HELD:
                    raise Rejected(f"with the files before it larger than {MAX_HELD} bytes", code="too-large")
                self._held += len(content)
                self._files[name] = content
            except Rejected as error:
                self._files[name] = error
        found = self._files[name]
        if isinstance(found, Rejected):
            raise Rejected(found.what, code=found.code)
        if len(found) > limit:
            raise Rejected(f"larger than {limit} bytes", code="too-large")
        return found
