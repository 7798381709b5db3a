"""Compiles the image's Python modules with the image's own Python."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from coattest.errors import EnvironmentFailure, Rejected, UsageError
from coattest.files import Folder
from coattest_build import sandbox
from coattest_build.image import IMAGE_FILE, Bytecode
from coattest_build.sandbox.isolate import Bind

COMPILE = ("-I", "-B", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash")
"""The interpreter's options. unchecked-hash: the bytes depend on the source alone (PEP 552). -B: the
interpreter does not write timestamped .pyc files of its own imports."""
COMPILE_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin", "TZ": "UTC0"}
"""All of the interpreter's environment."""
BYTECODE_FAILED = "bytecode-failed"
"""The code of every failure to get the modules."""
MODULE = re.compile(r"[A-Za-z0-9_.-]+\.pyc")


LIMITS = sandbox.Limits(
    seconds=600, memory=2 << 30, processes=64, disk=2 << 30, output=1 << 20, file=256 << 20
)
"""Of one run of the image's Python; its standard library takes ten seconds."""
MAX_MODULE = 16 * 1024 * 1024
"""Bytes of a compiled module."""
MAX_MODULES = 100_000


def compile_modules(bytecode: Bytecode, root: Path, scratch: Path) -> None:
    """Compile the modules of the bytecode directories, from inside ``root``.

    The image's Python writes to copies in ``scratch`` only, and of what it leaves there only modules are
    taken: nothing in ``root`` was ever writable for it. Raises EnvironmentFailure (``bytecode-failed``,
    ``sandbox-limit``), and UsageError when a directory or the interpreter is missing.
    """
    with Folder(root) as tree:
        if not os.path.lexists(root / bytecode.interpreter):
            raise _missing(bytecode.interpreter)
        check_folders(bytecode, tree)
        for number, (folders, command) in enumerate(compile_commands(bytecode)):
            compiled = scratch / f"bytecode-{number}"
            for folder in folders:
                _copy(tree, folder, compiled / folder)
            code, said = sandbox.run_limited(
                root,
                command,
                limits=LIMITS,
                env=COMPILE_ENVIRONMENT,
                # Folders inside others last: a bind over a bind.
                binds=[Bind(compiled / name, f"/{name}", writable=True) for name in sorted(folders)],
                proc=False,
            )
            if code:
                raise _failed(f"exit code {code}: {' / '.join(said.strip().splitlines()[-2:])}")
            take_modules(folders, compiled, tree)
            sandbox.remove_tree(compiled)
        drop_sources(bytecode, tree)


def check_folders(bytecode: Bytecode, tree: Folder) -> None:
    """Raise UsageError unless every bytecode directory is one of ``tree``, without a link on the way."""
    for folder in (*bytecode.directories, *bytecode.sourceless):
        found = tree.status(folder)
        if found is None or not stat.S_ISDIR(found.st_mode):
            raise _missing(folder)


def _copy(tree: Folder, folder: str, target: Path) -> None:
    """Copy a folder of the root, for the image's Python to write to; links stay links."""
    target.mkdir(parents=True, exist_ok=True)
    target.chmod(0o755)
    for name, status in tree.walk(folder, most=MAX_MODULES):
        copy = target / name[len(folder) + 1 :]
        if stat.S_ISDIR(status.st_mode):
            copy.mkdir(exist_ok=True)
            copy.chmod(0o755)
        elif stat.S_ISLNK(status.st_mode):
            copy.unlink(missing_ok=True)
            copy.symlink_to((tree.path / name).readlink())
        else:
            with tree.opened(name) as source, copy.open("wb") as file:
                shutil.copyfileobj(source, file)
            copy.chmod(status.st_mode & 0o777)


def take_modules(folders: Sequence[str], compiled: Path, root: Folder) -> None:
    """Copy from ``compiled``, which hostile code wrote, the modules of sources in ``folders`` of ``root``.

    Whatever else it left is not looked at. Raises EnvironmentFailure (``bytecode-failed``) for a module that
    is not a file of a plausible size, and when there is no module.
    """
    count = 0
    try:
        with Folder(compiled, total=LIMITS.disk) as left:
            for folder in folders:
                for name, _ in left.walk(folder, most=MAX_MODULES):
                    if MODULE.fullmatch(name.rpartition("/")[2]) and root.status(_source_of(name)):
                        root.write(name, left.read_status(name, MAX_MODULE)[0])
                        count += 1
    except Rejected as error:
        raise _failed(f"the compiled modules cannot be read: {error.what}") from None
    if not count:
        raise _failed("it compiled no module")


def _source_of(module: str) -> str:
    """The source that a module was made from (PEP 3147; ``-b`` writes it beside the source)."""
    folder, _, name = module.rpartition("/")
    if folder.rpartition("/")[2] == "__pycache__":
        return f"{folder.rpartition('/')[0]}/{name[: -len('.pyc')].rpartition('.')[0]}.py"
    return module[:-1]


def _missing(name: str) -> UsageError:
    return UsageError(
        f"there is no {name} in the root file system",
        where=f"{IMAGE_FILE} [bytecode]",
        hint="a path through a link does not count",
    )


def _failed(what: str) -> EnvironmentFailure:
    return EnvironmentFailure(what, where="compileall", code=BYTECODE_FAILED)


def compile_commands(bytecode: Bytecode) -> tuple[tuple[tuple[str, ...], list[str]], ...]:
    """The commands to run inside the root, each with the folders that it writes to."""
    kinds = ((bytecode.directories, ()), (bytecode.sourceless, ("-b",)))
    return tuple(
        (folders, [f"/{bytecode.interpreter}", *COMPILE, *options, *(f"/{name}" for name in folders)])
        for folders, options in kinds
        if folders  # compileall without a folder would compile the interpreter's own modules
    )


def drop_sources(bytecode: Bytecode, root: Folder) -> None:
    """Remove the sources that their bytecode replaces."""
    for folder in bytecode.sourceless:
        for name, status in tuple(root.walk(folder, most=MAX_MODULES)):
            if name.endswith(".py") and not stat.S_ISDIR(status.st_mode):
                root.remove(name)
