"""A content-addressed store of inputs. Every input is hashed again when it is taken from it.

Layout below the cache folder: ``inputs/<sha256>``, ``partial/<sha256>`` for unfinished downloads,
``kernel/<digest>/`` for compiled kernels, ``work/`` for builds that are running.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from coattest.errors import EnvironmentFailure
from coattest.files import open_plain, user_folder, write_plain
from coattest_build.formats.hashing import sha256_of
from coattest_build.sandbox.leftovers import remove_tree

CACHE_VARIABLE = "COATTEST_CACHE"
CHUNK = 1024 * 1024


def cache_folder(named: Path | None = None) -> Path:
    """``named``, else $COATTEST_CACHE, else coattest below $XDG_CACHE_HOME or ~/.cache."""
    if named:
        return named
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else user_folder("XDG_CACHE_HOME", ".cache") / "coattest"


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes (hex), read in pieces."""
    with open_plain(path) as file:
        return sha256_of(iter(lambda: file.read(CHUNK), b""))


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Hold an advisory lock on ``path`` (created, never removed); the value says whether it was free."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_plain(path, append=True) as file:
        free = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
            fcntl.flock(file, fcntl.LOCK_EX)
        yield free


@contextlib.contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """A new private directory ``parent/prefix*``, removed at the end; those of killed runs are removed too.

    A run holds a lock on its directory, which the kernel releases when the process ends.
    """
    with contextlib.ExitStack() as stack:
        with exclusive(parent / f".{prefix}lock"):
            for stale in parent.glob(f"{prefix}*"):
                with contextlib.suppress(OSError), _locked_directory(stale):
                    remove_tree(stale)
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            stack.enter_context(_locked_directory(folder))
            stack.callback(remove_tree, folder)  # under the lock, so that no other run removes it too
        yield folder


@contextlib.contextmanager
def _locked_directory(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


class Cache:
    """The store in one folder. Safe for several processes and threads at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            for name in ("inputs", "partial"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFailure(
                f"the cache cannot be used: {error.strerror}",
                where=str(folder),
                hint="name another folder with --cache or COATTEST_CACHE",
            ) from error

    def path(self, sha256: str) -> Path:
        """Where an input with this digest is stored."""
        return self.folder / "inputs" / sha256

    def partial(self, sha256: str) -> Path:
        """Where it is stored while it is downloaded."""
        return self.folder / "partial" / sha256

    def take(self, sha256: str, size: int) -> Path | None:
        """The path of an input whose bytes were just checked, or None. A damaged one is removed."""
        path = self.path(sha256)
        try:
            if path.stat().st_size == size and sha256_file(path) == sha256:
                return path
        except FileNotFoundError:
            return None
        path.unlink(missing_ok=True)
        return None
