"""The rules for a file that is one member's: signed by that member, and about the release that it lies in."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from coattest.errors import Rejected
from coattest.files import Evidence, Held, read_or_none
from coattest.findings import Finding
from coattest.strictjson import Fields, parse
from coattest_verify.quorum.change.names import (
    CLAIM,
    COSIGNATURE,
    LAYOUT,
    LINK,
    OTHER,
    SIGNATURE,
    STATEMENT,
    FilePlace,
)
from coattest_verify.quorum.change.tree import TwoCommits
from coattest_verify.quorum.commitments import commitments_missing
from coattest_verify.quorum.links import MAX_LINK, joined_layout, layout_of, layout_signatures, link_of
from coattest_verify.quorum.log.archive import LEAVES, Archived, archive_of
from coattest_verify.quorum.log.checkpoint import Cosignature, origin_of, read_cosignature
from coattest_verify.quorum.log.entries import parse_entry, statement_entry, vote_entry
from coattest_verify.quorum.log.examine import read_quorum_log
from coattest_verify.quorum.members.chain import SIGNATURE_NAME, MembersChain
from coattest_verify.quorum.members.file import MAX_MEMBERS_FILE, MEMBERS_TYPE, MembersFile
from coattest_verify.quorum.releases import ReleaseFiles, release_place
from coattest_verify.quorum.signing import PROPOSAL_FILE
from coattest_verify.quorum.statements.claim import CLAIM_FILE, MAX_CLAIM, Claimed
from coattest_verify.quorum.statements.signed import STATEMENT_NAME, SignedStatement, read_statements
from coattest_verify.quorum.statements.statement import AGREE, DISSENT, Statement
from coattest_verify.quorum.statements.votes import COMMIT, PUBLISH, REVIEW, leaf, read_votes
from coattest_verify.signatures.dsse import DsseEnvelope
from coattest_verify.signatures.keys import PublicKey
from coattest_verify.signatures.olpc import encode_olpc


class OwnFiles:
    """Judges files that are one member's, in the commit that a change leads to."""

    def __init__(
        self,
        root: bytes,
        before: MembersChain,
        after: MembersChain,
        commits: TwoCommits,
        *,
        member: str | None = None,
    ) -> None:
        """``member`` is whose change it is known to be, if that is known."""
        self._root, self._before, self._after = root, before, after
        self._members = before.current
        self._base, self._head = commits.base, commits.head
        self._member = member
        self._archived: dict[str, Archived | None] = {}

    def may_go(self, name: str, place: FilePlace, data: bytes) -> bool:
        """Whether enough members archived a file, by what was merged before: no objection, and no archive."""
        found = self._archive(place.release)
        if found is None or place.kind in {CLAIM, LINK}:
            return found is not None
        held = Held({leaf(name): data})
        statements, votes = read_statements(held, self._members)[0], read_votes(held, self._members)[0]
        made = [parse_entry(entry) for entry in (*map(statement_entry, statements), *map(vote_entry, votes))]
        return bool(made) and all(
            found.covers(each.facts) and each.kind in LEAVES and each.outcome != DISSENT for each in made
        )

    def _archive(self, release: str) -> Archived | None:
        if release not in self._archived:
            self._archived[release] = (
                archive_of(self._base, release, self._members, self._root, self._logged) if release else None
            )
        return self._archived[release]

    @functools.cached_property
    def _logged(self) -> Mapping[bytes, int]:
        """The entries of the log before the change."""
        log = read_quorum_log(self._base, self._root, self._members)
        return {entry: index for index, entry in enumerate(log.entries)} if log else {}

    def member_of(self, name: str, place: FilePlace, data: bytes) -> str | None:
        """The member whose file it is; None for a claim. Raises Rejected for what may not be added."""
        if place.kind == CLAIM:
            shown = Claimed.decode(data)
            _require_release(shown.release, place)
            self._require_commitments(place.release, shown)
            if shown.sha256 not in self._published(self._head, self._after.current, place.release):
                raise Rejected("no member signed that it publishes this claim", code="claim-unsigned")
            return None
        if place.kind == LINK:
            return self._link(place, data)
        if place.kind == SIGNATURE:
            self._signature(name, place, data)
        elif place.kind == LAYOUT:
            self._layout(name, place, data)
        elif place.kind == COSIGNATURE:
            self._cosignature(place, data)
        elif place.kind == STATEMENT:
            made = _statement(name, data, self._after.current).statement
            _require_release(made.release, place)
            claim = release_place(place.release, CLAIM_FILE)
            if made.outcome == AGREE and not read_or_none(self._head, claim, MAX_CLAIM):
                self._require_commitments(place.release, made)
        elif place.kind == OTHER:
            self._signed(DsseEnvelope.decode(data, place.payload_type, max_size=place.limit), place.member)
        else:
            self._vote(name, place, data)
        return place.member

    def _require_commitments(self, release: str, shown: Claimed | Statement) -> None:
        """Who shows a result before enough members committed would lock the others out of committing."""
        files = ReleaseFiles(self._base, release, alone=True)
        missing = commitments_missing(files, self._before, shown, self._root)
        if missing is not None:
            raise Rejected(missing.detail, code=missing.code)

    def replaceable(self, name: str, place: FilePlace, before: bytes, after: bytes) -> bool:
        """Whether ``after``, which is authentic, may stand in the place of ``before``.

        A member signs a rebuild, a review or a commitment again, later than before: an older file of its own,
        which anybody can take out of the history, does not come back. A commitment that is in the log stays:
        it counts from its entry, and whoever cosigns that looks for its file. A member adds a key to its
        signature on a members file, and gives one up only where the change is said to be its own. A dissent
        stays, and so does everything else.
        """
        if place.kind == STATEMENT:
            return self._later_statement(name, before, after)
        if place.kind == SIGNATURE:
            return self._more_signed(place, before, after)
        if leaf(name).startswith((f"{REVIEW}.", f"{COMMIT}.")):
            old, new = (
                read_votes(Held({leaf(name): data}), self._after.current)[0] for data in (before, after)
            )
            if any(vote.kind == COMMIT and vote_entry(vote) in self._logged for vote in old):
                return False
            return not old or new[0].time > old[0].time
        if place.kind == COSIGNATURE:
            return self._later_note(place, before, after)
        return place.kind in {LINK, LAYOUT}

    def _later_statement(self, name: str, before: bytes, after: bytes) -> bool:
        made = _statement(name, after, self._after.current).statement
        for version in self._before.versions:
            try:
                old = _statement(name, before, version).statement
            except Rejected:
                continue
            if old.outcome == DISSENT or made.time <= old.time:
                return False
        return True

    def _more_signed(self, place: FilePlace, before: bytes, after: bytes) -> bool:
        new = DsseEnvelope.decode(after, MEMBERS_TYPE)
        try:
            old = DsseEnvelope.decode(before, MEMBERS_TYPE)
        except Rejected:
            return True
        if old.payload != new.payload:
            return self._member == place.member
        return {signature for _, signature in old.signatures} <= {each for _, each in new.signatures}

    def _vote(self, name: str, place: FilePlace, data: bytes) -> None:
        votes, refused = read_votes(Held({leaf(name): data}), self._after.current, self._after.versions[:-1])
        _first_of(refused)
        if votes[0].root != self._root.hex():
            raise Rejected("is about a different quorum", code="members-wrong-root")
        _require_release(votes[0].release, place)
        earlier = (
            self._published(self._base, self._members, place.release) if votes[0].kind == PUBLISH else set()
        )
        if earlier - {votes[0].claim}:
            raise Rejected("another claim is published under this release's name", code="name-taken")

    def _published(self, evidence: Evidence, members: MembersFile, release: str) -> set[str]:
        """The digests of the claims that members published under a release's name."""
        votes = read_votes(ReleaseFiles(evidence, release, alone=True), members)[0]
        return {vote.claim for vote in votes if (vote.kind, vote.root) == (PUBLISH, self._root.hex())}

    def _link(self, place: FilePlace, data: bytes) -> str:
        signed = Fields(parse(data, max_size=MAX_LINK), "").values.get("signed")
        for member in self._after.current.members:
            keys = [key for key in member.keys if key.keyid.startswith(place.member)]
            if isinstance(signed, dict) and keys and layout_signatures(data, signed, keys):
                made = self._statements(place.release, member.name)
                if not any(encode_olpc(link_of(each.statement)) == encode_olpc(signed) for each in made):
                    raise Rejected(f"is not what a statement of {member.name} here says", code="mismatch")
                return member.name
        raise Rejected("not signed by a member's key of this id", code="bad-signature")

    def _statements(self, release: str, member: str) -> list[SignedStatement]:
        folder = f"releases/{release}"
        held = {}
        for name in self._head.names(folder):
            match = STATEMENT_NAME.fullmatch(name)
            if match and match[1] == member:
                held[name] = self._head.read(f"{folder}/{name}")
        return read_statements(Held(held), self._after.current)[0]

    def _layout(self, name: str, place: FilePlace, data: bytes) -> None:
        """It goes with the member's signature on the version, whose bytes that signature has."""
        version = name.split(".")[1]
        try:
            signed = self._head.read(f"quorum.{version}.{place.member}.dsse.json", 2 * MAX_MEMBERS_FILE)
        except Rejected:
            raise Rejected(f"{place.member} has not signed version {version}", code="bad-signature") from None
        members = MembersFile.decode(DsseEnvelope.decode(signed, MEMBERS_TYPE).payload)
        party, layout = members.member(place.member), layout_of(members)
        good = layout_signatures(data, layout, party.keys) if party else []
        if not good or data != joined_layout(layout, good) or str(members.version) != version:
            text = f"is not the layout of version {version}, signed by {place.member}"
            raise Rejected(text, code="malformed")

    def _cosignature(self, place: FilePlace, data: bytes) -> None:
        log = read_quorum_log(self._head, self._root, self._after.current)
        note = log.cosignatures.get(place.member) if log else None
        if note is None:
            refused = [each for each in (log.refused if log else ()) if each.where.endswith(place.member)]
            _first_of(refused)
            raise Rejected(f"not a cosignature of {place.member} on the log", code="bad-signature")
        if note.encode() != data:
            raise Rejected("has lines that are not cosignatures of its member", code="bad-log")

    def _later_note(self, place: FilePlace, before: bytes, after: bytes) -> bool:
        """Whether a cosignature is of a larger log than the one before, or of the same one and later."""
        parties = (version.member(place.member) for version in self._after.versions)
        keys = [key for party in parties if party for key in party.keys]
        origin = origin_of(self._root, self._after.restart)
        new, old = (_note(data, origin, place.member, keys) for data in (after, before))
        if new is None or old is None:
            return old is None
        return (new.checkpoint.size, new.time) > (old.checkpoint.size, old.time)

    def _signature(self, name: str, place: FilePlace, data: bytes) -> None:
        match = SIGNATURE_NAME.fullmatch(name)
        envelope = DsseEnvelope.decode(data, MEMBERS_TYPE)
        members = MembersFile.decode(envelope.payload)
        if match is None or members.version != int(match[1]):
            raise Rejected(f"signs version {members.version}", code="bad-name")
        chain, current = self._after.versions, self._after.current
        agreed = any(members.raw == version.raw for version in chain)
        if not agreed and members.previous != f"sha256:{current.sha256}":
            raise Rejected("signs a version that does not follow the one in force", code="stale")
        # Whom a version names has a say on it once it is proposed; whoever is a member has one anyway.
        known = [current, *self._before.versions[-1:]]
        if agreed or read_or_none(self._head, PROPOSAL_FILE) == members.raw:
            known.append(members)
        if not any((party := each.member(place.member)) and envelope.signers(party.keys) for each in known):
            raise Rejected(f"not signed by a key of {place.member}", code="bad-signature")

    def _signed(self, envelope: DsseEnvelope, name: str) -> None:
        member = self._after.current.member(name)
        if member is None:
            raise Rejected(f"{name} is not a member", code="not-a-member")
        if not envelope.signers(member.keys):
            raise Rejected(f"not signed by a key of {name}", code="bad-signature")


def _note(data: bytes, origin: str, member: str, keys: list[PublicKey]) -> Cosignature | None:
    try:
        return read_cosignature(data, origin, member, keys)
    except Rejected:
        return None


def _statement(name: str, data: bytes, members: MembersFile) -> SignedStatement:
    """The authentic statement in a file. Raises Rejected."""
    accepted, refused = read_statements(Held({leaf(name): data}), members)
    _first_of(refused)
    return accepted[0]


def _first_of(refused: list[Finding]) -> None:
    for finding in refused:
        raise Rejected(finding.detail, code=finding.code)


def _require_release(release: str, place: FilePlace) -> None:
    if release != place.release:
        raise Rejected(f"is about release {release}, not {place.release}", code="wrong-release")
