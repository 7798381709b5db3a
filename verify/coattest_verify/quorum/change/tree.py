"""Two commits of a repository, by their objects: no git program, no settings, hooks, filters or index.

A repository is anybody's: ``coattest_build.repository`` bounds what is read of it.
"""

from __future__ import annotations

import contextlib
import stat
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from coattest.errors import EnvironmentFailure, Rejected, UsageError
from coattest.files import Folder
from coattest.strictjson import MAX_SIZE
from coattest_build.repository import Repository, open_bare, open_repository

_FILE = 0o100644


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A mode and an object's id (hex)."""

    mode: int
    identifier: str

    @property
    def plain(self) -> bool:
        """Whether it is a file that nobody executes: no link, submodule or program."""
        return self.mode == _FILE


class CommitFiles:
    """The files below a folder of one commit; see Evidence. ``outside`` is everything else, by its path."""

    def __init__(self, repository: Repository, commit: str, folder: str) -> None:
        self._repository, self.commit = repository, commit
        inside = f"{folder}/"
        self.entries: dict[str, TreeEntry] = {}
        self.outside: dict[str, TreeEntry] = {}
        found = repository.entries(
            commit, lambda path: inside.startswith(f"{path}/") or path.startswith(inside)
        )
        for path, (mode, identifier) in found.items():
            entry = TreeEntry(mode, identifier)
            if path.startswith(inside):
                self.entries[path[len(inside) :]] = entry
            else:
                self.outside[path] = entry

    def names(self, folder: str = "") -> tuple[str, ...]:
        """Every name in the folder, sorted; see Evidence."""
        prefix = f"{folder}/" if folder else ""
        inside = (name[len(prefix) :] for name in self.entries if name.startswith(prefix))
        return tuple(sorted({name.partition("/")[0] for name in inside}))

    def size(self, name: str) -> int:
        """Bytes of a file; 0 of what is not one, or is not there."""
        entry = self.entries.get(name)
        return len(self._repository.blob(entry.identifier)) if entry and stat.S_ISREG(entry.mode) else 0

    def read(self, name: str, limit: int = MAX_SIZE) -> bytes:
        """A file's bytes; see Evidence."""
        entry = self.entries.get(name)
        if entry is None:
            raise Rejected("no such file", code="absent")
        if not stat.S_ISREG(entry.mode):
            raise Rejected("not a plain file", code="not-a-file")
        try:
            content = self._repository.blob(entry.identifier)
        except Rejected as error:  # the object's own file, not the blob
            raise EnvironmentFailure(
                f"{entry.identifier}: {error.what}", where=name, code="bad-repository"
            ) from None
        if len(content) > limit:
            raise Rejected(f"larger than {limit} bytes", code="too-large")
        return content


@dataclass(frozen=True, slots=True)
class TwoCommits:
    """The folder of attestations in two commits, of which the second descends from the first."""

    base: CommitFiles
    head: CommitFiles


@contextlib.contextmanager
def two_commits(repository: Path, base: str, head: str, folder: str) -> Iterator[TwoCommits]:
    """Open a checkout or a bare repository and the two commits that the names mean.

    Raises UsageError for a name that means no commit; EnvironmentFailure when ``base`` is no ancestor of
    ``head``, and (``bad-repository``) for a repository that cannot be read, inside the ``with`` too.
    """
    place = PurePosixPath(folder)
    if place.is_absolute() or ".." in place.parts or not place.parts:
        raise UsageError(f"folder {ascii(folder)[:80]}", hint="its path inside the repository")
    try:
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(Folder(repository))
            try:
                found = open_repository(opened) or open_bare(opened)
                if found is None:
                    raise UsageError("no git repository", where=str(repository))
                git = stack.enter_context(found)
                first, last = (_commit(git, name) for name in (base, head))
                behind = not git.descends(last, first)
                commits = TwoCommits(*(CommitFiles(git, each, str(place)) for each in (first, last)))
            except Rejected as error:
                raise EnvironmentFailure(error.what, where=error.where, code="bad-repository") from None
            if behind:
                raise EnvironmentFailure(
                    f"{ascii(head)[:80]} does not come after {ascii(base)[:80]}",
                    where=str(repository),
                    hint="merge or rebase first, so that the change is seen as it would be merged",
                    code="not-merged",
                )
            yield commits
    except (OSError, zlib.error) as error:
        raise EnvironmentFailure(
            f"the repository cannot be read: {error}", where=str(repository), code="bad-repository"
        ) from None
    except EnvironmentFailure as error:
        if error.code != "bad-repository":
            raise
        raise EnvironmentFailure(
            error.what,
            where=str(repository),
            hint="fetch the whole history: a shallow or partial clone lacks objects",
            code="bad-repository",
        ) from None


def _commit(git: Repository, name: str) -> str:
    found = git.commit(name)
    if found is None:
        raise UsageError(
            f"no commit has the name {ascii(name)[:80]}", hint="a commit's id, HEAD, a branch or a tag"
        )
    return found


def changed(before: Mapping[str, TreeEntry], after: Mapping[str, TreeEntry]) -> tuple[str, ...]:
    """The names that are not the same in both, sorted."""
    return tuple(name for name in sorted({*before, *after}) if before.get(name) != after.get(name))
