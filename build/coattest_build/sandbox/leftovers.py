"""What hostile code left behind: a result that is read, and everything else, which is removed."""

from __future__ import annotations

import os
from pathlib import Path

from coattest.errors import EnvironmentFailure, UsageError
from coattest.files import read_whole

_ENTER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def read_result(path: Path, *, most: int, code: str) -> bytes:
    """The bytes of a regular file that a sandbox wrote; it could have made a link or a device instead.

    Raises EnvironmentFailure with ``code`` for those, and for more than ``most`` bytes.
    """
    try:
        return read_whole(path, most)
    except (UsageError, OSError) as error:
        what = error.what if isinstance(error, UsageError) else error.strerror
        raise EnvironmentFailure(
            f"the sandbox left no file of at most {most} bytes: {what}", where=path.name, code=code
        ) from None


def remove_tree(path: Path) -> None:
    """Remove a folder that hostile code filled: links, folders without any right, nesting without end.

    One descriptor is open at a time, so depth does not stop it; nothing may run that still writes there.
    """
    at = os.open(path, _ENTER)
    try:
        above: list[tuple[str, list[str]]] = []
        folders = _emptied(at)
        while folders or above:
            if folders:
                name = folders.pop()
                below = os.open(name, _ENTER, dir_fd=at)
                os.close(at)
                at = below
                above.append((name, folders))
                folders = _emptied(at)
            else:
                name, folders = above.pop()
                parent = os.open("..", _ENTER, dir_fd=at)
                os.close(at)
                at = parent
                os.rmdir(name, dir_fd=at)
    finally:
        os.close(at)
    path.rmdir()


def _emptied(folder: int) -> list[str]:
    """Remove everything in a folder but the folders in it, which are returned and can be entered then."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
            continue
        handle = os.open(name, _LOOK, dir_fd=folder)
        try:
            Path(f"/proc/self/fd/{handle}").chmod(0o700)  # chmod(2) needs no right on what it changes
        finally:
            os.close(handle)
    return [name for name, is_folder in found if is_folder]
