"""What hostile code left behind: a result that is read, and everything else, which is removed."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from coattest.errors import EnvironmentFailure

_ENTER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def read_result(path: Path, *, most: int, code: str) -> bytes:
    """The bytes of a regular file that a sandbox wrote; it could have made a link or a device instead.

    Raises EnvironmentFailure with ``code`` for those, and for more than ``most`` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise EnvironmentFailure(
            f"the sandbox left no such file: {error.strerror}", where=path.name, code=code
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise EnvironmentFailure(
                f"the sandbox left something that is not a file of at most {most} bytes",
                where=path.name,
                code=code,
            )
        return file.read()


def remove_tree(path: Path) -> None:
    """Remove a folder that hostile code filled: links, folders without any right, nesting without end.

    Folders inside are moved up before they are entered, so neither depth nor a long path stops it.
    """
    prefix = f".removed-{secrets.token_hex(8)}-"
    pending: list[str] = []
    made = 0

    def empty(handle: int) -> None:
        nonlocal made
        with os.scandir(handle) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, folder in found:
            if not folder:
                os.unlink(name, dir_fd=handle)
                continue
            inner = os.open(name, _LOOK, dir_fd=handle)
            try:
                Path(f"/proc/self/fd/{inner}").chmod(0o700)  # chmod(2) needs no right on what it changes
            finally:
                os.close(inner)
            made += 1
            os.rename(name, f"{prefix}{made}", src_dir_fd=handle, dst_dir_fd=top)
            pending.append(f"{prefix}{made}")

    top = os.open(path, _ENTER)
    try:
        empty(top)
        while pending:
            at = pending.pop()
            handle = os.open(at, _ENTER, dir_fd=top)
            try:
                empty(handle)
            finally:
                os.close(handle)
            os.rmdir(at, dir_fd=top)
    finally:
        os.close(top)
    path.rmdir()
