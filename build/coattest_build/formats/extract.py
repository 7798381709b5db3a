"""Unpacks a ramdisk into a directory, treating its content as hostile."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from coattest.errors import UsageError
from coattest.files import make_folder
from coattest_build.formats.cpio import RamdiskEntry, content_blocks, link_target, read_entries
from coattest_build.formats.eif import EifSection

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def extract_ramdisk(file: BinaryIO, section: EifSection, destination: Path) -> None:
    """Unpack a ramdisk below ``destination``, which is created when it is missing.

    The whole archive is checked before anything is written. Every component of every path is opened without
    following links, and files are only ever created: an archive cannot write through a link, outside of
    ``destination``, or over an existing file. Owners and times are not set. Raises RamdiskError for the
    archive, UsageError when something in ``destination`` is in the way.
    """
    for _ in read_entries(file, section.offset, section.size):
        pass
    fresh = not destination.exists()
    make_folder(destination)
    try:
        with _Tree(destination) as tree:
            for entry in read_entries(file, section.offset, section.size):
                tree.add(file, entry)
            tree.set_directory_modes()
    except BaseException:
        if fresh:
            shutil.rmtree(destination, ignore_errors=True)
        raise


class _Tree:
    """A directory that is written to through descriptors only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._root = os.open(path, _OPEN_DIRECTORY)
        self._directories: list[RamdiskEntry] = []
        self._current = ("", os.dup(self._root))

    def __enter__(self) -> _Tree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._current[1])
        os.close(self._root)

    def add(self, file: BinaryIO, entry: RamdiskEntry) -> None:
        """Create one entry; directories stay open to us until set_directory_modes."""
        parent, _, leaf = entry.name.rpartition("/")
        try:
            directory = self._enter(parent)
            if entry.kind == "directory":
                self._directories.append(entry)
                with contextlib.suppress(FileExistsError):
                    os.mkdir(leaf, 0o700, dir_fd=directory)
                os.close(os.open(leaf, _OPEN_DIRECTORY, dir_fd=directory))
            elif entry.kind == "symlink":
                os.symlink(link_target(file, entry), leaf.encode(), dir_fd=directory)
            else:
                handle = os.open(leaf, _CREATE_FILE, 0o600, dir_fd=directory)
                with open(handle, "wb", buffering=0) as output:  # noqa: PTH123 (a descriptor, not a path)
                    for block in content_blocks(file, entry):
                        output.write(block)
                    os.fchmod(handle, entry.mode & 0o777)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ELOOP):
                raise self._in_the_way(entry.name) from error
            raise

    def set_directory_modes(self) -> None:
        """Give directories their modes, children before parents."""
        for entry in reversed(self._directories):
            os.fchmod(self._enter(entry.name), entry.mode & 0o1777)

    def _enter(self, name: str) -> int:
        """A descriptor of a directory below the root, opened without following links."""
        if self._current[0] != name:
            handle = os.dup(self._root)
            for part in name.split("/") if name else ():
                try:
                    below = os.open(part, _OPEN_DIRECTORY, dir_fd=handle)
                finally:
                    os.close(handle)
                handle = below
            os.close(self._current[1])
            self._current = (name, handle)
        return self._current[1]

    def _in_the_way(self, name: str) -> UsageError:
        return UsageError(
            f"something is in the way of {name!r}",
            where=str(self._path),
            hint="unpack into an empty directory",
            code="cpio-destination",
        )
