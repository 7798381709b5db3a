"""The source tree as data: a snapshot of what goes into the image, its digest and its commit.

Nothing of the tree is imported or executed. dulwich reads the commit from git's objects: no git program, no
hooks, no filters.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coattest.errors import EnvironmentFailure, UsageError
from coattest_build.image import IMAGE_FILE, LOCK_FILE, SOURCE_FOLDERS

if TYPE_CHECKING:
    from dulwich.repo import Repo

# dulwich is an extra: it is imported where a repository is read.

ROOTS = (IMAGE_FILE, *SOURCE_FOLDERS)
"""What decides the image's bytes beside the lock, which has a digest of its own."""
MAX_FILES = 10_000
MAX_BYTES = 256 * 1024 * 1024


def _bad(what: str, where: Path, hint: str | None = None) -> UsageError:
    """The error for a source tree that cannot be built from."""
    return UsageError(what, where=str(where), hint=hint, code="bad-source")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: its tree-relative path, whether it is executable, its SHA-256 and its id in git (hex)."""

    path: str
    executable: bool
    sha256: str
    git_blob: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A private copy of the sources in ``folder``, and their digests.

    ``tree_sha256`` covers `ROOTS`, ``lock_sha256`` the lock's bytes. ``commit`` is None outside a repository;
    ``changed`` names the covered files that differ from that commit, are not in it, or are missing.
    """

    folder: Path
    files: tuple[SourceFile, ...]
    tree_sha256: str
    lock_sha256: str
    commit: str | None
    changed: tuple[str, ...]

    @property
    def dirty(self) -> bool:
        """Whether the sources differ from the commit."""
        return bool(self.changed)


def take(source: Path, folder: Path) -> Snapshot:
    """Copy the sources of the tree ``source`` into the fresh ``folder`` and describe the copy.

    Raises UsageError (``bad-source``) for links, devices, names with control characters, a missing lock, and
    too many files or bytes.
    """
    files: list[SourceFile] = []
    total = 0
    for path in sorted(set(_walk(source)), key=lambda item: item.encode()):
        data, executable = _read(source, path)
        total += len(data)
        if len(files) >= MAX_FILES or total > MAX_BYTES:
            raise _bad(f"more than {MAX_FILES} files or {MAX_BYTES} bytes", source)
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(0o755 if executable else 0o644)
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        files.append(SourceFile(path, executable, hashlib.sha256(data).hexdigest(), blob))
    covered = tuple(file for file in files if file.path != LOCK_FILE)
    lock = next((file.sha256 for file in files if file.path == LOCK_FILE), None)
    if lock is None:
        raise _bad("there is no lock", source / LOCK_FILE, "run `eif lock`")
    commit, changed = commit_of(source, files)
    return Snapshot(folder, covered, tree_digest(covered), lock, commit, changed)


def tree_digest(files: tuple[SourceFile, ...]) -> str:
    """SHA-256 (hex) over ``path NUL 0|1 NUL sha256 newline`` of every file, sorted by path."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda item: item.path.encode()):
        digest.update(f"{file.path}\0{int(file.executable)}\0{file.sha256}\n".encode())
    return digest.hexdigest()


def _walk(source: Path) -> Iterator[str]:
    """The tree-relative paths of every covered file and of the lock."""
    if not source.is_dir():
        raise _bad("no such directory", source, "name the source tree with --source")
    for root in (*ROOTS, LOCK_FILE):
        top = source / root
        if top.is_dir() and not top.is_symlink():
            for folder, folders, names in os.walk(top):
                folders[:] = [name for name in folders if not _ignored(name)]
                for name in (*names, *(n for n in folders if (Path(folder) / n).is_symlink())):
                    if not _ignored(name):
                        yield (Path(folder) / name).relative_to(source).as_posix()
        elif os.path.lexists(top):
            yield root


def _ignored(name: str) -> bool:
    return name == "__pycache__" or name.endswith(".pyc")


def _read(source: Path, path: str) -> tuple[bytes, bool]:
    full = source / path
    if any(ord(character) < 32 or 0xDC80 <= ord(character) <= 0xDCFF for character in path):
        raise _bad(f"a name has control characters or is not UTF-8: {path!r}", source)
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    try:
        descriptor = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _bad(
            f"cannot be read as a regular file: {error.strerror}", full, "links are not supported"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _bad("not a regular file", full)
        if status.st_size > MAX_BYTES:
            raise _bad(f"larger than {MAX_BYTES} bytes", full)
        return file.read(), bool(status.st_mode & 0o100)


def commit_of(source: Path, files: list[SourceFile]) -> tuple[str | None, tuple[str, ...]]:
    """The commit checked out in ``source``, and the covered files that differ from it; None without one.

    Raises EnvironmentFailure for a repository that cannot be read.
    """
    if not (source / ".git").exists():
        return None, ()
    from dulwich.errors import NotGitRepository  # noqa: PLC0415
    from dulwich.repo import Repo  # noqa: PLC0415

    try:
        with Repo(str(source)) as repository:
            try:
                head = repository.head()
            except KeyError:
                return None, ()  # nothing is committed yet
            committed = _committed(repository, head)
    except NotGitRepository:
        return None, ()
    except Exception as error:  # the repository is untrusted, and dulwich's errors have no common base
        raise EnvironmentFailure(
            f"the repository cannot be read: {type(error).__name__} {error}",
            where=str(source / ".git"),
            code="bad-repository",
        ) from error
    present = {file.path: (file.git_blob, file.executable) for file in files}
    relevant = {path: entry for path, entry in committed.items() if not _ignored(Path(path).name)}
    names = sorted({*present, *relevant})
    return head.decode(), tuple(name for name in names if present.get(name) != relevant.get(name))


def _committed(repository: Repo, head: bytes) -> dict[str, tuple[str, bool]]:
    """Path to (blob digest, executable) of every covered file in a commit."""
    from dulwich.objects import Commit, Tree  # noqa: PLC0415

    commit = repository[head]
    if not isinstance(commit, Commit):
        raise ValueError("HEAD is not a commit")
    committed: dict[str, tuple[str, bool]] = {}
    stack = [("", commit.tree)]
    while stack:
        prefix, identifier = stack.pop()
        tree = repository[identifier]
        if not isinstance(tree, Tree):
            raise ValueError("a folder is not a tree")
        for entry in tree.items():
            path = prefix + entry.path.decode("utf-8", "surrogateescape")
            if stat.S_ISDIR(entry.mode):
                if any(r.startswith(f"{path}/") or f"{path}/".startswith(f"{r}/") for r in ROOTS):
                    stack.append((f"{path}/", entry.sha))
            elif path == LOCK_FILE or any(path == r or path.startswith(f"{r}/") for r in ROOTS):
                committed[path] = (entry.sha.decode(), bool(entry.mode & 0o100))
    return committed
