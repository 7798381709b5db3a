"""Whether init finds the program that a container image runs, as Linux looks for it when the enclave starts.

In the enclave a program that is not there would show only as an early end.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from coattest_build.containers.application import ContainerTree
from coattest_build.containers.daemon import mode_and_owner
from coattest_build.containers.errors import not_read, path_text
from coattest_build.containers.image import ImageLayer, OpenedImage
from coattest_build.containers.layers import Counted, Inode, look_up
from coattest_build.containers.layertar import DIRECTORY, FILE
from coattest_build.containers.nitrocli import command_of
from coattest_build.containers.own.plan import RunPlan
from coattest_build.containers.own.tree import MOUNTED, STORE, OwnTree
from coattest_build.formats.elf import linking

NITRO_PATH = "/sbin:/usr/sbin:/bin:/usr/bin"
"""Where AWS's init looks, whatever PATH the image sets (aws-nitro-enclaves-sdk-bootstrap, ``launch``)."""
NITRO_MOUNTED = (b"dev", b"proc", b"run", b"sys", b"tmp")
"""Folders that AWS's init mounts over: what the image has in them is hidden (``ops`` there)."""
MAX_SCRIPT_LINE = 256
"""Bytes of a script's first line that Linux reads (execve(2), since Linux 5.1)."""
MAX_INTERPRETERS = 6
"""A program, and interpreters of interpreters (five in Linux, fs/exec.c: ``exec_binprm``)."""


def check_starts(tree: OwnTree) -> None:
    """Raise ContainerError where style coattest's init does not find the program, or may not execute it."""
    plan = tree.plan
    path = next(item.partition("=")[2] for item in plan.environment if item.startswith("PATH="))
    search = _Search(path, plan.folder, MOUNTED, lambda inode: _may(inode, plan), first_counts=True)
    lacks = search.lacks(tree.image, tree.root, plan.words[0])
    if lacks is not None:
        entrypoint = tree.config.entrypoint not in (None, (), ("",))
        raise not_read(
            f"{lacks}: the enclave would end at once",
            where=f"config: {'Entrypoint' if entrypoint else 'Cmd'}",
            hint="put the program into the image, or correct ENTRYPOINT, CMD, PATH or WORKDIR",
        )


def nitro_cli_lacks(tree: ContainerTree, docker: int | None = None) -> str | None:
    """Why AWS's init would not start the program; None where it does, or the image does not decide what runs.

    ``docker`` is that of ``command_of``.
    """
    config = tree.image.config
    if config is None or tree.root is None or (config.cmd is None and config.entrypoint is None):
        return None
    command = command_of(config, docker)
    if command is None:
        return None
    word = command[0].partition("\n")[0] if command else "sh"  # init's own, for no word at all
    search = _Search(
        NITRO_PATH, "/", NITRO_MOUNTED, lambda inode: bool(inode.mode & 0o111), first_counts=False
    )
    return search.lacks(tree.image, tree.root, word)


def _may(inode: Inode, plan: RunPlan) -> bool:
    """Whether the program's user may execute a file (path_resolution(7), "Permissions")."""
    mode, uid, gid = mode_and_owner(inode, STORE)
    user = plan.user
    if user.uid == 0:
        return bool(mode & 0o111)
    return bool(mode & (0o100 if uid == user.uid else 0o010 if gid in user.groups else 0o001))


@dataclass(frozen=True, slots=True)
class _Search:
    """How an init looks for a program: PATH, working folder, what is mounted over, what may be executed.

    ``first_counts``: one in PATH that may be executed and does not start ends the search.
    """

    path: str
    folder: str
    mounted: tuple[bytes, ...]
    may_execute: Callable[[Inode], bool]
    first_counts: bool

    def lacks(self, image: OpenedImage, root: Inode, word: str) -> str | None:
        """Why a program is not started; None where it is."""
        hidden = {name: Inode(DIRECTORY) for name in self.mounted}
        seen = _Seen(replace(root, children={**root.below, **hidden}), image.layers, self.may_execute)
        if "/" in word:
            return seen.lacks(posixpath.join(self.folder, word), self.folder)
        folders = [folder for folder in self.path.split(":") if folder.startswith("/")]
        for place in (posixpath.join(folder, word) for folder in folders if word):
            if isinstance(seen.find(place), str):
                continue
            lacks = seen.lacks(place, self.folder)
            if lacks is None or self.first_counts:
                return lacks
        return f"no program {word[:80]!a} in {':'.join(folders)[:200]}"


@dataclass(frozen=True, slots=True)
class _Seen:
    """The root file system as the program's user sees it."""

    root: Inode
    layers: Sequence[ImageLayer]
    may_execute: Callable[[Inode], bool]
    counted: Counted = field(default_factory=lambda: Counted(0))

    def find(self, place: str) -> Inode | str | None:
        """The file that is executed at an absolute path, or why it is not; None where that is not known."""
        path = place.encode("utf-8", "surrogateescape")
        if posixpath.normpath(path).startswith(b"/proc/"):
            return None  # /proc/self/exe and the like are known only when it runs
        inode = look_up(self.root, path, self.counted)
        if inode is None:
            return f"{path_text(path)} is not in the image, or a link that leads nowhere"
        if inode.kind != FILE:
            return f"{path_text(path)} is not a file"
        return inode if self.may_execute(inode) else f"{path_text(path)} may not be executed"

    def lacks(self, place: str, folder: str) -> str | None:
        """Why a file is not executed, also for want of its interpreter or loader (execve(2))."""
        by = ""
        for _ in range(MAX_INTERPRETERS):
            found = self.find(place)
            if isinstance(found, str):
                return by + found
            needed = None if found is None else self._needs(found)
            if needed is None:
                return None
            by = f"{path_text(place.encode('utf-8', 'surrogateescape'))} needs another file, and "
            place = posixpath.join(folder, needed)
        return f"{by}so on: more than {MAX_INTERPRETERS} interpreters"

    def _needs(self, inode: Inode) -> str | None:
        """The interpreter of a script, or the loader of a program."""

        def read(offset: int, size: int) -> bytes:
            return self._read(inode, offset, size)

        line = read(0, MAX_SCRIPT_LINE).partition(b"\n")[0]
        if line.startswith(b"#!"):
            words = line[2:].decode("utf-8", "surrogateescape").split()
            return words[0] if words else None
        linked = linking(read)
        return None if linked is None else linked.interpreter

    def _read(self, inode: Inode, offset: int, size: int) -> bytes:
        """At most ``size`` bytes of a file, fewer where they go on in another piece of it."""
        for place, length in inode.content:
            if offset < length:
                count = min(size, length - offset)
                return (
                    bytes(count)
                    if place < 0
                    else self.layers[inode.place].content.read(place + offset, count)
                )
            offset -= length
        return b""
