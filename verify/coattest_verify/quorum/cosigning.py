"""Writing the log: append what is in the folder and not in the log yet, and cosign what was fetched back.

An append signs nothing. The log's files follow from its entries, so an append that lost the race for the main
branch is thrown away and done again from the new tip, and no signature of anybody stands on what never was
published. Cosigning is a step of its own, on a log that came back from where the others see it.

A cosigner first checks that the log extends what it saw and what it cosigned before, recomputes every entry
since its last cosignature from an authentic file, refuses one that the log has already, and looks for the
file of every objection. So what nobody signed gets no cosignature, and the next signer notices a removed
file. Of one size it cosigns one head: the journal in its state remembers which, and so does its cosignature
in the folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from coattest.errors import EnvironmentFailure, FoundFalse, Rejected, UsageError
from coattest.files import Evidence, Folder, ReadOnce
from coattest.findings import Finding
from coattest_verify.quorum.log.archive import LEAVES, Archived, archive_of
from coattest_verify.quorum.log.checkpoint import Checkpoint, Cosignature, cosign
from coattest_verify.quorum.log.entries import (
    LogEntry,
    SeenLog,
    claim_entry,
    parse_entry,
    statement_entry,
    vote_entry,
)
from coattest_verify.quorum.log.examine import (
    CHECKPOINT_FILE,
    LOG,
    Log,
    cosignature_file,
    head,
    objections,
)
from coattest_verify.quorum.log.merkle import log_files
from coattest_verify.quorum.members.chain import (
    MembersChain,
    Seen,
    SeenObjection,
    follow,
    signature_entries,
)
from coattest_verify.quorum.members.file import MembersFile, own_key
from coattest_verify.quorum.objections import seen_objections, seen_revocations
from coattest_verify.quorum.releases import ReleaseFiles, every_release, put_file
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.question import DecisionQuestion
from coattest_verify.quorum.statements.signed import read_statements
from coattest_verify.quorum.statements.statement import COULD_NOT_BUILD, DISSENT
from coattest_verify.quorum.statements.votes import PUBLISH, REVIEW, read_votes
from coattest_verify.signatures.journal import SignatureJournal
from coattest_verify.signatures.keys import Signer

OTHER_HEAD = "get the log that you cosigned from the other members, or cosign once this one has grown"
"""What to do about a second head of one size."""

TAKEN_BACK = "whoever appended it takes that back, before anybody cosigned it"
"""What to do about an entry that no honest member appends."""

STALE = {"log-shrunk", "log-gone"}
"""Codes of a log that may only be old: nothing is known to be false."""

TILE_FOLDER = re.compile(r"entries|[0-9]|x[0-9]{3}|[0-9]{3}\.p")
MAX_TILE_DEPTH = 6
"""Folders below ``log/tile``: a kind, up to three groups of digits, and one of partial tiles."""

Releases = Sequence[tuple[ReleaseFiles, "Claimed | None"]]


@dataclass(frozen=True, slots=True)
class Appended:
    """A log with what was new in the folder: its files by name from there, its head, and the new entries."""

    files: dict[str, bytes]
    checkpoint: Checkpoint
    fresh: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CosignPlan:
    """What is about to be cosigned: the head, and the entries of it since the member's last cosignature."""

    checkpoint: Checkpoint
    fresh: tuple[bytes, ...]


def appended(evidence: Evidence, root: bytes, *, seen: Seen | None) -> Appended:
    """The log of ``evidence`` with an entry for everything authentic that has none yet; pure.

    Raises FoundFalse when the log is not sound; EnvironmentFailure when it is shorter than one that was seen;
    Rejected as ``follow`` does; UsageError when there is nothing to log.
    """
    chain = follow(evidence, root, seen=seen, now=None)
    log = sound_log(chain)
    logged = set(log.entries) if log else set()
    here = present_in(of_each_release(evidence), chain.current, root)
    here += signature_entries(evidence, chain.versions)
    fresh = [entry for entry in dict.fromkeys(here) if entry not in logged]
    entries = [*(log.entries if log else ()), *fresh]
    if not entries:
        raise UsageError("there is nothing to log yet")
    checkpoint = head(entries, root, chain.restart)
    files = {LOG + path: content for path, content in log_files(entries).items()}
    return Appended({**files, CHECKPOINT_FILE: checkpoint.encode()}, checkpoint, tuple(fresh))


def append_log(attestations: Path, root: bytes, *, seen: Seen | None) -> Appended:
    """Append to ``attestations/log/`` what is in the folder and not in the log; see ``appended``.

    Partial tiles that a larger one replaces are removed. Raises FoundFalse (``linked``) also.
    """
    with Folder(attestations) as opened:
        done = appended(ReadOnce(opened), root, seen=seen)
        # The checkpoint last: a reader of the old one still finds what it names, or a whole new log.
        for name, content in done.files.items():
            put_file(attestations, name, content)
        for name in partial_tiles(opened):
            if name not in done.files:
                opened.remove(name)
    return done


def partial_tiles(evidence: Evidence) -> tuple[str, ...]:
    """The names of the log's partial tiles: a larger log needs others. Raises Rejected for a link."""
    found, pending = [], [f"{LOG}tile"]
    while pending:
        at = pending.pop()
        for name in evidence.names(at):
            if at.endswith(".p"):
                found.append(f"{at}/{name}")
            elif TILE_FOLDER.fullmatch(name) and at.count("/") < MAX_TILE_DEPTH:
                pending.append(f"{at}/{name}")
    return tuple(sorted(found))


def cosign_log(
    attestations: Path,
    root: bytes,
    member: str,
    signer: Signer,
    *,
    seen: Seen | None,
    now: datetime,
    approve: Callable[[CosignPlan], None] | None = None,
    journal: SignatureJournal | None = None,
) -> tuple[Log, Cosignature]:
    """Cosign the log of the folder as ``member`` and write that member's note on all of it.

    Returns the log as it was, and the new note. ``approve`` gets the plan before anything is signed, and
    raises to stop it. Raises FoundFalse when the log is not sound, an entry has no authentic file, or the
    member cosigned another head of this size; EnvironmentFailure for a log that is shorter than one that was
    seen or cosigned; Rejected as ``follow`` does; UsageError when the key is not the member's or there is no
    log.
    """
    with Folder(attestations) as opened:
        ready = ready_to_cosign(ReadOnce(opened), root, member, signer, seen=seen, now=now)
    if ready is None:
        raise UsageError("there is no log", where=CHECKPOINT_FILE, hint="verify log append starts one")
    log, earlier, start = ready
    if approve is not None:
        approve(CosignPlan(log.checkpoint, log.entries[start:]))
    journal = journal or SignatureJournal()
    for head_ in (earlier.checkpoint if earlier else log.checkpoint, log.checkpoint):
        slot = head_slot(root, member, head_.size, log.restart)
        journal.record(slot, head_.root.hex(), remedy=OTHER_HEAD)
    note = cosign(log.checkpoint, member, signer, now, earlier)
    put_file(attestations, cosignature_file(member), note.encode())
    return log, note


def head_slot(root: bytes, member: str, size: int, restart: str) -> dict[str, Any]:
    """The journal's place for the one head of a size that a member cosigns; each log has its own heads."""
    slot = {"kind": "log", "root": root.hex(), "member": member, "size": size}
    return {**slot, "restart": restart} if restart else slot


def ready_to_cosign(
    evidence: Evidence, root: bytes, member: str, signer: Signer, *, seen: Seen | None, now: datetime
) -> tuple[Log, Cosignature | None, int] | None:
    """The log, the member's note on a part of it, and its first entry that is new to it; None without a log.

    Everything that a cosignature says is checked. Raises as ``cosign_log``.
    """
    chain = follow(evidence, root, seen=seen, now=None)
    own_key(member, _speaking(chain, member, signer), signer)
    log = sound_log(chain)
    if log is None:
        return None
    for finding in log.refused:
        if finding.where == cosignature_file(member) and finding.code in {*STALE, "log-fork"}:
            raise _unsound(finding)
    earlier = log.cosignatures.get(member)
    known = seen.log.size if seen and seen.log and seen.log.restart == log.restart else 0
    start = max(earlier.checkpoint.size if earlier else 0, known)
    there = of_each_release(evidence)
    all_recomputed(evidence, there, log, chain, root, start=start)
    _no_missing_files(there, log, chain.current, root, now)
    return log, earlier, start


def _speaking(chain: MembersChain, member: str, signer: Signer) -> MembersFile:
    """The version by which a member cosigns: the latest in which it has this key.

    Who leaves with a version that the log has not settled yet still says what the log had first.
    """
    versions = chain.versions[len(chain.state.settled) - 1 :]
    return next((each for each in reversed(versions) if each.owner(signer.public) == member), chain.current)


def seen_by_cosigner(evidence: Evidence, chain: MembersChain, log: Log, seen: Seen | None) -> Seen:
    """What a cosigner remembers from now on: the log, the last version that it has in force, and objections.

    It looked at each of them: should the log be lost and its files with it, it knows that they are missing.
    """
    settled = chain.state.settled[-1]
    last = seen or Seen(1, chain.versions[0].sha256)
    if last.version < settled.version:
        last = Seen(settled.version, settled.sha256, agreed=True)
    known = chain.known(SeenLog(log.checkpoint.size, log.checkpoint.root.hex()))
    return replace(last, log=known, objections=_objections_here(evidence, chain))


def _objections_here(evidence: Evidence, chain: MembersChain) -> frozenset[SeenObjection]:
    """Every authentic dissent on a claim that is here, and every revocation."""
    root, found = bytes.fromhex(chain.versions[0].sha256), frozenset[SeenObjection]()
    for files, claim in of_each_release(evidence):
        votes = read_votes(files, chain.current)[0]
        found |= seen_revocations(votes, root)
        if claim is not None:
            whenever = datetime.min.replace(tzinfo=timezone.utc)
            question = DecisionQuestion(claim, chain.current, "", whenever, chain.versions)
            found |= seen_objections(read_statements(files, chain.current)[0], votes, question, root)
    return found


def sound_log(chain: MembersChain) -> Log | None:
    """The log that ``follow`` read, or None without one.

    Raises FoundFalse when it is damaged or a fork of what was seen, EnvironmentFailure when it is shorter.
    """
    if isinstance(chain.log, Finding):
        raise _unsound(chain.log)
    return chain.log


def _unsound(finding: Finding) -> FoundFalse | EnvironmentFailure:
    hint = "ask the other members for their copy"
    if finding.code in STALE:
        hint = "this may be an old copy: fetch, or ask the other members for theirs"
    kind = EnvironmentFailure if finding.code in STALE else FoundFalse
    return kind(finding.detail, where=finding.where, hint=hint, code=finding.code)


def of_each_release(evidence: Evidence) -> Releases:
    """Each release's files, and its claim if there is a good one."""
    found: list[tuple[ReleaseFiles, Claimed | None]] = []
    for files in every_release(evidence):
        try:
            found.append((files, files.claim()))
        except Rejected:
            found.append((files, None))
    return found


def present_in(there: Releases, members: MembersFile, root: bytes) -> list[bytes]:
    """The entries that a member would log: one for everything authentic that is there.

    A vote in another quorum, with the same key, is none here: its entry would not say so.
    What shows a result first, claims before statements, then by kind and name, and publications of a claim
    that is not the one here last, so that the same files give the same log, whoever appends.
    """
    signed = [statement_entry(item) for files, _ in there for item in read_statements(files, members)[0]]
    votes = [
        (vote, claim)
        for files, claim in there
        for vote in read_votes(files, members)[0]
        if vote.root == root.hex()
    ]
    # What nobody published counts for nothing: it does not end the time for commitments, either.
    claims = [
        claim_entry(claim)
        for vote, claim in votes
        if members.commitments
        and claim is not None
        and (vote.kind, vote.release, vote.claim) == (PUBLISH, claim.release, claim.sha256)
    ]
    # Members answered the claim that is here: a rival that comes later takes no name by its member's letters.
    rivals = {
        vote_entry(vote)
        for vote, claim in votes
        if vote.kind == PUBLISH and claim is not None and vote.claim != claim.sha256
    }
    entries = [*signed, *(vote_entry(vote) for vote, _ in votes)]
    return list(dict.fromkeys(claims)) + sorted(entries, key=lambda each: (each in rivals, *_place(each)))


def _place(entry: bytes) -> tuple[bool, str, str, str, str]:
    """Who commits in the same append as another one's statement could have copied it."""
    found = parse_entry(entry)
    hidden = found.kind != "rebuild" or found.outcome == COULD_NOT_BUILD
    return hidden, found.kind, found.facts.get("release", ""), found.member or "", found.sha256


def all_recomputed(
    evidence: Evidence, there: Releases, log: Log, chain: MembersChain, root: bytes, *, start: int
) -> None:
    """Refuse an entry, from ``start`` on, that is not what an authentic file here gives.

    Whatever it is about, a release without a claim too: an invented one would stand in that release's way for
    ever. A file may have been signed under any version that was in force.
    """
    known = set(signature_entries(evidence, chain.versions))
    logged = {entry: index for index, entry in enumerate(log.entries)}
    archived = {
        found
        for files, _ in there
        for version in chain.versions
        if (found := archive_of(evidence, files.release, version, root, logged))
    }
    # In what enough members cosigned already a repeated entry changes nothing, and stops no newcomer.
    fresh = max(start, len(chain.state.entries))
    before = set(log.entries[:fresh])
    for index, data in enumerate(log.entries[fresh:], fresh):
        if data in before:
            entry = _parsed(index, data)
            words = f"{entry.member}: {entry.outcome or entry.kind}"
            raise _bad_log(f"entry {index} ({words}) is in the log twice")
        before.add(data)
    missing = {index: entry for index, entry in enumerate(log.entries[start:], start) if entry not in known}
    for version in reversed(chain.versions):
        if missing:
            known.update(present_in(there, version, root))
            missing = {index: entry for index, entry in missing.items() if entry not in known}
    later = [parse_entry(entry) for entry in known] if missing else []
    ordered = {version.sha256 for version in chain.versions if version.commitments}
    for index, data in missing.items():
        entry = _parsed(index, data)
        if _archived_with(index, entry, archived):
            continue
        settled = index < len(chain.state.entries)
        on_trust = settled or entry.facts.get("quorum") not in ordered
        if not on_trust or not any(_replaces(each, entry, chain.current, settled=settled) for each in later):
            raise _no_file(index, entry)


def _replaces(later: LogEntry, entry: LogEntry, current: MembersFile, *, settled: bool) -> bool:
    """Whether a member's file stands in the place of an earlier one of its own, which may be gone then.

    The later one is of the same version and round, or of those in force: its member signed again. What enough
    members cosigned already (``settled``) may have been replaced at any time since, or nobody who joins later
    could cosign.
    Where commitments count (``ordered`` above) the order of entries does, and nothing is taken on trust, and
    no commitment is: of one member's only the first few count.
    """
    names = ("release", "architecture", "tree_sha256", "lock_sha256")
    old, new = entry.facts, later.facts
    place = (new.get("quorum"), new.get("round"))
    if not settled and place not in (
        (old.get("quorum"), old.get("round")),
        (current.sha256, current.round),
    ):
        return False
    return (
        (entry.kind, entry.member) == (later.kind, later.member)
        and all(old.get(name) == new.get(name) for name in names)
        and (entry.time < later.time if entry.kind == "rebuild" else entry.kind == REVIEW)
        and entry.outcome != DISSENT
    )


def _archived_with(index: int, entry: LogEntry, archived: Collection[Archived]) -> bool:
    """Whether an entry is about what left the folder with an archived release: no objection does.

    It has the archived source, and is older than the archive: anybody can invent entries under its name.
    """
    return (
        entry.kind in LEAVES
        and entry.outcome != DISSENT
        and any(each.covers(entry.facts) and index < each.since for each in archived)
    )


def _no_missing_files(there: Releases, log: Log, members: MembersFile, root: bytes, now: datetime) -> None:
    """Refuse to cosign an objection to a claim that is here whose own file is not, however old it is."""
    here = set(present_in(there, members, root))
    for files, claim in there:
        if claim is None:
            continue
        question = DecisionQuestion(claim, members, "", now)
        signed, _ = read_statements(files, members)
        for index, entry in objections(log.entries, question, signed):
            if log.entries[index] not in here:
                raise _no_file(index, entry)


def _parsed(index: int, data: bytes) -> LogEntry:
    try:
        return parse_entry(data)
    except Rejected as error:
        raise _bad_log(f"entry {index} cannot be read: {error.what}") from None


def _bad_log(what: str) -> FoundFalse:
    return FoundFalse(what, where=CHECKPOINT_FILE, hint=TAKEN_BACK, code="bad-log")


def _no_file(index: int, entry: LogEntry) -> FoundFalse:
    return FoundFalse(
        f"entry {index} ({entry.member}: {entry.outcome or entry.kind}) has no file here",
        where=CHECKPOINT_FILE,
        hint="the file was removed, or the entry was invented; ask the member",
        code="removed-entry",
    )
