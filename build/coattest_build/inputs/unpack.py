"""Unpacks packages into a fresh directory, treating their content as hostile.

The rules: plain relative names without ``..``; nothing is written through a link; symlinks do not lead out of
the tree and hard links only to files of the tree; no devices, FIFOs, setuid or setgid files, extended
attributes; nothing is written twice; limits on members and bytes. Files get mode 755 or 644.
"""

from __future__ import annotations

import os
import posixpath
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from coattest_build.formats.deb import open_data
from coattest_build.formats.tar import (
    DIRECTORY,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    TarMember,
    TarStream,
    hostile,
)

MAX_MEMBERS = 100_000
"""Members of a package; perl has the most here, a few thousand."""
MAX_BYTES = 4 * 1024 * 1024 * 1024
"""Bytes that a package unpacks to; the largest here, the kernel's source, has 150 MB."""
MAX_DEPTH = 64
"""Components of a path."""
MAX_LINKS = 40
"""Symlinks followed in one path (path_resolution(7))."""
SETUID_OR_SETGID = 0o6000
WORKERS = 2


def check_name(name: str) -> str:
    """``name`` without a leading ``./``, "" for the root itself.

    Raises FoundFalse (``hostile-package``) unless it is a plain relative path.
    """
    plain = name.removeprefix("./").rstrip("/")
    if plain in ("", "."):
        return ""
    if plain.startswith("/"):
        raise hostile("an absolute path", where=name[:200])
    parts = plain.split("/")
    if ".." in parts:
        raise hostile("a path with ..", where=name[:200])
    if (
        "" in parts
        or "." in parts
        or len(parts) > MAX_DEPTH
        or any(ord(c) < 32 or ord(c) == 127 for c in plain)
    ):
        raise hostile("not a plain path", where=repr(name[:200]))
    return plain


def check_symlink(name: str, target: str) -> None:
    """Raise FoundFalse (``hostile-package``) unless the symlink at ``name`` points into the tree."""
    if not target or "\0" in target:
        raise hostile("a symlink without a valid target", where=name)
    depth = 0 if target.startswith("/") else name.count("/")
    for part in target.split("/"):
        depth += 0 if part in ("", ".") else -1 if part == ".." else 1
        if depth < 0:
            raise hostile(f"a symlink out of the tree, to {target[:200]}", where=name)


class Tree:
    """A directory that is filled from packages. ``kinds`` says what is at every path.

    The directory must be new: then this object knows everything in it, and no check depends on a file system
    that somebody else may be changing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kinds: dict[str, str] = {"": DIRECTORY}
        self._lock = threading.Lock()
        root.mkdir(parents=True)
        root.chmod(0o755)

    def make_directory(self, name: str) -> None:
        """Make a directory and its parents.

        Raises FoundFalse (``hostile-package``) when one of them is not a directory.
        """
        if self.kinds.get(name) == DIRECTORY:
            return
        self.make_directory(posixpath.dirname(name))
        with self._lock:
            kind = self.kinds.get(name)
            if kind == DIRECTORY:
                return
            if kind is not None:
                raise hostile(f"writes through a {kind}", where=name)
            path = self.root / name
            path.mkdir()
            path.chmod(0o755)
            self.kinds[name] = DIRECTORY

    def _claim(self, name: str, kind: str) -> Path:
        self.make_directory(posixpath.dirname(name))
        with self._lock:
            if name in self.kinds:
                raise hostile(f"there is already a {self.kinds[name]} here", where=name)
            self.kinds[name] = kind
        return self.root / name

    def add_file(self, name: str, content: Iterable[bytes], *, executable: bool = False) -> None:
        """Write a new file. Raises FoundFalse (``hostile-package``) when something is there."""
        path = self._claim(name, REGULAR)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0) as file:
            for piece in content:
                file.write(piece)
            os.fchmod(file.fileno(), 0o755 if executable else 0o644)

    def add_symlink(self, name: str, target: str) -> None:
        """Make a symlink. Raises FoundFalse (``hostile-package``) when it leads out of the tree."""
        check_symlink(name, target)
        self._claim(name, SYMLINK).symlink_to(target)

    def resolve(self, path: str) -> str | None:
        """The name that an absolute path in the tree leads to, links followed; None when nothing is there."""
        at, pending, links = "", path.split("/"), 0
        while pending:
            part = pending.pop(0)
            if part in ("", "."):
                continue
            here = posixpath.dirname(at) if part == ".." else f"{at}/{part}".lstrip("/")
            kind = self.kinds.get(here)
            if kind is None:
                return None
            if kind == SYMLINK:
                links += 1
                if links > MAX_LINKS:
                    return None
                target = os.readlink(self.root / here)  # noqa: PTH115 - Path drops what it finds redundant
                at, pending = ("" if target.startswith("/") else at), [*target.split("/"), *pending]
            else:
                at = here
        return at

    def file(self, path: str) -> str | None:
        """The name of the regular file that an absolute path leads to; None when there is none."""
        found = self.resolve(path)
        return found if found is not None and self.kinds[found] == REGULAR else None

    def _add_member(self, member: TarMember, name: str, archive: TarStream) -> None:
        if member.kind == DIRECTORY:
            self.make_directory(name)
        elif member.kind == SYMLINK:
            self.add_symlink(name, member.target)
        elif member.kind == HARD_LINK:
            target = check_name(member.target)
            if self.kinds.get(target) != REGULAR:
                raise hostile("a hard link to something that is not a file of the tree", where=name)
            os.link(self.root / target, self._claim(name, REGULAR), follow_symlinks=False)
        else:
            if member.mode & SETUID_OR_SETGID:
                raise hostile("a setuid or setgid file", where=name)
            self.add_file(name, archive.content(), executable=bool(member.mode & 0o111))

    def unpack_deb(self, path: Path, label: str, wanted: Callable[[str], bool] | None = None) -> None:
        """Unpack the members of a .deb for whose path ``wanted`` is true; all of them by default.

        The others are checked too. Raises FoundFalse (``bad-archive``, ``hostile-package``) whose
        ``where`` begins with ``label``.
        """
        with open_data(path, label) as stream:
            archive = TarStream(stream, max_members=MAX_MEMBERS, max_bytes=MAX_BYTES)
            for member in archive:
                name = check_name(member.name)
                if not name and member.kind != DIRECTORY:
                    raise hostile(f"the root is a {member.kind}")
                if wanted is None or wanted(name):
                    self._add_member(member, name, archive)
                elif member.kind == SYMLINK:
                    check_symlink(name, member.target)


def unpack_all(
    tree: Tree, packages: Iterable[tuple[Path, str]], wanted: Callable[[str], bool] | None = None
) -> None:
    """Unpack several (path, label) into one tree, in threads. Raises as Tree.unpack_deb."""
    ordered = sorted(packages, key=lambda item: -item[0].stat().st_size)
    with ThreadPoolExecutor(WORKERS) as pool:
        tasks = [pool.submit(tree.unpack_deb, path, label, wanted) for path, label in ordered]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
