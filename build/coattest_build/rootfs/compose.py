"""Composes the application's root file system and the two ramdisks."""

from __future__ import annotations

import fnmatch
import os
import posixpath
import re
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from coattest.errors import EnvironmentFailure, UsageError
from coattest.progress import Reporter
from coattest_build import sandbox
from coattest_build.formats.cpio import Entry
from coattest_build.formats.tar import DIRECTORY, REGULAR
from coattest_build.image import IMAGE_FILE, Bytecode, ImageSpec
from coattest_build.inputs import unpack, wheels
from coattest_build.inputs.lock import Lock
from coattest_build.sandbox.isolate import Bind

DIRECTORY_MODE = stat.S_IFDIR | 0o755
FILE_MODE = stat.S_IFREG | 0o644
EXECUTABLE_MODE = stat.S_IFREG | 0o755
SYMLINK_MODE = stat.S_IFLNK | 0o777
# Where build/init/init.c mounts what the kernel gives; a directory that is not there ends the enclave.
MOUNTED = ("dev", "proc", "run", "sys", "tmp")
# unchecked-hash: neither times nor source decide, so the bytes depend on the source alone (PEP 552).
# -B: the compiling interpreter must not leave timestamped .pyc files of its own imports.
COMPILE = ("-I", "-B", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash")
COMPILE_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin", "TZ": "UTC0"}


class BytecodeFailed(EnvironmentFailure):
    """The image's interpreter could not compile the image's modules."""

    default_code = "bytecode-failed"


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
        if spec.wheels:
            for wheel in lock.wheels:
                wheels.unpack(wheel_files[wheel.name], tree, spec.wheels.target, label=wheel.file, keep=keep)
        for target, origin in spec.files:
            add_sources(tree, source, origin, target)
        check_startable(spec, tree)
        tree.make_directory(posixpath.dirname(spec.profile_target))


def add_sources(tree: unpack.Tree, source: Path, origin: str, target: str) -> None:
    """Copy a file or a folder of the snapshot, which holds regular files only; programs stay executable."""
    top = source / origin
    if not top.exists():
        raise UsageError(f"no {origin} in the source tree", where=f"{IMAGE_FILE} [files]")
    for path in [top] if top.is_file() else sorted(top.rglob("*")):
        if path.is_file():
            inside = path.relative_to(top).as_posix()
            executable = bool(path.stat().st_mode & 0o100)
            tree.add_file(
                target if path == top else f"{target}/{inside}", [path.read_bytes()], executable=executable
            )


def check_startable(spec: ImageSpec, tree: unpack.Tree) -> None:
    """Raise UsageError for what would end the enclave before its program runs, or hide a profile's file."""
    for name in MOUNTED:
        if tree.kinds.get(name) != DIRECTORY:
            raise UsageError(
                f"there is no directory {name} in the root file system, and init mounts there",
                where=f"{IMAGE_FILE} [runtime] directories",
            )
    program = spec.command[0]
    found = tree.resolve(program)
    if found is None or tree.kinds[found] != REGULAR:
        raise UsageError(
            f"{program} is not a file of the root file system",
            where=f"{IMAGE_FILE} [run] command",
            hint="a package of [runtime], a wheel or [files] has to bring it, and prune must not take it",
        )
    if not (tree.root / found).stat().st_mode & 0o100:
        raise UsageError(
            f"{program} is not executable",
            where=f"{IMAGE_FILE} [run] command",
            hint="set the file's executable bit in the source tree",
        )
    if spec.profile_target in tree.kinds:
        raise UsageError("is in the root file system already", where=f"{IMAGE_FILE} {spec.profile_target}")


def compile_modules(bytecode: Bytecode, root: Path) -> None:
    """Compile the modules of the bytecode directories, from inside ``root``.

    Raises BytecodeFailed, and UsageError for a directory or an interpreter that is not there.
    """
    for name in (bytecode.interpreter, *bytecode.directories, *bytecode.sourceless):
        if not os.path.lexists(root / name):
            raise UsageError(f"there is no {name} in the root file system", where=f"{IMAGE_FILE} [bytecode]")
    for folders, command in compile_commands(bytecode):
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
    drop_sources(bytecode, root)


def compile_commands(bytecode: Bytecode) -> tuple[tuple[tuple[str, ...], list[str]], ...]:
    """The commands to run inside the root, each with the folders that it writes to."""
    kinds = ((bytecode.directories, ()), (bytecode.sourceless, ("-b",)))
    return tuple(
        (folders, [f"/{bytecode.interpreter}", *COMPILE, *options, *(f"/{name}" for name in folders)])
        for folders, options in kinds
        if folders  # compileall without a folder would compile the interpreter's own modules
    )


def drop_sources(bytecode: Bytecode, root: Path) -> None:
    """Remove the sources whose bytecode takes their place."""
    for folder in bytecode.sourceless:
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
