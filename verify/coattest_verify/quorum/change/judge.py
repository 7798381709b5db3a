"""Whether a change to ``attestations/`` between two commits may be merged. Pure: commits in, a verdict out.

1. It changes the folder of attestations and nothing else.
2. Every name has the form of its kind, no two differ in case only, and every file is plain and within its
   limit: no links, submodules, programs, and no ``.gitattributes`` but the folder's own.
3. Each file is authentic and about its own release; all are one member's, and a claim is nobody's. Neither
   it nor an agreeing statement shows a result before ``commitments`` members committed.
4. Claims, revocations, dissents and others' files are never replaced, and nothing is removed but what is
   kept in an archive that enough members named.
5. The log is extended with what its files say, members' versions follow each other, and a proposal that
   somebody signed stays.

Whether a signature *counts* (its round, its age) is the decision's matter and not judged here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from coattest.errors import Rejected
from coattest.findings import Finding
from coattest_verify.quorum.change.names import (
    ATTRIBUTES,
    CHECKPOINT,
    MEMBERS,
    PROPOSAL,
    SHARED,
    TILE,
    FilePlace,
    OtherFiles,
    place_of,
)
from coattest_verify.quorum.change.own import OwnFiles
from coattest_verify.quorum.change.shared import (
    earlier_log,
    judge_attributes,
    judge_log,
    judge_members,
    judge_proposal,
)
from coattest_verify.quorum.change.tree import TwoCommits, changed
from coattest_verify.quorum.members.chain import MembersChain, Seen, follow
from coattest_verify.quorum.members.file import MEMBERS_FILE
from coattest_verify.quorum.releases import RELEASES, releases_in

MAX_CHANGED = 4096
"""Files of one change; a log of 20,000 entries has some 160."""

MAX_CHANGED_BYTES = 32 * 1024 * 1024
"""Bytes of a change; all files of a folder have at most 128 MiB together, and a statement has some 50 kB."""

SHOWN_OUTSIDE = 16
"""Names outside the folder that are listed."""

ADDS, REPLACES, REMOVES = "adds", "replaces", "removes"


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file: its name from the folder of attestations, what happens to it, and whose it is."""

    name: str
    what: str
    member: str | None = None


@dataclass(frozen=True, slots=True)
class ChangeVerdict:
    """Everything that a change does to the folder, and every reason why it may not be merged."""

    base: str
    head: str
    changes: tuple[FileChange, ...]
    members: tuple[str, ...]
    findings: tuple[Finding, ...]
    touched: bool
    """Whether anything in the folder differs."""

    def __bool__(self) -> bool:
        return not self.findings


def judge_change(
    commits: TwoCommits, root: bytes, *, seen: Seen | None, member: str | None, others: OtherFiles
) -> ChangeVerdict:
    """Judge everything that differs between the commits under the pinned ``root``.

    ``member`` is whose change it says to be, None for any one member's. ``seen`` is what was accepted before.
    Raises Rejected when the base commit's members file or log does not hold: then nobody can be told apart.
    """
    # An expired members file stops decisions, not signatures on the next one.
    before = follow(commits.base, root, seen=seen, now=None)
    findings = list(_outside(commits))
    try:
        last = Seen(before.current.version, before.current.sha256)
        after = follow(commits.head, root, seen=last, now=None)
    except Rejected as error:
        findings.append(Finding(error.code, error.where or MEMBERS_FILE, error.what))
        after = before
    names = changed(commits.base.entries, commits.head.entries)
    touched = bool(names)
    if len(names) > MAX_CHANGED:
        findings.append(
            Finding("too-many-files", "", f"{len(names)} files; a change has at most {MAX_CHANGED}")
        )
        names = ()
    size = sum(commits.head.size(name) for name in names if name in commits.head.entries)
    if size > MAX_CHANGED_BYTES:
        text = f"{size} bytes; the files of a change have at most {MAX_CHANGED_BYTES}"
        findings.append(Finding("too-large", "", text))
        names = ()
    findings += _alike(commits, names)
    try:
        releases_in(commits.head)
    except Rejected as error:  # nobody could decide anything any more
        findings.append(Finding(error.code, RELEASES, error.what))
        names = ()
    own = OwnFiles(root, before, after, commits, member=member)
    changes, shared = [], set()
    for name in names:
        place = place_of(name, others)
        what = REMOVES if name not in commits.head.entries else ADDS
        what = REPLACES if what == ADDS and name in commits.base.entries else what
        whose = None
        try:
            if place is None:
                raise Rejected("is not the name of a file of attestations", code="bad-name")
            if what != REMOVES and not commits.head.entries[name].plain:
                raise Rejected("is a link, a program or a submodule", code="not-a-file")
            if place.kind in SHARED:
                shared.add(place.kind)
            else:
                whose = _own(commits, own, name, place, what)
        except Rejected as error:
            findings.append(Finding(error.code, name, error.what))
        changes.append(FileChange(name, what, whose))
    owners = {change.member for change in changes if change.member}
    wrong = _shared(commits, shared, root, before, after)
    findings += [*wrong, *_one_member(owners, member, changes)]
    return ChangeVerdict(
        commits.base.commit,
        commits.head.commit,
        tuple(changes),
        tuple(sorted(owners)),
        tuple(findings),
        touched,
    )


def _outside(commits: TwoCommits) -> Iterator[Finding]:
    names = changed(commits.base.outside, commits.head.outside)
    for name in names[:SHOWN_OUTSIDE]:
        yield Finding("outside-attestations", name, "is changed too: hand that in by itself")
    if len(names) > SHOWN_OUTSIDE:
        text = f"and {len(names) - SHOWN_OUTSIDE} more outside"
        yield Finding("outside-attestations", "", text)


def _alike(commits: TwoCommits, names: tuple[str, ...]) -> Iterator[Finding]:
    """Added names that a file system without upper and lower case cannot tell from others."""
    paths: dict[str, set[str]] = {}
    for name in commits.head.entries:
        parts = name.split("/")
        for count in range(1, len(parts) + 1):
            path = "/".join(parts[:count])
            paths.setdefault(path.casefold(), set()).add(path)
    for name in names:
        parts = name.split("/")
        for count in range(1, len(parts) + 1):
            alike = paths.get("/".join(parts[:count]).casefold(), set())
            if name in commits.head.entries and len(alike) > 1:
                text = f"differs in case only from another name: {', '.join(sorted(alike))}"
                yield Finding("bad-name", name, text)
                break


def _own(commits: TwoCommits, own: OwnFiles, name: str, place: FilePlace, what: str) -> str | None:
    """Whose file it is. Raises Rejected."""
    if what == REMOVES:
        if not own.may_go(name, place, commits.base.read(name, place.limit)):
            raise Rejected("is removed, and may only be added", code="file-removed")
        return None
    data = commits.head.read(name, place.limit)
    whose = own.member_of(name, place, data)
    if what == REPLACES:
        try:
            earlier = commits.base.read(name, place.limit)
        except Rejected:
            return whose  # what cannot be read counted for nothing
        if not own.replaceable(name, place, earlier, data):
            raise Rejected("stands in the place of a file that stays", code="file-replaced")
    return whose


def _shared(
    commits: TwoCommits, kinds: set[str], root: bytes, before: MembersChain, after: MembersChain
) -> list[Finding]:
    """What is wrong with what all share, which is nobody's. Raises Rejected as ``earlier_log`` does."""
    findings: list[Finding] = []
    if kinds & {CHECKPOINT, TILE}:
        findings += judge_log(commits, root, earlier_log(commits, root, before), after)
    if ATTRIBUTES in kinds:
        findings += judge_attributes(commits)
    if MEMBERS in kinds:
        findings += judge_members(commits, after)
    if PROPOSAL in kinds:
        findings += judge_proposal(commits, before, after)
    return findings


def _one_member(owners: set[str], member: str | None, changes: list[FileChange]) -> Iterator[Finding]:
    if member is not None:
        for each in sorted(owners - {member}):
            names = [change.name for change in changes if change.member == each]
            yield Finding("wrong-member", names[0], f"is {each}'s, and the change is {member}'s")
    elif len(owners) > 1:
        text = f"files of {', '.join(sorted(owners))}: each member hands in its own"
        yield Finding("several-members", "", text)
