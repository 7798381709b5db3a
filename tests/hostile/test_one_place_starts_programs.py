"""Processes are started in one place; whoever starts one elsewhere stands in a list, with the reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from support.source_tree import modules

STARTERS = {
    "subprocess": {
        *("Popen", "call", "check_call", "check_output", "getoutput", "getstatusoutput", "run"),
    },
    "os": {
        *("execl", "execle", "execlp", "execlpe", "execv", "execve", "execvp", "execvpe", "fork", "forkpty"),
        *("popen", "posix_spawn", "posix_spawnp", "spawnl", "spawnle", "spawnlp", "spawnlpe", "spawnv"),
        *("spawnve", "spawnvp", "spawnvpe", "startfile", "system"),
    },
    "pty": {"fork", "spawn"},
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
    "webbrowser": {"open", "open_new", "open_new_tab"},
}
"""What starts a process, by its module."""

NEVER = {"commands", "concurrent.futures.process", "multiprocessing", "pexpect", "popen2", "sh"}
"""Modules that only start processes."""

ALLOWED = {
    "coattest.programs.start": "the one place",
    "coattest.programs.limit": "becomes the program that start named, after it has set its limits",
    "coattest_build.sandbox.entry": "makes the sandbox: it forks and executes inside the new namespaces",
    "coattest_local.qemu.keeper": "runs QEMU as a child, to end it when its parent ends; start starts it",
}
"""Each module that may start a process, and why."""


def starts(tree: ast.Module) -> Iterator[str]:
    """What in a module starts a process: attributes, imported names, and modules for nothing else."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in STARTERS.get(module, ()):
                yield f"{module}.{name}"
            case ast.ImportFrom(module=str(module), names=names):
                yield from (
                    f"{module}.{each.name}" for each in names if each.name in STARTERS.get(module, ())
                )
                yield from [module] if module in NEVER else []
                yield from (f"{module}.{each.name}" for each in names if f"{module}.{each.name}" in NEVER)
            case ast.Import(names=names):
                yield from (each.name for each in names if each.name in NEVER)
                # Under another name its uses would not be seen above.
                yield from (each.name for each in names if each.asname and each.name in STARTERS)


def marked(source: str) -> ast.Module:
    """The module without annotations: ``subprocess.Popen[bytes]`` names a type there."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                node.returns = None
            case ast.arg():
                node.annotation = None
            case ast.AnnAssign():
                node.annotation = ast.Name("object", ast.Load())
    return tree


def test_only_the_listed_modules_start_a_process() -> None:
    """Over all six packages, at any depth."""
    found = {name: sorted(set(starts(marked(path.read_text())))) for name, path in modules().items()}
    assert {name: what for name, what in found.items() if what and name not in ALLOWED} == {}


def test_each_exception_is_needed() -> None:
    """A module that no longer starts anything leaves the list."""
    sources = modules()
    assert [name for name in ALLOWED if not list(starts(marked(sources[name].read_text())))] == []


def test_the_search_notices_each_way() -> None:
    """Calls, references, imports and other names; not a type in an annotation."""
    hidden = {
        "import subprocess\nsubprocess.run([])": ["subprocess.run"],
        "import subprocess\nx = subprocess.Popen": ["subprocess.Popen"],
        "from subprocess import run": ["subprocess.run"],
        "import os\ndef f():\n    os.system('x')": ["os.system"],
        "import subprocess as s": ["subprocess"],
        "import multiprocessing": ["multiprocessing"],
        "from concurrent.futures.process import X": ["concurrent.futures.process"],
        "import subprocess\ndef f(p: subprocess.Popen[bytes]) -> None: ...": [],
        "import subprocess\nx = subprocess.PIPE": [],
    }
    assert {source: list(starts(marked(source))) for source in hidden} == hidden
