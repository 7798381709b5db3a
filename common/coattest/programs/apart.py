"""Refuses to judge a checkout, or to sign, with a coattest that comes out of what it is to judge.

After a pull, a coattest that is installed from the tree is its publisher's code, and runs with its user's
keys. So coattest, its interpreter and every folder that it imports from lie elsewhere, and so does what it
remembers: a record in the checkout would pass for this machine's own work, or for what it pinned.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
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
    judged = _identified(_checkouts(named) if named else checkouts_around(Path.cwd()))
    if not judged:
        return
    around = _Around(judged)
    findings = [
        Finding("not-apart", str(path), f"{what} lies in {inside}")
        for what, path in own_places()
        if (inside := around.holding(path)) is not None
    ]
    if findings:
        remedy = f"install coattest elsewhere, from a commit that you trust; {FLAG} if it is your own"
        raise EnvironmentFailure(
            f"{findings[0].detail}, which it is to judge",
            where=findings[0].where,
            hint="; ".join([*_mistaken(named), remedy]),
            code="not-apart",
            findings=findings,
        )


def _mistaken(folders: Iterable[Path]) -> Iterator[str]:
    """What to say of each folder that is neither a checkout nor attestations: another one may be meant."""
    for folder in folders:
        if not any(os.path.lexists(folder / part) for part in (*MARKS, *PARTS)):
            where = folder.absolute()
            yield f"{where} has no {PARTS[0]} and is no folder of attestations: name the right one"


def _require_own_records(folders: Iterable[Path]) -> None:
    """Raise EnvironmentFailure (``not-apart``) when what this user's commands remember lies in a folder."""
    around = _Around(_identified(_brought(folders)))
    for what, variable in (
        ("the record of one's own work", STATE_VARIABLE),
        ("the record of what was pinned", CONFIG_VARIABLE),
    ):
        try:
            path = (state_folder("own-work") if variable == STATE_VARIABLE else config_folder()).absolute()
        except EnvironmentFailure:  # without a home there is none
            continue
        if (inside := around.holding(path)) is not None:
            raise EnvironmentFailure(
                f"{what} lies in {inside}, which is to be judged",
                where=str(path),
                hint=f"name a folder elsewhere with {variable}; {FLAG} if it is your own",
                code="not-apart",
            )


def _brought(folders: Iterable[Path]) -> Iterator[Path]:
    """The repository of each folder; a checkout or attestations without one is meant itself."""
    for folder in folders:
        for start in {folder.absolute(), real_path(folder)}:
            yield from _repository(start)
            if any(os.path.lexists(start / part) for part in PARTS):
                yield start


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
    files = [getattr(module, "__file__", None) for module in tuple(sys.modules.values())]
    for folder in sorted({os.path.dirname(file) for file in files if isinstance(file, str)}):  # noqa: PTH120
        yield "an imported module", Path(folder).absolute()


def _checkouts(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for start in {folder.absolute(), real_path(folder)}:
            yield start
            yield from _repository(start.parent)
            yield from checkouts_around(start)


def _repository(start: Path) -> Iterator[Path]:
    """The nearest repository at or above a folder, if there is one."""
    found = (each for each in (start, *start.parents) if os.path.lexists(each / REPOSITORY))
    return itertools.islice(found, 1)


def checkouts_around(path: Path) -> Iterator[Path]:
    """Each folder at or above ``path`` that looks like a checkout or a clone of attestations."""
    for each in (path, *path.parents):
        if any(os.path.lexists(each / mark) for mark in MARKS):
            yield each


def _identified(folders: Iterable[Path]) -> dict[Identity, Path]:
    """The folders that are there, but for the root of all, by their identity."""
    return {
        identity: folder
        for folder in folders
        if folder != folder.parent and (identity := _identity(folder)) is not None
    }


class _Around:
    """Which of the ``judged`` folders a path lies in. Each folder above the paths is looked at once."""

    def __init__(self, judged: Mapping[Identity, Path]) -> None:
        self._judged = judged
        self._known: dict[Path, Path | None] = {}
        self._real: dict[Path, Path] = {}

    def holding(self, path: Path) -> Path | None:
        """The nearest, by the path's name and by what its links lead to."""
        return self._nearest(path) or self._nearest(self._resolved(path)) if self._judged else None

    def _nearest(self, path: Path) -> Path | None:
        if path not in self._known:
            mark, above = _identity(path), path.parent
            found = self._judged.get(mark) if mark else None
            self._known[path] = found or (self._nearest(above) if above != path else None)
        return self._known[path]

    def _resolved(self, path: Path) -> Path:
        if path not in self._real:
            if path.parent == path or path.name == ".." or os.path.islink(path):  # noqa: PTH114 - never raises
                self._real[path] = real_path(path)
            else:
                self._real[path] = self._resolved(path.parent) / path.name
        return self._real[path]


def _identity(path: Path) -> Identity | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
