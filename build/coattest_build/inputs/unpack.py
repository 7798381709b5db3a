"""Unpacks packages into a fresh directory, treating their content as hostile.

The rules: plain relative names without ``..``; nothing is written through a link; symlinks do not lead out of
the tree and hard links only to files of the tree; no devices, FIFOs, setuid or setgid files, extended
attributes; nothing is written twice; limits on members and bytes. What is written has mode 755 or 644.
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
    HostileArchive,
    Member,
    TarStream,
)

# The largest package here (the kernel source) has 150 MB and the one with most files (perl) a few thousand.
MAX_MEMBERS = 100_000
MAX_BYTES = 4 * 1024 * 1024 * 1024
MAX_DEPTH = 64
MAX_LINKS = 40  # path_resolution(7)
SETUID_OR_SETGID = 0o6000


def check_name(name: str) -> str:
    """``name`` without a leading ``./``, "" for the root itself. Raises HostileArchive."""
    plain = name.removeprefix("./").rstrip("/")
    if plain in ("", "."):
        return ""
    if plain.startswith("/"):
        raise HostileArchive("an absolute path", where=name[:200])
    parts = plain.split("/")
    if ".." in parts:
        raise HostileArchive("a path with ..", where=name[:200])
    if (
        "" in parts
        or "." in parts
        or len(parts) > MAX_DEPTH
        or any(ord(c) < 32 or ord(c) == 127 for c in plain)
    ):
        raise HostileArchive("not a plain path", where=repr(name[:200]))
    return plain


def check_symlink(name: str, target: str) -> None:
    """Raise HostileArchive unless the symlink at ``name`` points into the tree, as seen from its root."""
    if not target or "\0" in target:
        raise HostileArchive("a symlink to nowhere", where=name)
    depth = 0 if target.startswith("/") else name.count("/")
    for part in target.split("/"):
        depth += 0 if part in ("", ".") else -1 if part == ".." else 1
        if depth < 0:
            raise HostileArchive(f"a symlink out of the tree, to {target[:200]}", where=name)


class Tree:
    """A directory that is filled from packages. ``kinds`` tells what was put at every path.

    The directory must be fresh: what this object remembers is then all there is, so no check is ever made
    against a file system that somebody else may be changing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kinds: dict[str, str] = {"": DIRECTORY}
        self._lock = threading.Lock()
        root.mkdir(parents=True)
        root.chmod(0o755)

    def make_directory(self, name: str) -> None:
        """Make a directory and its parents, all of which are or become real directories.

        Raises HostileArchive where one of them is something else.
        """
        if self.kinds.get(name) == DIRECTORY:
            return
        self.make_directory(posixpath.dirname(name))
        with self._lock:
            kind = self.kinds.get(name)
            if kind == DIRECTORY:
                return
            if kind is not None:
                raise HostileArchive(f"writes through a {kind}", where=name)
            path = self.root / name
            path.mkdir()
            path.chmod(0o755)
            self.kinds[name] = DIRECTORY

    def _claim(self, name: str, kind: str) -> Path:
        self.make_directory(posixpath.dirname(name))
        with self._lock:
            if name in self.kinds:
                raise HostileArchive(f"is there already, as a {self.kinds[name]}", where=name)
            self.kinds[name] = kind
        return self.root / name

    def add_file(self, name: str, content: Iterable[bytes], *, executable: bool = False) -> None:
        """Write a new file."""
        path = self._claim(name, REGULAR)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0) as file:
            for piece in content:
                file.write(piece)
            os.fchmod(file.fileno(), 0o755 if executable else 0o644)

    def add_symlink(self, name: str, target: str) -> None:
        """Make a symlink that stays inside."""
        check_symlink(name, target)
        self._claim(name, SYMLINK).symlink_to(target)

    def resolve(self, path: str) -> str | None:
        """The name of what an absolute path inside the tree leads to, links followed; None where it ends."""
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

    def _add_member(self, member: Member, name: str, archive: TarStream) -> None:
        if member.kind == DIRECTORY:
            self.make_directory(name)
        elif member.kind == SYMLINK:
            self.add_symlink(name, member.target)
        elif member.kind == HARD_LINK:
            target = check_name(member.target)
            if self.kinds.get(target) != REGULAR:
                raise HostileArchive("a hard link to what is not a file of the tree", where=name)
            os.link(self.root / target, self._claim(name, REGULAR), follow_symlinks=False)
        else:
            if member.mode & SETUID_OR_SETGID:
                raise HostileArchive("a setuid or setgid file", where=name)
            self.add_file(name, archive.content(), executable=bool(member.mode & 0o111))

    def unpack_deb(self, path: Path, label: str, keep: Callable[[str], bool] | None = None) -> None:
        """Unpack the members of a .deb that ``keep`` (given the path inside) wants; all of them by default.

        What is not kept is checked all the same. Raises BadArchive or HostileArchive, naming ``label``.
        """
        with open_data(path, label) as stream:
            archive = TarStream(stream, max_members=MAX_MEMBERS, max_bytes=MAX_BYTES)
            for member in archive:
                name = check_name(member.name)
                if not name and member.kind != DIRECTORY:
                    raise HostileArchive(f"the root is a {member.kind}")
                if keep is None or keep(name):
                    self._add_member(member, name, archive)
                elif member.kind == SYMLINK:
                    check_symlink(name, member.target)


def unpack_all(
    tree: Tree,
    packages: Iterable[tuple[Path, str]],
    keep: Callable[[str], bool] | None = None,
    *,
    workers: int = 2,
) -> None:
    """Unpack several (path, label) into one tree; decompression runs in ``workers`` threads."""
    ordered = sorted(packages, key=lambda item: -item[0].stat().st_size)
    with ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(tree.unpack_deb, path, label, keep) for path, label in ordered]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
