"""From a pinned root to the members file in force.

Rules (docs/quorum.md, ADR 54), in the order in which they are checked:

1. The bytes with the root's SHA-256 are version 1, and *every* member named there signed them.
2. Version n+1 names the digest of version n and is signed by ``change`` members, more than half, and all
   groups of n and of n+1.
3. Two signed successors of one version are a fork: nothing is decided.
4. The chain holds the highest version that this verifier has seen before, unchanged.
5. ``quorum.toml`` is a version of that chain. The last one is in force, installed in ``quorum.toml`` or not.
6. It has not expired.

Detached signatures are DSSE files ``quorum.<version>.<member>.dsse.json``, which carry the bytes they
sign: the older versions come from there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from coattest.errors import Rejected
from coattest.files import Evidence
from coattest.findings import Finding
from coattest_verify.quorum.members.file import (
    MAX_MEMBERS_FILE,
    MEMBERS_FILE,
    MEMBERS_TYPE,
    NAME,
    MembersFile,
    refused_members,
    utc,
)
from coattest_verify.signatures.dsse import DsseEnvelope

SIGNATURE_NAME = re.compile(
    rf"quorum\.([1-9][0-9]{{0,5}})\.({NAME.pattern})(?:\.[A-Za-z0-9_-]{{1,64}})?\.dsse\.json"
)

MAX_VERSIONS = 1024
"""Versions of one quorum's members file that are followed."""


MAX_UNVERIFIED = 32 * 1024 * 1024
"""Bytes of signed members files, each counted once, that are held before their signatures are verified."""


@dataclass(frozen=True, slots=True)
class SeenLog:
    """The largest log that a verifier has accepted: how many entries, and the tree's root in hex."""

    size: int
    root: str


@dataclass(frozen=True, slots=True)
class Seen:
    """The highest version that a verifier has accepted under a root."""

    version: int
    sha256: str
    log: SeenLog | None = None


@dataclass(frozen=True, slots=True)
class MembersChain:
    """Version 1 to the one in force, and the signature files that did not count."""

    versions: tuple[MembersFile, ...]
    refused: tuple[Finding, ...]

    @property
    def current(self) -> MembersFile:
        """The version in force."""
        return self.versions[-1]


def follow(evidence: Evidence, root: bytes, *, seen: Seen | None, now: datetime) -> MembersChain:
    """The chain from ``root`` (SHA-256 of version 1) to ``quorum.toml``. Raises Rejected."""
    try:
        current = evidence.read(MEMBERS_FILE, MAX_MEMBERS_FILE)
    except Rejected as error:
        raise refused_members(error) from None
    envelopes, refused = _signatures(evidence)
    first = _first(current, envelopes, root)
    chain = succession(first, current, envelopes)
    _not_forgotten(chain, seen)
    _in_force(chain, current, now)
    return MembersChain(tuple(chain), refused)


def succession(first: MembersFile, current: bytes, envelopes: Signatures) -> list[MembersFile]:
    """``first`` and every version after it that is fully signed. Raises Rejected for two of one number."""
    chain = [first]
    while len(chain) <= MAX_VERSIONS:
        following = _successors(chain[-1], current, envelopes)
        if not following:
            break
        if len(following) > 1:
            raise Rejected(
                f"two signed files are version {chain[-1].version + 1}: "
                + ", ".join(file.sha256[:16] for file in following),
                where=MEMBERS_FILE,
                hint="members have signed both: ask them which one is right",
                code="members-fork",
            )
        chain.append(following[0])
    return chain


def latest_members(evidence: Evidence, current: MembersFile) -> MembersFile:
    """The last fully signed version that follows ``current``, or itself. Raises Rejected for a fork.

    Without a pinned root this says nothing about who the members are (``follow`` does).
    """
    return succession(current, current.raw, read_signatures(evidence))[-1]


Signatures = Mapping[bytes, Mapping[str, list[DsseEnvelope]]]
"""Envelopes by the bytes that they sign and by the member that the file's name says; not verified yet."""


def signers(file: MembersFile, payload: bytes, envelopes: Signatures) -> set[str]:
    """The members in ``file`` whose keys signed ``payload``."""
    found = envelopes.get(payload, {})
    return {
        member.name
        for member in file.members
        if any(envelope.signers(member.keys) for envelope in found.get(member.name, ()))
    }


def read_signatures(evidence: Evidence) -> Signatures:
    """Every well-formed signature on a members file, by the bytes that it signs; not verified yet."""
    return _signatures(evidence)[0]


def _signatures(evidence: Evidence) -> tuple[Signatures, tuple[Finding, ...]]:
    envelopes: dict[bytes, dict[str, list[DsseEnvelope]]] = {}
    payloads: dict[bytes, bytes] = {}
    refused, held = [], 0
    # Members' own names first: files beside them cannot use up what is held before anything is verified.
    for name in sorted(evidence.names(), key=lambda name: (name.count("."), name)):
        match = SIGNATURE_NAME.fullmatch(name)
        if match is None:
            continue
        try:
            envelope = DsseEnvelope.decode(evidence.read(name, 2 * MAX_MEMBERS_FILE), MEMBERS_TYPE)
            if envelope.payload not in payloads:
                held += len(envelope.payload)
                if held > MAX_UNVERIFIED:
                    raise Rejected("the files that are signed are too large together", code="too-large")
        except Rejected as error:
            refused.append(Finding(error.code, name, error.what))
            continue
        payload = payloads.setdefault(envelope.payload, envelope.payload)
        envelope = replace(envelope, payload=payload)  # a thousand signatures hold the bytes once
        envelopes.setdefault(payload, {}).setdefault(match[2], []).append(envelope)
    return envelopes, tuple(refused)


def _first(current: bytes, envelopes: Signatures, root: bytes) -> MembersFile:
    data = next((data for data in (current, *envelopes) if hashlib.sha256(data).digest() == root), None)
    if data is None:
        raise Rejected(
            f"nothing here has the pinned root sha256:{root.hex()}",
            where=MEMBERS_FILE,
            hint="these attestations belong to another quorum, or version 1's signatures are missing",
            code="members-wrong-root",
        )
    first = MembersFile.decode(data)
    if first.version != 1:
        raise Rejected("the pinned root is not a version 1", where=MEMBERS_FILE, code="members-wrong-root")
    signed = signers(first, data, envelopes)
    missing = [name for name in first.names if name not in signed]
    if missing:
        raise Rejected(
            f"version 1 is not signed by {', '.join(missing)}",
            where=MEMBERS_FILE,
            hint="every member runs verify members countersign",
            code="members-unsigned",
        )
    return first


def _successors(file: MembersFile, current: bytes, envelopes: Signatures) -> list[MembersFile]:
    found = []
    for data in {current, *envelopes} - {file.raw}:
        # Signatures first: bytes that too few members signed are not worth parsing.
        if file.unmet_change(signers(file, data, envelopes)):
            continue
        try:
            candidate = MembersFile.decode(data)
        except Rejected:
            continue
        if candidate.version != file.version + 1 or candidate.previous != f"sha256:{file.sha256}":
            continue
        if not candidate.unmet_change(signers(candidate, data, envelopes)):
            found.append(candidate)
    return sorted(found, key=lambda candidate: candidate.sha256)


def _not_forgotten(chain: list[MembersFile], seen: Seen | None) -> None:
    if seen is None:
        return
    if len(chain) < seen.version:
        raise Rejected(
            f"is version {len(chain)}, but version {seen.version} was seen before",
            where=MEMBERS_FILE,
            hint="somebody gave you an old file",
            code="members-rollback",
        )
    if chain[seen.version - 1].sha256 != seen.sha256:
        raise Rejected(
            f"another version {seen.version} was seen before", where=MEMBERS_FILE, code="members-fork"
        )


def _in_force(chain: list[MembersFile], current: bytes, now: datetime) -> None:
    signed = chain[-1]
    if all(file.raw != current for file in chain):
        found = MembersFile.decode(current)
        if found.version <= signed.version:
            problem, hint = f"is version {found.version}, but another version {found.version} is signed", None
        else:
            problem = f"is version {found.version}, which too few members signed"
            hint = "verify members countersign, by enough members of the old and of the new version"
        raise Rejected(problem, where=MEMBERS_FILE, hint=hint, code="members-not-in-force")
    if signed.expires <= now:
        raise Rejected(
            f"expired at {utc(signed.expires)}",
            where=MEMBERS_FILE,
            hint="the members sign a new version with a later expiry",
            code="members-expired",
        )
