"""The files of an image's archive or folder, by name: where an image's blobs and documents are.

A folder is read without following a link; an archive is listed once, and its own links (old ``docker save``
writes repeated layers as such) are followed inside it only.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from coattest.files import Folder, open_plain
from coattest_build.containers.errors import ContainerError, beyond_limit, malformed, naming, two_readings
from coattest_build.containers.layers import MAX_ENTRIES
from coattest_build.containers.layertar import DIRECTORY, FILE, read_layer
from coattest_build.containers.registry.fetching import RegistryFiles
from coattest_build.containers.registry.reference import ImagePlace, Reference
from coattest_build.containers.sources import (
    FilePart,
    Positioned,
    Spool,
    compression_of,
    unpacked_blocks,
)
from coattest_build.formats.eif import MAGIC

MAX_FILES = 65_536
"""Files of an archive; ``docker save`` of a large image has about 400."""
MAX_HOPS = 8
"""Links followed from one name."""


class ImageFiles(Protocol):
    """Named files."""

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        ...

    def opened(self, name: str) -> contextlib.AbstractContextManager[Positioned]:
        """A file's bytes. Raises ContainerError when it is not there."""
        ...


def read_file(files: ImageFiles, name: str, limit: int) -> bytes:
    """A whole file of at most ``limit`` bytes. Raises ContainerError."""
    with files.opened(name) as source:
        if source.size > limit:
            raise beyond_limit(f"larger than {limit} bytes", where=name)
        data = source.read(0, source.size)
        if len(data) != source.size:
            raise ContainerError("became shorter while it was read", where=name)
        return data


class FolderFiles:
    """A folder of an OCI layout."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def has(self, name: str) -> bool:
        """Whether there is a plain file of this name."""
        status = self._folder.status(name)
        return status is not None and stat.S_ISREG(status.st_mode)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Positioned]:
        """A file's bytes. Raises ContainerError."""
        with malformed(name), self._folder.opened(name) as file:
            yield FilePart(file, 0, os.fstat(file.fileno()).st_size)


class ArchiveFiles:
    """An archive of an image."""

    def __init__(self, archive: FilePart) -> None:
        self._archive = archive
        self._files: dict[str, FilePart] = {}
        self._links: dict[str, str] = {}
        for entry in read_layer(archive, most=4 * MAX_FILES):
            name = posixpath.normpath(entry.name.decode("utf-8", "backslashreplace"))
            if name in self._files or name in self._links:
                raise two_readings(f"{name!a} appears twice")
            if len(self._files) + len(self._links) >= MAX_FILES:
                raise beyond_limit(f"more than {MAX_FILES} files")
            target = entry.target.decode("utf-8", "backslashreplace")
            if entry.kind == FILE:
                place, size = entry.content[0] if entry.content else (0, 0)
                if len(entry.content) > 1 or size != entry.size or place < 0:
                    raise ContainerError("is a sparse file", where=name)
                self._files[name] = archive.part(place, size)
            elif entry.kind == "symlink":
                self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
            elif entry.kind == "hard link":
                self._links[name] = posixpath.normpath(target)
            elif entry.kind != DIRECTORY:
                raise ContainerError(f"is a {entry.kind}", where=name)

    def _find(self, name: str) -> FilePart | None:
        for _ in range(MAX_HOPS):
            if name in self._files:
                return self._files[name]
            if name not in self._links:
                return None
            name = self._links[name]
        return None

    def has(self, name: str) -> bool:
        """Whether there is a file of this name, or a link to one."""
        return self._find(posixpath.normpath(name)) is not None

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Positioned]:
        """A file's bytes. Raises ContainerError."""
        found = self._find(posixpath.normpath(name))
        if found is None:
            raise ContainerError("no such file in the archive", where=name)
        yield found


ENTRIES = ("oci-layout", "index.json", "manifest.json")
"""Names of which an image's archive has one; a root file system has none of them."""
GIVE = (
    "give an OCI layout, an archive of docker save, docker export or skopeo, or docker://HOST/NAME@sha256:..."
)


@contextlib.contextmanager
def open_files(path: ImagePlace, spool: Spool) -> Iterator[ImageFiles | FilePart]:
    """The files of an image's folder or archive; or, of an archive that is no image's, the archive itself.

    A compressed archive is decompressed to the spool. Raises ContainerError, and as ``open_plain`` and
    ``RegistryFiles``.
    """
    if isinstance(path, Reference):
        with Spool(spool.left()) as fetched:
            yield RegistryFiles(path, fetched)
        return
    if path.is_dir():
        with Folder(path) as folder:
            files = FolderFiles(folder)
            if not any(files.has(name) for name in ENTRIES):
                raise ContainerError("not an OCI layout: it has no index.json", where=str(path), hint=GIVE)
            yield files
        return
    with open_plain(path) as file:
        archive = FilePart(file, 0, os.fstat(file.fileno()).st_size)
        _check_kind(archive, path)
        if compression_of(archive) is not None:
            blocks = unpacked_blocks(archive, spool.left(), str(path))
            archive, _ = spool.add(blocks, str(path))
        yield ArchiveFiles(archive) if _is_image(archive, path) else archive


def _check_kind(archive: FilePart, path: Path) -> None:
    """Raise ContainerError for what is often given in place of a container image."""
    if archive.size == 0:
        raise ContainerError("is empty", where=str(path), hint=GIVE)
    if archive.read(0, len(MAGIC)) == MAGIC:
        raise ContainerError(
            "is the image file of an enclave (EIF), not a container image",
            where=str(path),
            hint="`eif describe` shows it; for --eif of `eif container check` name the container image first",
        )


def _is_image(archive: FilePart, path: Path) -> bool:
    """Whether an image's documents are in the archive, at any place. Raises ContainerError."""
    wanted = {name.encode() for name in ENTRIES}
    try:
        with naming(str(path)):
            return any(
                posixpath.normpath(entry.name) in wanted
                for entry in read_layer(archive, most=4 * MAX_ENTRIES)
            )
    except ContainerError as error:
        error.hint = error.hint or GIVE
        raise
