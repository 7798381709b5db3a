"""Whether the programs of a root file system find what they need: loader, libraries, interpreter.

In the enclave each thing that is missing would show only as an early end, or when a module is first imported.
Sources: ld.so(8), "DESCRIPTION" and "Rpath token expansion"; execve(2), "Interpreter scripts".
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from coattest.errors import UsageError
from coattest.findings import Finding
from coattest_build.containers.own.plan import DEFAULT_PATH
from coattest_build.formats.elf import Linking, linking
from coattest_build.formats.tar import REGULAR
from coattest_build.image import IMAGE_FILE, ImageSpec
from coattest_build.inputs.unpack import Tree
from coattest_build.rootfs.start import program_of

LOADER_FOLDERS = ("lib/{triplet}", "usr/lib/{triplet}", "lib", "usr/lib", "lib64", "usr/lib64")
"""Where Debian's loader looks by itself; there is no cache of it in an image."""

MAX_SCRIPT_LINE = 256
"""Bytes of a script's first line that Linux reads (execve(2), since Linux 5.1)."""


def check_needs(
    spec: ImageSpec, tree: Tree, *, own: Collection[str], wheels: Collection[str]
) -> tuple[Finding, ...]:
    """Raise UsageError (``missing-needs``) where something lacks what it needs to start or be loaded.

    That are the command with all that takes part when it starts, ``own`` files (those of ``[files]``), and
    programs and libraries of ``wheels``. Returns the findings for programs and libraries of packages, most of
    which never run in an enclave. Scripts of wheels and packages are looked at only where the command starts
    with them: many modules have a first line for a development machine.
    """
    checker = _Checker(spec, tree)
    whole = {*checker.closure(program_of(spec, tree)), *own}
    fatal: list[Finding] = []
    rest: list[Finding] = []
    for name in sorted(name for name, kind in tree.kinds.items() if kind == REGULAR):
        if name in whole:
            fatal += checker.lacks(name)
        elif checker.is_program(name):
            (fatal if name in wheels else rest).extend(checker.lacks(name))
    if fatal:
        more = f", and {len(fatal) - 1} more things are missing" if len(fatal) > 1 else ""
        raise UsageError(
            f"{fatal[0].where} {fatal[0].detail}{more}",
            where=f"{IMAGE_FILE} [runtime]",
            hint=_hint(fatal[0]),
            code="missing-needs",
            findings=fatal,
        )
    return tuple(rest)


def _hint(finding: Finding) -> str:
    # Debian Policy, 8.1: a package of a shared library has its soname's name and version.
    library = re.fullmatch(r"(lib[a-z0-9+.-]+?)\.so\.([0-9.]+)", str(finding.expected).lower())
    if library is None:
        return "bring it with a package, a wheel or [files], and check that prune keeps it"
    stem, version = library.groups()
    name = f"{stem}-{version}" if stem[-1].isdigit() else f"{stem}{version}"
    return f"Debian's package of it is mostly named {name} or {name}t64; check that prune keeps it"


class _Checker:
    def __init__(self, spec: ImageSpec, tree: Tree) -> None:
        self._tree = tree
        environment: Mapping[str, str] = dict(spec.environment)
        self._path = [each for each in environment.get("PATH", DEFAULT_PATH).split(":") if each]
        self._preset = [each for each in environment.get("LD_LIBRARY_PATH", "").split(":") if each]
        triplet = f"{spec.architecture}-linux-gnu"
        self._folders = [folder.format(triplet=triplet) for folder in LOADER_FOLDERS]
        self._linking = functools.cache(self._read_linking)

    def closure(self, program: str) -> set[str]:
        """The files that take part when a program starts: itself, interpreters, loader, libraries."""
        seen: set[str] = set()
        pending = [self._tree.resolve(program)]
        while pending:
            name = pending.pop()
            if name is None or name in seen:
                continue
            seen.add(name)
            pending += [found for _, found in self._needs(name)]
        return seen

    def is_program(self, name: str) -> bool:
        """Whether a file is a program or a library of this kind of machine."""
        return self._linking(name) is not None

    def lacks(self, name: str) -> Iterator[Finding]:
        """What a file needs and the tree does not have."""
        for needed, found in self._needs(name):
            if found is None:
                yield Finding("missing-needs", name, f"needs {needed}, which is not in the image", needed)

    def _needs(self, name: str) -> Iterator[tuple[str, str | None]]:
        """What a file needs, each with the file of the tree that it finds."""
        linked = self._linking(name)
        if linked is None:
            yield from self._interpreters(name)
            return
        if linked.interpreter is not None:
            yield linked.interpreter, self._tree.file(linked.interpreter)
        origin = posixpath.dirname(name)
        own = [re.sub(r"\$ORIGIN|\$\{ORIGIN\}", f"/{origin}", each) for each in linked.search]
        for library in linked.needed:
            places = (
                [library]
                if "/" in library
                else [f"{folder}/{library}" for folder in (*own, *self._preset, *self._folders)]
            )
            yield library, next(filter(None, map(self._tree.file, places)), None)

    def _interpreters(self, name: str) -> Iterator[tuple[str, str | None]]:
        path = self._tree.root / name
        if not path.stat().st_mode & 0o100:
            return
        line = _read_at(path, 0, MAX_SCRIPT_LINE).partition(b"\n")[0]
        words = line[2:].decode(errors="replace").split()
        if not line.startswith(b"#!") or not words:
            return
        yield words[0], self._tree.file(words[0])
        asked = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        if posixpath.basename(words[0]) == "env" and asked:
            places = [f"{folder}/{asked[0]}" for folder in self._path]
            yield asked[0], next(filter(None, map(self._tree.file, places)), None)

    def _read_linking(self, name: str) -> Linking | None:
        return linking(functools.partial(_read_at, self._tree.root / name))


def _read_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), size, offset)
