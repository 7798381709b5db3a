"""The transparency log in ``attestations/log/``: what was ever answered, so nothing disappears unnoticed.

Its entries (``entries``) are about files and signatures, which stay where they are. The log needs no server:
the quorum's members cosign its checkpoints after checking them. ``fold`` says what that puts in force. This
module says:

1. Entries and checkpoint agree, and the tree still begins with everything that this verifier saw before.
2. A dissent or revocation that is in a cosigned log and not in the folder was removed: under ``block`` that
   prevents a decision.
3. Under ``block`` a member that has not answered is excused when it cosigned the present checkpoint and
   the log holds every statement that is counted, and no dissent of that member.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from coattest.errors import Rejected
from coattest.files import Evidence
from coattest.findings import Finding
from coattest_verify.quorum.log.checkpoint import (
    MAX_CHECKPOINT,
    Checkpoint,
    Cosignature,
    named_origin,
    origin_of,
    read_checkpoint,
    read_cosignature,
)
from coattest_verify.quorum.log.entries import LogEntry, SeenLog, parse_entry, statement_entry
from coattest_verify.quorum.log.merkle import (
    MAX_ENTRY,
    TILE_WIDTH,
    bundle_paths,
    leaf_hash,
    tree_root,
    tree_roots,
    unpack_entries,
)
from coattest_verify.quorum.members.file import NAME, MembersFile
from coattest_verify.quorum.statements.question import CLOCK_SKEW, DecisionQuestion
from coattest_verify.quorum.statements.signed import SignedStatement
from coattest_verify.quorum.statements.statement import AGREE, COULD_NOT_BUILD, DISSENT, Statement
from coattest_verify.quorum.statements.votes import Vote

LOG = "log/"
CHECKPOINT_FILE = LOG + "checkpoint"
COSIGNATURE_NAME = re.compile(rf"{LOG}cosignature\.({NAME.pattern})")
MAX_PART = TILE_WIDTH * (2 + MAX_ENTRY)
"""Bytes of one entry bundle."""


@dataclass(frozen=True, slots=True)
class Log:
    """The entries (bytes), their leaf hashes, the checkpoint over them, and who cosigned how much of it."""

    entries: tuple[bytes, ...]
    leaves: tuple[bytes, ...]
    checkpoint: Checkpoint
    cosignatures: Mapping[str, Cosignature]
    """Each member's good note on this log, at the size that it signed: the whole log or a beginning of it."""
    refused: tuple[Finding, ...] = ()
    """Members' notes that do not count, and why. They are their own members' matter and stop nobody."""

    @property
    def restart(self) -> str:
        """The SHA-256 (hex) of the version that began this log again, "" for the first one."""
        return self.checkpoint.origin.partition("/")[2].partition("/")[2]

    def begun_again(self, version: MembersFile, root: bytes) -> Log:
        """As much of it as ``version`` begins the log with again; nobody cosigned that one yet."""
        size = version.restart.size if version.restart else 0
        checkpoint = Checkpoint(origin_of(root, version.sha256), size, tree_root(self.leaves[:size]))
        return Log(self.entries[:size], self.leaves[:size], checkpoint, {})

    @property
    def times(self) -> dict[str, datetime]:
        """When each member cosigned the whole log as it is now."""
        return {
            name: note.time
            for name, note in self.cosignatures.items()
            if note.checkpoint.size == self.checkpoint.size
        }


@dataclass(frozen=True, slots=True)
class LogVerdict:
    """What the log says about a question: its size and root (hex), whom it excuses, and what is wrong."""

    size: int = 0
    root: str = ""
    excused: Mapping[str, datetime] = field(default_factory=dict, hash=False)
    """Each excused member, and until when."""
    removed: tuple[Finding, ...] = ()
    """Dissents and revocations that the log has and the folder does not."""
    finding: Finding | None = None
    """Why the log as a whole cannot be relied on."""
    lost: bool = False
    """Whether that is about a log which this verifier knows of: it is not here, or not the same."""
    refused: tuple[Finding, ...] = ()
    """Cosignatures that do not count."""
    agreed: SeenLog | None = None
    """The part that enough members cosigned: what a verifier remembers."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is wrong."""
        return (*self.removed, self.finding) if self.finding else self.removed

    def __bool__(self) -> bool:
        return not self.findings


def cosignature_file(member: str) -> str:
    """Where a member's note is."""
    return f"{LOG}cosignature.{member}"


def read_quorum_log(evidence: Evidence, root: bytes, members: MembersFile) -> Log | None:
    """The log, its tree computed, its cosignatures checked; None without one. Raises Rejected.

    It is one of this quorum's, the first or one that says to be begun again: ``members.chain`` has which one
    counts.
    """
    try:
        data = evidence.read(CHECKPOINT_FILE, MAX_CHECKPOINT)
    except Rejected as error:
        if error.code == "absent":
            return None
        raise
    checkpoint = read_checkpoint(data, named_origin(data, root))
    entries: list[bytes] = []
    for path in bundle_paths(checkpoint.size):
        try:
            part = unpack_entries(evidence.read(LOG + path, MAX_PART))
        except ValueError:
            raise Rejected(f"{path}: not an entry bundle") from None
        entries += part
    leaves = tuple(leaf_hash(entry) for entry in entries)
    if len(entries) != checkpoint.size or tree_root(leaves) != checkpoint.root:
        raise Rejected("the entries do not match the checkpoint: an entry was removed or changed")
    return Log(tuple(entries), leaves, checkpoint, *read_cosignatures(evidence, leaves, checkpoint, members))


def read_cosignatures(
    evidence: Evidence, leaves: Sequence[bytes], checkpoint: Checkpoint, members: MembersFile
) -> tuple[dict[str, Cosignature], tuple[Finding, ...]]:
    """The notes that are about this log, of members with keys that they have in ``members``; by member.

    And a finding for each of the others.
    """
    notes: dict[str, Cosignature] = {}
    refused: list[Finding] = []
    for member in members.members:
        place = cosignature_file(member.name)
        try:
            data = evidence.read(place, MAX_CHECKPOINT)
            notes[member.name] = read_cosignature(data, checkpoint.origin, member.name, member.keys)
        except Rejected as error:
            if error.code != "absent":
                refused.append(Finding(error.code, place, error.what))
    roots = tree_roots(leaves, {note.checkpoint.size for note in notes.values()})
    for name, note in list(notes.items()):
        size = note.checkpoint.size
        if roots.get(size) == note.checkpoint.root:
            continue
        text = (
            f"cosigns {size} entries, of which only {len(leaves)} are here"
            if size not in roots
            else f"cosigns a different log of {size} entries: a fork"
        )
        code = "log-shrunk" if size not in roots else "log-fork"
        refused.append(Finding(code, cosignature_file(name), text))
        del notes[name]
    return notes, tuple(refused)


def head(entries: Iterable[bytes], root: bytes, restart: str = "") -> Checkpoint:
    """The tree head over entries, for the quorum's log; ``restart`` as in ``origin_of``."""
    leaves = [leaf_hash(entry) for entry in entries]
    return Checkpoint(origin_of(root, restart), len(leaves), tree_root(leaves))


def extends(log: Log, seen: SeenLog | None) -> Finding | None:
    """Why ``log`` does not extend what was seen of it before, or None."""
    if seen is None or seen.restart != log.restart:
        return None
    if len(log.entries) < seen.size:
        text = f"the log has {len(log.entries)} entries, {seen.size} were seen before: entries were removed"
        return Finding("log-shrunk", CHECKPOINT_FILE, text)
    if tree_root(log.leaves[: seen.size]).hex() != seen.root:
        text = f"the log's first {seen.size} entries are not those that were seen before: a fork"
        return Finding("log-fork", CHECKPOINT_FILE, text)
    return None


CheckedLog = Log | Finding | None
"""A log that is sound, why it is not, or None where there is no log."""


def checked_log(evidence: Evidence, root: bytes, members: MembersFile, seen: SeenLog | None) -> CheckedLog:
    """The log when it is sound and extends what was seen, a finding when not, None where there is no log."""
    try:
        log = read_quorum_log(evidence, root, members)
    except Rejected as error:
        return Finding("bad-log", CHECKPOINT_FILE, error.what)
    if log is None:
        return Finding("log-gone", CHECKPOINT_FILE, "the log that was seen before is gone") if seen else None
    return extends(log, seen) or log


def agreed_size(base: MembersFile, cosigned: Iterable[Mapping[str, int]]) -> int:
    """How many entries ``change`` members of ``base`` cosigned, by what each name cosigned with some keys."""
    sizes: dict[str, int] = {}
    for found in cosigned:
        for name, size in found.items():
            sizes[name] = max(size, sizes.get(name, 0))
    enough = (
        size
        for size in sorted(set(sizes.values()), reverse=True)
        if not base.unmet_change([name for name, own in sizes.items() if own >= size])
    )
    return next(enough, 0)


def cosigned_by(evidence: Evidence, log: CheckedLog, members: MembersFile) -> CheckedLog:
    """The log with the cosignatures of these members, by keys that they have in this version."""
    if not isinstance(log, Log):
        return log
    notes, refused = read_cosignatures(evidence, log.leaves, log.checkpoint, members)
    return replace(log, cosignatures=notes, refused=refused)


def examine(
    log: CheckedLog,
    question: DecisionQuestion,
    signed: Iterable[SignedStatement],
    *,
    votes: Iterable[Vote],
    counted: Sequence[Statement],
    agreed: int = 0,
    remembered: bool = False,
    void: Collection[str] = (),
) -> LogVerdict:
    """What the log says about the question. A log that is wrong is a finding, not an exception.

    ``agreed`` is how many entries enough members cosigned, ``remembered`` whether this verifier knows that
    there is a log, ``void`` the SHA-256 (hex) of files that are here and count for nothing, because a key
    signed them that its member no longer had.
    """
    if not isinstance(log, Log):
        return LogVerdict(finding=log, lost=remembered)
    covered = max((note.checkpoint.size for note in log.cosignatures.values()), default=0)
    entries, unread = readable(log.entries)
    if unread is not None and len(entries) < covered:
        return LogVerdict(finding=unread)
    present = {item.sha256: item for item in signed}
    objecting = [
        (index, entry)
        for index, entry in objections(log.entries[: len(entries)], question, present.values())
        if entry.sha256 not in void
    ]
    logged = {entry.sha256 for entry in entries if entry.kind == "rebuild"}
    complete = all(item.sha256 in logged for item in present.values() if item.statement in counted)
    objectors = {entry.member for _, entry in objecting}
    excused = {
        name: time + question.members.max_age
        for name, time in log.times.items()
        if complete
        and name not in objectors
        and time <= question.now + CLOCK_SKEW
        and question.now - time <= question.members.max_age
    }
    filed = {vote.sha256 for vote in votes}
    removed = [(index, entry, entry.outcome) for index, entry in objecting if entry.sha256 not in present] + [
        (index, entry, "revocation")
        for index, entry in enumerate(entries)
        if entry.revokes(question) and entry.sha256 not in filed and entry.sha256 not in void
    ]
    checkpoint = log.checkpoint
    return LogVerdict(
        checkpoint.size,
        checkpoint.root.hex(),
        excused,
        tuple(
            Finding(
                "removed-entry", CHECKPOINT_FILE, f"{entry.member}'s {what} (log entry {index}) was removed"
            )
            for index, entry, what in removed
            if index < covered
        ),
        refused=log.refused if unread is None else (*log.refused, unread),
        agreed=SeenLog(agreed, tree_root(log.leaves[:agreed]).hex()) if agreed else None,
    )


def readable(entries: Sequence[bytes]) -> tuple[list[LogEntry], Finding | None]:
    """The entries before the first that cannot be read, and why that one cannot.

    Whoever may push can append it. Nobody honest cosigns it, so it says nothing and stops no decision.
    """
    found: list[LogEntry] = []
    for index, entry in enumerate(entries):
        try:
            found.append(parse_entry(entry))
        except Rejected as error:
            return found, Finding("bad-log", CHECKPOINT_FILE, f"entry {index} cannot be read: {error.what}")
    return found, None


def objections(
    entries: Sequence[bytes], question: DecisionQuestion, signed: Iterable[SignedStatement]
) -> list[tuple[int, LogEntry]]:
    """The objections in the log that still count for a question, with their index. Raises Rejected.

    A dissent always counts. "Could not build" does until a later agreement follows, logged or in ``signed``.
    """
    asked = [(index, entry) for index, entry in enumerate(map(parse_entry, entries)) if entry.asks(question)]
    agreed: dict[str | None, str] = {}
    for entry in (*(entry for _, entry in asked), *(parse_entry(statement_entry(item)) for item in signed)):
        if entry.asks(question) and entry.outcome == AGREE:
            agreed[entry.member] = max(entry.time, agreed.get(entry.member, ""))
    return [
        (index, entry)
        for index, entry in asked
        if entry.outcome == DISSENT
        or (entry.outcome == COULD_NOT_BUILD and entry.time >= agreed.get(entry.member, ""))
    ]
