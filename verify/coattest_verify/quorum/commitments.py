"""Commit, then reveal: a member binds itself to a result before anybody's result is known.

A commitment is a vote (``statements.votes``) whose note is the SHA-256 of the result with a secret salt, the
quorum's root, the member, the source and the architecture (``statements.salt``). The statement brings the
salt. Rules (ADR 121):

1. A commitment counts when its entry stands in the agreed log before the first claim or statement from which
   its result could be copied: of the same source, or with the same image.
2. Of one member's commitments to one source the first four count: more would be guesses. What it signed once
   is one of them, in however many entries and files others put it. It counts by the key that its member had
   where the log has it: a key that is replaced later takes nothing away.
3. ``commitments = k`` asks for k agreeing members with one. Whoever has none counts toward the threshold
   only, so neither a newcomer nor a file that came late stands in the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from coattest.files import Evidence
from coattest.findings import Finding
from coattest_verify.quorum.log.entries import LogEntry
from coattest_verify.quorum.members.chain import MembersChain
from coattest_verify.quorum.members.file import MembersFile, too_few
from coattest_verify.quorum.objections import votes_that_stand
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.salt import opened_commitment
from coattest_verify.quorum.statements.statement import Statement
from coattest_verify.quorum.statements.votes import COMMIT, Vote
from coattest_verify.quorum.tally import Answer

MOST_COMMITMENTS = 4
"""Commitments of one member to one source that count."""

Committed = Mapping[str, frozenset[str]]
"""Members, and the commitments (hex) of each that count."""


def timely_commitments(
    entries: Sequence[LogEntry],
    votes: Iterable[Vote],
    claim: Claimed | Statement,
    profile: str,
    root: bytes,
) -> Committed:
    """Each member's commitments to the claim's source that the agreed ``entries`` show in time."""
    votes = list(votes)
    signed = {vote.sha256: vote.signed_sha256 for vote in votes}
    timely: set[str] = set()
    made: dict[tuple[str | None, ...], set[str]] = {}
    for entry in entries:
        if entry.reveals(claim, profile):
            break
        if entry.kind == COMMIT:
            before = made.setdefault((entry.member, *entry.source), set())
            before.add(signed.get(entry.sha256, entry.sha256))
            if len(before) <= MOST_COMMITMENTS:
                timely.add(entry.sha256)
    source = (COMMIT, root.hex(), claim.tree_sha256, claim.lock_sha256)
    found: dict[str, frozenset[str]] = {}
    for vote in votes:
        if (vote.kind, vote.root, vote.tree_sha256, vote.lock_sha256) == source and vote.sha256 in timely:
            found[vote.member] = found.get(vote.member, frozenset()) | {vote.note}
    return found


def uncommitted(
    agree: Sequence[Answer], members: MembersFile, committed: Committed, root: bytes
) -> tuple[Finding, ...]:
    """Why too few of the agreeing members committed in time, or nothing. More answers never lack more."""
    opened = [
        answer.member
        for answer in agree
        if any(
            opened_commitment(statement, root) in committed.get(answer.member, ())
            for statement in answer.counting
        )
    ]
    if len(opened) >= members.commitments:
        return ()
    text = "agreeing members committed before any result was known"
    return (too_few("too-few-commitments", len(opened), members.commitments, text),)


def commitments_missing(
    evidence: Evidence, chain: MembersChain, claim: Claimed | Statement, root: bytes
) -> Finding | None:
    """Why nobody is to show a claim or a result of the source yet, or None.

    ``evidence`` are the release's files. By the decision's own rule: what would not count then does not count
    now. Of several profiles one is enough, because the image of another may be known from an earlier release.
    """
    wanted, entries = chain.current.commitments, chain.state.entries
    if not wanted:
        return None
    votes, _ = votes_that_stand(evidence, chain)
    found = {
        profile: len(timely_commitments(entries, votes, claim, profile, root)) for profile in claim.profiles
    }
    most = max(found.values(), default=0)
    if most >= wanted:
        return None
    over = all(any(entry.reveals(claim, profile) for entry in entries) for profile in found)
    text = "commitments are in the part of the log that enough members cosigned"
    known = ", and the result is known there: the source needs a change, or other rules" if over else ""
    return too_few("commitments-missing", most, wanted, text + known)
