"""Commit, then reveal: a member binds itself to a result before anybody's result is known.

A commitment is a vote (``coattest_verify.quorum.votes``) whose note is the SHA-256 of the result with a
secret salt, the member, the policy and the round. The statement brings the salt. It was early when its
entry in the log stands before the claim and before every statement about the same release, policy and round.
The order is the one that members cosigned, enough of them for an agreement (ADR 121).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coattest.errors import Rejected
from coattest_verify.quorum.directory import Evidence
from coattest_verify.quorum.log.examine import extends, parse_entry, read_log
from coattest_verify.quorum.members.chain import SeenLog
from coattest_verify.quorum.tally import Question
from coattest_verify.quorum.votes import COMMIT, Vote


def early(
    evidence: Evidence,
    root: bytes,
    question: Question,
    votes: Iterable[Vote],
    seen: SeenLog | None,
) -> Mapping[str, frozenset[str]]:
    """Each member's commitments that the log shows to be early; none without a log that enough cosigned."""
    try:
        log = read_log(evidence, root, question.policy)
        if log is None or extends(log, seen) or question.policy.unmet(log.cosigned.times):
            return {}
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
