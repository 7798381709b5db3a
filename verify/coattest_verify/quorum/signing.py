"""Signing the members file: who signed the pending version, and when a proposal becomes quorum.toml.

A new version waits as ``quorum.next.toml``, which no verifier reads, until the thresholds of the old and the
new version have signed it. Version 1 is ``quorum.toml`` at once: without every signature it decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coattest.errors import Rejected, UsageError
from coattest.files import Evidence, Folder, write_atomic
from coattest.findings import Finding
from coattest_verify.quorum.links import LAYOUT_FILE, MAX_LINK, sign_layout
from coattest_verify.quorum.members.chain import read_signatures, signers
from coattest_verify.quorum.members.file import MAX_MEMBERS_FILE, MEMBERS_FILE, MEMBERS_TYPE, MembersFile
from coattest_verify.signatures import dsse
from coattest_verify.signatures.dsse import DsseEnvelope
from coattest_verify.signatures.keys import PublicKey, Signer

PROPOSAL_FILE = "quorum.next.toml"


@dataclass(frozen=True, slots=True)
class Pending:
    """A members file, who signed it, and what it lacks: members for version 1, thresholds for later ones."""

    members: MembersFile
    file: str
    signed: tuple[str, ...]
    lacks: tuple[Finding, ...]


def pending(evidence: Evidence) -> Pending:
    """The proposal if there is one, else quorum.toml, and what it lacks. Raises UsageError, Rejected."""
    current = _read(evidence, MEMBERS_FILE)
    proposal = _read(evidence, PROPOSAL_FILE)
    envelopes = read_signatures(evidence)
    if proposal is None:
        if current is None:
            raise UsageError("no such file", where=MEMBERS_FILE, hint="verify members init makes one")
        signed = signers(current, current.raw, envelopes)
        wanted = current.names if current.version == 1 else ()
        lacks = [
            Finding("members-unsigned", MEMBERS_FILE, f"the signature of {name} is missing")
            for name in wanted
            if name not in signed
        ]
        return Pending(current, MEMBERS_FILE, tuple(sorted(signed)), tuple(lacks))
    if current is None or proposal.previous != f"sha256:{current.sha256}":
        raise UsageError(
            f"does not follow {MEMBERS_FILE}",
            where=PROPOSAL_FILE,
            hint="remove it and propose again",
            code="stale",
        )
    by_old, by_new = signers(current, proposal.raw, envelopes), signers(proposal, proposal.raw, envelopes)
    lacks = [
        Finding("members-unsigned", PROPOSAL_FILE, f"of version {version.version}, only {unmet.detail}")
        for version, signed in ((current, by_old), (proposal, by_new))
        for unmet in version.unmet(signed)
    ]
    return Pending(proposal, PROPOSAL_FILE, tuple(sorted(by_old | by_new)), tuple(lacks))


def candidates(attestations: Path, member: str) -> tuple[PublicKey, ...]:
    """The keys of a member in quorum.toml and in a proposal: a remote signer must have one of them."""
    found: dict[PublicKey, None] = {}
    with Folder(attestations) as folder:
        for name in (MEMBERS_FILE, PROPOSAL_FILE):
            members = _read(folder, name)
            party = members.member(member) if members else None
            found.update(dict.fromkeys(party.keys if party else ()))
    return tuple(found)


def countersign(attestations: Path, member: str, signer: Signer) -> Pending:
    """Sign the pending version, and install a proposal that lacks nothing any more. Returns the new state.

    Raises UsageError when the key is not the member's, in the waiting version or in the one before.
    """
    key = signer.public
    with Folder(attestations) as folder:
        waiting = pending(folder)
        current = _read(folder, MEMBERS_FILE)
        versions = [version for version in (waiting.members, current) if version is not None]
        if all(version.owner(key) != member for version in versions):
            raise UsageError(
                f"this is not a key of {member} in {waiting.file}",
                hint=f"it belongs to {waiting.members.owner(key) or 'nobody there'}",
                code="wrong-key",
            )
        name = f"quorum.{waiting.members.version}.{member}.dsse.json"
        envelope = _joined(
            folder, name, waiting.members, dsse.sign_envelope(signer, MEMBERS_TYPE, waiting.members.raw)
        )
        layout = sign_layout(waiting.members, signer, _optional(folder, LAYOUT_FILE, MAX_LINK * 4))
    write_atomic(attestations / name, envelope.encode())
    with Folder(attestations) as folder:
        after = pending(folder)
    if not after.lacks and after.file == PROPOSAL_FILE:
        write_atomic(attestations / MEMBERS_FILE, after.members.raw)
        (attestations / PROPOSAL_FILE).unlink()
    if waiting.file == MEMBERS_FILE or not after.lacks:
        # The member that completes the version signs in-toto's layout too, the others when they countersign.
        write_atomic(attestations / LAYOUT_FILE, layout)
    return after


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
