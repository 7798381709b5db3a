"""The root file system of an enclave made of a container image, and its ramdisk.

Every time is one value, every implied folder has one mode and owner: the same content gives the same bytes,
whichever daemon made the archive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from coattest.network import NO_NETWORK, Network
from coattest_build.containers.application import apply_layers
from coattest_build.containers.daemon import make_working_folder, mode_and_owner, place_file
from coattest_build.containers.errors import ContainerError, beyond_limit, not_read, path_text
from coattest_build.containers.image import OpenedImage
from coattest_build.containers.layers import (
    HIDDEN_LINK,
    IMPLIED,
    Counted,
    Inode,
    look_up,
    walk,
)
from coattest_build.containers.layertar import DIRECTORY, FILE, SYMLINK
from coattest_build.containers.manifests import ContainerConfig
from coattest_build.containers.nitrocli import TYPES, RamdiskPart, check_part, ramdisk_blocks
from coattest_build.containers.own.plan import WRITTEN, RunPlan, run_plan, working_folder
from coattest_build.containers.own.users import MAX_DATABASE, resolve_user

TIME = 315532800
"""1980-01-01T00:00:00Z, the first second that a ZIP file can hold."""
STORE = "containerd"
"""Whose modes and owners an implied folder gets: a lower layer's, else 755 of root."""
MOUNTED = (b"dev", b"proc", b"sys")
"""Folders that init mounts over; what an image has in them is left out."""
PATH_MAX = 4096
"""Of Linux, with the NUL at its end."""
LINKED = 1 << 31
"""The first inode number of files with several names; others are numbered from below."""


@dataclass(frozen=True, slots=True)
class OwnTree:
    """A root file system and what runs in it.

    ``decided`` are the folders that the layers imply, ``hidden`` those in place of a link of a layer below.
    """

    image: OpenedImage
    config: ContainerConfig
    root: Inode
    plan: RunPlan
    decided: tuple[bytes, ...]
    hidden: tuple[bytes, ...]
    written: Mapping[bytes, bytes]

    def blocks(self) -> Iterator[bytes]:
        """The application ramdisk: ``run`` and ``rootfs``. Raises ContainerError."""
        layers = self.image.layers
        return ramdisk_blocks(
            self._parts(), lambda layer, place, size: layers[layer].content.read(place, size)
        )

    def _parts(self) -> Iterator[RamdiskPart]:
        plan = self.plan.encode()
        yield RamdiskPart(b"rootfs", 0o40755, 0, 0, TIME, 0, b"")
        names = Counter(id(inode) for _, inode in walk(self.root) if inode.linked and inode.kind == FILE)
        numbers: dict[int, int] = {}
        for path, inode in walk(self.root):
            part = _part(path, inode, self.written.get(path))
            if names[id(inode)] > 1:
                again = id(inode) in numbers
                number = numbers.setdefault(id(inode), LINKED + len(numbers))
                part = _linked(part, number, names[id(inode)], again=again)
            check_part(part)
            if len(part.name) >= PATH_MAX or (inode.kind == SYMLINK and part.size >= PATH_MAX):
                raise beyond_limit(
                    f"a path or target of {PATH_MAX} bytes or more, which Linux drops", where=path_text(path)
                )
            yield part
        yield RamdiskPart(b"run", 0o100600, 0, 0, TIME, len(plan), plan)


def _part(path: bytes, inode: Inode, written: bytes | None) -> RamdiskPart:
    mode, uid, gid = mode_and_owner(inode, STORE)
    if inode.kind == SYMLINK:
        content: bytes | tuple[int, tuple[tuple[int, int], ...]] = inode.target
        size = len(inode.target)
    elif inode.kind == FILE:
        content = (inode.place, inode.content) if written is None else written
        size = inode.size if written is None else len(written)
    else:
        content, size = b"", 0
    return RamdiskPart(
        b"rootfs/" + path,
        TYPES[inode.kind] << 12 | mode & 0o7777,
        uid,
        gid,
        TIME,
        size,
        content,
        inode.device,
    )


def _linked(part: RamdiskPart, number: int, names: int, *, again: bool) -> RamdiskPart:
    """One of several names of a file: the first has the content (Linux, init/initramfs.c: ``maybe_link``)."""
    part = replace(part, inode=number, links=names)
    return replace(part, size=0, content=b"") if again else part


def own_tree(
    image: OpenedImage,
    *,
    nsm: bool = False,
    network: Network = NO_NETWORK,
    added: tuple[tuple[bytes, bytes], ...] = (),
) -> OwnTree:
    """Apply the layers, and decide what runs. Raises ContainerError.

    ``added`` are paths and content of files that are put into the image where it has nothing.
    """
    if image.config is None:
        raise not_read("is a file system, which does not say what runs", hint="build from an image")
    if (image.config.platform.os, image.config.platform.architecture) != ("linux", "amd64"):
        raise not_read(f"is for {image.config.platform}; the kernel of this style is for linux/amd64")
    root, counted = apply_layers(image)
    for name in MOUNTED:
        root.below[name] = Inode(DIRECTORY)
    for name in WRITTEN:
        made = place_file(root, name.split(b"/"), FILE)
        made.mode = 0o644 if made.kind == FILE else made.mode
    place_file(root, [b"etc", b"mtab"], SYMLINK)
    for name, _ in added:
        _check_free(root, name)
        place_file(root, name.split(b"/"), FILE).mode = 0o644
    make_working_folder(root, working_folder(image.config), counted, Inode(DIRECTORY))
    found = list(walk(root))
    databases = (_database(image, root, name, counted) for name in (b"etc/passwd", b"etc/group"))
    user = resolve_user(image.config.user, *databases)
    return OwnTree(
        image=image,
        config=image.config,
        root=root,
        plan=run_plan(image.config, user, nsm=nsm, network=network),
        decided=tuple(path for path, inode in found if inode.cause == IMPLIED),
        hidden=tuple(path for path, inode in found if inode.cause == HIDDEN_LINK),
        written=WRITTEN | dict(added),
    )


def _check_free(root: Inode, name: bytes) -> None:
    """Refuse to put a file where the image has something, through a link, or below what init mounts over."""
    parts = name.split(b"/")
    at: Inode | None = root
    for left, part in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
        at = at.below.get(part) if at else None
        if at is not None and (left == 0 or at.kind != DIRECTORY):
            raise ContainerError("image.toml puts a file where something else is", where=path_text(name))
    if parts[0] in MOUNTED:
        raise ContainerError("image.toml puts a file where init mounts", where=path_text(name))


def _database(image: OpenedImage, root: Inode, path: bytes, counted: Counted) -> bytes:
    """A small file of the image, links followed; empty where it is not there. Raises ContainerError."""
    inode = look_up(root, path, counted)
    if inode is None or inode.kind != FILE:
        return b""
    if inode.size > MAX_DATABASE:
        raise beyond_limit(f"larger than {MAX_DATABASE} bytes", where=path_text(path))
    layer = image.layers[inode.place].content if inode.content else None
    data = b"".join(
        bytes(size) if start < 0 or layer is None else layer.read(start, size)
        for start, size in inode.content
    )
    if len(data) != inode.size:
        raise ContainerError("became shorter while it was read", where=path_text(path))
    return data
