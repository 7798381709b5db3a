"""The rules for what all members share: it follows from the members' files, and is only ever extended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from coattest.errors import Rejected
from coattest.files import Evidence, Held, read_or_none
from coattest.findings import Finding
from coattest_verify.quorum.change.names import CLAIM, STATEMENT, VOTE, place_of
from coattest_verify.quorum.change.tree import CommitFiles, TwoCommits, changed
from coattest_verify.quorum.cosigning import of_each_release, present_in
from coattest_verify.quorum.log.entries import SeenLog, parse_entry
from coattest_verify.quorum.log.examine import (
    CHECKPOINT_FILE,
    LOG,
    MAX_PART,
    Log,
    checked_log,
    read_quorum_log,
)
from coattest_verify.quorum.log.merkle import log_files
from coattest_verify.quorum.members.chain import MembersChain, read_signatures, signature_entries, signers
from coattest_verify.quorum.members.file import MAX_MEMBERS_FILE, MEMBERS_FILE, MembersFile
from coattest_verify.quorum.releases import ATTRIBUTES_FILE, ATTRIBUTES_TEXT
from coattest_verify.quorum.signing import PROPOSAL_FILE
from coattest_verify.quorum.statements.votes import COMMIT


def earlier_log(commits: TwoCommits, root: bytes, before: MembersChain) -> Log | None:
    """The log before the change, None without one. Raises Rejected when it does not hold."""
    log = read_quorum_log(commits.base, root, before.current)
    return before.log if isinstance(before.log, Log) else log


def judge_log(commits: TwoCommits, root: bytes, earlier: Log | None, after: MembersChain) -> list[Finding]:
    """What is wrong with the log, which is nobody's: it follows from the members' files.

    It extends the earlier one, each new entry is what its file here says, and the files are those that the
    entries give. Where a version came into force that begins the log again, the earlier one is what it names.
    """
    again = earlier is not None and earlier.restart != after.restart
    began = after.state.began
    if began is not None and again and isinstance(after.log, Log):
        earlier = after.log.begun_again(began, root)
    seen = SeenLog(len(earlier.entries), earlier.checkpoint.root.hex(), earlier.restart) if earlier else None
    log = checked_log(commits.head, root, after.current, seen)
    if not isinstance(log, Log):
        return [log or Finding("bad-log", CHECKPOINT_FILE, "there are tiles and no checkpoint")]
    if log.restart != after.restart:
        text = "is not the log that the members file in force begins again"
        return [Finding("bad-log", CHECKPOINT_FILE, text)]
    return [*_files(commits, log, again=again), *_entries(commits.head, log, earlier, after, root)]


def _files(commits: TwoCommits, log: Log, *, again: bool) -> Iterator[Finding]:
    expected = {LOG + path: data for path, data in log_files(log.entries).items()}
    for name in changed(commits.base.entries, commits.head.entries):
        if not name.startswith(f"{LOG}tile/"):
            continue
        if name not in commits.head.entries:
            if name in expected or (".p/" not in name and not again):
                yield Finding("file-removed", name, "a part of the log, which is only extended")
        elif name not in expected or read_or_none(commits.head, name, MAX_PART) != expected[name]:
            yield Finding("bad-log", name, "is not what the log's entries give")
    for name in sorted(set(expected) - set(commits.head.entries)):
        yield Finding("bad-log", name, "is missing")


def _entries(
    head: CommitFiles, log: Log, earlier: Log | None, after: MembersChain, root: bytes
) -> Iterator[Finding]:
    start = len(earlier.entries) if earlier else 0
    fresh = log.entries[start:]
    if not fresh:
        return
    yield from _too_late(head, log, start, after, root)
    releases = {parse_entry(entry).facts.get("release", "") for entry in fresh}
    known = {*_present(head, releases, after, root), *signature_entries(head, after.versions)}
    logged = set(log.entries[:start])
    for index, entry in enumerate(fresh, start):
        if entry in logged:
            yield Finding("bad-log", CHECKPOINT_FILE, f"entry {index} is in the log twice")
        elif entry not in known:
            yield Finding(
                "removed-entry", CHECKPOINT_FILE, f"entry {index} is not what an authentic file here gives"
            )
        logged.add(entry)


def _too_late(head: CommitFiles, log: Log, start: int, after: MembersChain, root: bytes) -> Iterator[Finding]:
    """A commitment that is appended before what shows its source's result here, or without it: a copy."""
    entries = [parse_entry(entry) for entry in log.entries]
    sources = {entry.source for entry in entries[start:] if entry.kind == COMMIT}
    if not sources or not after.current.commitments:
        return
    shown = {entry.source for entry in entries[:start] if entry.shows}
    releases = {place.release for name in head.entries if (place := place_of(name, {})) and place.release}
    here = set(_present(head, releases, after, root)) - set(log.entries[:start])
    waiting = {entry.source for entry in map(parse_entry, here) if entry.shows} - shown
    for index, entry in enumerate(entries[start:], start):
        if entry.shows:
            waiting.discard(entry.source)
        elif entry.kind == COMMIT and entry.source in waiting:
            text = f"entry {index} commits to a source whose result is shown here and not in the log before"
            yield Finding("bad-log", CHECKPOINT_FILE, text)


def _present(head: CommitFiles, releases: Iterable[str], after: MembersChain, root: bytes) -> list[bytes]:
    """The entries that the signed files and claims of these releases give."""
    held = {}
    for name in head.entries:
        place = place_of(name, {})
        if (
            place
            and place.release in releases
            and place.kind in {CLAIM, STATEMENT, VOTE}
            and (data := read_or_none(head, name, place.limit)) is not None
        ):
            held[name] = data
    return present_in(of_each_release(Held(held)), after.current, root)


def judge_attributes(commits: TwoCommits) -> list[Finding]:
    """What is wrong with a change of ``.gitattributes``: it may only become what ``members init`` writes."""
    if read_or_none(commits.head, ATTRIBUTES_FILE, len(ATTRIBUTES_TEXT)) == ATTRIBUTES_TEXT:
        return []
    return [Finding("malformed", ATTRIBUTES_FILE, "is not what verify members init writes")]


def judge_members(commits: TwoCommits, after: MembersChain) -> list[Finding]:
    """What is wrong with a change of ``quorum.toml``, which ``follow`` found in the chain."""
    versions = [version.raw for version in after.versions]
    old, new = (read_or_none(each, MEMBERS_FILE, MAX_MEMBERS_FILE) for each in (commits.base, commits.head))
    if old in versions and new in versions and versions.index(new) < versions.index(old):
        return [Finding("members-rollback", MEMBERS_FILE, "is an older version than before")]
    return []


def judge_proposal(commits: TwoCommits, before: MembersChain, after: MembersChain) -> list[Finding]:
    """What is wrong with a proposal: that it follows nothing, or takes the place of one that was signed."""
    old, new = (read_or_none(each, PROPOSAL_FILE, MAX_MEMBERS_FILE) for each in (commits.base, commits.head))
    chain = {version.raw for version in after.versions}
    findings = []
    if old is not None and old not in chain and (signed := _signed_by(commits.base, before, old)):
        names = ", ".join(sorted(signed))
        findings.append(
            Finding("file-replaced", PROPOSAL_FILE, f"{names} signed the proposal that was there before")
        )
    if new is not None and new not in chain:
        try:
            proposal = MembersFile.decode(new)
        except Rejected as error:
            return [*findings, Finding(error.code, PROPOSAL_FILE, error.what)]
        if proposal.previous != f"sha256:{after.current.sha256}":
            findings.append(Finding("stale", PROPOSAL_FILE, "does not follow the version in force"))
    return findings


def _signed_by(evidence: Evidence, before: MembersChain, payload: bytes) -> set[str]:
    envelopes = read_signatures(evidence)
    found = signers(before.current, payload, envelopes)
    try:
        return found | signers(MembersFile.decode(payload), payload, envelopes)
    except Rejected:
        return found
