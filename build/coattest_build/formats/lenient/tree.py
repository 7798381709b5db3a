"""The file system that Linux unpacks ramdisks into: names are resolved as its VFS does, content stays put.

Only what ``init/initramfs.c`` calls is here, each with the answer that the kernel's has: ``mkdir`` on a name
that is there fails, ``chown`` follows links, a name through a symbolic link lands where the link leads. A
failure is what it is there: nothing happens, and nobody is told. Source: Linux 6.12, ``fs/namei.c``.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from coattest_build.formats.eif import ImageError

_N = TypeVar("_N")

MAX_LINKS = 40
"""Symbolic links followed in one name (``MAXSYMLINKS``)."""
MAX_COMPONENT = 255
"""Bytes of one component (``NAME_MAX``)."""
MAX_STEPS = 40_000_000
"""Components resolved for one image: a hostile one could ask for millions with each name."""

NO_ID = 0xFFFFFFFF
"""The user or group that chown takes for "leave it"."""
MAX_PATHS = 256 << 20
"""Bytes of all paths together: through links folders can lie deeper than a name is long."""


@dataclass(frozen=True, slots=True)
class Body:
    """Where a file's content is: ``size`` bytes at ``offset`` of a stream, then ``zeros`` more.

    Stream 0 is all ramdisks one after another; each compressed archive is a stream of its own.
    """

    stream: int
    offset: int
    size: int
    zeros: int = 0
    sha256: str | None = None

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return self.size + self.zeros


EMPTY = Body(0, 0, 0)


@dataclass(slots=True, eq=False)
class Node:
    """An inode: ``entry`` is the number of the entry that gave it its present content, in file order."""

    mode: int
    entry: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    device: tuple[int, int] = (0, 0)
    links: int = 1
    body: Body = EMPTY
    target: bytes = b""
    children: dict[bytes, Node] = field(default_factory=dict)
    parent: Node | None = None

    def own(self, uid: int, gid: int) -> None:
        """``chown_common``: an id of -1 stays what it is."""
        self.uid = self.uid if uid == NO_ID else uid
        self.gid = self.gid if gid == NO_ID else gid

    @property
    def kind(self) -> str:
        """``file``, ``directory``, ``symlink``, ``char``, ``block``, ``fifo`` or ``socket``."""
        return KINDS[stat.S_IFMT(self.mode)]


KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


class CallError(Exception):
    """The kernel's call fails; the text says why."""


class RootTree:
    """The root file system while it is unpacked, beginning with what every kernel has in it."""

    def __init__(self) -> None:
        self.root = Node(0o40755, -1)
        self.root.parent = self.root
        self._steps = 0
        # usr/default_cpio_list: what a kernel without an initramfs of its own begins with.
        self.mkdir(b"/dev", -1)
        self.mknod(b"/dev/console", 0o20600, (5, 1), -1)
        self.mkdir(b"/root", -1)
        self.root.children[b"root"].mode = 0o40700

    # ------------------------------------------------------------------ resolving names

    def _lookup(self, path: bytes, follow: bool) -> Node:
        """The node of a path. Raises CallError."""
        if not path:
            raise CallError("its name is empty")
        return self._resolve(self.root, path, follow, [0])

    def _resolve(self, at: Node, path: bytes, follow: bool, links: list[int]) -> Node:
        directory, name, slash = self._parent(at, path, links)
        node = self._step(directory, name, follow or slash, links)
        if node is None:
            raise CallError("it does not exist")
        if slash and not stat.S_ISDIR(node.mode):
            raise CallError("it is not a directory")
        return node

    def _parent(self, at: Node, path: bytes, links: list[int]) -> tuple[Node, bytes, bool]:
        """The directory, the last component (empty for ``/``), and whether a slash follows it."""
        if path.startswith(b"/"):
            at = self.root
        parts = [part for part in path.split(b"/") if part]
        self._steps += len(parts) + 1
        if self._steps > MAX_STEPS:
            raise ImageError(f"more than {MAX_STEPS} steps to resolve its names", code="cpio-limit")
        if not parts:
            return at, b"", False
        for part in parts[:-1]:
            node = self._step(at, part, True, links)
            if node is None:
                raise CallError("its parent is missing")
            if not stat.S_ISDIR(node.mode):
                raise CallError("its parent is not a directory")
            at = node
        if len(parts[-1]) > MAX_COMPONENT:
            raise CallError(f"a component of its name has more than {MAX_COMPONENT} bytes")
        return at, parts[-1], path.endswith(b"/")

    def _step(self, at: Node, name: bytes, follow: bool, links: list[int]) -> Node | None:
        if name in (b"", b"."):
            return at
        if name == b"..":
            return at.parent
        if len(name) > MAX_COMPONENT:
            raise CallError(f"a component of its name has more than {MAX_COMPONENT} bytes")
        node = at.children.get(name)
        if node is not None and follow and stat.S_ISLNK(node.mode):
            links[0] += 1
            if links[0] > MAX_LINKS:
                raise CallError(f"more than {MAX_LINKS} symbolic links in its name")
            return self._resolve(at, node.target, True, links)
        return node

    def _place(self, path: bytes) -> tuple[Node, bytes, bool]:
        """Where something is to be made: the directory and a plain last component. Raises CallError."""
        if not path:
            raise CallError("its name is empty")
        directory, name, slash = self._parent(self.root, path, [0])
        if name in (b"", b".", b".."):
            raise CallError("it already exists")
        return directory, name, slash

    # ------------------------------------------------------------------ what initramfs.c calls

    def stat(self, path: bytes) -> Node | None:
        """``init_stat`` with AT_SYMLINK_NOFOLLOW; None when it fails."""
        try:
            return self._lookup(path, follow=False)
        except CallError:
            return None

    def clean(self, path: bytes, mode: int) -> Node | None:
        """``clean_path``: remove what is there if it is of another type; returns what was removed."""
        node = self.stat(path)
        if node is None or stat.S_IFMT(node.mode) == stat.S_IFMT(mode):
            return None
        try:
            directory, name, slash = self._place(path)
        except CallError:
            return None
        found = directory.children.get(name)
        if found is None:
            return None
        if stat.S_ISDIR(node.mode):
            if not stat.S_ISDIR(found.mode) or found.children:
                return None
        elif slash:
            return None
        del directory.children[name]
        found.links -= 1
        return found

    def mkdir(self, path: bytes, entry: int) -> Node | None:
        """``init_mkdir``; None, and nothing made, when something is there. Raises CallError otherwise."""
        directory, name, _ = self._place(path)
        if name in directory.children:
            return None
        node = Node(0o40755, entry, parent=directory)
        directory.children[name] = node
        return node

    def mknod(self, path: bytes, mode: int, device: tuple[int, int], entry: int) -> Node:
        """``init_mknod``. Raises CallError."""
        node = Node(mode, entry, device=device)
        self._add(path, node)
        return node

    def symlink(self, path: bytes, target: bytes, entry: int) -> Node:
        """``init_symlink``, which takes an empty target: it leads to where the link is. Raises CallError."""
        node = Node(0o120777, entry, target=target)
        self._add(path, node)
        return node

    def link(self, old: bytes, new: bytes) -> Node:
        """``init_link``. Raises CallError."""
        node = self._lookup(old, follow=False)
        if stat.S_ISDIR(node.mode):
            raise CallError("it is a hard link to a directory")
        self._add(new, node)
        node.links += 1
        return node

    def _add(self, path: bytes, node: Node) -> None:
        directory, name, slash = self._place(path)
        if name in directory.children:
            full = stat.S_ISDIR(directory.children[name].mode)
            raise CallError(
                "a directory with entries is in its place" if full else "something is in its place"
            )
        if slash:
            raise CallError("its name ends with a slash")
        directory.children[name] = node

    def open_file(self, path: bytes, entry: int) -> tuple[Node, bool]:
        """``filp_open`` to write, made when absent; the node, and whether it was there. Raises CallError.

        A link that leads to nothing is followed too: the file is made where it leads.
        """
        links = [0]
        directory, name, slash = self._place(path)
        node = directory.children.get(name)
        while node is not None and stat.S_ISLNK(node.mode) and not slash:
            links[0] += 1
            if links[0] > MAX_LINKS:
                raise CallError(f"more than {MAX_LINKS} symbolic links in its name")
            directory, name, slash = self._parent(directory, node.target, links)
            if name in (b"", b".", b".."):
                raise CallError("a directory is in its place")
            node = directory.children.get(name)
        if slash:
            raise CallError("its name ends with a slash")
        if node is None:
            node = Node(0o100644, entry)
            directory.children[name] = node
            return node, False
        if not stat.S_ISREG(node.mode):
            raise CallError("a directory with entries is in its place")
        return node, True

    def own(self, path: bytes, uid: int, gid: int, mode: int | None, *, follow: bool = True) -> Node | None:
        """``init_chown``, and ``init_chmod`` unless ``mode`` is None; the node, None when they fail."""
        try:
            node = self._lookup(path, follow)
        except CallError:
            return None
        node.own(uid, gid)
        if mode is not None:
            node.mode = stat.S_IFMT(node.mode) | mode & 0o7777
        return node

    # ------------------------------------------------------------------ afterwards

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        """Every path without a leading slash, and its node, sorted by components, the root first (empty).

        Raises ImageError for more than MAX_PATHS.
        """
        yield b"", self.root
        beyond = ImageError(f"more than {MAX_PATHS} bytes of paths in its tree", code="cpio-limit")
        yield from walk_below(self.root, lambda node: node.children, MAX_PATHS, beyond)


def walk_below(
    root: _N, below: Callable[[_N], Mapping[bytes, _N]], most: int, beyond: Exception
) -> Iterator[tuple[bytes, _N]]:
    """Every path below a root without a leading slash, and its node, sorted by components.

    ``below`` gives what is in a folder. Raises ``beyond`` when all paths together have more bytes than
    ``most``.
    """
    total = 0
    path, node = b"", root
    stack: list[tuple[bytes, _N]] = []
    while True:
        entries = sorted(below(node).items(), key=lambda entry: entry[0], reverse=True)
        total += sum(len(path) + 1 + len(name) for name, _ in entries)
        if total > most:
            raise beyond
        stack.extend((path + b"/" + name if path else name, child) for name, child in entries)
        if not stack:
            return
        path, node = stack.pop()
        yield path, node
