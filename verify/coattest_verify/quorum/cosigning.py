"""Writing the log: append what is in the folder and not in the log yet, and cosign the checkpoint.

A cosigner first checks that the log extends what it saw before and that every dissent and revocation in it
has its file. So an invented objection gets no cosignature, and the next signer notices a removed file. Of one
size it cosigns one head: the journal in its state remembers which, and so does its cosignature in the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest.files import Evidence, Folder, ReadOnce
from coattest.findings import Finding
from coattest_build.ownwork import sha256_hex
from coattest_verify.quorum.log.checkpoint import Checkpoint, Cosigned, cosign
from coattest_verify.quorum.log.entries import (
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
    checked_log,
    head,
    objections,
)
from coattest_verify.quorum.log.merkle import leaf_hash, pack_entries, tiles
from coattest_verify.quorum.members.chain import MembersChain, Seen, follow, signature_entries
from coattest_verify.quorum.members.file import MembersFile, own_key
from coattest_verify.quorum.releases import ReleaseFiles, every_release, put_file
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.question import DecisionQuestion
from coattest_verify.quorum.statements.signed import read_statements
from coattest_verify.quorum.statements.statement import DISSENT
from coattest_verify.quorum.statements.votes import OLD_KEY, REVOKE, read_votes
from coattest_verify.signatures.journal import SignatureJournal
from coattest_verify.signatures.keys import Signer

OTHER_HEAD = "get the log that you cosigned from the other members, or cosign once this one has grown"
"""What to do about a second head of one size."""


@dataclass(frozen=True, slots=True)
class LogPlan:
    """What is about to be cosigned: the head, and the entries of it that are new."""

    checkpoint: Checkpoint
    fresh: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LogSigning:
    """The result: the number of entries appended, and the checkpoint with its cosignatures."""

    appended: int
    cosigned: Cosigned

    @property
    def seen(self) -> SeenLog:
        """What the signer remembers from now on."""
        return SeenLog(self.cosigned.checkpoint.size, self.cosigned.checkpoint.root.hex())


def sign_log(
    attestations: Path,
    root: bytes,
    member: str,
    signer: Signer,
    *,
    seen: Seen | None,
    now: datetime,
    append: bool = True,
    approve: Callable[[LogPlan], None] | None = None,
    journal: SignatureJournal | None = None,
) -> LogSigning:
    """Append (``append``), cosign as ``member``, and write ``attestations/log/``.

    Each file is read once. ``approve`` gets the plan before anything is signed, and raises to stop it.
    Raises FoundFalse when the log is not sound, a file that it names is missing, or the member cosigned
    another head of this size; Rejected as ``follow`` does; UsageError when the key is not the member's or
    there is nothing to cosign.
    """
    with Folder(attestations) as opened:
        folder = ReadOnce(opened)
        chain = follow(folder, root, seen=seen, now=now)
        members = chain.current
        own_key(member, members, signer)
        log = sound_log(folder, root, members, seen)
        there = _of_each_release(folder)
        here = [*_present(there, members), *signature_entries(folder, chain.versions)]
        _no_missing_files(there, log, members, set(here), now)
        _no_inventions(there, log, chain, seen)
    logged = set(log.entries) if log else set()
    fresh = [entry for entry in dict.fromkeys(here) if entry not in logged] if append else []
    entries = [*(log.entries if log else ()), *fresh]
    if not entries:
        what, hint = ("nothing to log yet", None) if append else ("no log", "verify log append starts one")
        raise UsageError(f"there is {what}", where=str(attestations), hint=hint)
    base = log.cosigned if log and not fresh else Cosigned(head(entries, root), {}, ())
    if approve is not None:
        approve(LogPlan(base.checkpoint, tuple(fresh)))
    _record(journal or SignatureJournal(), root, member, base.checkpoint, log)
    cosigned = cosign(base, member, signer, now)
    _write(attestations, entries, cosigned)
    return LogSigning(len(fresh), cosigned)


def _record(
    journal: SignatureJournal, root: bytes, member: str, checkpoint: Checkpoint, log: Log | None
) -> None:
    """The journal's record of the head. A head that the member cosigned in the folder is recorded first."""
    if log is not None and member in log.cosigned.times:
        published = log.cosigned.checkpoint
        journal.record(_slot(root, member, published.size), published.root.hex(), remedy=OTHER_HEAD)
    journal.record(_slot(root, member, checkpoint.size), checkpoint.root.hex(), remedy=OTHER_HEAD)


def _slot(root: bytes, member: str, size: int) -> dict[str, Any]:
    return {"kind": "log", "root": root.hex(), "member": member, "size": size}


def sound_log(evidence: Evidence, root: bytes, members: MembersFile, seen: Seen | None) -> Log | None:
    """The log, or None without one. Raises FoundFalse when it is damaged or does not extend what was seen."""
    log = checked_log(evidence, root, members, seen.log if seen else None)
    if isinstance(log, Finding):
        raise FoundFalse(
            log.detail, where=CHECKPOINT_FILE, hint="ask the other members for their copy", code=log.code
        )
    return log


def _of_each_release(evidence: Evidence) -> list[tuple[ReleaseFiles, Claimed | None]]:
    """Each release's files, and its claim if there is a good one."""
    found: list[tuple[ReleaseFiles, Claimed | None]] = []
    for files in every_release(evidence):
        try:
            found.append((files, files.claim()))
        except Rejected:
            found.append((files, None))
    return found


def present_entries(evidence: Evidence, members: MembersFile) -> list[bytes]:
    """The entries that a member would log: one for everything authentic that is here."""
    return _present(_of_each_release(evidence), members)


def _present(there: Sequence[tuple[ReleaseFiles, Claimed | None]], members: MembersFile) -> list[bytes]:
    """Entries for everything authentic in the folder."""
    signed = [item for files, _ in there for item in read_statements(files, members)[0]]
    votes = [vote for files, _ in there for vote in read_votes(files, members)[0]]
    entries = [
        statement_entry(item) for item in sorted(signed, key=lambda item: (item.statement.time, item.sha256))
    ]
    entries += [vote_entry(vote) for vote in votes]
    if members.commitments:
        entries += [claim_entry(claim, members) for _, claim in there if claim is not None]
    return entries


def _no_missing_files(
    there: Sequence[tuple[ReleaseFiles, Claimed | None]],
    log: Log | None,
    members: MembersFile,
    here: set[bytes],
    now: datetime,
) -> None:
    """Refuse to cosign an objection to a claim that is here whose own file is not."""
    for files, claim in there:
        if log is None or claim is None:
            continue
        question = DecisionQuestion(claim, members, "", now)
        signed, _ = read_statements(files, members)
        for index, entry in objections(log.entries, question, signed):
            if log.entries[index] not in here:
                raise FoundFalse(
                    f"entry {index} ({entry.member}: {entry.outcome}) has no file here",
                    where=CHECKPOINT_FILE,
                    hint="the file was removed, or the entry was invented; ask the member",
                    code="removed-entry",
                )


def _no_inventions(
    there: Sequence[tuple[ReleaseFiles, Claimed | None]],
    log: Log | None,
    chain: MembersChain,
    seen: Seen | None,
) -> None:
    """Refuse a revocation or dissent, new since this machine's last look, of which no authentic file is here.

    Also one about a release that has no claim yet: it would stand in the way of that release for ever.
    """
    members, filed = chain.current, set[str]()
    for files, _ in there:
        filed |= {item.sha256 for item in read_statements(files, members)[0]}
        votes, refused = read_votes(files, members, chain.versions[:-1])
        filed |= {vote.sha256 for vote in votes}
        # A key that its member no longer has signed it when it was logged.
        filed |= {sha256_hex(files.read(item.where)) for item in refused if item.code == OLD_KEY}
    start = seen.log.size if seen and seen.log else 0
    for index, entry in enumerate(map(parse_entry, log.entries[start:] if log else ()), start):
        dissents = entry.outcome == DISSENT and dict(entry.facts).get("quorum") == members.sha256
        if (entry.kind == REVOKE or dissents) and entry.member in members.names and entry.sha256 not in filed:
            raise FoundFalse(
                f"entry {index} ({entry.member}: {entry.outcome or 'revocation'}) has no file here",
                where=CHECKPOINT_FILE,
                hint="the file was removed, or the entry was invented; ask the member",
                code="removed-entry",
            )


def _write(attestations: Path, entries: list[bytes], cosigned: Cosigned) -> None:
    # The checkpoint last: a reader of the old one still finds what it names, or a whole new log.
    files = {**pack_entries(entries), **tiles([leaf_hash(entry) for entry in entries])}
    for path, content in files.items():
        put_file(attestations, LOG + path, content)
    put_file(attestations, CHECKPOINT_FILE, cosigned.encode())
