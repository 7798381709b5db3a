"""Writing the log: append what is in the folder and not in the log, and cosign the result.

A cosigner first checks that the log extends what it saw before and that every dissent in it has its file: an
invented entry gets no cosignature, and a removed file is noticed by whoever signs next.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest.files import write_atomic
from coattest_verify.quorum.decision import CLAIM_FILE, decide_from
from coattest_verify.quorum.directory import Evidence, Folder
from coattest_verify.quorum.log.checkpoint import Cosigned, cosign
from coattest_verify.quorum.log.examine import (
    CHECKPOINT_FILE,
    LOG,
    Log,
    claim_entry,
    decision_entry,
    extends,
    head,
    read_log,
    standing,
    statement_entry,
    vote_entry,
)
from coattest_verify.quorum.log.merkle import leaf_hash, pack, tiles
from coattest_verify.quorum.members.chain import Seen, SeenLog, follow
from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.statements.claim import MAX_CLAIM, Claimed
from coattest_verify.quorum.tally import Question, read_statements
from coattest_verify.quorum.votes import read_votes
from coattest_verify.signatures.keys import public_key_of


class BadLog(FoundFalse):
    """The log is damaged, forked, or names what is not there."""

    default_code = "bad-log"


@dataclass(frozen=True, slots=True)
class Signing:
    """What happened: entries appended, and the checkpoint as it stands."""

    appended: int
    cosigned: Cosigned

    @property
    def seen(self) -> SeenLog:
        """What the signer remembers from now on."""
        return SeenLog(self.cosigned.checkpoint.size, self.cosigned.checkpoint.root.hex())


def sign_log(
    attestations: Path, root: bytes, member: str, signer: Any, *, seen: Seen | None, now: datetime
) -> Signing:
    """Append, cosign as ``member``, and write ``attestations/log/``.

    Raises BadLog, PolicyRefused, and UsageError when the key is not the member's.
    """
    with Folder(attestations) as folder:
        policy = follow(folder, root, seen=seen, now=now).current
        party = policy.member(member)
        if party is None or public_key_of(signer) not in party.keys:
            raise UsageError(f"this is not a key of {member} in quorum.toml", code="other-key")
        log = _checked(folder, root, policy, seen)
        here = _present(folder, root, policy, seen, now)
        _no_ghosts(folder, log, policy, set(here), now)
    known = set(log.entries) if log else set()
    fresh = [entry for entry in dict.fromkeys(here) if entry not in known]
    entries = [*(log.entries if log else ()), *fresh]
    if not entries:
        raise UsageError("there is nothing to log yet", where=str(attestations))
    base = log.cosigned if log and not fresh else Cosigned(head(entries, root), {}, ())
    cosigned = cosign(base, member, signer, now)
    _write(attestations, entries, cosigned)
    return Signing(len(fresh), cosigned)


def _checked(evidence: Evidence, root: bytes, policy: MembersFile, seen: Seen | None) -> Log | None:
    before = seen.log if seen else None
    try:
        log = read_log(evidence, root, policy)
    except Rejected as error:
        raise BadLog(error.what, where=CHECKPOINT_FILE) from None
    problem = (
        ("the log that was seen before is gone" if before else None) if log is None else extends(log, before)
    )
    if problem:
        raise BadLog(problem, where=CHECKPOINT_FILE, hint="ask the other members for their copy")
    return log


def _present(
    evidence: Evidence, root: bytes, policy: MembersFile, seen: Seen | None, now: datetime
) -> list[bytes]:
    """Entries for everything authentic in the folder, and for the decisions that it amounts to."""
    signed, _ = read_statements(evidence, policy)
    entries = [
        statement_entry(item) for item in sorted(signed, key=lambda item: (item.statement.time, item.sha256))
    ]
    entries += [vote_entry(vote) for vote in read_votes(evidence, policy)[0]]
    try:
        claim = Claimed.decode(evidence.read(CLAIM_FILE, MAX_CLAIM))
    except Rejected:
        return entries
    if policy.commitments:
        entries.append(claim_entry(claim, policy))
    for profile in sorted(claim.profiles):
        decision = decide_from(evidence, root=root, seen=seen, profile=profile, now=now).decision
        if decision is not None:
            entries.append(decision_entry(decision.digest, decision.release, profile))
    return entries


def _no_ghosts(
    evidence: Evidence, log: Log | None, policy: MembersFile, here: set[bytes], now: datetime
) -> None:
    """Refuse to cosign a standing entry about the present question whose file is not there."""
    if log is None:
        return
    try:
        claim = Claimed.decode(evidence.read(CLAIM_FILE, MAX_CLAIM))
    except Rejected:
        return
    question = Question(claim, policy, "", now)
    signed, _ = read_statements(evidence, policy)
    for index, entry in standing(log.entries, question, signed):
        if log.entries[index] not in here:
            raise BadLog(
                f"entry {index} ({entry.member}: {entry.outcome}) has no file here",
                where=CHECKPOINT_FILE,
                hint="the file was removed, or the entry was invented; ask the member",
                code="removed-entry",
            )


def _write(attestations: Path, entries: list[bytes], cosigned: Cosigned) -> None:
    # The checkpoint last: a reader of the old one still finds what it names, or a whole new log.
    files = {**pack(entries), **tiles([leaf_hash(entry) for entry in entries])}
    for path, content in files.items():
        _put(attestations, LOG + path, content)
    _put(attestations, CHECKPOINT_FILE, cosigned.encode())


def _put(attestations: Path, name: str, content: bytes) -> None:
    """Write a file below the folder; a folder on its way that is a link would lead out of it."""
    for parent in list(Path(name).parents)[:-1]:
        if (attestations / parent).is_symlink():
            raise BadLog(
                "is a symbolic link", where=str(attestations / parent), hint="remove it", code="linked"
            )
    with Folder(attestations) as folder:
        try:
            unchanged = folder.read(name, len(content)) == content
        except Rejected:
            unchanged = False
    if not unchanged:
        write_atomic(attestations / name, content)
