"""Votes: what members sign about a source besides a rebuild ("reviewed", "do not use it", "I publish it").

Each names the source tree and the lock by digest and the quorum by its root. So a review of one source says
nothing about another, and a revocation outlives later versions of ``quorum.toml`` as long as its member is in
them. A revocation is taken back by its signer: an ``unrevoke`` names the digest of what was signed, so it
undoes that revocation, in whatever file, and no later one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from coattest.errors import Rejected
from coattest.files import Evidence
from coattest.findings import Finding
from coattest.strictjson import Fields, canonical, parse
from coattest_verify.quorum.members.file import NAME, MembersFile, parse_utc, utc
from coattest_verify.quorum.statements.claim import COMMIT as GIT_COMMIT
from coattest_verify.quorum.statements.claim import RELEASE, SHA256, WORD, Claimed
from coattest_verify.quorum.statements.statement import MAX_REASON, clean
from coattest_verify.signatures import dsse
from coattest_verify.signatures.keys import PublicKey, Signer

REVOKE, REVIEW, COMMIT, UNREVOKE = "revoke", "review", "commit", "unrevoke"
WITHDRAW, EXCUSE, ARCHIVE, PUBLISH = "withdraw", "excuse", "archive", "publish"
KINDS = (REVOKE, REVIEW, COMMIT, UNREVOKE, WITHDRAW, EXCUSE, ARCHIVE, PUBLISH)
OUTLIVES_ITS_KEY = frozenset({UNREVOKE, WITHDRAW, EXCUSE, COMMIT})
"""What counts from its entry in the agreed log on, also when its signer's key is replaced later."""

OLD_KEY = "old-key"
VOTE_NAME = re.compile(rf"({'|'.join(KINDS)})\.({NAME.pattern})(?:\.[A-Za-z0-9_-]{{1,64}})?\.dsse\.json")
MAX_VOTE = 16 * 1024
"""Bytes of a vote; a note of 500 characters makes about 1,500."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What one member says about one source. ``root`` is the SHA-256 (hex) of quorum.toml version 1."""

    kind: str
    member: str
    root: str
    release: str
    tree_sha256: str
    lock_sha256: str
    note: str
    time: str
    since: str | None = None
    """For a review: SHA-256 (hex) of the lock that this one was compared with."""
    undoes: str | None = None
    """``signed_sha256`` of what it is about: the revocation of an ``unrevoke``, the dissent of a ``withdraw``
    or an ``excuse``. An ``excuse`` of silence has none."""
    excused: str | None = None
    """For an ``excuse``: the member whose dissent or silence no longer stands in the way."""
    claim: str = ""
    """For a ``publish``: SHA-256 (hex) of the claim in canonical JSON."""
    commit: str | None = None
    """And the commit that it is of, None where the source is no repository."""
    tag: str = ""
    """And the name of that commit."""
    sha256: str = ""
    """SHA-256 of the signed file, lower-case hex; empty before signing."""
    keys: frozenset[PublicKey] = frozenset()
    """The member's present keys that signed it; empty before signing."""

    @property
    def signed_sha256(self) -> str:
        """SHA-256 (hex) of the bytes that are signed: the same in every file that carries them."""
        return hashlib.sha256(self.payload).hexdigest()

    @property
    def payload(self) -> bytes:
        """The bytes that are signed: canonical JSON."""
        return canonical(
            {
                "purpose": f"coattest/{self.kind}/v1",
                "member": self.member,
                "root": self.root,
                "release": self.release,
                "source": {"tree_sha256": self.tree_sha256, "lock_sha256": self.lock_sha256},
                "note": self.note,
                "time": self.time,
                **({"since_lock_sha256": self.since} if self.kind == REVIEW else {}),
                **({"undoes_sha256": self.undoes} if self.kind in {UNREVOKE, WITHDRAW, EXCUSE} else {}),
                **({"excused": self.excused} if self.kind == EXCUSE else {}),
                **(
                    {"claim_sha256": self.claim, "commit": self.commit, "tag": self.tag}
                    if self.kind == PUBLISH
                    else {}
                ),
            }
        )


class NamedSource(Protocol):
    """A source that a vote can be about: a claim's, a build's, a decision's or another vote's."""

    @property
    def release(self) -> str: ...
    @property
    def tree_sha256(self) -> str: ...
    @property
    def lock_sha256(self) -> str: ...


def payload_type(kind: str) -> str:
    """The DSSE payload type of a kind: a review never passes as a revocation, nor the other way round."""
    return f"application/vnd.coattest.{kind}+json"


def make_vote(
    kind: str,
    member: str,
    *,
    root: bytes,
    claim: NamedSource,
    note: str,
    now: datetime,
    since: str | None = None,
    undoes: str | None = None,
    excused: str | None = None,
    published: tuple[str, str | None, str] = ("", None, ""),
) -> Vote:
    """A vote on the source that ``claim`` names.

    ``published`` are claim, commit and tag of a ``publish``.
    """
    return Vote(
        kind,
        member,
        root.hex(),
        claim.release,
        claim.tree_sha256,
        claim.lock_sha256,
        clean(note) or "no reason given",
        utc(now),
        since,
        undoes,
        excused,
        *published,
    )


def sign_vote(vote: Vote, signer: Signer) -> bytes:
    """The signed vote: DSSE JSON."""
    return dsse.sign_envelope(signer, payload_type(vote.kind), vote.payload).encode()


def vote_name(vote: Vote) -> str:
    """The vote's file name: one for each member and source, so a new vote does not replace an old one.

    What undoes something, and a revocation, has a name for each: a second one must not replace the first.
    """
    each = "" if vote.kind in {REVIEW, COMMIT} else f"-{vote.signed_sha256[:16]}"
    return f"{vote.kind}.{vote.member}.{vote.tree_sha256[:8]}-{vote.lock_sha256[:8]}{each}.dsse.json"


def leaf(name: str) -> str:
    """A file's own name: a revocation of another release comes with its folders."""
    return name.rpartition("/")[2]


def read_votes(
    evidence: Evidence,
    members: MembersFile,
    earlier: Sequence[MembersFile] = (),
    stands: Callable[[Vote], bool] = lambda _: False,
) -> tuple[list[Vote], list[Finding]]:
    """Every vote with a good signature of a member, and every other file with a vote's name.

    A vote by a key that the member had in an ``earlier`` version is refused with the code OLD_KEY, unless it
    counts from its entry on and ``stands``.
    """
    accepted, refused = [], []
    for name in evidence.names():
        if not leaf(name).startswith(tuple(f"{kind}." for kind in KINDS)):
            continue
        try:
            accepted.append(_authentic(name, evidence, members, earlier, stands))
        except Rejected as error:
            refused.append(Finding(error.code, name, error.what))
    return accepted, refused


def _authentic(
    name: str,
    evidence: Evidence,
    members: MembersFile,
    earlier: Sequence[MembersFile],
    stands: Callable[[Vote], bool],
) -> Vote:
    match = VOTE_NAME.fullmatch(leaf(name))
    if match is None:
        raise Rejected("not the name of a vote", code="bad-name")
    kind, member = match[1], members.member(match[2])
    if member is None:
        raise Rejected(f"{match[2]} is not a member", code="not-a-member")
    data = evidence.read(name, MAX_VOTE)
    envelope = dsse.DsseEnvelope.decode(data, payload_type(kind), max_size=MAX_VOTE)
    signers, former = frozenset(envelope.signers(member.keys)), False
    if not signers:
        gone = {key for file in earlier if (party := file.member(member.name)) for key in party.keys}
        signers, former = frozenset(envelope.signers(sorted(gone, key=lambda key: key.spki))), True
    if not signers:
        raise Rejected(f"not signed by a key of {member.name}", code="bad-signature")
    if former and kind not in OUTLIVES_ITS_KEY:
        raise Rejected(f"signed by a key that {member.name} no longer has", code=OLD_KEY)
    fields = Fields(parse(envelope.payload, max_size=MAX_VOTE), "")
    fields.exactly("purpose", f"coattest/{kind}/v1")
    fields.exactly("member", member.name, code="wrong-member")
    source = fields.fields("source")
    note = fields.text("note", limit=MAX_REASON)
    if clean(note) != note:
        raise Rejected("note: not one printable line")
    vote = Vote(
        kind=kind,
        member=member.name,
        root=fields.text("root", SHA256),
        release=fields.text("release", RELEASE),
        tree_sha256=source.text("tree_sha256", SHA256),
        lock_sha256=source.text("lock_sha256", SHA256),
        note=note,
        time=utc(parse_utc(fields.text("time"))),
        since=fields.optional("since_lock_sha256", fields.text, SHA256) if kind == REVIEW else None,
        undoes=_undoes(kind, fields),
        excused=fields.text("excused", NAME) if kind == EXCUSE else None,
        claim=fields.text("claim_sha256", SHA256) if kind == PUBLISH else "",
        commit=fields.optional("commit", fields.text, GIT_COMMIT) if kind == PUBLISH else None,
        tag=fields.text("tag", WORD) if kind == PUBLISH else "",
        sha256=hashlib.sha256(data).hexdigest(),
        keys=signers,
    )
    fields.done()
    if vote.payload != envelope.payload:
        raise Rejected("not in canonical JSON")
    if former and not stands(vote):
        raise Rejected(f"signed by a key that {member.name} no longer has", code=OLD_KEY)
    return vote


def _undoes(kind: str, fields: Fields) -> str | None:
    if kind == EXCUSE:
        return fields.optional("undoes_sha256", fields.text, SHA256)
    return fields.text("undoes_sha256", SHA256) if kind in {UNREVOKE, WITHDRAW} else None


def without_undone(votes: Iterable[Vote], overruled: Collection[str] = ()) -> tuple[list[Vote], list[Vote]]:
    """The votes without the revocations that their signers took back, and those revocations.

    What undoes a revocation is signed by its member, with every key that signed the revocation: another key
    of the same member, stolen perhaps, does not bring a release back. ``overruled`` are digests of
    revocations that others may take back, and did (``coattest_verify.quorum.objections``).
    """
    votes = list(votes)
    keys: dict[tuple[str | None, str], frozenset[PublicKey]] = {}
    for vote in votes:
        if vote.kind == UNREVOKE:
            place = (vote.undoes, vote.member)
            keys[place] = keys.get(place, frozenset()) | vote.keys
    left: list[Vote] = []
    undone: list[Vote] = []
    for vote in votes:
        by = keys.get((vote.signed_sha256, vote.member), frozenset()) if vote.kind == REVOKE else frozenset()
        gone = vote.kind == REVOKE and vote.signed_sha256 in overruled
        (undone if gone or (by and vote.keys <= by) else left).append(vote)
    return left, undone


def votes_on(votes: Iterable[Vote], kind: str, claim: Claimed, root: bytes) -> dict[str, Vote]:
    """The votes of a kind on the claim's source under this root, by member."""
    target = (kind, root.hex(), claim.tree_sha256, claim.lock_sha256)
    return {
        vote.member: vote
        for vote in votes
        if (vote.kind, vote.root, vote.tree_sha256, vote.lock_sha256) == target
    }
