"""Dissents that were withdrawn or excused, and silence that was: one mistake does not cost a ceremony.

Rules (ADR 55), over the agreed log: what has no entry there is pending and changes nothing.

1. A member withdraws its dissent by naming the digest of what the dissent signed, with every key that signed
   it, and says something else about the release later. Another key of the same member, stolen perhaps, takes
   nothing back; nor does a replay against another dissent.
2. ``change`` members excuse a dissent by the same digest: the key may be lost, or its member gone mad.
3. ``change`` members excuse a member's silence on a source, as long as their excuses are young enough. A
   dissent of that member, shown later, counts all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from coattest.files import Evidence
from coattest.findings import Finding
from coattest_verify.quorum.log.fold import LogState
from coattest_verify.quorum.members.chain import MembersChain, Seen, SeenObjection
from coattest_verify.quorum.members.file import MembersFile, parse_utc
from coattest_verify.quorum.statements.question import DecisionQuestion, enough_until
from coattest_verify.quorum.statements.signed import SignedStatement
from coattest_verify.quorum.statements.statement import DISSENT
from coattest_verify.quorum.statements.votes import EXCUSE, REVOKE, UNREVOKE, WITHDRAW, Vote, read_votes


@dataclass(frozen=True, slots=True)
class Lifted:
    """What no longer stands in the way: dissents by what they signed (hex), and whose silence until when."""

    dissents: Mapping[str, Finding] = field(default_factory=dict, hash=False)
    silent: Mapping[str, datetime] = field(default_factory=dict, hash=False)
    pending: tuple[Finding, ...] = ()
    """What is signed and has no entry in the agreed log yet."""


def lifted(
    signed: Sequence[SignedStatement],
    votes: Iterable[Vote],
    state: LogState,
    question: DecisionQuestion,
    root: bytes,
) -> Lifted:
    """What withdrawals and excuses in the agreed log lift, of the dissents in ``signed`` and of silence."""
    claim, members, logged = question.claim, question.members, state.logged
    source = (root.hex(), claim.tree_sha256, claim.lock_sha256)
    undoing = [
        vote
        for vote in votes
        if vote.kind in {WITHDRAW, EXCUSE} and (vote.root, vote.tree_sha256, vote.lock_sha256) == source
    ]
    agreed = [vote for vote in undoing if (vote.kind, vote.sha256) in logged]
    objecting = [
        item
        for item in signed
        if item.statement.outcome == DISSENT
        and (item.statement.release, item.statement.architecture) == (claim.release, claim.architecture)
        and ("rebuild", item.sha256) not in logged
    ]
    dissents: dict[str, Finding] = {}
    for item in signed:
        made = item.statement
        if made.outcome != DISSENT:
            continue
        if _withdrawn(item, signed, agreed):
            dissents[item.signed_sha256] = Finding("undone", made.member, "dissented, and took that back")
        elif not members.unmet_change(_excusing(agreed, made.member, item.signed_sha256)):
            text = "dissented, and enough members excuse that"
            dissents[item.signed_sha256] = Finding("undone", made.member, text)
    return Lifted(
        dissents,
        {
            name: until
            for name in members.names
            if (until := enough_until(_excusing(agreed, name, None), members, members.max_age, question.now))
        },
        tuple(
            Finding("pending", name, f"its {what} has no entry in the agreed log yet")
            for name, what in sorted(
                {
                    *((vote.member, vote.kind) for vote in undoing if vote not in agreed),
                    # Without a log nothing is pending: a dissent counts from its file.
                    *((item.statement.member, DISSENT) for item in objecting if state.entries),
                }
            )
        ),
    )


def overruled(votes: Iterable[Vote], state: LogState, members: MembersFile) -> frozenset[str]:
    """The revocations, by what they signed (hex), that ``change`` members took back in the agreed log."""
    logged, by = state.logged, dict[str, set[str]]()
    for vote in votes:
        if vote.kind == UNREVOKE and vote.undoes is not None and (vote.kind, vote.sha256) in logged:
            by.setdefault(vote.undoes, set()).add(vote.member)
    return frozenset(digest for digest, names in by.items() if not members.unmet_change(names))


def _withdrawn(item: SignedStatement, signed: Sequence[SignedStatement], agreed: Sequence[Vote]) -> bool:
    made = item.statement
    by = {
        key
        for vote in agreed
        if (vote.kind, vote.member, vote.undoes) == (WITHDRAW, made.member, item.signed_sha256)
        for key in vote.keys
    }
    later = any(
        other.statement.outcome != DISSENT
        and (other.statement.member, other.statement.release, other.statement.architecture)
        == (made.member, made.release, made.architecture)
        and other.statement.time > made.time
        for other in signed
    )
    return bool(by) and item.keys <= by and later


def _excusing(agreed: Sequence[Vote], member: str, digest: str | None) -> dict[str, datetime]:
    """Who excuses a member's dissent, or its silence, and when each did last."""
    times: dict[str, datetime] = {}
    for vote in agreed:
        if (vote.kind, vote.excused, vote.undoes) == (EXCUSE, member, digest):
            time = parse_utc(vote.time)
            times[vote.member] = max(time, times.get(vote.member, time))
    return times


def stood_when_logged(kind: str, signed: SignedStatement | Vote, state: LogState) -> bool:
    """Whether a dissent, or what takes something back, counts although its member no longer has the key.

    It does when the agreed log has it from a time when the key was its member's: a thief cannot date anything
    back, because its entry would have to stand before the version that removed the key.

    Where the log was begun again, nobody knows the order of what its signers named. Then a dissent counts
    with any key that was its member's, and nothing by a former key takes anything back.
    """
    member = signed.statement.member if isinstance(signed, SignedStatement) else signed.member
    entry = state.logged.get((kind, signed.sha256))
    if entry is None:
        return False
    if entry < state.vouched:
        parties = [version.member(member) for version in state.versions]
        had = any(party and signed.keys & set(party.keys) for party in parties)
        return isinstance(signed, SignedStatement) and had
    in_force = [
        version
        for version, since in zip(state.versions, state.since, strict=True)
        if since is not None and since < entry
    ]
    party = in_force[-1].member(member)
    return party is not None and bool(signed.keys & set(party.keys))


def votes_that_stand(evidence: Evidence, chain: MembersChain) -> tuple[list[Vote], list[Finding]]:
    """The votes in the files of a release, and why others do not count; see ``read_votes``."""
    return read_votes(
        evidence,
        chain.current,
        chain.versions[:-1],
        lambda vote: stood_when_logged(vote.kind, vote, chain.state),
    )


def dissent_stands(item: SignedStatement, state: LogState) -> bool:
    """Whether a dissent by a key that its member no longer has counts."""
    return item.statement.outcome == DISSENT and stood_when_logged("rebuild", item, state)


def seen_objections(
    signed: Iterable[SignedStatement], votes: Iterable[Vote], question: DecisionQuestion, root: bytes
) -> frozenset[SeenObjection]:
    """What a verifier remembers at once: every authentic dissent and revocation, by each key that signed."""
    claim = question.claim
    dissents = {
        SeenObjection(
            DISSENT,
            made.member,
            key.fingerprint,
            item.signed_sha256,
            claim.tree_sha256,
            claim.lock_sha256,
            made.release,
            made.architecture,
        )
        for item in signed
        if (made := item.statement).outcome == DISSENT
        and (made.release, made.architecture) == (claim.release, claim.architecture)
        and made.quorum_sha256 in question.made_under
        for key in item.keys
    }
    return seen_revocations(votes, root) | dissents


def seen_revocations(votes: Iterable[Vote], root: bytes) -> frozenset[SeenObjection]:
    """The revocations among them, whatever source they are about."""
    return frozenset(
        SeenObjection(
            REVOKE, vote.member, key.fingerprint, vote.signed_sha256, vote.tree_sha256, vote.lock_sha256
        )
        for vote in votes
        if (vote.kind, vote.root) == (REVOKE, root.hex())
        for key in vote.keys
    )


def gone(
    seen: Seen | None,
    here: Collection[SeenObjection],
    votes: Iterable[Vote],
    question: DecisionQuestion,
    taken_back: Collection[str] = (),
) -> Mapping[str, tuple[Finding, ...]]:
    """Dissents on the release, and revocations of its source, that were seen before and are gone; by kind.

    By keys of today alone: what a stolen key said goes with it. A dissent that was lifted still has its file;
    of a revocation its undoing is enough, by the key that signed it or by others (``taken_back``).
    """
    claim, digests = question.claim, {each.sha256 for each in here}
    undone = {
        (vote.member, vote.undoes, key.fingerprint)
        for vote in votes
        if vote.kind == UNREVOKE
        for key in vote.keys
    }
    found: dict[str, set[str]] = {}
    for each in seen.objections if seen else ():
        party = question.members.member(each.member)
        if (
            each.concerns(claim.release, claim.architecture, claim.tree_sha256, claim.lock_sha256)
            and each.sha256 not in digests
            and each.sha256 not in taken_back
            and (each.member, each.sha256, each.key) not in undone
            and party is not None
            and any(key.fingerprint == each.key for key in party.keys)
        ):
            found.setdefault(each.kind, set()).add(each.member)
    words = {DISSENT: "dissent", REVOKE: "revocation"}
    return {
        kind: tuple(
            Finding("objection-gone", name, f"its {words[kind]} was here before, and the file was removed")
            for name in sorted(names)
        )
        for kind, names in found.items()
    }
