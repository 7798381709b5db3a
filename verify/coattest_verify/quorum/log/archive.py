"""Releases that left the folder: their proof bundle is kept elsewhere, and the log has its digest.

A member archives a release that is decided: its vote names the SHA-256 of the proof bundle. When ``change``
members named the same bundle and the log has their votes, the release's claim, agreeing statements, links,
reviews and commitments may go. Dissents, revocations and the votes on the archive stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coattest.errors import Rejected
from coattest.files import Evidence
from coattest_verify.quorum.log.entries import vote_entry
from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.releases import ReleaseFiles
from coattest_verify.quorum.statements.votes import ARCHIVE, COMMIT, PUBLISH, REVIEW, read_votes

LEAVES = frozenset({"rebuild", "claim", REVIEW, COMMIT, PUBLISH})
"""Kinds of entries whose files leave with an archived release, but for dissents."""


@dataclass(frozen=True, slots=True)
class Archived:
    """A release that enough members archived: its name and source."""

    release: str
    tree_sha256: str
    lock_sha256: str
    since: int
    """The index of the last vote's entry: what the log has later is not in the bundle."""

    def covers(self, facts: Mapping[str, str]) -> bool:
        """Whether an entry's facts are of this release and source."""
        source = (self.release, self.tree_sha256, self.lock_sha256)
        return source == tuple(facts.get(name) for name in ("release", "tree_sha256", "lock_sha256"))


def archive_of(
    evidence: Evidence, release: str, members: MembersFile, root: bytes, logged: Mapping[bytes, int]
) -> Archived | None:
    """What enough members archived a release as, None while too few did.

    ``logged`` are the entries of the log, and the index of each. Two archives of one release that enough
    members named are none.
    """
    try:
        votes = read_votes(ReleaseFiles(evidence, release, alone=True), members)[0]
    except Rejected:
        return None
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    for vote in votes:
        subject, index = (vote.kind, vote.root, vote.release), logged.get(vote_entry(vote))
        if subject == (ARCHIVE, root.hex(), release) and index is not None:
            found.setdefault((vote.tree_sha256, vote.lock_sha256, vote.note), {})[vote.member] = index
    enough = [
        Archived(release, tree, lock, max(by.values()))
        for (tree, lock, _), by in found.items()
        if not members.unmet_change(sorted(by))
    ]
    return enough[0] if len(enough) == 1 else None
