"""Commit, then reveal: a member binds itself to a result before anybody's result is known.

A commitment is a vote (``statements.votes``) whose note is the SHA-256 of the result with a
secret salt, the member, the members file and the round. The statement brings the salt. A commitment counts
when its entry in the log precedes the claim and every statement about the same release, members file and
round. The order is the one that ``change`` members cosigned (ADR 121).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coattest.errors import Rejected
from coattest.files import Evidence
from coattest_verify.quorum.log.examine import Log, checked_log, parse_entry
from coattest_verify.quorum.members.chain import SeenLog
from coattest_verify.quorum.statements.question import DecisionQuestion
from coattest_verify.quorum.statements.votes import COMMIT, Vote


def counted_commitments(
    evidence: Evidence,
    root: bytes,
    question: DecisionQuestion,
    votes: Iterable[Vote],
    seen: SeenLog | None,
) -> Mapping[str, frozenset[str]]:
    """Each member's commitments that the log shows in time; none without a log that enough cosigned."""
    log = checked_log(evidence, root, question.members, seen)
    if not isinstance(log, Log) or question.members.unmet_change(log.times):
        return {}
    try:
        entries = [parse_entry(entry) for entry in log.entries]
    except Rejected:
        return {}
    before: set[str] = set()
    for entry in entries:
        if entry.reveals(question):
            break
        before.add(entry.sha256)
    found: dict[str, frozenset[str]] = {}
    for vote in votes:
        if vote.kind == COMMIT and vote.root == root.hex() and vote.sha256 in before:
            found[vote.member] = found.get(vote.member, frozenset()) | {vote.note}
    return found
