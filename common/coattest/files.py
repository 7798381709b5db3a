"""Writes files atomically (a temporary file, then a rename), and reads what anybody may have written.

Nothing here follows a symbolic link, waits for a FIFO or opens a device, and everything has a limit.
``Folder`` is the one place where names in a folder are resolved: by descriptors, a component at a time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, Protocol, runtime_checkable

from coattest.errors import EnvironmentFailure, Rejected, UsageError
from coattest.strictjson import MAX_SIZE

NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})
"""Errors of link(2) on file systems without hard links (FAT, some of FUSE's)."""

NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})
"""Errors of open(2) with O_TMPFILE where kernel or file system have no files without a name."""

MAX_FILES = 16384
"""Names looked at in one folder; a quorum of 1,024 members has about 4,000."""

MAX_NAME = 300
"""Characters of a file's name with its folders; a statement of the longest release and member has 230."""

MAX_TOTAL = 128 * 1024 * 1024
"""Bytes read from one folder, all files together; a quorum of 1,000 members has about 50 MB of statements."""

MAX_PATH_PARTS = 64
"""Folders inside each other that ``Folder.walk`` enters."""

# O_NONBLOCK: opening a FIFO must not wait for a writer. O_NOCTTY: a terminal does not become ours.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_ENTER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

CONFIG_VARIABLE = "COATTEST_CONFIG"
"""Environment variable with the folder of what was pinned and accepted."""

STATE_VARIABLE = "COATTEST_STATE"
"""Environment variable with the folder of everything that coattest must not forget."""


def user_folder(variable: str, *default: str) -> Path:
    """``$VARIABLE`` of the XDG Base Directory Specification, else ``default`` in the user's home.

    One that is not absolute does not count. Raises EnvironmentFailure where there is no home.
    """
    given = Path(os.environ.get(variable, ""))
    try:
        return given if given.is_absolute() else Path.home().joinpath(*default)
    except RuntimeError:
        raise EnvironmentFailure("there is no home folder", hint=f"set {variable}") from None


def state_folder(name: str) -> Path:
    """``$COATTEST_STATE/NAME``, else ``$XDG_DATA_HOME/coattest/NAME``, else
    ``~/.local/share/coattest/NAME``.
    """
    if state := os.environ.get(STATE_VARIABLE):
        return Path(state) / name
    return user_folder("XDG_DATA_HOME", ".local", "share") / "coattest" / name


def config_folder() -> Path:
    """``$COATTEST_CONFIG``, else ``$XDG_CONFIG_HOME/coattest``, else ``~/.config/coattest``."""
    chosen = os.environ.get(CONFIG_VARIABLE)
    return Path(chosen) if chosen else user_folder("XDG_CONFIG_HOME", ".config") / "coattest"


def real_path(path: Path) -> Path:
    """The absolute path with its links followed; a link that leads to itself stays as it is.

    ``Path.resolve`` raises RuntimeError for such a link.
    """
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def atomic_file(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and renamed, on failure removed."""
    with _beside(path) as temporary:
        yield temporary
        _finished(temporary, mode)
        temporary.replace(path)


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the whole new one."""
    with atomic_file(path, mode) as temporary, _naming(path):
        temporary.write_bytes(content)


def write_new(path: Path, content: bytes, mode: int = 0o644) -> bool:
    """Write ``content`` to ``path``, whole, if nothing is there; False when something is, which stays.

    Of two processes at once one gets True, unless the file system has no hard links. A process that is killed
    meanwhile leaves nothing, where the file system has files without a name (open(2), O_TMPFILE).
    """
    make_folder(path.parent)
    with _naming(path):
        done = _link_nameless(path, content, mode)
        return _link_temporary(path, content, mode) if done is None else done


def _link_nameless(path: Path, content: bytes, mode: int) -> bool | None:
    """``write_new`` by a file that has no name before it is whole; None where that cannot be done."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        try:
            handle = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder)
        except OSError as error:
            if error.errno in NO_TMPFILE:
                return None
            raise
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            try:
                os.link(f"/proc/self/fd/{file.fileno()}", path.name, dst_dir_fd=folder, follow_symlinks=True)
            except FileExistsError:
                return False
            except OSError:
                return None  # no /proc, or no links: by a name then
        return True
    finally:
        os.close(folder)


def _link_temporary(path: Path, content: bytes, mode: int) -> bool:
    """``write_new`` by a temporary file beside it."""
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


@contextlib.contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """A file that somebody else may have put there, open for reading, unbuffered.

    Raises UsageError (``not-a-file``) for a link, a folder, a FIFO or a device; OSError for a file that is
    absent or cannot be opened. No folder of a relative path may be a link either: it may lie in a checkout of
    somebody else's. Those of an absolute path are the caller's own.
    """
    try:
        file = open(path, "rb", buffering=0, opener=lambda name, _: _without_links(name, _READ))  # noqa: SIM115
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO, errno.EISDIR}:
            raise _not_plain(path, linked=error.errno == errno.ELOOP) from None
        raise
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _not_plain(path)
        yield file


def _without_links(name: str | Path, flags: int, *, make: bool = False) -> int:
    """Open a file or folder, of a relative path a folder at a time. Raises OSError, ELOOP for a link.

    With ``make`` the folders of a relative path are made where they are missing, the last one too.
    """
    path = Path(name)
    if path.is_absolute():
        return os.open(path, flags)
    at = os.open(".", _ENTER)
    try:
        for number, part in enumerate(path.parts, 1):
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=at)
            try:
                below = os.open(part, flags if number == len(path.parts) else _ENTER, dir_fd=at)
            except NotADirectoryError:  # what a link is too, to open(2) with O_DIRECTORY
                if stat.S_ISLNK(os.stat(part, dir_fd=at, follow_symlinks=False).st_mode):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None
                raise
            os.close(at)
            at = below
        return os.dup(at)
    finally:
        os.close(at)


@contextlib.contextmanager
def write_plain(path: Path, *, append: bool = False) -> Iterator[IO[bytes]]:
    """A file of our own, open for writing, whatever somebody else may have put in its place.

    It is made where it is missing; ``append`` keeps what is in it. Raises UsageError (``not-a-file``) for a
    link, a folder, a FIFO or a device, and OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        handle = os.open(path, flags | (os.O_APPEND if append else 0), 0o644)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO, errno.EISDIR}:
            raise _not_plain(path, linked=error.errno == errno.ELOOP) from None
        raise
    with os.fdopen(handle, "ab" if append else "wb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise _not_plain(path)
        if not append:
            file.truncate(0)
        yield file


def read_bounded(path: Path, limit: int) -> bytes:
    """A file's first ``limit`` + 1 bytes: the last one shows the caller that the file is too large.

    Raises as ``open_plain``.
    """
    with open_plain(path) as file:
        return _up_to(file, limit + 1)


def read_whole(path: Path, limit: int = MAX_SIZE) -> bytes:
    """A file of at most ``limit`` bytes. Raises UsageError: ``too-large``, and as ``open_plain``."""
    content = read_bounded(path, limit)
    if len(content) > limit:
        raise UsageError(f"larger than {limit} bytes", where=str(path), code="too-large")
    return content


@contextlib.contextmanager
def given_file(path: Path, *, hint: str | None = None, code: str | None = None) -> Iterator[None]:
    """Within the block, a file that the caller named and that is absent, or rejected, is a UsageError.

    ``hint`` says how to get the file, ``code`` is for one that is rejected.
    """
    try:
        yield
    except FileNotFoundError:
        raise UsageError("no such file", where=str(path), hint=hint) from None
    except Rejected as error:
        raise UsageError(error.what, where=str(path), code=code) from None


def _up_to(file: BinaryIO, count: int) -> bytes:
    pieces, left = [], count
    while left and (piece := file.read(min(left, 1 << 20))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _not_plain(path: Path, *, linked: bool = False) -> UsageError:
    what = "is a symbolic link" if linked else "is not a plain file"
    hint = "name the file that it leads to" if linked else "folders, pipes and devices are not read"
    if path.is_relative_to("/dev/fd") or path == Path("/dev/stdin"):  # what a shell names a pipe by
        hint = "write it to a file first, or give - where the command reads standard input"
    return UsageError(what, where=str(path), hint=hint, code="not-a-file")


def make_folder(path: Path) -> None:
    """Make the folder that a command writes to, unless it is there.

    Raises UsageError (``not-a-folder``) when a link or something else is there, or on the way of a relative
    path: what is written must not land where a link leads.
    """
    try:
        with _naming(path):
            if path.is_absolute():
                path.mkdir(parents=True, exist_ok=True)
            else:
                os.close(_without_links(path, _ENTER, make=True))
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.ENOTDIR, errno.ELOOP}:
            raise
    Folder(path).close()


def require_writable(path: Path, *, folder: bool = False) -> None:
    """Raise where no file (no ``folder``) could be made at ``path``, so that no work is done for nothing.

    Nothing is made. UsageError (``not-a-folder``): something else is where a folder has to be.
    EnvironmentFailure: the folder may not be written (``eacces``), or its file system is read-only
    (``erofs``).
    """
    at = path if folder else path.parent
    while not os.path.lexists(at):
        at = at.parent
    if not at.is_dir():
        Folder(at).close()  # says what it is instead
    if os.access(at, os.W_OK | os.X_OK):
        return
    read_only = os.statvfs(at).f_flag & os.ST_RDONLY
    why = "is on a read-only file system" if read_only else "may not be written by this user"
    raise EnvironmentFailure(
        f"cannot be written: the folder {at} {why}",
        where=str(path),
        hint="name another place" if read_only else "name another place, or check the permissions",
        code="erofs" if read_only else "eacces",
    )


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Within the block, which writes ``path`` and nothing else, an error of the system names ``path``: not
    the temporary file in its place, and not nothing, as write(2) does on a full disk.
    """
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, which is gone afterwards. Raises UsageError as ``make_folder``."""
    make_folder(path.parent)
    with _naming(path):
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


@runtime_checkable
class Evidence(Protocol):
    """Named files: a folder, or a bundle."""

    def names(self, folder: str = "") -> tuple[str, ...]:
        """Every name in the folder, or in a ``folder`` inside it, sorted: nothing depends on their order.

        None where there is no such folder. Raises Rejected for a link or a file in its place.
        """
        ...

    def read(self, name: str, limit: int = MAX_SIZE) -> bytes:
        """A file's bytes. Raises Rejected for what is absent, larger than ``limit`` or not a plain file."""
        ...


def read_or_none(evidence: Evidence, name: str, limit: int = MAX_SIZE) -> bytes | None:
    """A file's bytes; None for what is absent, or cannot be read and so counts for nothing."""
    try:
        return evidence.read(name, limit)
    except Rejected:
        return None


class Folder:
    """A folder on disk, opened once; names are resolved in it and never through a symbolic link.

    ``total`` bounds the bytes of all files that are read. ``path`` itself may not be a link, nor any folder
    of it that is relative: in a checkout that somebody sent, ``attestations`` may lead anywhere.
    """

    def __init__(self, path: Path, *, total: int = MAX_TOTAL) -> None:
        self.path = path
        self._left = total
        self._counted: set[str] = set()
        try:
            self._handle = _without_links(path, _ENTER)
        except FileNotFoundError:
            raise UsageError("no such folder", where=str(path), hint="check the path") from None
        except OSError as error:
            if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
                raise EnvironmentFailure(error.strerror or "cannot be opened", where=str(path)) from None
            linked = error.errno == errno.ELOOP or path.is_symlink()
            raise UsageError(
                "is a symbolic link" if linked else "not a folder",
                where=str(path),
                hint="name the folder that it leads to" if linked else "check the path",
                code="not-a-folder",
            ) from None

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._handle)

    def folder(self, name: str, *, total: int = MAX_TOTAL) -> Folder:
        """A folder inside this one, with a ``total`` of its own. Raises Rejected as ``read``."""
        made = Folder.__new__(Folder)
        with self._opened(name, _ENTER) as handle:
            made._handle = os.dup(handle)
        made.path, made._left, made._counted = self.path / name, total, set()
        return made

    def names(self, folder: str = "") -> tuple[str, ...]:
        """Every name, sorted; see Evidence. Raises Rejected when there are more than MAX_FILES."""
        try:
            with self._opened(folder, _ENTER) as handle:
                return self._listed(handle, MAX_FILES)
        except Rejected as error:
            if error.code == "absent":
                return ()
            raise

    def _listed(self, handle: int, most: int) -> tuple[str, ...]:
        found: list[str] = []
        with os.scandir(handle) as entries:
            for entry in entries:
                if len(found) >= most:
                    raise Rejected(f"more than {most} files", where=str(self.path), code="too-many-files")
                found.append(entry.name)
        return tuple(sorted(found))

    def walk(
        self, top: str = "", *, most: int = MAX_FILES, skip: Callable[[str], bool] = lambda _: False
    ) -> Iterator[tuple[str, os.stat_result]]:
        """All below ``top`` as (name from here, its status), sorted in each folder; no link is followed.

        Names for which ``skip`` (called with the last component) is true are left out, with what is below.
        Raises Rejected: ``too-many-files``, ``too-deep``, and as ``read`` when ``top`` is not a folder.
        """
        pending, count = [top], 0
        while pending:
            at = pending.pop()
            if at.count("/") >= MAX_PATH_PARTS:
                raise Rejected(f"folders nested deeper than {MAX_PATH_PARTS}", code="too-deep")
            with self._opened(at, _ENTER) as handle:
                found = [(name, self._status(handle, name)) for name in self._listed(handle, most - count)]
            count += len(found)
            below = []
            for name, status in found:
                if status is not None and not skip(name):
                    inside = f"{at}/{name}" if at else name
                    yield inside, status
                    if stat.S_ISDIR(status.st_mode):
                        below.append(inside)
            pending.extend(reversed(below))

    @staticmethod
    def _status(handle: int, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            return None  # it was removed meanwhile

    def status(self, name: str) -> os.stat_result | None:
        """What is at a name, links not followed; None when nothing is, or a link or file is on the way."""
        try:
            with self._opened(name, _LOOK) as handle:
                return os.fstat(handle)
        except Rejected:
            return None

    def read(self, name: str, limit: int = MAX_SIZE) -> bytes:
        """A file's bytes; see Evidence. Raises Rejected (``too-large``) at the folder's total, too."""
        if len(name) > MAX_NAME:
            raise Rejected("not a plain relative name", code="bad-name")
        return self.read_status(name, limit)[0]

    def read_status(self, name: str, limit: int = MAX_SIZE) -> tuple[bytes, os.stat_result]:
        """A file's bytes, and its status when it was opened. Raises as ``read``, but for long names."""
        with self.opened(name) as file:
            status = os.fstat(file.fileno())
            # By size first: 100 MB of spaces are not worth reading.
            if status.st_size > limit:
                raise Rejected(f"larger than {limit} bytes", code="too-large")
            if name not in self._counted and status.st_size > self._left:
                raise Rejected("the files of this folder are too large together", code="too-large")
            try:
                content = _up_to(file, limit + 1)
            except OSError as error:
                raise Rejected(f"cannot be read: {error.strerror}", code="not-a-file") from None
        if len(content) > limit:
            raise Rejected(f"larger than {limit} bytes", code="too-large")
        if name not in self._counted:
            self._counted.add(name)
            self._left -= len(content)
        return content, status

    def link(self, name: str) -> str:
        """Where the link at ``name`` leads. Raises Rejected (``not-a-file``) when there is none."""
        folder, _, leaf = name.rpartition("/")
        with self._opened(folder, _ENTER) as handle:
            try:
                return os.readlink(leaf, dir_fd=handle)
            except OSError:
                raise Rejected("not a link", code="not-a-file") from None

    def write(self, name: str, content: bytes) -> None:
        """Put a file of mode 644 at ``name``, in place of what is there; its folder is made when missing.

        Raises Rejected when a link or a file is on the way.
        """
        folder, _, leaf = name.rpartition("/")
        above, _, last = folder.rpartition("/")
        if last and self.status(folder) is None:
            with self._opened(above, _ENTER) as handle:
                os.mkdir(last, 0o755, dir_fd=handle)
        with self._opened(folder, _ENTER) as handle:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(leaf, dir_fd=handle)
            new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(leaf, new, 0o600, dir_fd=handle), "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), 0o644)

    def remove(self, name: str) -> None:
        """Remove the file or link at ``name``. Raises Rejected when a link is on the way."""
        folder, _, leaf = name.rpartition("/")
        with self._opened(folder, _ENTER) as handle:
            os.unlink(leaf, dir_fd=handle)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """A plain file, open for reading, unbuffered. Raises Rejected as ``read``."""
        with self._opened(name, _READ) as handle:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Rejected("not a plain file", code="not-a-file")
            with os.fdopen(handle, "rb", buffering=0, closefd=False) as file:
                yield file

    @contextlib.contextmanager
    def _opened(self, name: str, flags: int) -> Iterator[int]:
        """A descriptor of what is at ``name``; no component of its path may be a link. Raises Rejected."""
        parts = name.split("/") if name else []
        if any(part in {"", ".", ".."} or "\0" in part for part in parts):
            raise Rejected("not a plain relative name", code="bad-name")
        handle = os.dup(self._handle)
        try:
            for number, part in enumerate(parts, 1):
                how = flags if number == len(parts) else _LOOK | os.O_DIRECTORY
                below = os.open(part, how, dir_fd=handle)
                os.close(handle)
                handle = below
        except FileNotFoundError:
            os.close(handle)
            raise Rejected("no such file", code="absent") from None
        except OSError:
            os.close(handle)
            raise Rejected("not a plain file that can be read", code="not-a-file") from None
        try:
            yield handle
        finally:
            os.close(handle)


class Held:
    """Files held in memory: what a proof bundle unpacks to."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def names(self, folder: str = "") -> tuple[str, ...]:
        """Every name in the folder, sorted; see Evidence."""
        prefix = f"{folder}/" if folder else ""
        inside = (name[len(prefix) :] for name in self._files if name.startswith(prefix))
        return tuple(sorted({name.partition("/")[0] for name in inside}))

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
        self._names: dict[str, tuple[str, ...]] = {}
        self._files: dict[str, bytes | Rejected] = {}
        self._held = 0

    def names(self, folder: str = "") -> tuple[str, ...]:
        """Every name in the folder, as it was at the first call; see Evidence."""
        if folder not in self._names:
            self._names[folder] = self._evidence.names(folder)
        return self._names[folder]

    def read(self, name: str, limit: int = MAX_SIZE) -> bytes:
        """A file's bytes, or why there are none, as at the first call; see Evidence.

        Files that would bring all of them over MAX_TOTAL bytes are refused.
        """
        if name not in self._files:
            try:
                content = self._evidence.read(name, limit)
                if self._held + len(content) > MAX_TOTAL:
                    raise Rejected(
                        f"with the files before it larger than {MAX_TOTAL} bytes", code="too-large"
                    )
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
