"""Compiles the image's Python modules with the image's own Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from coattest.errors import EnvironmentFailure, UsageError
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


def compile_modules(bytecode: Bytecode, root: Path) -> None:
    """Compile the modules of the bytecode directories, from inside ``root``.

    Raises EnvironmentFailure (``bytecode-failed``), and UsageError when a directory or the interpreter is
    missing.
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
        output, _ = process.communicate()
        if process.returncode:
            lines = output.decode(errors="replace").strip().splitlines()[-2:]
            raise EnvironmentFailure(
                f"exit code {process.returncode}: {' / '.join(lines)}",
                where="compileall",
                code=BYTECODE_FAILED,
            )
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
    """Remove the sources that their bytecode replaces."""
    for folder in bytecode.sourceless:
        for path in (root / folder).rglob("*.py"):
            path.unlink()
