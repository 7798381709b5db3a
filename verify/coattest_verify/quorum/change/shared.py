"""The rules for what all members share: it follows from the members' files, and is only ever extended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from coattest.errors import Rejected
from coattest.files import Evidence, Held
from coattest.findings import Finding
from coattest.strictjson import parse
from coattest_verify.quorum.change.names import CLAIM, STATEMENT, VOTE, place_of
from coattest_verify.quorum.change.tree import CommitFiles, TwoCommits, changed
from coattest_verify.quorum.cosigning import present_entries
from coattest_verify.quorum.links import LAYOUT_FILE, MAX_LINK, layout_of, layout_signatures, metablock
from coattest_verify.quorum.log.checkpoint import MAX_CHECKPOINT
from coattest_verify.quorum.log.entries import SeenLog, parse_entry
from coattest_verify.quorum.log.examine import (
    CHECKPOINT_FILE,
    LOG,
    MAX_PART,
    Log,
    checked_log,
    read_quorum_log,
)
from coattest_verify.quorum.log.merkle import pack_entries, tiles
from coattest_verify.quorum.members.chain import MembersChain, read_signatures, signature_entries, signers
from coattest_verify.quorum.members.file import MAX_MEMBERS_FILE, MEMBERS_FILE, MembersFile
from coattest_verify.quorum.signing import PROPOSAL_FILE
from coattest_verify.signatures.olpc import encode_olpc


def earlier_log(commits: TwoCommits, root: bytes, before: MembersChain) -> Log | None:
    """The log before the change, None without one. Raises Rejected when it does not hold."""
    return read_quorum_log(commits.base, root, before.current)


def judge_log(
    commits: TwoCommits, root: bytes, earlier: Log | None, after: MembersChain
) -> tuple[set[str], list[Finding]]:
    """Who cosigned in this change, and what is wrong with the log.

    It extends the earlier one, each new entry is what its file here says, and the files are those that the
    entries give.
    """
    seen = SeenLog(len(earlier.entries), earlier.cosigned.checkpoint.root.hex()) if earlier else None
    log = checked_log(commits.head, root, after.current, seen)
    if not isinstance(log, Log):
        return set(), [log or Finding("bad-log", CHECKPOINT_FILE, "there are tiles and no checkpoint")]
    findings = [*_files(commits, log), *_entries(commits.head, log, earlier, after)]
    if _optional(commits.head, CHECKPOINT_FILE, MAX_CHECKPOINT) != log.cosigned.encode():
        findings.append(Finding("bad-log", CHECKPOINT_FILE, "has lines that are no cosignature of a member"))
    kept = earlier.cosigned if earlier and earlier.cosigned.checkpoint == log.cosigned.checkpoint else None
    lost = set(kept.times) - set(log.cosigned.times) if kept else set()
    findings += [
        Finding("file-replaced", CHECKPOINT_FILE, f"the cosignature of {name} was taken out")
        for name in sorted(lost)
    ]
    old = kept.lines if kept else ()
    return {line.split(" ")[1] for line in log.cosigned.lines if line not in old}, findings


def _files(commits: TwoCommits, log: Log) -> Iterator[Finding]:
    content = {**pack_entries(log.entries), **tiles(log.leaves)}
    expected = {LOG + path: data for path, data in content.items()}
    for name in changed(commits.base.entries, commits.head.entries):
        if not name.startswith(LOG) or name == CHECKPOINT_FILE:
            continue
        if name not in commits.head.entries:
            if name in expected or ".p/" not in name:
                yield Finding("file-removed", name, "a part of the log, which is only extended")
        elif name not in expected or _optional(commits.head, name, MAX_PART) != expected[name]:
            yield Finding("bad-log", name, "is not what the log's entries give")
    for name in sorted(set(expected) - set(commits.head.entries)):
        yield Finding("bad-log", name, "is missing")


def _entries(head: CommitFiles, log: Log, earlier: Log | None, after: MembersChain) -> Iterator[Finding]:
    start = len(earlier.entries) if earlier else 0
    fresh = log.entries[start:]
    if not fresh:
        return
    releases = {dict(parse_entry(entry).facts).get("release", "") for entry in fresh}
    known = {*present_entries(_held(head, releases), after.current), *signature_entries(head, after.versions)}
    logged = set(log.entries[:start])
    for index, entry in enumerate(fresh, start):
        if entry in logged:
            yield Finding("bad-log", CHECKPOINT_FILE, f"entry {index} is in the log twice")
        elif entry not in known:
            yield Finding(
                "removed-entry", CHECKPOINT_FILE, f"entry {index} is not what an authentic file here gives"
            )
        logged.add(entry)


def _held(head: CommitFiles, releases: Iterable[str]) -> Held:
    """The signed files and claims of these releases."""
    held = {}
    for name in head.entries:
        place = place_of(name, {})
        if place and place.release in releases and place.kind in {CLAIM, STATEMENT, VOTE}:
            try:
                held[name] = head.read(name, place.limit)
            except Rejected:
                continue
    return Held(held)


def judge_layout(commits: TwoCommits, members: MembersFile) -> tuple[set[str], list[Finding]]:
    """Who signed in-toto's layout in this change, and what is wrong with it."""
    data = _optional(commits.head, LAYOUT_FILE, 4 * MAX_LINK)
    if data is None:
        return set(), [Finding("file-removed", LAYOUT_FILE, "is gone, or too large to be read")]
    layout = layout_of(members)
    keys = [key for member in members.members for key in member.keys]
    good = layout_signatures(data, layout, keys)
    if data != metablock(layout, sorted(good, key=lambda item: item["keyid"])):
        text = "is not the layout of the members file in force, with signatures of its members"
        return set(), [Finding("malformed", LAYOUT_FILE, text)]
    earlier = _optional(commits.base, LAYOUT_FILE, 4 * MAX_LINK)
    old = layout_signatures(earlier, layout, keys) if earlier else []
    owners = {key.keyid: members.owner(key) for key in keys}
    lost = {item["keyid"] for item in old} - {item["keyid"] for item in good}
    findings = [
        Finding("file-replaced", LAYOUT_FILE, f"the signature of {owners[keyid]} was taken out")
        for keyid in sorted(lost)
    ]
    if not earlier or not _is_layout(earlier, layout):
        old = []
    fresh = {item["keyid"] for item in good} - {item["keyid"] for item in old}
    return {name for keyid in fresh if (name := owners[keyid])}, findings


def _is_layout(data: bytes, layout: object) -> bool:
    try:
        found = parse(data, max_size=4 * MAX_LINK)
    except Rejected:
        return False
    return isinstance(found, dict) and encode_olpc(found.get("signed")) == encode_olpc(layout)


def judge_members(commits: TwoCommits, after: MembersChain) -> list[Finding]:
    """What is wrong with a change of ``quorum.toml``, which ``follow`` found in the chain."""
    versions = [version.raw for version in after.versions]
    old, new = (_optional(each, MEMBERS_FILE, MAX_MEMBERS_FILE) for each in (commits.base, commits.head))
    if old in versions and new in versions and versions.index(new) < versions.index(old):
        return [Finding("members-rollback", MEMBERS_FILE, "is an older version than before")]
    return []


def judge_proposal(commits: TwoCommits, before: MembersChain, after: MembersChain) -> list[Finding]:
    """What is wrong with a proposal: that it follows nothing, or takes the place of one that was signed."""
    old, new = (_optional(each, PROPOSAL_FILE, MAX_MEMBERS_FILE) for each in (commits.base, commits.head))
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


def _optional(evidence: Evidence, name: str, limit: int) -> bytes | None:
    try:
        return evidence.read(name, limit)
    except Rejected:
        return None
