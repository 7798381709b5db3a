"""Files that appear whole: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})
"""What link(2) answers on file systems that have no second names for a file (FAT, some of FUSE's)."""


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
