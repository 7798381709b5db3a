"""Beginning the log again, after it was lost or forked: what is proposed, and what its signers check first.

A version of the members file names the entries that the log has so far (``log.restart``). Whoever proposes it
keeps what the folder has of a log, and adds what is here and not in it: signatures on the versions in force,
then everything else as in any append. Nothing that is known gets lost that way, and each signer's program
looks for that (``check_restart``):

1. The named entries are here, each once, and each is what an authentic file here gives, or its later one.
   All are among them that enough members cosigned here, or this member did, or this machine saw agreed.
2. Every dissent that is here has its entry, and every objection that this machine has seen has its file.
3. A release's name belongs to the claim that is here, unless nobody but the name's owner published or
   answered that one, or this member or enough others cosigned whose name it is.
4. A commitment stands before what shows its result only in what this member or enough others cosigned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coattest.errors import FoundFalse, Rejected
from coattest.files import Evidence
from coattest.findings import Finding
from coattest_verify.quorum.cosigning import (
    TAKEN_BACK,
    Releases,
    all_recomputed,
    head_slot,
    of_each_release,
    present_in,
)
from coattest_verify.quorum.log.entries import LogEntry, parse_entry
from coattest_verify.quorum.log.examine import CHECKPOINT_FILE, LOG, Log, head, read_quorum_log
from coattest_verify.quorum.log.fold import LogState
from coattest_verify.quorum.log.merkle import leaf_hash, log_files, tree_root, tree_roots
from coattest_verify.quorum.log.publication import publication
from coattest_verify.quorum.members.chain import (
    MembersChain,
    Seen,
    claimed_root,
    latest_state,
    signature_entries,
)
from coattest_verify.quorum.members.file import MembersFile, RestartPoint
from coattest_verify.quorum.statements.signed import read_statements
from coattest_verify.quorum.statements.statement import DISSENT
from coattest_verify.quorum.statements.votes import COMMIT, PUBLISH, read_votes
from coattest_verify.signatures.journal import SignatureJournal


def proposed_restart(evidence: Evidence, current: MembersFile) -> tuple[RestartPoint, dict[str, bytes]]:
    """From where the log would go on after ``current``, which is in force; and the log's files until then.

    Raises Rejected for a fork of versions.
    """
    root, state = claimed_root(evidence, current), latest_state(evidence, current)
    versions = state.versions
    try:
        log = read_quorum_log(evidence, root, current)
    except Rejected:
        log = None  # damaged: it is begun anew
    logged = log.entries if log else ()
    in_force = {version.sha256 for version in versions}
    signatures = signature_entries(evidence, versions)
    first = [entry for entry in signatures if parse_entry(entry).sha256 in in_force]
    here = [*first, *_present(of_each_release(evidence), versions, root), *signatures]
    entries = list(dict.fromkeys([*logged, *here]))
    files = {LOG + path: content for path, content in log_files(entries).items()}
    checkpoint = head(entries, root, state.began.sha256 if state.began else "")
    point = RestartPoint(len(entries), tree_root([leaf_hash(entry) for entry in entries]).hex())
    return point, {**files, CHECKPOINT_FILE: checkpoint.encode()}


def _present(there: Releases, versions: Sequence[MembersFile], root: bytes) -> list[bytes]:
    """An entry for everything authentic that is here, by a key of any version; what shows a result first."""
    found = [entry for version in reversed(versions) for entry in present_in(there, version, root)]
    return sorted(found, key=lambda entry: not parse_entry(entry).shows)


def check_restart(
    evidence: Evidence,
    proposal: MembersFile,
    current: MembersFile,
    *,
    member: str,
    journal: SignatureJournal,
    seen: Seen | None,
) -> None:
    """Refuse to sign a version that begins the log again, unless it loses and invents nothing (above).

    ``seen`` is what this machine remembers of the quorum. Raises FoundFalse; Rejected as ``read_quorum_log``.
    """
    point = proposal.restart
    if point is None:
        return
    root, state = claimed_root(evidence, current), latest_state(evidence, current)
    log = read_quorum_log(evidence, root, current)
    if log is None or tree_root(log.leaves[: point.size]).hex() != point.root:
        raise _not_so("the log here does not begin with the entries that it names", "log-fork")
    named = Log(log.entries[: point.size], log.leaves[: point.size], log.checkpoint, {})
    entries = tuple(map(_read, named.entries))
    chain = MembersChain(LogState(state.versions, state.since, entries), ())
    there = of_each_release(evidence)
    all_recomputed(evidence, there, named, chain, root, start=0)
    if len(set(named.entries)) < point.size:  # they are agreed at once, and would stay and fill the log
        raise _not_so("an entry is in it twice", "bad-log")
    covered = max(len(state.entries), _own_heads(log, root, member, journal, seen))
    if point.size < covered:
        raise _not_so(f"of {covered} entries that were agreed it keeps {point.size}", "removed-entry")
    for finding in (
        *_lost(there, chain, named, root, seen),
        *_taken(there, chain, root, covered),
        *_late(entries, covered),
    ):
        raise _not_so(str(finding), finding.code)


def _read(data: bytes) -> LogEntry:
    try:
        return parse_entry(data)
    except Rejected as error:
        raise _not_so(f"an entry cannot be read: {error.what}", "bad-log") from None


def _not_so(what: str, code: str) -> FoundFalse:
    return FoundFalse(
        f"this version begins the log again: {what}",
        where=CHECKPOINT_FILE,
        hint=f"sign nothing; {TAKEN_BACK}",
        code=code,
    )


def _own_heads(log: Log, root: bytes, member: str, journal: SignatureJournal, seen: Seen | None) -> int:
    """How much of the log this member cosigned, or this machine saw agreed, as it is here."""
    signed = {
        size: digest
        for size in range(1, len(log.entries) + 1)
        if (digest := journal.signed(head_slot(root, member, size, log.restart)))
    }
    if seen is not None and seen.log is not None and seen.log.restart == log.restart:
        signed[seen.log.size] = seen.log.root
    roots = tree_roots(log.leaves, signed.keys())
    return max((size for size, found in roots.items() if found.hex() == signed[size]), default=0)


def _lost(
    there: Releases, chain: MembersChain, log: Log, root: bytes, seen: Seen | None
) -> Iterator[Finding]:
    """Dissents that are here and not in the log, and objections that were seen and are not here."""
    here: set[str] = set()
    for files, _ in there:
        for version in chain.versions:
            here |= {item.signed_sha256 for item in read_statements(files, version)[0]}
            here |= {vote.signed_sha256 for vote in read_votes(files, version)[0]}
    for entry in dict.fromkeys(_present(there, chain.versions, root)):
        found = parse_entry(entry)
        if found.outcome == DISSENT and entry not in log.entries:
            yield Finding("removed-entry", found.member or "", "its dissent is here and not in the log")
    for each in sorted(seen.objections if seen else (), key=lambda each: (each.member, each.sha256)):
        if each.sha256 not in here:
            yield Finding("objection-gone", each.member, f"its {each.kind} was here before, and is not now")


def _taken(there: Releases, chain: MembersChain, root: bytes, covered: int) -> Iterator[Finding]:
    """Names of releases that would belong to another claim than the one that is here.

    Whoever can put a claim here, and a publication of another one, must not stop everybody for ever.
    """
    for files, claim in there:
        votes = read_votes(files, chain.current)[0] if claim else []
        finding = publication(claim, votes, chain.state, root).finding if claim else None
        if claim is None or finding is None or finding.code != "name-taken":
            continue
        index, owner = next(
            (index, entry.member)
            for index, entry in enumerate(chain.state.entries)
            if entry.kind == PUBLISH and entry.facts.get("release") == claim.release
        )
        speaking = {vote.member for vote in votes if (vote.kind, vote.claim) == (PUBLISH, claim.sha256)}
        for item in read_statements(files, chain.current)[0]:
            if item.statement.claim_sha256 == claim.sha256:
                speaking.add(item.statement.member)
        if index >= covered and speaking - {owner}:
            yield finding


def _late(entries: Sequence[LogEntry], covered: int) -> Iterator[Finding]:
    """Commitments to a result that is shown after them, where nobody cosigned the order."""
    fresh = entries[covered:]
    shown = {each.source for each in fresh if each.shows}
    before = {each.source for each in entries[:covered] if each.shows}
    for index, entry in enumerate(fresh, covered):
        if entry.shows:
            before.add(entry.source)
        elif entry.kind == COMMIT and entry.source in shown - before:
            text = f"entry {index} ({entry.member}) commits before a result that was known: nobody knows when"
            yield Finding("bad-log", CHECKPOINT_FILE, text)
