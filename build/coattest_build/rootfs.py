"""Composes the application's root file system and the two ramdisks."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from coattest_build import sandbox, unpack, wheels
from coattest_build.cpio import Entry
from coattest_build.errors import EnvironmentFailure, UsageError
from coattest_build.image import ImageSpec
from coattest_build.lock import Lock
from coattest_build.progress import Reporter
from coattest_build.sandbox import Bind
from coattest_build.tar import REGULAR

DIRECTORY_MODE = stat.S_IFDIR | 0o755
FILE_MODE = stat.S_IFREG | 0o644
EXECUTABLE_MODE = stat.S_IFREG | 0o755
SYMLINK_MODE = stat.S_IFLNK | 0o777
# unchecked-hash: neither times nor source decide, so the bytes depend on the source alone (PEP 552).
# -B: the compiling interpreter must not leave timestamped .pyc files of its own imports.
COMPILE = ("-I", "-B", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash")
COMPILE_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin", "TZ": "UTC0"}


class BytecodeFailed(EnvironmentFailure):
    """The image's interpreter could not compile the image's modules."""

    default_reason = "bytecode-failed"


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
    """Fill the fresh directory ``root`` with everything that the profiles share, before `compile_modules`.

    ``source`` is a snapshot; ``packages`` and ``wheel_files`` are checked files by name.
    Raises BadArchive, HostileWheel, UsageError.
    """
    tree = unpack.Tree(root)
    pruned = prune_pattern(spec.prune)
    with reporter.step("Composing the root file system"):
        debs = [(packages[p.name], p.label) for p in lock.used_for("runtime")]

        def keep(path: str) -> bool:
            return not pruned.match(path)

        unpack.unpack_all(tree, debs, keep)
        for directory in spec.directories:
            tree.make_directory(directory)
        for wheel in lock.wheels:
            wheels.unpack(wheel_files[wheel.name], tree, spec.wheels_target, label=wheel.file, keep=keep)
        for target, origin in spec.files:
            _add_sources(tree, source, origin, target)


def _add_sources(tree: unpack.Tree, source: Path, origin: str, target: str) -> None:
    """Copy a file or a folder of the snapshot, which holds regular files only."""
    top = source / origin
    if top.is_file():
        tree.add_file(target, [top.read_bytes()])
        return
    if not top.is_dir():
        raise UsageError(f"no {origin} in the source tree", where="build/image.toml")
    for path in sorted(top.rglob("*")):
        if path.is_file():
            tree.add_file(f"{target}/{path.relative_to(top).as_posix()}", [path.read_bytes()])


def compile_modules(spec: ImageSpec, root: Path) -> None:
    """Compile the modules of the bytecode directories, from inside ``root``."""
    for folders, command in compile_commands(spec):
        process = sandbox.spawn(
            root,
            command,
            env=COMPILE_ENVIRONMENT,
            binds=[Bind(root / folder, f"/{folder}", writable=True) for folder in folders],
            proc=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = process.communicate()
        if process.returncode:
            telling = said.decode(errors="replace").strip().splitlines()[-2:]
            raise BytecodeFailed(f"exit code {process.returncode}: {' / '.join(telling)}", where="compileall")
    drop_sources(spec, root)


def compile_commands(spec: ImageSpec) -> tuple[tuple[tuple[str, ...], list[str]], ...]:
    """The commands to run inside the root, each with the folders that it writes to."""
    kinds = ((spec.bytecode.directories, ()), (spec.bytecode.sourceless, ("-b",)))
    return tuple(
        (folders, [f"/{spec.bytecode.interpreter}", *COMPILE, *options, *(f"/{name}" for name in folders)])
        for folders, options in kinds
    )


def drop_sources(spec: ImageSpec, root: Path) -> None:
    """Remove the sources whose bytecode takes their place."""
    for folder in spec.bytecode.sourceless:
        for path in (root / folder).rglob("*.py"):
            path.unlink()


def root_entries(root: Path, prefix: str) -> Iterator[Entry]:
    """Every entry below ``root`` for a ramdisk, below ``prefix``, with normalised modes.

    Python ran in this tree, so what it left is looked at without following links. Raises UsageError for
    anything but files, directories and symlinks that stay inside.
    """
    yield Entry(prefix, DIRECTORY_MODE, None)
    for folder, folders, names in os.walk(root):
        base = Path(folder)
        for name in sorted((*folders, *names)):
            path = base / name
            inside = path.relative_to(root).as_posix()
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                yield Entry(f"{prefix}/{inside}", DIRECTORY_MODE, None)
            elif stat.S_ISLNK(status.st_mode):
                target = str(path.readlink())
                unpack.check_symlink(inside, target)
                yield Entry(f"{prefix}/{inside}", SYMLINK_MODE, os.fsencode(target))
            elif stat.S_ISREG(status.st_mode):
                mode = EXECUTABLE_MODE if status.st_mode & 0o100 else FILE_MODE
                yield Entry(f"{prefix}/{inside}", mode, path)
            else:
                raise UsageError("neither a file, a directory nor a symlink", where=inside)


def boot_entries(init: Path) -> tuple[Entry, ...]:
    """The boot ramdisk: ``init`` and an empty ``dev``, as nitro-cli's (the NSM driver is in the kernel)."""
    return (Entry("dev", DIRECTORY_MODE, None), Entry("init", EXECUTABLE_MODE, init))


def application_entries(spec: ImageSpec, root: Path, profile: bytes) -> Iterator[Entry]:
    """The application ramdisk: ``rootfs`` with the profile's file, and ``cmd`` and ``env``, a line each."""
    yield from root_entries(root, "rootfs")
    yield Entry(f"rootfs/{spec.profile_target}", FILE_MODE, profile)
    yield Entry("cmd", FILE_MODE, "".join(f"{word}\n" for word in spec.command).encode())
    lines = (f"{name}={value}\n" for name, value in spec.environment)
    yield Entry("env", FILE_MODE, "".join(lines).encode())


def check_profile_place(spec: ImageSpec, tree: Mapping[str, str]) -> None:
    """Raise UsageError when the profile's file would replace another."""
    if tree.get(spec.profile_target) == REGULAR:
        raise UsageError("is in the root file system already", where=spec.profile_target)
