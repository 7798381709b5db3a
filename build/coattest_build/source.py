"""The source tree as data: a snapshot of what goes into the image, its digest and its commit.

Nothing of the tree is imported or executed, no link in it is followed, and no git program reads its commit.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coattest.errors import CoattestError, EnvironmentFailure, Rejected, UsageError
from coattest.files import Folder
from coattest_build.image import IMAGE_FILE, LOCK_FILE, SOURCE_FOLDERS
from coattest_build.inputs.names import is_relative_path
from coattest_build.repository import open_repository

ROOTS = (IMAGE_FILE, *SOURCE_FOLDERS)
"""What decides the image's bytes beside the lock, which has a digest of its own."""
MAX_FILES = 10_000
LINK_HINT = "a link is relative, and leads to what is in the same of build/kernel, build/init and enclave"
MAX_BYTES = 256 * 1024 * 1024


def _bad(what: str, where: Path, hint: str | None = None) -> UsageError:
    """The error for a source tree that cannot be built from."""
    return UsageError(what, where=str(where), hint=hint, code="bad-source")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: its tree-relative path, whether it is executable, its SHA-256 and its id in git (hex).

    Of a link ``executable`` is None, and the digests are those of where it leads.
    """

    path: str
    executable: bool | None
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

    Links stay links, and lead to what is in the same of `SOURCE_FOLDERS`. Raises UsageError (``bad-source``)
    for other links, devices, names with control characters, a missing lock, and too many files or bytes.
    """
    files: list[SourceFile] = []
    links: dict[Path, bytes] = {}
    if not source.is_dir():
        raise _bad("no such directory", source, "name the source tree with --source")
    with Folder(source, total=MAX_BYTES) as tree:
        for path in sorted(set(_covered(tree)), key=lambda item: item.encode()):
            if len(files) >= MAX_FILES:
                raise _bad(f"more than {MAX_FILES} files", source)
            data, executable = _read(tree, path)
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if executable is None:
                links[target] = data
            else:
                target.write_bytes(data)
                target.chmod(0o755 if executable else 0o644)
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
            files.append(SourceFile(path, executable, hashlib.sha256(data).hexdigest(), blob))
        for target, data in links.items():  # last, so that nothing is written through one
            target.symlink_to(os.fsdecode(data))
        _check_links(folder, [file.path for file in files if file.executable is None])
        covered = tuple(file for file in files if file.path != LOCK_FILE)
        lock = next((file.sha256 for file in files if file.path == LOCK_FILE), None)
        if not any(file.path == IMAGE_FILE for file in covered):
            raise _bad(f"no {IMAGE_FILE} here", source, "name the source tree with --source")
        if lock is None:
            raise _bad("there is no lock", source / LOCK_FILE, "run `eif lock`")
        commit, changed = commit_of(tree, files)
    return Snapshot(folder, covered, tree_digest(covered), lock, commit, changed)


def tree_digest(files: tuple[SourceFile, ...]) -> str:
    """SHA-256 (hex) over ``path NUL 0|1|l NUL sha256 newline`` of every file or link (l), sorted by path."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda item: item.path.encode()):
        kind = "l" if file.executable is None else int(file.executable)
        digest.update(f"{file.path}\0{kind}\0{file.sha256}\n".encode())
    return digest.hexdigest()


def _covered(tree: Folder) -> Iterator[str]:
    """The tree-relative paths of every covered file and of the lock, checked for control characters."""
    for root in (*ROOTS, LOCK_FILE):
        top = tree.status(root)
        if top is None:
            continue
        if not stat.S_ISDIR(top.st_mode):
            yield root
            continue
        try:
            for path, status in tree.walk(root, most=MAX_FILES, skip=_ignored):
                if not stat.S_ISDIR(status.st_mode):
                    if any(ord(character) < 32 or 0xDC80 <= ord(character) <= 0xDCFF for character in path):
                        raise _bad(f"a name has control characters or is not UTF-8: {path!r}", tree.path)
                    yield path
        except Rejected as error:
            raise _bad(error.what, tree.path) from None


def _ignored(name: str) -> bool:
    return name == "__pycache__" or name.endswith(".pyc")


def _folder_of(path: str) -> str | None:
    """The one of `SOURCE_FOLDERS` that a path lies in."""
    return next((top for top in SOURCE_FOLDERS if path.startswith(f"{top}/")), None)


def _link(tree: Folder, path: str) -> str | None:
    """Where a link of the tree leads; None where there is none. Raises UsageError when it leads out.

    A plain way only: up from the link's own folder, then down. So no other link can change what "up" means.
    """
    top = _folder_of(path)
    if top is None:
        return None
    try:
        target = tree.link(path)
    except Rejected:
        return None
    ups = (len(target) - len(re.sub(r"\A(?:\.\./)+", "", target))) // len("../")
    plain = is_relative_path(target[ups * len("../") :])
    if not plain or ups > path.count("/") - top.count("/") - 1:
        raise _bad("a link that does not plainly lead to something beside it", tree.path / path, LINK_HINT)
    return target


def _check_links(folder: Path, links: list[str]) -> None:
    """Check in the copy that every link ends at something in its own one of `SOURCE_FOLDERS`."""
    for path in links:
        top = folder / str(_folder_of(path))
        try:
            (folder / path).stat()  # Linux follows 40 links, and Python as many as there are
            inside = (folder / path).resolve(strict=True).is_relative_to(top.resolve())
        except (OSError, RuntimeError):  # nothing there, or a loop
            inside = False
        if not inside:
            raise _bad("a link that leads to nothing in its folder of the tree", folder / path, LINK_HINT)


def _read(tree: Folder, path: str) -> tuple[bytes, bool | None]:
    if (target := _link(tree, path)) is not None:
        return os.fsencode(target), None
    try:
        data, status = tree.read_status(path, MAX_BYTES)
    except Rejected as error:
        hint = "pipes, devices and such links are not supported" if error.code == "not-a-file" else None
        raise _bad(error.what, tree.path / path, hint) from None
    return data, bool(status.st_mode & 0o100)


def commit_of(tree: Folder, files: list[SourceFile]) -> tuple[str | None, tuple[str, ...]]:
    """The commit checked out in ``tree``, and the covered files that differ from it; None without one.

    Raises EnvironmentFailure (``bad-repository``) for a repository that cannot be read.
    """
    try:
        repository = open_repository(tree)
        if repository is None:
            return None, ()
        with repository:
            head = repository.head()
            committed = repository.files(head, _is_covered) if head else {}
    except (CoattestError, OSError, zlib.error) as error:  # the repository is anybody's
        what = error.what if isinstance(error, CoattestError) else str(error)
        raise EnvironmentFailure(
            f"the repository cannot be read: {what}", where=str(tree.path / ".git"), code="bad-repository"
        ) from None
    if head is None:
        return None, ()  # nothing is committed yet
    present: dict[str, tuple[str, bool | None]] = {
        file.path: (file.git_blob, file.executable) for file in files
    }
    names = sorted({*present, *committed})
    return head, tuple(name for name in names if present.get(name) != committed.get(name))


def _is_covered(path: str, folder: bool) -> bool:
    """Whether a file of a commit counts, or a folder may have one that does."""
    if _ignored(path.rpartition("/")[2]):
        return False
    if folder:
        return any(f"{root}/".startswith(f"{path}/") or path.startswith(f"{root}/") for root in ROOTS)
    return path == LOCK_FILE or any(path == root or path.startswith(f"{root}/") for root in ROOTS)
