"""Composes the application's root file system and the two ramdisks."""

from __future__ import annotations

import fnmatch
import os
import posixpath
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from coattest.errors import UsageError
from coattest.progress import Reporter
from coattest_build.formats.cpio import NewEntry
from coattest_build.formats.tar import DIRECTORY
from coattest_build.image import IMAGE_FILE, ImageSpec
from coattest_build.inputs import unpack, wheels
from coattest_build.inputs.lock import Lock
from coattest_build.rootfs.needs import check_needs
from coattest_build.rootfs.start import (
    FOR_ALL,
    MOUNTED,
    MOUNTED_OVER,
    add_surroundings,
    is_program,
    program_of,
    run_plan_of,
    start_entries,
)

DIRECTORY_MODE = stat.S_IFDIR | 0o755
FOR_ALL_MODE = stat.S_IFDIR | 0o1777
FILE_MODE = stat.S_IFREG | 0o644
EXECUTABLE_MODE = stat.S_IFREG | 0o755
SYMLINK_MODE = stat.S_IFLNK | 0o777


def prune_pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern that matches every path that a glob of image.toml names, and everything below it."""
    translated = "|".join(f"(?:{fnmatch.translate(glob)})" for glob in globs) or r"(?!)"
    below = "|".join(fnmatch.translate(f"{glob}/*") for glob in globs) or r"(?!)"
    return re.compile(f"{translated}|{below}")


def compose(
    spec: ImageSpec,
    lock: Lock,
    *,
    source: Path,
    packages: Mapping[str, Path],
    wheel_files: Mapping[str, Path],
    root: Path,
    reporter: Reporter,
) -> None:
    """Fill the new directory ``root`` with everything that the profiles share, but for compiled modules.

    ``source`` is a snapshot; ``packages`` and ``wheel_files`` are checked files by name.
    Raises FoundFalse for a package or wheel that is damaged or hostile, and UsageError.
    """
    tree = unpack.Tree(root)
    pruned = prune_pattern(spec.prune)
    with reporter.step("Composing the root file system"):
        debs = [(packages[p.name], p.label) for p in lock.used_for("runtime")]

        def wanted(path: str) -> bool:
            return not pruned.match(path)

        unpack.unpack_all(tree, debs, wanted)
        packaged = set(tree.kinds)
        for directory in spec.directories:
            tree.make_directory(directory)
        if spec.wheels:
            for wheel in lock.wheels:
                file, target = wheel_files[wheel.name], spec.wheels.target
                wheels.unpack_wheel(file, tree, target, label=wheel.file, wanted=wanted)
        before = set(tree.kinds)
        for target, origin in spec.files:
            add_sources(tree, source, origin, target)
        if spec.container is not None:
            add_surroundings(spec.container, tree)
        check_startable(spec, tree)
        lacking = check_needs(spec, tree, own=set(tree.kinds) - before, wheels=before - packaged)
        tree.make_directory(posixpath.dirname(spec.profile_target))
    for finding in lacking[:1]:
        more = f" ({len(lacking)} such things)" if len(lacking) > 1 else ""
        reporter.note(f"a package's {finding.where} {finding.detail}{more}")


def add_sources(tree: unpack.Tree, source: Path, origin: str, target: str) -> None:
    """Copy a file or folder of the snapshot, which has regular files and links; executable files stay so.

    Raises UsageError when there is no ``origin`` or a link leads out of it, FoundFalse when something is at
    ``target``.
    """
    top = source / origin
    if not top.exists():
        raise UsageError(f"no {origin} in the source tree", where=f"{IMAGE_FILE} [files]")
    for path in [top] if top.is_file() else sorted(top.rglob("*")):
        inside = path.relative_to(top).as_posix()
        if path.is_symlink() and path != top:
            leads = path.readlink()
            out = leads.parts.count("..") > inside.count("/")  # also where it comes back by the folder's name
            if out or not path.resolve().is_relative_to(top.resolve()):
                raise UsageError(f"leads out of {origin}", where=f"{origin}/{inside}", code="bad-source")
            tree.add_symlink(f"{target}/{inside}", str(leads))
        elif path.is_file():
            executable = bool(path.stat().st_mode & 0o100)
            tree.add_file(
                target if path == top else f"{target}/{inside}", [path.read_bytes()], executable=executable
            )


def check_startable(spec: ImageSpec, tree: unpack.Tree) -> None:
    """Check that init will find its directories, the program and its user, and the profile's file its place.

    Raises UsageError: in the enclave each of these would show only as an early end.
    """
    for name in MOUNTED_OVER if spec.container else MOUNTED:
        if tree.kinds.get(name) != DIRECTORY:
            raise UsageError(
                f"there is no directory {name} in the root file system, and init mounts there",
                where=f"{IMAGE_FILE} [runtime] directories",
            )
    program = program_of(spec, tree)
    if tree.file(program) is None:
        raise UsageError(
            f"{program} is not a file of the root file system",
            where=f"{IMAGE_FILE} [run] command",
            hint="bring it with a package of [runtime], a wheel or [files], and check that prune keeps it",
        )
    if not is_program(tree, program):
        raise UsageError(
            f"{program} is not executable",
            where=f"{IMAGE_FILE} [run] command",
            hint="set the file's executable bit in the source tree",
        )
    if spec.container is not None:
        run_plan_of(spec, spec.container, tree.root)
    if spec.profile_target in tree.kinds:
        raise UsageError(
            f"{spec.profile_target} is already in the root file system",
            where=f"{IMAGE_FILE} [profiles] target",
        )


def root_entries(root: Path, prefix: str, for_all: Collection[str] = frozenset()) -> Iterator[NewEntry]:
    """Every entry below ``root`` for a ramdisk, below ``prefix``, with normalised modes.

    Everybody may make files in the folders ``for_all``, and remove their own. The image's Python may have
    written to this tree, so links are not followed. Raises UsageError for anything but files, directories and
    symlinks, and FoundFalse for a symlink out of the tree.
    """
    yield NewEntry(prefix, DIRECTORY_MODE, None)
    for folder, folders, names in os.walk(root):
        base = Path(folder)
        for name in sorted((*folders, *names)):
            path = base / name
            inside = path.relative_to(root).as_posix()
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                mode = FOR_ALL_MODE if inside in for_all else DIRECTORY_MODE
                yield NewEntry(f"{prefix}/{inside}", mode, None)
            elif stat.S_ISLNK(status.st_mode):
                target = str(path.readlink())
                unpack.check_symlink(inside, target)
                yield NewEntry(f"{prefix}/{inside}", SYMLINK_MODE, os.fsencode(target))
            elif stat.S_ISREG(status.st_mode):
                mode = EXECUTABLE_MODE if status.st_mode & 0o100 else FILE_MODE
                yield NewEntry(f"{prefix}/{inside}", mode, path)
            else:
                raise UsageError("neither a file, a directory nor a symlink", where=inside)


def boot_entries(init: Path) -> tuple[NewEntry, ...]:
    """The boot ramdisk: ``init`` and an empty ``dev``, like nitro-cli's (our kernel has the NSM driver)."""
    return (NewEntry("dev", DIRECTORY_MODE, None), NewEntry("init", EXECUTABLE_MODE, init))


def application_entries(spec: ImageSpec, root: Path, profile: bytes) -> Iterator[NewEntry]:
    """The application ramdisk: ``rootfs`` with the profile's file, and what init starts (``start``)."""
    yield from root_entries(root, "rootfs", FOR_ALL if spec.container else frozenset())
    yield NewEntry(f"rootfs/{spec.profile_target}", FILE_MODE, profile)
    yield from start_entries(spec, root)
