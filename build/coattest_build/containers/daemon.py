"""What Docker adds when it makes a container of an image, and what it exports of that.

Sources: moby, daemon/initlayer/setup_unix.go, container.SetupWorkingDirectory, daemon/export.go, go-archive.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace

from coattest_build.containers.errors import ContainerError, path_text, unloadable
from coattest_build.containers.layers import (
    BELOW_A_FILE,
    CREATED,
    IMPLIED,
    PARENT,
    Counted,
    Inode,
    check_root,
    clean_name,
    folder_at,
    walk,
)
from coattest_build.containers.layertar import DIRECTORY, FILE, HARD_LINK, SYMLINK, LayerEntry

CONTAINER = -1
"""The clock of what the creation of the container makes; a layer's number is that of its extraction."""

_INIT = (
    (b"dev/pts", DIRECTORY),
    (b"dev/shm", DIRECTORY),
    (b"proc", DIRECTORY),
    (b"sys", DIRECTORY),
    (b".dockerenv", FILE),
    (b"etc/resolv.conf", FILE),
    (b"etc/hosts", FILE),
    (b"etc/hostname", FILE),
    (b"dev/console", FILE),
    (b"etc/mtab", SYMLINK),
)
_STAMPED = (b"dev", b"dev/pts", b"dev/shm", b"etc", b"proc", b"sys")
"""Folders whose time nitro-cli's linuxkit sets to a fixed one."""


STORES = ("overlay2", "containerd", "vfs")
"""Where Docker keeps layers: each gives a folder without an entry its own mode and owner."""


def mode_and_owner(inode: Inode, store: str) -> tuple[int, int, int]:
    """Mode, user and group; of a folder without an entry in its layer the store decides them.

    overlay2 makes a new one, 755 of root; the others keep what a layer below has, and else containerd makes
    755 and vfs 600 (of Docker 20.10).
    """
    if inode.cause != IMPLIED:
        return inode.mode, inode.uid, inode.gid
    if store == "overlay2":
        return 0o755, 0, 0
    return inode.lower or (0o755 if store == "containerd" else 0o600, 0, 0)


@dataclass(frozen=True, slots=True)
class Undecided:
    """A folder that the image alone does not decide: its path, the cause, and whose clock its time is.

    ``layer`` counts from 1; 0 is the creation of the container.
    """

    path: bytes
    cause: str
    layer: int


def create_container(root: Inode, working_dir: str, counted: Counted) -> None:
    """Change the tree as the creation of a container does. Raises ContainerError where Docker refuses."""
    for path, kind in _INIT:
        place_file(root, path.split(b"/"), kind)
    if working_dir in ("", "/"):
        return
    if not working_dir.startswith("/"):
        raise unloadable(f"the working folder {working_dir!a} is not an absolute path")
    model = Inode(DIRECTORY, clock=CONTAINER, cause=CREATED)
    made = make_working_folder(root, posixpath.normpath(working_dir), counted, model)
    if not made:
        return
    for path, inode in walk(root):
        if inode.kind == DIRECTORY and made[0] in inode.below.values() and inode.cause is None:
            if path not in _STAMPED:
                inode.clock, inode.cause = CONTAINER, PARENT
            return


def make_working_folder(root: Inode, path: str, counted: Counted, model: Inode) -> list[Inode]:
    """Make an absolute path a folder, links followed; those made for it. Raises ContainerError."""
    name = path.encode()
    try:
        return folder_at(root, clean_name(name), name, counted, make=model, through_links=True)[1]
    except ContainerError as error:
        if error.code != "container-unloadable":
            raise
        why = "a file is there, or on the way" if error.what == BELOW_A_FILE else error.what
        raise ContainerError(
            f"no folder can be at {path_text(name)}: {why}", where="config: WorkingDir", code=error.code
        ) from None


def place_file(root: Inode, parts: list[bytes], kind: str) -> Inode:
    """What is at a path after Docker put its own there: folders stay, anything else is replaced."""
    at = root
    for number, part in enumerate(parts, 1):
        there = at.below.get(part)
        if there is None or there.kind != DIRECTORY:
            last = number == len(parts)
            there = Inode(kind if last else DIRECTORY)
            if there.kind == SYMLINK:
                there.target, there.mode = b"/proc/mounts", 0o777
            at.below[part] = there
        at = there
    return at


def export(root: Inode, store: str = STORES[0]) -> Iterator[LayerEntry]:
    """The entries of ``docker export``, in its order: a file with several names is a link after the first.

    A folder's name ends with a slash. ``store`` is one of STORES, and decides mode and owner of folders
    without an entry in their layer.
    """
    first: dict[int, bytes] = {}
    for path, inode in walk(root):
        folder = inode.kind == DIRECTORY
        earlier = first.setdefault(id(inode), path) if inode.linked else None
        linked = earlier is not None and earlier is not path
        mode, uid, gid = mode_and_owner(inode, store)
        yield LayerEntry(
            name=path + b"/" if folder else path,
            kind=HARD_LINK if linked else inode.kind,
            mode=mode,
            uid=uid,
            gid=gid,
            mtime=inode.mtime,
            size=0 if linked or inode.kind != FILE else inode.size,
            target=earlier if linked and earlier is not None else inode.target,
            device=inode.device,
            content=() if linked else inode.content,
            place=inode.place,
            clock=inode.clock,
        )


def undecided(root: Inode) -> tuple[Undecided, ...]:
    """The folders that Docker decides by time or store, sorted by path components."""
    return tuple(
        Undecided(path, inode.cause, 0 if inode.clock == CONTAINER else (inode.clock or 0) + 1)
        for path, inode in walk(root)
        if inode.cause is not None
    )


def read_export(entries: Iterator[LayerEntry], counted: Counted) -> Iterator[LayerEntry]:
    """The entries of a ``docker export`` archive, with names as in ``export``. Raises ContainerError."""
    seen: set[bytes] = set()
    for entry in entries:
        counted.add(entry)
        path = b"/".join(clean_name(entry.name))
        if not path:
            check_root(entry)
            continue
        if path in seen:
            raise unloadable("this name appears twice", path)
        seen.add(path)
        folder = entry.kind == DIRECTORY
        target = b"/".join(clean_name(entry.target)) if entry.kind == HARD_LINK else entry.target
        if entry.kind == HARD_LINK and target not in seen:
            raise unloadable("a hard link to no earlier file", path)
        yield replace(entry, name=path + b"/" if folder else path, target=target)
