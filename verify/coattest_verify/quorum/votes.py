"""What operators sign about a source beside rebuilding it: "I reviewed it", "do not use it", "I built it".

All name the source tree and the lock by digest and the quorum by its root, so a review of one source says
nothing about another, and a revocation outlives later versions of ``quorum.toml`` while its operator is in
it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coattest.errors import Rejected
from coattest.strictjson import Fields, canonical, parse
from coattest_verify.quorum.directory import Evidence
from coattest_verify.quorum.members.chain import Refused
from coattest_verify.quorum.members.file import NAME, QuorumPolicy, parse_utc, utc
from coattest_verify.quorum.statements.claim import RELEASE, SHA256, Claimed
from coattest_verify.quorum.statements.statement import MAX_REASON, Report, clean
from coattest_verify.signatures import dsse

REVOKE, REVIEW, COMMIT = "revoke", "review", "commit"
KINDS = (REVOKE, REVIEW, COMMIT)
OLD_KEY = "old-key"
VOTE_NAME = re.compile(rf"({'|'.join(KINDS)})\.({NAME.pattern})(?:\.[A-Za-z0-9_-]{{1,64}})?\.dsse\.json")
MAX_VOTE = 16 * 1024
"""Bytes of a vote; a note of 500 characters makes about 1,500."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One operator's word about one source. ``root`` is the SHA-256 (hex) of quorum.toml version 1."""

    kind: str
    operator: str
    root: str
    release: str
    tree_sha256: str
    lock_sha256: str
    note: str
    time: str
    since: str | None = None
    """For a review: SHA-256 (hex) of the lock that this one was compared with."""
    sha256: str = ""
    """SHA-256 of the signed file, lower-case hex; empty before it is one."""


def payload_type(kind: str) -> str:
    """DSSE payload type: a review never serves as a revocation, nor the other way round."""
    return f"application/vnd.coattest.{kind}+json"


def make_vote(
    kind: str,
    operator: str,
    *,
    root: bytes,
    claim: Claimed | Report,
    note: str,
    now: datetime,
    since: str | None = None,
) -> Vote:
    """A vote on the source that a claim, or a build report, names."""
    return Vote(
        kind,
        operator,
        root.hex(),
        claim.release,
        claim.tree_sha256,
        claim.lock_sha256,
        clean(note) or "no reason given",
        utc(now),
        since,
    )


def sign_vote(vote: Vote, signer: Any) -> bytes:
    """The signed vote: DSSE JSON."""
    payload = {
        "purpose": f"coattest/{vote.kind}/v1",
        "operator": vote.operator,
        "root": vote.root,
        "release": vote.release,
        "source": {"tree_sha256": vote.tree_sha256, "lock_sha256": vote.lock_sha256},
        "note": vote.note,
        "time": vote.time,
        **({"since_lock_sha256": vote.since} if vote.kind == REVIEW else {}),
    }
    return dsse.sign(signer, payload_type(vote.kind), canonical(payload)).encode()


def vote_name(vote: Vote) -> str:
    """The vote's file name: one for each operator and source, so a new vote does not replace an old one."""
    return f"{vote.kind}.{vote.operator}.{vote.tree_sha256[:8]}-{vote.lock_sha256[:8]}.dsse.json"


def read_votes(
    evidence: Evidence, policy: QuorumPolicy, earlier: Sequence[QuorumPolicy] = ()
) -> tuple[list[Vote], list[Refused]]:
    """Every vote with a good signature of an operator, and every other file with a vote's name.

    A vote by a key that the operator had in an ``earlier`` version is refused with the code OLD_KEY.
    """
    accepted, refused = [], []
    for name in evidence.names():
        if not name.startswith(tuple(f"{kind}." for kind in KINDS)):
            continue
        try:
            accepted.append(_authentic(name, evidence, policy, earlier))
        except Rejected as error:
            refused.append(Refused(name, error.reason, error.what))
    return accepted, refused


def _authentic(name: str, evidence: Evidence, policy: QuorumPolicy, earlier: Sequence[QuorumPolicy]) -> Vote:
    match = VOTE_NAME.fullmatch(name)
    if match is None:
        raise Rejected("not the name of a vote", reason="bad-name")
    kind, operator = match[1], policy.operator(match[2])
    if operator is None:
        raise Rejected(f"{match[2]} is not an operator", reason="not-an-operator")
    data = evidence.read(name, MAX_VOTE)
    envelope = dsse.Envelope.decode(data, payload_type(kind), max_size=MAX_VOTE)
    if not envelope.signers(operator.keys):
        former = [party for policy in earlier if (party := policy.operator(operator.name))]
        if any(envelope.signers(party.keys) for party in former):
            raise Rejected(f"signed by a key that {operator.name} no longer has", reason=OLD_KEY)
        raise Rejected(f"not signed by a key of {operator.name}", reason="bad-signature")
    fields = Fields(parse(envelope.payload, max_size=MAX_VOTE), "")
    fields.exactly("purpose", f"coattest/{kind}/v1")
    fields.exactly("operator", operator.name, reason="other-operator")
    source = fields.fields("source")
    note = fields.text("note", limit=MAX_REASON)
    if clean(note) != note:
        raise Rejected("note: not one printable line")
    vote = Vote(
        kind=kind,
        operator=operator.name,
        root=fields.text("root", SHA256),
        release=fields.text("release", RELEASE),
        tree_sha256=source.text("tree_sha256", SHA256),
        lock_sha256=source.text("lock_sha256", SHA256),
        note=note,
        time=utc(parse_utc(fields.text("time"))),
        since=(
            fields.optional("since_lock_sha256", lambda name: fields.text(name, SHA256))
            if kind == REVIEW
            else None
        ),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    source.done()
    fields.done()
    return vote


def about(votes: Iterable[Vote], kind: str, claim: Claimed, root: bytes) -> dict[str, Vote]:
    """The votes of a kind on the claim's source under this root, by operator."""
    target = (kind, root.hex(), claim.tree_sha256, claim.lock_sha256)
    return {
        vote.operator: vote
        for vote in votes
        if (vote.kind, vote.root, vote.tree_sha256, vote.lock_sha256) == target
    }
