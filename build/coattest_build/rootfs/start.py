"""What init starts: where the program of a root file system is, and the files that say so in the ramdisk.

The kernel profile ``minimal`` has ``cmd`` and ``env``, a line for each text, as AWS's init reads them;
``container`` has ``run`` (``containers.own.plan``).
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Iterator
from pathlib import Path

from coattest.errors import Rejected, UsageError
from coattest.files import Folder
from coattest_build.containers.errors import ContainerError
from coattest_build.containers.own.plan import DEFAULT_PATH, WRITTEN, RunPlan, environment_of
from coattest_build.containers.own.users import MAX_DATABASE, resolve_user
from coattest_build.formats.cpio import NewEntry
from coattest_build.formats.tar import DIRECTORY
from coattest_build.image import IMAGE_FILE, ContainerRun, ImageSpec
from coattest_build.inputs.unpack import Tree

MOUNTED = ("dev", "proc", "run", "sys", "tmp")
"""Where build/init/init.c mounts file systems; without one of these directories the enclave ends at once."""
MOUNTED_OVER = ("dev", "proc", "sys")
"""Where the container profile's init does."""
FOR_ALL = frozenset({"tmp", "var/tmp"})
"""Folders in which every user of the container profile may make files."""
START_MODE = stat.S_IFREG | 0o644


def program_of(spec: ImageSpec, tree: Tree) -> str:
    """The absolute path of the program; the first word of the command where nothing in PATH has its name."""
    word = spec.command[0]
    if "/" in word:
        return posixpath.join(spec.container.folder if spec.container else "/", word)
    folders = dict(spec.environment).get("PATH", DEFAULT_PATH).split(":")
    places = (posixpath.join(folder, word) for folder in folders if folder.startswith("/"))
    return next((place for place in places if is_program(tree, place)), word)


def is_program(tree: Tree, path: str) -> bool:
    """Whether a path leads to a file that can be executed."""
    found = tree.file(path)
    return found is not None and bool((tree.root / found).stat().st_mode & 0o100)


def add_surroundings(run: ContainerRun, tree: Tree) -> None:
    """The files that Docker writes for each container, where the tree has none, and the working folder.

    Raises UsageError where that is no folder.
    """
    for name, content in WRITTEN.items():
        if name.decode() not in tree.kinds:
            tree.add_file(name.decode(), [content])
    found = tree.resolve(run.folder)
    if found is None:
        tree.make_directory(run.folder[1:])
    elif found and tree.kinds[found] != DIRECTORY:
        raise UsageError(f"{run.folder} is not a folder of the image", where=f"{IMAGE_FILE} [run] workdir")


def start_entries(spec: ImageSpec, root: Path) -> Iterator[NewEntry]:
    """The files beside ``rootfs`` that say what init starts.

    ``root`` has the image's own /etc/passwd and /etc/group. Raises UsageError for a user who is not there.
    """
    if spec.container is not None:
        yield NewEntry("run", stat.S_IFREG | 0o600, run_plan_of(spec, spec.container, root).encode())
        return
    yield NewEntry("cmd", START_MODE, "".join(f"{word}\n" for word in spec.command).encode())
    lines = (f"{name}={value}\n" for name, value in spec.environment)
    yield NewEntry("env", START_MODE, "".join(lines).encode())


def run_plan_of(spec: ImageSpec, run: ContainerRun, root: Path) -> RunPlan:
    """What the container profile's init starts. Raises UsageError."""
    with Folder(root) as folder:
        databases = [_database(folder, name) for name in ("etc/passwd", "etc/group")]
    try:
        user = resolve_user(run.user, *databases)
        given = (f"{name}={value}" for name, value in spec.environment)
        variables = environment_of(given, user, run.network)
        plan = RunPlan(spec.command, variables, user, run.folder, run.nsm, run.network)
        plan.encode()  # within init's limits
    except ContainerError as error:
        raise UsageError(
            error.what, where=f"{IMAGE_FILE} [run]", hint=error.hint, code="bad-image-toml"
        ) from None
    return plan


def _database(folder: Folder, name: str) -> bytes:
    try:
        return folder.read(name, MAX_DATABASE)
    except Rejected as error:
        if error.code == "absent":
            return b""
        raise UsageError(error.what, where=f"/{name} of the image", code="bad-image-toml") from None
