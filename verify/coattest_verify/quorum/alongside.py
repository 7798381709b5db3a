"""Files from outside the folder: a dissent by mail, which a host may have hidden."""

from __future__ import annotations

from pathlib import Path

from coattest.errors import UsageError
from coattest.files import Evidence, Held, given_file, read_bounded
from coattest.strictjson import MAX_SIZE
from coattest_verify.quorum.releases import RELEASES, release_files
from coattest_verify.quorum.statements.signed import STATEMENT_NAME
from coattest_verify.quorum.statements.votes import VOTE_NAME


class Alongside:
    """Evidence with more files, under names that stand in no other file's place; see Evidence."""

    def __init__(self, evidence: Evidence, files: dict[str, bytes]) -> None:
        """``files`` are by their whole name from the folder of attestations."""
        self._evidence, self._more, self._added = evidence, Held(files), frozenset(files)

    def names(self, folder: str = "") -> tuple[str, ...]:
        """Every name in the folder, sorted."""
        return tuple(sorted({*self._evidence.names(folder), *self._more.names(folder)}))

    def read(self, name: str, limit: int = MAX_SIZE) -> bytes:
        """A file's bytes."""
        return (self._more if name in self._added else self._evidence).read(name, limit)


def with_files(evidence: Evidence, paths: tuple[Path, ...], release: str | None) -> Evidence:
    """The evidence with statements and votes of the release from elsewhere, by their files' own names.

    Whether they are authentic is found out like for any other file. Raises UsageError for a file that has no
    such name or cannot be read.
    """
    if not paths:
        return evidence
    folder = f"{RELEASES}/{release_files(evidence, release).release}"
    found: dict[str, bytes] = {}
    for index, path in enumerate(paths):
        if match := STATEMENT_NAME.fullmatch(path.name):
            name = f"rebuild.{match[1]}.also-{index}.intoto.json"
        elif match := VOTE_NAME.fullmatch(path.name):
            name = f"{match[1]}.{match[2]}.also-{index}.dsse.json"
        else:
            raise UsageError(
                "is not the name of a statement or a vote",
                where=str(path),
                hint="such as rebuild.buyer-1.intoto.json or revoke.buyer-1.x.dsse.json",
            )
        with given_file(path):
            found[f"{folder}/{name}"] = read_bounded(path, MAX_SIZE)
    return Alongside(evidence, found)
