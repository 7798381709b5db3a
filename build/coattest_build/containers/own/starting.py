"""Whether init finds the program that a container image runs, as Linux looks for it when the enclave starts.

In the enclave a program that is not there would show only as an early end.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass, replace

from coattest_build.containers.application import ContainerTree
from coattest_build.containers.daemon import mode_and_owner
from coattest_build.containers.errors import ContainerError, not_read, path_text
from coattest_build.containers.layers import Counted, Inode, folder_at
from coattest_build.containers.layertar import DIRECTORY, FILE
from coattest_build.containers.nitrocli import command_of
from coattest_build.containers.own.plan import RunPlan
from coattest_build.containers.own.tree import MOUNTED, STORE, OwnTree

NITRO_PATH = "/sbin:/usr/sbin:/bin:/usr/bin"
"""Where AWS's init looks, whatever PATH the image sets (aws-nitro-enclaves-sdk-bootstrap, ``launch``)."""
NITRO_MOUNTED = (b"dev", b"proc", b"run", b"sys", b"tmp")
"""Folders that AWS's init mounts over: what the image has in them is hidden (``ops`` there)."""


def check_starts(tree: OwnTree) -> None:
    """Raise ContainerError where style coattest's init does not find the program, or may not execute it."""
    plan = tree.plan
    path = next(item.partition("=")[2] for item in plan.environment if item.startswith("PATH="))
    search = _Search(path, plan.folder, MOUNTED, lambda inode: _may(inode, plan))
    lacks = search.lacks(tree.root, plan.words[0])
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
    search = _Search(NITRO_PATH, "/", NITRO_MOUNTED, lambda inode: bool(inode.mode & 0o111))
    return search.lacks(tree.root, word)


def _may(inode: Inode, plan: RunPlan) -> bool:
    """Whether the program's user may execute a file (path_resolution(7), "Permissions")."""
    mode, uid, gid = mode_and_owner(inode, STORE)
    user = plan.user
    if user.uid == 0:
        return bool(mode & 0o111)
    return bool(mode & (0o100 if uid == user.uid else 0o010 if gid in user.groups else 0o001))


@dataclass(frozen=True, slots=True)
class _Search:
    """How an init looks for a program: PATH, working folder, what is mounted over, what may be executed."""

    path: str
    folder: str
    mounted: tuple[bytes, ...]
    may_execute: Callable[[Inode], bool]

    def lacks(self, root: Inode, word: str) -> str | None:
        """Why a program is not started; None where it is."""
        hidden = {name: Inode(DIRECTORY) for name in self.mounted}
        seen, counted = replace(root, children={**root.below, **hidden}), Counted(0)
        if "/" in word:
            return self._lacks_at(seen, posixpath.join(self.folder, word), counted)
        folders = [folder for folder in self.path.split(":") if folder.startswith("/")]
        places = (posixpath.join(folder, word) for folder in folders)
        if word and any(self._lacks_at(seen, place, counted) is None for place in places):
            return None
        return f"no program {word[:80]!a} in {':'.join(folders)[:200]}"

    def _lacks_at(self, root: Inode, place: str, counted: Counted) -> str | None:
        path = place.encode("utf-8", "surrogateescape")
        if posixpath.normpath(path).startswith(b"/proc/"):
            return None  # /proc/self/exe and the like are known only when it runs
        try:
            inode, _ = folder_at(root, path.split(b"/"), path, counted, file=True)
        except ContainerError as error:
            if error.code != "container-unloadable":
                raise
            return f"{path_text(path)} is not in the image, or a link that leads nowhere"
        if inode.kind != FILE:
            return f"{path_text(path)} is not a file"
        return None if self.may_execute(inode) else f"{path_text(path)} may not be executed"
