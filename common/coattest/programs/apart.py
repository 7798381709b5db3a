"""Refuses to judge a checkout, or to sign, with a coattest that comes out of what it is to judge.

After a pull, a coattest that is installed from the tree is its publisher's code, and runs with its user's
keys. So coattest, its interpreter and every folder that it imports from lie elsewhere, and so does what it
remembers: a record in the checkout would pass for this machine's own work, or for what it pinned.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from coattest.errors import EnvironmentFailure
from coattest.files import CONFIG_VARIABLE, STATE_VARIABLE, config_folder, real_path, state_folder
from coattest.findings import Finding

FLAG = "--this-checkout-is-mine"

MARKS = ("build/image.toml", "attestations/quorum.toml", "attestations/releases")
"""Files and folders by which a folder is known as a checkout, or as a clone of attestations."""

PARTS = ("build/image.toml", "quorum.toml", "releases")
"""What a checkout, or a folder of attestations, itself has one of."""

REPOSITORY = ".git"

Identity = tuple[int, int]
"""A folder's device and inode: links and bind mounts give it other names, not another identity."""


def require_apart(folders: Iterable[Path]) -> None:
    """Raise EnvironmentFailure (``not-apart``) when anything of this program lies in what it judges.

    Each of ``folders`` counts with the repository and the checkout that it is in; without any, the checkout
    around the current folder counts. There is a finding for each part of the program that lies inside. What
    the program remembers may not lie in one of ``folders``, nor in the repository that it is in.
    """
    named = tuple(folders)
    _require_own_records(named)
    judged = dict(_checkouts(named) if named else _marked(Path.cwd()))
    if not judged:
        return
    findings = []
    known: dict[Path, Identity | None] = {}
    for what, path in own_places():
        inside = next(
            (judged[mark] for each in _above(path) if (mark := _identity(each, known)) in judged), None
        )
        if inside is not None:
            findings.append(Finding("not-apart", str(path), f"{what} lies in {inside}"))
    if findings:
        raise EnvironmentFailure(
            f"{findings[0].detail}, which it is to judge",
            where=findings[0].where,
            hint=f"install coattest elsewhere, from a commit that you trust; {FLAG} if it is your own",
            code="not-apart",
            findings=findings,
        )


def _require_own_records(folders: Iterable[Path]) -> None:
    """Raise EnvironmentFailure (``not-apart``) when what this user's commands remember lies in a folder."""
    judged = dict(_brought(folders))
    known: dict[Path, Identity | None] = {}
    for what, variable in (
        ("the record of one's own work", STATE_VARIABLE),
        ("the record of what was pinned", CONFIG_VARIABLE),
    ):
        try:
            path = (state_folder("own-work") if variable == STATE_VARIABLE else config_folder()).absolute()
        except (EnvironmentFailure, RuntimeError):  # without a home there is none
            continue
        for each in _above(path) if judged else ():
            if (mark := _identity(each, known)) in judged:
                raise EnvironmentFailure(
                    f"{what} lies in {judged[mark]}, which is to be judged",
                    where=str(path),
                    hint=f"name a folder elsewhere with {variable}; {FLAG} if it is your own",
                    code="not-apart",
                )


def _brought(folders: Iterable[Path]) -> Iterator[tuple[Identity, Path]]:
    """The repository of each folder; a checkout or attestations without one is meant itself."""
    for folder in folders:
        for start in {folder.absolute(), real_path(folder)}:
            for above in (start, *start.parents):
                if os.path.lexists(above / REPOSITORY):
                    yield from _named(above)
                    break
            if any(os.path.lexists(start / part) for part in PARTS):
                yield from _named(start)


def own_places() -> Iterator[tuple[str, Path]]:
    """Where this program comes from: interpreter, script, what it imports from, what it has imported."""
    for name in ("executable", "prefix", "exec_prefix", "base_prefix", "base_exec_prefix"):
        if value := getattr(sys, name):
            yield "the interpreter", Path(value).absolute()
    if sys.argv and Path(sys.argv[0]).is_file():
        yield "the program", Path(sys.argv[0]).absolute()
    for entry in sys.path:
        # An entry that is not absolute, "" among them, is resolved in the current folder.
        yield "an entry of sys.path", Path(entry).absolute()
    folders = set()
    for module in tuple(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            folders.add(Path(file).absolute().parent)
    for folder in sorted(folders):
        yield "an imported module", folder


def _checkouts(folders: Iterable[Path]) -> Iterator[tuple[Identity, Path]]:
    for folder in folders:
        for start in {folder.absolute(), real_path(folder)}:
            yield from _named(start)
            for above in start.parents:
                if os.path.lexists(above / REPOSITORY):
                    yield from _named(above)
                    break
            yield from _marked(start)


def _marked(start: Path) -> Iterator[tuple[Identity, Path]]:
    for each in checkouts_around(start):
        yield from _named(each)


def checkouts_around(path: Path) -> Iterator[Path]:
    """Each folder at or above ``path`` that looks like a checkout or a clone of attestations."""
    for each in (path, *path.parents):
        if any(os.path.lexists(each / mark) for mark in MARKS):
            yield each


def _named(folder: Path) -> Iterator[tuple[Identity, Path]]:
    identity = _identity(folder, {})
    if identity is not None and folder != folder.parent:
        yield identity, folder


def _above(path: Path) -> Iterator[Path]:
    """The path and the folders that it lies in, by its name and by what its links lead to."""
    yield from (path, *path.parents)
    real = real_path(path)
    if real != path:
        yield from (real, *real.parents)


def _identity(path: Path, known: dict[Path, Identity | None]) -> Identity | None:
    if path not in known:
        try:
            status = path.stat()
            known[path] = (status.st_dev, status.st_ino)
        except OSError:
            known[path] = None
    return known[path]
