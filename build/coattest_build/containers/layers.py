"""Layers applied to each other in memory, as Docker's overlay2 does; nothing is ever written.

Each layer becomes a tree of its own first, names resolved inside it, then the trees are laid over each
other. What Docker refuses is refused; what its stores (overlay2, vfs, containerd) make differently is refused
too, or marked: a folder without an entry in its layer has its time, and on some stores its mode and owner,
from the extraction. Sources: moby's go-archive (archive.go) and overlay2; image-spec, layer.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from coattest_build.containers import layertar
from coattest_build.containers.errors import ContainerError, beyond_limit, path_text, unloadable
from coattest_build.containers.layertar import DIRECTORY, SYMLINK, LayerEntry, read_layer
from coattest_build.containers.sources import Positioned
from coattest_build.containers.sparse import MAX_PIECES, Extent
from coattest_build.formats.lenient.tree import walk_below

MAX_ENTRIES = 300_000
"""Entries of all layers together, with the folders that their names imply; each takes about 500 bytes."""
MAX_TEXT = 64 << 20
"""Bytes of all names, targets and attributes' names; 300,000 ordinary entries have about 30 MB."""
MAX_COMPONENT = 255
"""``NAME_MAX`` of Linux."""
MAX_LINKS = 40
"""Symbolic links followed for one name (``MAXSYMLINKS`` of Linux)."""
MAX_STEPS = 40_000_000
"""Components resolved for one image: a hostile one could ask for thousands with each name."""
LATEST = (1 << 63) // 10**9
"""The last second that Docker keeps; later ones become 0 (``boundTime`` of go-archive)."""
MAX_ID = (1 << 32) - 2
"""The largest user or group id; the next is "leave it" to chown(2)."""

MAX_PATHS = 256 << 20
"""Bytes of all paths together."""

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
OVERLAY_ATTRIBUTES = ("trusted.overlay.", "user.overlay.")


@dataclass(slots=True, eq=False)
class Inode:
    """A file of any kind. ``kind`` is one of layertar's; ``place`` the number of its layer, from 0.

    ``linked``: it may have more than one name.

    Of folders: ``children``; ``clock``, who decides its time where no entry does (a layer's number, or -1 for
    the creation of the container), and the ``cause``; ``lower``, mode and owner of a layer below, which some
    stores keep; while a layer is read ``hidden`` and ``opaque``.
    """

    kind: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    content: tuple[Extent, ...] = ()
    place: int = -1
    linked: bool = False
    children: dict[bytes, Inode] | None = None
    hidden: set[bytes] | None = None
    opaque: bool = False
    clock: int | None = None
    cause: str | None = None
    lower: tuple[int, int, int] | None = None

    @property
    def below(self) -> dict[bytes, Inode]:
        """The entries of a folder."""
        if self.children is None:
            self.children = {}
        return self.children


@dataclass(slots=True)
class Counted:
    """What all layers of an image have taken so far; ``limit`` is for the bytes of all files with holes."""

    limit: int
    content: int = 0
    entries: int = 0
    text: int = 0
    pieces: int = 0
    steps: int = 0
    attributes: set[str] = field(default_factory=set)

    def add(self, entry: LayerEntry) -> None:
        """Count an entry. Raises ContainerError."""
        self.made()
        self.text += len(entry.name) + len(entry.target) + sum(map(len, entry.attributes))
        if self.text > MAX_TEXT:
            raise beyond_limit(f"more than {MAX_TEXT} bytes of names in its layers")
        self.content += entry.size
        if self.content > self.limit:  # a sparse file of a few bytes can be of petabytes
            raise beyond_limit(
                f"files of more than {self.limit} bytes",
                where=path_text(entry.name),
                hint="--max-size allows more",
            )
        self.pieces += max(len(entry.content) - 1, 0)
        if self.pieces > MAX_PIECES:
            raise beyond_limit(f"sparse files of more than {MAX_PIECES} pieces in its layers")

    def made(self) -> None:
        """Count an entry, or a folder that one implies. Raises ContainerError."""
        self.entries += 1
        if self.entries > MAX_ENTRIES:
            raise beyond_limit(f"more than {MAX_ENTRIES} entries in its layers")


def clean_name(name: bytes) -> list[bytes]:
    """The components of a name, ``.`` and ``..`` resolved. Raises ContainerError when it leads out."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        if part == b"..":
            if not parts:
                raise unloadable("a name that leads out of the image", name)
            parts.pop()
            continue
        if len(part) > MAX_COMPONENT:
            raise unloadable(f"a name with more than {MAX_COMPONENT} bytes between slashes", name)
        parts.append(part)
    return parts


def check_root(entry: LayerEntry) -> None:
    """Refuse an entry for the root itself that is no folder: Docker removes all of the layer for it."""
    if entry.kind != DIRECTORY:
        raise unloadable("something other than a folder in place of the root", entry.name)


BELOW_A_FILE = "its parent is not a folder"
IMPLIED = "implied"
HIDDEN_LINK = "hides a link"
CREATED = "working folder"
PARENT = "parent of the working folder"


def folder_at(
    root: Inode,
    parts: list[bytes],
    name: bytes,
    counted: Counted,
    *,
    make: Inode | None = None,
    through_links: bool = False,
    file: bool = False,
) -> tuple[Inode, list[Inode]]:
    """The folder at a path and the ones made on the way, as copies of ``make``; links as in a chroot.

    ``through_links``: what a link leads to is made, too. ``file``: something else than a folder may be at the
    end. Raises ContainerError.
    """
    stack, pending, made = [root], parts[::-1], []
    links, guard = 0, -1
    while pending:
        part = pending.pop()
        if len(pending) < guard:
            guard = -1
        counted.steps += 1
        if counted.steps > MAX_STEPS:
            raise beyond_limit(f"more than {MAX_STEPS} steps to resolve its names")
        if part in (b"", b"."):
            continue
        if part == b"..":
            if len(stack) > 1:
                stack.pop()
            continue
        child = stack[-1].below.get(part)
        if child is None:
            if make is None or (guard >= 0 and not through_links):
                through = "a link that leads to nothing in its own layer" if guard >= 0 else "no folder"
                raise unloadable(f"its parent is {through}", name)
            child = _like(make, part, name)
            counted.made()
            made.append(child)
            stack[-1].below[part] = child
        elif child.kind == SYMLINK:
            links += 1
            if links > MAX_LINKS:
                raise unloadable(f"more than {MAX_LINKS} links in its name", name)
            guard = len(pending) if guard < 0 else guard
            if child.target.startswith(b"/"):
                stack = [root]
            pending.extend(child.target.split(b"/")[::-1])
            continue
        elif child.kind != DIRECTORY and not (file and not pending):
            raise unloadable(BELOW_A_FILE, name)
        stack.append(child)
    return stack[-1], made


def look_up(root: Inode, path: bytes, counted: Counted) -> Inode | None:
    """What is at a path, links followed as in a chroot; None where nothing is. Raises ContainerError."""
    try:
        return folder_at(root, path.split(b"/"), path, counted, file=True)[0]
    except ContainerError as error:
        if error.code != "container-unloadable":
            raise
        return None


def _like(model: Inode, part: bytes, name: bytes) -> Inode:
    """A new folder as the model is, called ``part``. Raises ContainerError for the name of a whiteout."""
    if part.startswith(WHITEOUT):
        raise unloadable("a folder with the name of a removal", name)
    return Inode(
        model.kind, model.mode, model.uid, model.gid, clock=model.clock, cause=model.cause, place=model.place
    )


class _Layer:
    """One layer's own tree."""

    def __init__(self, number: int, counted: Counted) -> None:
        self.root = Inode(DIRECTORY, place=number)
        self._number = number
        self._implied = Inode(DIRECTORY, place=number, clock=number, cause=IMPLIED)
        self._counted = counted

    def add(self, entry: LayerEntry) -> None:
        parts = clean_name(entry.name)
        if not parts:
            check_root(entry)
            return
        if any(name.startswith(OVERLAY_ATTRIBUTES) for name in entry.attributes):
            raise unloadable("an extended attribute of the overlay's own", entry.name)
        self._counted.attributes.update(entry.attributes)
        *above, base = parts
        parent, _ = folder_at(self.root, above, entry.name, self._counted, make=self._implied)
        if base.startswith(WHITEOUT):
            self._whiteout(parent, base, entry.name)
            return
        if max(entry.uid, entry.gid) > MAX_ID:
            raise unloadable("a user or group id of more than 32 bits", entry.name)
        there = parent.below.get(base)
        if entry.kind == DIRECTORY and there is not None and there.kind == DIRECTORY:
            _set(there, entry)
            there.clock = there.cause = None
            return
        if there is not None and there.kind == DIRECTORY:
            raise unloadable("one layer has a folder and something else of this name", entry.name)
        parent.below.pop(base, None)
        parent.below[base] = self._linked(entry) if entry.kind == layertar.HARD_LINK else self._made(entry)

    def _whiteout(self, parent: Inode, base: bytes, name: bytes) -> None:
        if base == OPAQUE:
            if parent is self.root:
                raise unloadable("it hides the whole image below, which only some stores do", name)
            parent.opaque = True
            return
        if base.startswith(WHITEOUT * 2):
            return
        hidden = base.removeprefix(WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise unloadable("it removes its own folder", name)
        if hidden in parent.below:
            raise unloadable("one layer adds and removes this name", name)
        parent.hidden = parent.hidden or set()
        parent.hidden.add(hidden)

    def _made(self, entry: LayerEntry) -> Inode:
        if entry.kind == layertar.CHAR and entry.device == (0, 0):
            raise unloadable("a device 0:0, which the overlay takes for a removed file", entry.name)
        made = Inode(
            entry.kind, size=entry.size, target=entry.target, device=entry.device, place=self._number
        )
        made.content = entry.content
        _set(made, entry)
        if entry.kind == SYMLINK:
            if not entry.target:
                raise unloadable("a symbolic link that leads nowhere", entry.name)
            made.mode = 0o777
        return made

    def _linked(self, entry: LayerEntry) -> Inode:
        """The inode that a hard link leads to; the link's own mode, owner and time are given to it."""
        parts = clean_name(entry.target)
        if not parts:
            raise unloadable("a hard link to a folder", entry.name)
        *above, base = parts
        try:
            found = folder_at(self.root, above, entry.target, self._counted)[0].below.get(base)
        except ContainerError as error:
            if error.code != "container-unloadable":
                raise
            found = None
        if found is None:
            raise unloadable(
                f"a hard link to {path_text(entry.target)}, which no earlier entry of its own layer is: "
                "links to files of lower layers cannot be loaded",
                entry.name,
            )
        if found.kind == DIRECTORY:
            raise unloadable("a hard link to a folder", entry.name)
        found.linked = True
        if found.kind == SYMLINK:
            found.uid, found.gid = entry.uid, entry.gid
        else:
            _set(found, entry)
        return found


def _set(inode: Inode, entry: LayerEntry) -> None:
    inode.mode, inode.uid, inode.gid = entry.mode, entry.uid, entry.gid
    inode.mtime = entry.mtime if 0 <= entry.mtime <= LATEST else 0


def apply_layer(root: Inode, layer: Positioned, number: int, counted: Counted) -> None:
    """Lay a layer over the tree at ``root``. Raises ContainerError, after which the tree is of no use."""
    own = _Layer(number, counted)
    for entry in read_layer(layer, most=4 * MAX_ENTRIES):
        counted.add(entry)
        own.add(entry)
    _merge(root, own.root)


def _merge(root: Inode, upper: Inode) -> None:
    pending = [(root, upper, b"")]
    while pending:
        low, up, path = pending.pop()
        if up.opaque:
            low.below.clear()
        for name in up.hidden or ():
            gone = low.below.pop(name, None)
            again = up.below.get(name)
            if gone is not None and again is not None and gone.kind == again.kind == DIRECTORY:
                raise unloadable(
                    "one layer removes this folder and makes it again without hiding what was in it: "
                    "Docker's stores disagree about its content",
                    path + b"/" + name,
                )
        for name, child in up.below.items():
            there = low.below.get(name)
            if there is None or there.kind != DIRECTORY or child.kind != DIRECTORY:
                if there is not None and there.kind == SYMLINK and child.cause == IMPLIED:
                    child.cause = HIDDEN_LINK
                low.below[name] = child
                continue
            there.lower = (there.mode, there.uid, there.gid) if there.cause is None else there.lower
            there.mode, there.uid, there.gid, there.mtime = child.mode, child.uid, child.gid, child.mtime
            there.clock, there.cause, there.place = child.clock, child.cause, child.place
            pending.append((there, child, path + b"/" + name))


def walk(root: Inode) -> Iterator[tuple[bytes, Inode]]:
    """Every path without a leading slash and its inode, but for the root, sorted by components.

    Raises ContainerError when all paths together are longer than MAX_PATHS.
    """
    beyond = beyond_limit(f"more than {MAX_PATHS} bytes of paths")
    return walk_below(root, lambda inode: inode.children or {}, MAX_PATHS, beyond)
