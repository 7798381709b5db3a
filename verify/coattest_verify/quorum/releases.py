"""Where a release's files are: ``releases/<release>/`` beside the members file and the log.

Several releases lie side by side in one folder, and one log has all of them. A command names its release; the
rest of this room sees one release's files and what all share as one Evidence, under the files' own names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest.files import Evidence, Folder, write_atomic
from coattest.findings import Finding
from coattest.strictjson import MAX_SIZE
from coattest_verify.quorum.statements.claim import CLAIM_FILE, MAX_CLAIM, RELEASE, Claimed
from coattest_verify.quorum.statements.votes import Vote, sign_vote, vote_name
from coattest_verify.signatures.keys import Signer

RELEASES = "releases"

MAX_RELEASES = 1024
"""Releases in one folder; each has one claim and its members' files."""

RELEASE_FILE = re.compile(
    r"(?:claim|publish|rebuild|commit|review|revoke|unrevoke|withdraw|excuse|archive)\..{1,190}"
)
"""Names of files that belong to one release."""

ATTRIBUTES_FILE = ".gitattributes"
ATTRIBUTES_TEXT = b"""\
# Files here are signed, or follow from those that are: git changes no byte, and merges none line by line.
* -text -ident -filter -merge !eol !working-tree-encoding
"""
"""What git is told about the folder of attestations."""

_ABOUT_A_SOURCE = ("revoke.", "unrevoke.")
"""What speaks of a source whatever its release is called: it counts from every release's folder."""


class ReleaseFiles:
    """One release's files by their own names, and everything that all releases share; see Evidence.

    Revocations of other releases, which may have the same source, are there by their whole path. The names
    are read once. ``misplaced`` are files of a release that lie beside ``releases/``: they do not count.
    """

    def __init__(self, evidence: Evidence, release: str, *, alone: bool = False) -> None:
        """``alone`` is without other releases' revocations, for who looks into every release anyway.

        Raises Rejected when the release's folder cannot be listed.
        """
        self.release = release
        self._evidence = evidence
        top = evidence.names()
        own = evidence.names(f"{RELEASES}/{release}")
        elsewhere = [
            f"{RELEASES}/{other}/{name}"
            for other in (() if alone else releases_in(evidence))
            if other != release
            for name in _listed(evidence, other)
            if name.startswith(_ABOUT_A_SOURCE)
        ]
        self._names = tuple(
            sorted(
                [name for name in top if not RELEASE_FILE.fullmatch(name)]
                + [name for name in own if RELEASE_FILE.fullmatch(name)]
                + elsewhere
            )
        )
        self.misplaced = tuple(
            Finding("wrong-place", name, f"belongs in {RELEASES}/<release>/ and does not count here")
            for name in top
            if RELEASE_FILE.fullmatch(name)
        )

    def names(self, folder: str = "") -> tuple[str, ...]:
        """Every name, sorted."""
        return self._evidence.names(folder) if folder else self._names

    def read(self, name: str, limit: int = MAX_SIZE) -> bytes:
        """A file's bytes; see Evidence."""
        return self._evidence.read(self.place(name), limit)

    def place(self, name: str) -> str:
        """Where a file of this name is, from the folder of attestations."""
        return f"{RELEASES}/{self.release}/{name}" if RELEASE_FILE.fullmatch(name) else name

    def claim(self) -> Claimed:
        """The release's claim. Raises Rejected, also for a claim of another release."""
        claim = Claimed.decode(self.read(CLAIM_FILE, MAX_CLAIM))
        if claim.release != self.release:
            raise Rejected(f"is about release {claim.release}, not {self.release}", code="wrong-release")
        return claim


def releases_in(evidence: Evidence) -> tuple[str, ...]:
    """The names of all releases in a folder, sorted. Raises Rejected when there are too many."""
    found = tuple(name for name in evidence.names(RELEASES) if RELEASE.fullmatch(name))
    if len(found) > MAX_RELEASES:
        raise Rejected(f"more than {MAX_RELEASES} releases", code="too-many-files")
    return found


def _listed(evidence: Evidence, release: str) -> tuple[str, ...]:
    """A release's names; none for what is not a folder, so that it stands in nobody's way."""
    try:
        return evidence.names(f"{RELEASES}/{release}")
    except Rejected:
        return ()


def release_files(evidence: Evidence, release: str | None) -> ReleaseFiles:
    """The files of ``release``, or of the only one with a claim. Raises UsageError, Rejected."""
    if release is not None:
        if not RELEASE.fullmatch(release):
            raise UsageError(
                f"release {ascii(release)[:80]}", hint="letters, digits and ._+-", code="no-release"
            )
        return ReleaseFiles(evidence, release)
    claimed = [name for name in releases_in(evidence) if CLAIM_FILE in _listed(evidence, name)]
    if len(claimed) != 1:
        found = "no release is here" if not claimed else f"{len(claimed)} releases are here"
        raise UsageError(
            found,
            where=RELEASES,
            hint=f"--release says which: {', '.join(claimed[:8])}"
            if claimed
            else "the publisher claims one first",
            code="no-release",
        )
    return ReleaseFiles(evidence, claimed[0])


def every_release(evidence: Evidence) -> Iterator[ReleaseFiles]:
    """Each release's own files; what is not a folder is no release. Raises Rejected for too many of them."""
    for release in releases_in(evidence):
        try:
            files = ReleaseFiles(evidence, release, alone=True)
        except Rejected:
            continue
        yield files


def claims_in(evidence: Evidence) -> tuple[tuple[Claimed, ...], tuple[Finding, ...]]:
    """Every release's claim, sorted by name, and why others cannot be read; nobody's word but the host's.

    Raises Rejected when there are too many releases.
    """
    claims: list[Claimed] = []
    unread: list[Finding] = []
    for release in releases_in(evidence):
        place = release_place(release, CLAIM_FILE)
        try:
            claim = Claimed.decode(evidence.read(place, MAX_CLAIM))
            if claim.release != release:
                raise Rejected(f"is about release {claim.release}", code="wrong-release")
        except Rejected as error:
            if error.code != "absent":
                unread.append(Finding("bad-claim", place, error.what))
            continue
        claims.append(claim)
    return tuple(claims), tuple(unread)


def release_place(release: str, name: str) -> str:
    """Where a release's file of this name is, from the folder of attestations."""
    return f"{RELEASES}/{release}/{name}"


def put_file(attestations: Path, name: str, content: bytes) -> Path:
    """Write a file below the folder of attestations, and return its path.

    Raises FoundFalse (``linked``) when a folder on its way is a link, which would lead out of it.
    """
    for parent in list(Path(name).parents)[:-1]:
        if (attestations / parent).is_symlink():
            raise FoundFalse(
                "is a symbolic link", where=str(attestations / parent), hint="remove it", code="linked"
            )
    with Folder(attestations) as folder:
        try:
            unchanged = folder.read(name, len(content)) == content
        except Rejected:
            unchanged = False
    if not unchanged:
        write_atomic(attestations / name, content)
    return attestations / name


def put_vote(attestations: Path, vote: Vote, signer: Signer) -> Path:
    """Sign a vote, write it into its release's folder, and return its path. Raises as ``put_file``."""
    return put_file(attestations, release_place(vote.release, vote_name(vote)), sign_vote(vote, signer))
