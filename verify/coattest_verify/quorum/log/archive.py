"""Releases that left the folder: their proof bundle is kept elsewhere, and the log has its digest.

A member archives a release that is decided: its vote names the SHA-256 of the proof bundle. When ``change``
members named the same bundle and the log has their votes, the release's claim, agreeing statements, links,
reviews and commitments may go. Dissents, revocations and the votes on the archive stay.
"""

from __future__ import annotations

from collections.abc import Collection

from coattest.errors import Rejected
from coattest.files import Evidence
from coattest_verify.quorum.log.entries import vote_entry
from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.releases import ReleaseFiles
from coattest_verify.quorum.statements.votes import ARCHIVE, read_votes


def archive_of(
    evidence: Evidence, release: str, members: MembersFile, root: bytes, logged: Collection[bytes]
) -> str | None:
    """SHA-256 (hex) of the bundle that enough members archived a release in, None while too few did.

    ``logged`` are the entries of the log. Two archives of one release that enough members named are none.
    """
    try:
        votes = read_votes(ReleaseFiles(evidence, release), members)[0]
    except Rejected:
        return None
    found: dict[str, set[str]] = {}
    for vote in votes:
        about = (vote.kind, vote.root, vote.release)
        if about == (ARCHIVE, root.hex(), release) and vote_entry(vote) in logged:
            found.setdefault(vote.note, set()).add(vote.member)
    enough = [note for note, names in found.items() if not members.unmet_change(sorted(names))]
    return enough[0] if len(enough) == 1 else None
