"""The transparency log in ``attestations/log/``: what was ever answered, so nothing disappears unnoticed.

Each entry is canonical JSON about one file (its SHA-256) or one decision; the files stay where they are. The
log has no member of its own: the quorum's members cosign its checkpoints after checking them. It gives:

1. Entries and checkpoint agree, and the tree holds what this verifier saw before, unchanged.
2. A dissent or revocation that is in a cosigned log and not in the folder was removed: under ``block`` that
   is no decision.
3. Under ``block`` a member that has not answered is excused when it cosigned the present checkpoint and
   the log holds every statement that is counted, and no dissent of that member.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from coattest.errors import Rejected
from coattest.strictjson import Fields, canonical, parse
from coattest_verify.quorum.directory import Evidence
from coattest_verify.quorum.log.checkpoint import (
    MAX_CHECKPOINT,
    Checkpoint,
    Cosigned,
    origin_of,
    read_checkpoint,
)
from coattest_verify.quorum.log.merkle import (
    MAX_ENTRY,
    TILE_WIDTH,
    bundle_paths,
    leaf_hash,
    tree_root,
    unpack,
)
from coattest_verify.quorum.members.chain import SeenLog
from coattest_verify.quorum.members.file import NAME, MembersFile, utc
from coattest_verify.quorum.statements.claim import SHA256, Claimed
from coattest_verify.quorum.statements.statement import AGREE, COULD_NOT_BUILD, DISSENT, Statement
from coattest_verify.quorum.tally import CLOCK_SKEW, Question, Signed
from coattest_verify.quorum.votes import REVOKE, Vote

LOG = "log/"
CHECKPOINT_FILE = LOG + "checkpoint"
MAX_PART = TILE_WIDTH * (2 + MAX_ENTRY)
"""Bytes of one entry bundle."""

_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,127}")

KINDS = ("rebuild", "revoke", "review", "commit", "claim", "decision")


@dataclass(frozen=True, slots=True)
class Log:
    """The entries (bytes), their leaf hashes, and the cosigned checkpoint over all of them."""

    entries: tuple[bytes, ...]
    leaves: tuple[bytes, ...]
    cosigned: Cosigned


@dataclass(frozen=True, slots=True)
class Findings:
    """What the log says about a question."""

    size: int = 0
    root: str = ""
    excused: frozenset[str] = frozenset()
    removed: tuple[str, ...] = ()
    problem: str | None = None


def statement_entry(signed: Signed) -> bytes:
    """The log entry of a statement."""
    made = signed.statement
    return _entry(
        "rebuild",
        signed.sha256,
        made.member,
        outcome=made.outcome,
        quorum=made.quorum_sha256,
        round=made.round,
        release=made.release,
        architecture=made.architecture,
        time=utc(made.time),
    )


def vote_entry(vote: Vote) -> bytes:
    """The log entry of a review or a revocation."""
    return _entry(
        vote.kind,
        vote.sha256,
        vote.member,
        release=vote.release,
        tree_sha256=vote.tree_sha256,
        lock_sha256=vote.lock_sha256,
    )


def decision_entry(digest: bytes, release: str, profile: str) -> bytes:
    """The log entry of a decision; who agreed is left out, as in the decision's digest."""
    return _entry("decision", digest.hex(), None, release=release, profile=profile)


def claim_entry(claim: Claimed, policy: MembersFile) -> bytes:
    """The log entry of a claim: from here on its answer is known."""
    return _entry(
        "claim",
        claim.sha256,
        None,
        quorum=policy.sha256,
        round=policy.round,
        release=claim.release,
        architecture=claim.architecture,
    )


def _entry(kind: str, sha256: str, member: str | None, **about: Any) -> bytes:
    return canonical({"kind": kind, "sha256": sha256, "member": member, "about": about})


def read_log(evidence: Evidence, root: bytes, policy: MembersFile) -> Log | None:
    """The log, its tree computed, its cosignatures checked; None without one. Raises Rejected."""
    try:
        data = evidence.read(CHECKPOINT_FILE, MAX_CHECKPOINT)
    except Rejected as error:
        if error.code == "absent":
            return None
        raise
    cosigned = read_checkpoint(data, origin_of(root), policy)
    entries: list[bytes] = []
    for path in bundle_paths(cosigned.checkpoint.size):
        try:
            part = unpack(evidence.read(LOG + path, MAX_PART))
        except ValueError:
            raise Rejected(f"{path}: not an entry bundle") from None
        entries += part
    leaves = tuple(leaf_hash(entry) for entry in entries)
    if len(entries) != cosigned.checkpoint.size or tree_root(leaves) != cosigned.checkpoint.root:
        raise Rejected("the entries are not those of the checkpoint: an entry was removed or changed")
    return Log(tuple(entries), leaves, cosigned)


def head(entries: Iterable[bytes], root: bytes) -> Checkpoint:
    """The tree head over entries, for the log of the quorum with ``root``."""
    leaves = [leaf_hash(entry) for entry in entries]
    return Checkpoint(origin_of(root), len(leaves), tree_root(leaves))


def extends(log: Log, seen: SeenLog | None) -> str | None:
    """Why ``log`` is not an extension of what was seen, or None."""
    if seen is None:
        return None
    if len(log.entries) < seen.size:
        return f"the log has {len(log.entries)} entries, {seen.size} were seen before: entries were removed"
    if tree_root(log.leaves[: seen.size]).hex() != seen.root:
        return f"the log's first {seen.size} entries are not those that were seen before: a fork"
    return None


def examine(
    evidence: Evidence,
    root: bytes,
    question: Question,
    signed: Iterable[Signed],
    *,
    votes: Iterable[Vote],
    counted: Sequence[Statement],
    seen: SeenLog | None,
) -> Findings:
    """What the log says about the question; a log that is wrong is a problem, not an exception."""
    try:
        log = read_log(evidence, root, question.policy)
        if log is None:
            return Findings(problem="the log that was seen before is gone" if seen else None)
        entries = [parse_entry(entry) for entry in log.entries]
    except Rejected as error:
        return Findings(problem=f"log: {error.what}")
    problem = extends(log, seen)
    if problem:
        return Findings(problem=problem)
    present = {item.sha256: item for item in signed}
    objecting = standing(log.entries, question, present.values())
    logged = {entry.sha256 for entry in entries if entry.asks(question)}
    complete = all(item.sha256 in logged for item in present.values() if item.statement in counted)
    objectors = {entry.member for _, entry in objecting}
    excused = {
        name
        for name, time in log.cosigned.times.items()
        if complete
        and name not in objectors
        and time <= question.now + CLOCK_SKEW
        and question.now - time <= question.policy.max_age
    }
    removed = [
        f"{entry.member}'s {entry.outcome} (log entry {index}) was removed"
        for index, entry in objecting
        if entry.sha256 not in present and log.cosigned.times
    ]
    filed = {vote.sha256 for vote in votes}
    removed += [
        f"{entry.member}'s revocation (log entry {index}) was removed"
        for index, entry in enumerate(entries)
        if entry.revokes(question) and entry.sha256 not in filed and log.cosigned.times
    ]
    checkpoint = log.cosigned.checkpoint
    return Findings(
        checkpoint.size,
        checkpoint.root.hex(),
        frozenset(excused),
        tuple(removed),
    )


def standing(
    entries: Sequence[bytes], question: Question, signed: Iterable[Signed]
) -> list[tuple[int, Entry]]:
    """The objections in the log that stand for a question's release, policy and round. Raises Rejected.

    A dissent always stands. "Could not build" does until a later agreement follows, logged or in ``signed``.
    """
    about = [(index, entry) for index, entry in enumerate(map(parse_entry, entries)) if entry.asks(question)]
    agreed: dict[str | None, str] = {}
    for entry in (*(entry for _, entry in about), *(parse_entry(statement_entry(item)) for item in signed)):
        if entry.asks(question) and entry.outcome == AGREE:
            agreed[entry.member] = max(entry.time, agreed.get(entry.member, ""))
    return [
        (index, entry)
        for index, entry in about
        if entry.outcome == DISSENT
        or (entry.outcome == COULD_NOT_BUILD and entry.time >= agreed.get(entry.member, ""))
    ]


@dataclass(frozen=True, slots=True)
class Entry:
    """A parsed entry. For statements ``about`` holds outcome, quorum, round, release, architecture."""

    kind: str
    sha256: str
    member: str | None
    about: tuple[tuple[str, str], ...]

    @property
    def outcome(self) -> str:
        """A statement's outcome, "" for other entries."""
        return dict(self.about).get("outcome", "")

    @property
    def time(self) -> str:
        """When a statement was signed (RFC 3339 in UTC: texts compare like times), "" for others."""
        return dict(self.about).get("time", "")

    def revokes(self, question: Question) -> bool:
        """Whether this is a revocation, by a present member, of the source that the question is about."""
        values, claim = dict(self.about), question.claim
        return (self.kind, values.get("tree_sha256"), values.get("lock_sha256")) == (
            REVOKE,
            claim.tree_sha256,
            claim.lock_sha256,
        ) and self.member in question.policy.names

    def asks(self, question: Question) -> bool:
        """Whether this is a statement about the question's release, under its policy and round."""
        return self.kind == "rebuild" and self.reveals(question)

    def reveals(self, question: Question) -> bool:
        """Whether this is a statement or a claim about the question's release, under its policy and round."""
        values, policy, claim = dict(self.about), question.policy, question.claim
        return self.kind in {"rebuild", "claim"} and tuple(
            values.get(name) for name in ("quorum", "round", "release", "architecture")
        ) == (policy.sha256, policy.round, claim.release, claim.architecture)


def parse_entry(entry: bytes) -> Entry:
    """An entry of the log. Raises Rejected; what it says reaches terminals, so it is names and words only."""
    fields = Fields(parse(entry, max_size=MAX_ENTRY), "entry")
    member = fields.optional("member", lambda name: fields.text(name, NAME))
    about = Fields(fields.mapping("about", low=0, high=16), "entry.about")
    found = Entry(
        fields.choice("kind", KINDS),
        fields.text("sha256", SHA256),
        member,
        tuple((name, about.text(name, _TEXT)) for name in sorted(about.values)),
    )
    fields.done()
    return found
