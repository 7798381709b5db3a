"""Signing the members file: who signed the pending version, and when a proposal becomes quorum.toml.

A new version waits as ``quorum.next.toml`` until ``change`` members of the old and of the new version have
signed it. From then on it is in force, whoever installs it as ``quorum.toml``. Version 1 is ``quorum.toml``
at once: without every signature it decides nothing.

A member signs one version n+1 after a given version n: the journal of its own state remembers which
(``coattest_verify.signatures.journal``), and so do its signatures in the folder, should the journal be lost.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest.files import Evidence, write_atomic
from coattest.findings import Finding
from coattest_verify.quorum.links import MAX_LAYOUT, layout_name, sign_layout
from coattest_verify.quorum.log.checkpoint import MAX_CHECKPOINT
from coattest_verify.quorum.log.examine import CHECKPOINT_FILE
from coattest_verify.quorum.members.chain import Seen, Signatures, latest_state, read_signatures, signers
from coattest_verify.quorum.members.file import MAX_MEMBERS_FILE, MEMBERS_FILE, MEMBERS_TYPE, MembersFile
from coattest_verify.quorum.members.restarting import check_restart
from coattest_verify.signatures import dsse
from coattest_verify.signatures.dsse import DsseEnvelope
from coattest_verify.signatures.journal import SignatureJournal
from coattest_verify.signatures.keys import PublicKey, Signer

PROPOSAL_FILE = "quorum.next.toml"


@dataclass(frozen=True, slots=True)
class Rival:
    """Other bytes than the pending ones that members signed for the same version."""

    sha256: str
    signed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pending:
    """A members file, who signed it, and what it lacks: all members for version 1, enough for later ones."""

    members: MembersFile
    file: str
    signed: tuple[str, ...]
    lacks: tuple[Finding, ...]
    current: MembersFile
    """The last version that is fully signed; ``members`` itself where nothing is proposed."""
    rivals: tuple[Rival, ...] = ()


def pending(evidence: Evidence, envelopes: Signatures | None = None) -> Pending:
    """The proposal if there is one, else the version in force, and what it lacks.

    ``envelopes`` are the signatures here, where they were read before. Raises UsageError, Rejected.
    """
    envelopes = read_signatures(evidence) if envelopes is None else envelopes
    installed = _read(evidence, MEMBERS_FILE)
    proposal = _read(evidence, PROPOSAL_FILE)
    if installed is None:
        if proposal is not None:
            raise _stale()
        raise UsageError("no such file", where=MEMBERS_FILE, hint="verify members init makes one")
    chain = latest_state(evidence, installed, envelopes).versions
    current = chain[-1]
    if proposal is None or any(proposal.raw == file.raw for file in chain):
        signed = signers(current, current.raw, envelopes)
        wanted = current.names if current.version == 1 else ()
        lacks = [
            Finding("members-unsigned", MEMBERS_FILE, f"the signature of {name} is missing")
            for name in wanted
            if name not in signed
        ]
        return Pending(current, MEMBERS_FILE, tuple(sorted(signed)), tuple(lacks), current)
    if proposal.previous != f"sha256:{current.sha256}":
        raise _stale()
    by_old, by_new = signers(current, proposal.raw, envelopes), signers(proposal, proposal.raw, envelopes)
    lacks = [
        Finding("members-unsigned", PROPOSAL_FILE, f"of version {version.version}, only {unmet.detail}")
        for version, signed in ((current, by_old), (proposal, by_new))
        for unmet in version.unmet_change(signed)
    ] or [
        Finding(
            "members-unsigned", PROPOSAL_FILE, "signatures on it were withdrawn, or another one is signed"
        )
    ]
    rivals = _rivals(current, proposal.raw, envelopes)
    return Pending(proposal, PROPOSAL_FILE, tuple(sorted(by_old | by_new)), tuple(lacks), current, rivals)


def _stale() -> UsageError:
    return UsageError(
        f"does not follow {MEMBERS_FILE}",
        where=PROPOSAL_FILE,
        hint="remove it and propose again",
        code="stale",
    )


def _rivals(current: MembersFile, proposed: bytes, envelopes: Signatures) -> tuple[Rival, ...]:
    """Every other successor of ``current`` that one of its members signed."""
    found = []
    for data in set(envelopes) - {proposed, current.raw}:
        # Signatures first: bytes that no member signed are not worth parsing.
        signed = signers(current, data, envelopes)
        other = _following(current, data) if signed else None
        if other is not None:
            found.append(Rival(other.sha256, tuple(sorted(signed))))
    return tuple(sorted(found, key=lambda rival: rival.sha256))


def _following(current: MembersFile, data: bytes) -> MembersFile | None:
    """The members file in ``data`` if it names ``current`` as the one before it."""
    try:
        other = MembersFile.decode(data)
    except Rejected:
        return None
    return other if other.previous == f"sha256:{current.sha256}" else None


def _published(waiting: Pending, envelopes: Signatures, key: PublicKey) -> str | None:
    """SHA-256 of a rival of the pending version that this very key signed, if its signature is here."""
    for data, by_member in envelopes.items():
        mine = (item for found in by_member.values() for item in found if item.signers([key]))
        if data != waiting.members.raw and next(mine, None) and (other := _following(waiting.current, data)):
            return other.sha256
    return None


def propose(attestations: Path, evidence: Evidence, proposal: MembersFile) -> MembersFile | None:
    """Write the proposal, unless members signed another one for the same version: those are never replaced.

    Raises FoundFalse (``exists``) then. Returns the proposal that nobody signed and that this one replaces.
    """
    envelopes = read_signatures(evidence)
    installed, waiting = _read(evidence, MEMBERS_FILE), _read(evidence, PROPOSAL_FILE)
    current = latest_state(evidence, installed, envelopes).versions[-1] if installed else proposal
    rivals = _rivals(current, proposal.raw, envelopes)
    if waiting and waiting.raw != proposal.raw and (signed := signers(waiting, waiting.raw, envelopes)):
        # One that only its new members have signed so far.
        rivals = (*rivals, Rival(waiting.sha256, tuple(sorted(signed))))
    if rivals:
        first = rivals[0]
        raise FoundFalse(
            f"{', '.join(first.signed)} signed a different version {proposal.version}, sha256:{first.sha256}",
            where=str(attestations / PROPOSAL_FILE),
            hint="complete that one with verify members countersign, or agree with its signers to remove"
            " their signatures first",
            code="exists",
        )
    write_atomic(attestations / PROPOSAL_FILE, proposal.raw)
    return waiting if waiting and waiting.raw != proposal.raw else None


def candidates(evidence: Evidence, member: str) -> tuple[PublicKey, ...]:
    """The keys of a member in the version in force and in a proposal: a remote signer has one of them.

    A proposal that cannot be read has none: whoever put it there stops nobody.
    """
    installed, proposal = _read(evidence, MEMBERS_FILE), None
    with contextlib.suppress(Rejected, UsageError):
        proposal = _read(evidence, PROPOSAL_FILE)
    chain = latest_state(evidence, installed).versions if installed else ()
    parties = [members.member(member) for members in (*chain[-1:], installed, proposal) if members]
    return tuple(dict.fromkeys(key for party in parties if party for key in party.keys))


def check_countersigner(waiting: Pending, member: str, key: PublicKey) -> None:
    """Raise UsageError (``wrong-key``) unless the key is the member's in the pending version or before it."""
    if all(version.owner(key) != member for version in (waiting.members, waiting.current)):
        raise UsageError(
            f"this is not a key of {member} in {waiting.file}",
            hint=f"it belongs to {waiting.members.owner(key) or 'nobody there'}",
            code="wrong-key",
        )


def countersign(
    attestations: Path,
    evidence: Evidence,
    member: str,
    signer: Signer,
    *,
    journal: SignatureJournal,
    instead_of: str | None = None,
    seen: Seen | None = None,
) -> Pending:
    """Sign the pending version of ``evidence``, and install a version that lacks nothing any more.

    Returns the new state. ``evidence`` has the bytes that were shown to the member (``ReadOnce``): nothing is
    read again. ``instead_of`` is the SHA-256 (hex) of a version that the member signed before and gives up,
    ``seen`` what this machine remembers of the quorum. Raises UsageError when the key is not the member's,
    FoundFalse when the member signed another version of this number (``already-signed``), or for a version
    that begins the log again and is not valid (``restarting``).
    """
    envelopes = read_signatures(evidence)
    waiting = pending(evidence, envelopes)
    check_countersigner(waiting, member, signer.public)
    members = waiting.members
    check_restart(evidence, members, waiting.current, member=member, journal=journal, seen=seen)
    slot = {
        "kind": "members-file",
        "member": member,
        "version": members.version,
        "previous": members.previous or f"sha256:{members.sha256}",
    }
    adopted = None
    if waiting.file == PROPOSAL_FILE:
        adopted = _published(waiting, envelopes, signer.public)
    journal.record(
        slot,
        members.sha256,
        remedy="ask the others which is right; --instead-of with that digest gives your signature on it up",
        adopted=adopted,
        instead_of=instead_of,
    )
    name = f"quorum.{members.version}.{member}.dsse.json"
    signed = dsse.sign_envelope(signer, MEMBERS_TYPE, members.raw)
    place = layout_name(members, member)
    layout = sign_layout(members, member, signer, _optional(evidence, place, MAX_LAYOUT))
    _set_aside(attestations, evidence, name, members)
    write_atomic(attestations / name, _joined(evidence, name, members, signed).encode())
    if layout is not None:
        write_atomic(attestations / place, layout)
    after = pending(evidence, _with(envelopes, member, signed))
    if not after.lacks and _optional(evidence, MEMBERS_FILE, MAX_MEMBERS_FILE) != members.raw:
        write_atomic(attestations / MEMBERS_FILE, members.raw)
        (attestations / PROPOSAL_FILE).unlink(missing_ok=True)
    return after


def _with(envelopes: Signatures, member: str, signed: DsseEnvelope) -> Signatures:
    """The signatures with one more."""
    of_payload = envelopes.get(signed.payload, {})
    more = {**of_payload, member: [*of_payload.get(member, ()), signed]}
    return {**envelopes, signed.payload: more}


def _set_aside(attestations: Path, evidence: Evidence, name: str, members: MembersFile) -> None:
    """Keep the member's signature on another version under a name of its own: the log may be about it."""
    earlier = _optional(evidence, name, 2 * MAX_MEMBERS_FILE)
    if earlier is None or _optional(evidence, CHECKPOINT_FILE, MAX_CHECKPOINT) is None:
        return
    try:
        payload = DsseEnvelope.decode(earlier, MEMBERS_TYPE).payload
    except Rejected:
        return
    if payload != members.raw:
        word = hashlib.sha256(payload).hexdigest()[:16]
        write_atomic(attestations / name.replace(".dsse.", f".{word}.dsse."), earlier)


def _joined(evidence: Evidence, name: str, members: MembersFile, signed: DsseEnvelope) -> DsseEnvelope:
    """This signature beside the member's earlier ones: a rotation is signed with the old and new key."""
    try:
        earlier = DsseEnvelope.decode(evidence.read(name, 2 * MAX_MEMBERS_FILE), MEMBERS_TYPE)
    except Rejected:
        return signed
    if earlier.payload != members.raw:
        return signed
    others = [pair for pair in earlier.signatures if pair[0] != signed.signatures[0][0]]
    return DsseEnvelope(MEMBERS_TYPE, members.raw, (*others[:7], *signed.signatures))


def _read(evidence: Evidence, name: str) -> MembersFile | None:
    data = _optional(evidence, name, MAX_MEMBERS_FILE)
    return MembersFile.decode(data) if data is not None else None


def _optional(evidence: Evidence, name: str, limit: int) -> bytes | None:
    try:
        return evidence.read(name, limit)
    except Rejected as error:
        if error.code == "absent":
            return None
        raise UsageError(error.what, where=name) from None
