"""The application ramdisk as nitro-cli 1.3.4 to 1.5.0 makes it of a container image, byte for byte.

What the export of a container becomes, and what is put after it. Sources: aws-nitro-enclaves-cli 1.5.0,
enclave_build; linuxkit 1.5.2, src/cmd/linuxkit: moby/build/image.go and build.go, initrd/initrd.go; gocpio.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from coattest_build.containers.daemon import CONTAINER
from coattest_build.containers.errors import beyond_limit, not_read, path_text
from coattest_build.containers.layertar import (
    BLOCK_DEVICE,
    CHAR,
    DIRECTORY,
    FIFO,
    FILE,
    HARD_LINK,
    SYMLINK,
    LayerEntry,
)
from coattest_build.containers.manifests import ContainerConfig
from coattest_build.containers.sparse import Extent

TIME = 1492533000
"""2017-04-18T16:30:00Z: linuxkit's ``defaultModTime``."""
FIRST_INODE = 721
LARGEST = (1 << 32) - 1
"""The largest number of a newc field; gocpio would write more digits and break the archive."""
ALIGNMENT = 512
MAX_RAMDISK = 8 << 30
"""Bytes of an application ramdisk: a small image can have sparse files of petabytes."""

HOSTS = (
    b"127.0.0.1       localhost\n::1     localhost ip6-localhost ip6-loopback\nfe00::0 ip6-localnet\n"
    b"ff00::0 ip6-mcastprefix\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"
)
RESOLV = b"/run/resolvconf/resolv.conf"
_DROPPED = {b".dockerenv", b"Dockerfile", b"dev/console", b"dev/pts", b"dev/shm", b"etc/hostname"}
_STAMPED = {b"dev/", b"dev/pts/", b"dev/shm/", b"etc/", b"etc/mtab", b"proc/", b"sys/"}
TYPES = {
    FILE: 0o10, DIRECTORY: 0o04, SYMLINK: 0o12, HARD_LINK: 0o12, CHAR: 0o02, BLOCK_DEVICE: 0o06, FIFO: 0o01
}  # fmt: skip
_FOLDERS = (
    b"rootfs",
    b"rootfs/dev",
    b"rootfs/run",
    b"rootfs/sys",
    b"rootfs/var",
    b"rootfs/proc",
    b"rootfs/tmp",
)

Content = bytes | tuple[int, tuple[Extent, ...]]
"""Bytes, or the number of a layer and the pieces of a file in it."""


@dataclass(frozen=True, slots=True)
class RamdiskPart:
    """An entry as it is written: ``mode`` with its type's bits, ``size`` bytes of ``content``.

    ``inode`` and ``links`` are set for a file of several names; nitro-cli writes none.
    """

    name: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    content: Content
    device: tuple[int, int] = (0, 0)
    inode: int = 0
    links: int = 0


def _folder(name: bytes) -> RamdiskPart:
    return RamdiskPart(name, 0o40755, 0, 0, TIME, 0, b"")


def _file(name: bytes, content: bytes) -> RamdiskPart:
    return RamdiskPart(name, 0o100644, 0, 0, TIME, len(content), content)


def _link(name: bytes, target: bytes, mode: int) -> RamdiskPart:
    return RamdiskPart(name, 0o120000 | mode, 0, 0, TIME, len(target), target)


_ADDED = {
    b"dev/": _folder(b"rootfs/dev"),
    b"dev/pts/": _folder(b"rootfs/dev/pts"),
    b"dev/shm/": _folder(b"rootfs/dev/shm"),
    b"etc/": _folder(b"rootfs/etc"),
    b"etc/hosts": _file(b"rootfs/etc/hosts", HOSTS),
    b"etc/mtab": _link(b"rootfs/etc/mtab", b"/proc/mounts", 0o755),
    b"etc/resolv.conf": _link(b"rootfs/etc/resolv.conf", RESOLV, 0o644),
    b"proc/": _folder(b"rootfs/proc"),
    b"sys/": _folder(b"rootfs/sys"),
}
"""What linuxkit adds when no entry of the export has the name, in its order."""


def ramdisk_parts(
    exported: Iterable[LayerEntry], command: bytes, environment: bytes, *, times: Callable[[LayerEntry], int]
) -> Iterator[RamdiskPart]:
    """The entries of the application ramdisk. ``times`` gives the time of an entry that Docker decides.

    Raises ContainerError for an entry that the format has no place for.
    """
    yield _folder(b"rootfs")
    seen: set[bytes] = set()
    for entry in exported:
        if entry.name in _ADDED:
            seen.add(entry.name)
        if entry.name not in _DROPPED:
            yield _part(entry, times)
    for name, part in _ADDED.items():
        if name not in seen:
            yield part
    yield from map(_folder, _FOLDERS)
    yield _file(b"cmd", command)
    yield _file(b"env", environment)


def _part(entry: LayerEntry, times: Callable[[LayerEntry], int]) -> RamdiskPart:
    part = RamdiskPart(
        name=b"rootfs/" + entry.name,
        mode=TYPES[entry.kind] << 12 | entry.mode & 0o7777,
        uid=entry.uid,
        gid=entry.gid,
        mtime=entry.mtime,
        size=entry.size if entry.kind == FILE else 0,
        content=(entry.place, entry.content) if entry.kind == FILE else b"",
        device=entry.device if entry.kind in (CHAR, BLOCK_DEVICE) else (0, 0),
    )
    if entry.name == b"etc/hosts":
        return replace(part, mtime=TIME, size=len(HOSTS), content=HOSTS)
    if entry.name == b"etc/resolv.conf":
        mode = TYPES[SYMLINK] << 12 | part.mode & 0o7777
        return replace(part, mode=mode, mtime=TIME, size=len(RESOLV), content=RESOLV, device=(0, 0))
    if entry.kind in (SYMLINK, HARD_LINK):
        target = entry.target
        if entry.kind == HARD_LINK:
            target = posixpath.relpath(target, posixpath.dirname(entry.name) or b".")
        part = replace(part, size=len(target), content=target)
    if entry.name in _STAMPED:
        part = replace(part, mtime=TIME)
    elif entry.clock is not None:
        part = replace(part, mtime=times(entry))
    check_part(part)
    return part


def check_part(part: RamdiskPart) -> None:
    """Raise ContainerError for an entry that the format has no place for."""
    for what, value in (
        ("time", part.mtime),
        ("size", part.size),
        ("owner", max(part.uid, part.gid)),
        ("device", max(part.device)),
    ):
        if not 0 <= value <= LARGEST:
            raise not_read(
                f"its {what} {value} has no place in a ramdisk, which would be a broken one",
                where=path_text(part.name.removeprefix(b"rootfs/")),
            )


def command_of(config: ContainerConfig, docker: int | None) -> tuple[str, ...] | None:
    """What nitro-cli runs: Cmd if ``docker inspect`` has one, else Entrypoint; never both.

    ``docker`` is 20 or 29: the first shows an empty Cmd as one, so that nothing is run but ``sh``; the
    second leaves it out. None where that decides and ``docker`` is None. Raises ContainerError where there
    is neither.
    """
    if config.cmd == () and docker is None:
        return None
    chosen = config.entrypoint if config.cmd is None or (config.cmd == () and docker == 29) else config.cmd
    if chosen is None:
        raise not_read("has neither Cmd nor Entrypoint: nitro-cli refuses it")
    return chosen


def lines(words: Iterable[str]) -> bytes:
    """The ``cmd`` or ``env`` file: each word and a newline, unquoted."""
    return b"".join(word.encode("utf-8", "surrogateescape") + b"\n" for word in words)


def ramdisk_blocks(parts: Iterable[RamdiskPart], read: Callable[[int, int, int], bytes]) -> Iterator[bytes]:
    """The archive in blocks; ``read`` gives bytes of a layer by number, place and size."""
    inode, total = FIRST_INODE, 0
    for part in parts:
        header = _header(part, inode)
        inode += 1
        total += len(header) + part.size + -part.size % 4
        if total > MAX_RAMDISK:
            raise beyond_limit(f"a ramdisk of more than {MAX_RAMDISK} bytes")
        yield header
        yield from _content(part, read)
        yield bytes(-part.size % 4)
    trailer = _header(RamdiskPart(b"TRAILER!!!", 0, 0, 0, 0, 0, b""), inode)
    yield trailer
    yield bytes(-(total + len(trailer)) % ALIGNMENT)


def _header(part: RamdiskPart, inode: int) -> bytes:
    links = part.links or (2 if part.mode >> 12 == TYPES[DIRECTORY] else 1)
    name = part.name + b"\0"
    values = (
        part.inode or inode, part.mode, part.uid, part.gid, links, part.mtime, part.size, 3, 1, *part.device,
        len(name), 0,
    )  # fmt: skip
    raw = b"070701" + b"".join(b"%08x" % value for value in values) + name
    return raw + bytes(-len(raw) % 4)


PIECE = 1 << 20


def _content(part: RamdiskPart, read: Callable[[int, int, int], bytes]) -> Iterator[bytes]:
    if isinstance(part.content, bytes):
        yield part.content
        return
    layer, pieces = part.content
    for place, size in pieces:
        done = 0
        while done < size:
            count = min(PIECE, size - done)
            yield bytes(count) if place < 0 else _exactly(read(layer, place + done, count), count)
            done += count


def _exactly(data: bytes, count: int) -> bytes:
    if len(data) != count:
        raise beyond_limit("a layer became shorter while it was read")
    return data


def clock_of(entry: LayerEntry) -> int:
    """Whose clock an entry's time is: a layer from 1 on, 0 for the creation of the container."""
    return 0 if entry.clock == CONTAINER else (entry.clock or 0) + 1
