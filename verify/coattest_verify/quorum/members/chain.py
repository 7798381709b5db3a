"""From a pinned root to the members file in force.

Rules (docs/quorum.md, ADR 54), in the order in which they are checked:

1. The bytes with the root's SHA-256 are version 1, and *every* member named there signed them.
2. Version n+1 names the digest of version n and is signed by ``change`` members, more than half, and all
   groups of n and of n+1.
3. Of two signed successors of one version the one that the log completed first is in force
   (``coattest_verify.quorum.log.fold``). Where neither is in the agreed log it is a fork: nothing is decided.
4. The chain holds the highest version that this verifier has seen before, unchanged.
5. ``quorum.toml`` is a version of that chain, or one that came too late. The last one of the chain is in
   force, installed in ``quorum.toml`` or not.
6. It has not expired.
7. The log is the one that the last version with a restart point begins again, or else the first one; it has
   the entries that this version names. What was seen of an earlier log binds no more then, and everything
   else that was seen does: the version that was seen before is in the chain.

Detached signatures are DSSE files ``quorum.<version>.<member>.dsse.json``, which carry the bytes they
sign: the older versions come from there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from coattest.errors import Rejected, require_aware, require_kind
from coattest.files import Evidence
from coattest.findings import Finding
from coattest_verify.quorum.log.entries import MEMBERS, SeenLog, members_entry
from coattest_verify.quorum.log.examine import (
    CHECKPOINT_FILE,
    CheckedLog,
    Log,
    agreed_size,
    checked_log,
    cosigned_by,
    readable,
)
from coattest_verify.quorum.log.fold import Candidate, LogState, fold
from coattest_verify.quorum.log.restart import log_in_force
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

MAX_UNVERIFIED = 32 * 1024 * 1024
"""Bytes of signed members files, each counted once, that are held before their signatures are verified."""


ROOT_HINT = "the 32 bytes: bytes.fromhex(..)"


class PinnedRoot(bytes):
    """A root (SHA-256 of version 1), and the lowest version of the members file that may be in force.

    The floor comes with the root, from the members themselves: a verifier without memory takes no older one.
    """

    floor: int = 1

    @classmethod
    def make(cls, root: bytes, floor: int) -> PinnedRoot:
        """A root with its floor."""
        made = cls(root)
        made.floor = floor
        return made


@dataclass(frozen=True, slots=True)
class SeenObjection:
    """A dissent or revocation that a verifier has seen: what it signed (SHA-256), by whom, about what.

    It counts as long as ``key`` (a fingerprint, hex) is one of its member's. A revocation is about a source.
    A dissent is about a release for an architecture, whatever source its claim has today.
    """

    kind: str
    member: str
    key: str
    sha256: str
    tree_sha256: str
    lock_sha256: str
    release: str = ""
    architecture: str = ""

    def concerns(self, release: str, architecture: str, tree_sha256: str, lock_sha256: str) -> bool:
        """Whether it is an objection to this release, by its name or, for a revocation, by its source."""
        if self.release:
            return (self.release, self.architecture) == (release, architecture)
        return (self.tree_sha256, self.lock_sha256) == (tree_sha256, lock_sha256)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a verifier has accepted under a root: the highest version, the log, and every objection it saw."""

    version: int
    sha256: str
    log: SeenLog | None = None
    agreed: bool = False
    """Whether the agreed log had put the version in force; if not, it can put another one in its place."""
    objections: frozenset[SeenObjection] = frozenset()


@dataclass(frozen=True, slots=True)
class MembersChain:
    """Version 1 to the one in force, the signature files that did not count, and what the log says."""

    state: LogState
    refused: tuple[Finding, ...]
    log: CheckedLog = None
    """The log with the cosignatures of the version in force, or why it is not sound; None without one."""

    @property
    def versions(self) -> tuple[MembersFile, ...]:
        """Version 1 to the one in force."""
        return self.state.versions

    @property
    def current(self) -> MembersFile:
        """The version in force."""
        return self.state.versions[-1]

    @property
    def restart(self) -> str:
        """The SHA-256 (hex) of the version that began the log again, "" for the first log."""
        return self.state.began.sha256 if self.state.began else ""

    def known(self, log: SeenLog) -> SeenLog:
        """What is remembered of the log: also which log it is."""
        began = self.state.began
        return replace(log, restart=began.sha256, version=began.version) if began else log


def follow(evidence: Evidence, root: bytes, *, seen: Seen | None, now: datetime | None) -> MembersChain:
    """The chain from ``root`` (SHA-256 of version 1) to the version in force ``now``. Raises Rejected.

    Where ``now`` is None nothing is decided, and neither expiry nor a dispute is an error: members log and
    cosign all the same, which renews the one and ends the other. Then the chain ends before two versions of
    which neither is first.
    """
    require_kind(evidence, Evidence, "evidence", hint="coattest.files.Folder(path), or a Bundle")
    require_kind(root, bytes, "root", hint=ROOT_HINT)
    if now is not None:
        require_aware(now)
    try:
        current = evidence.read(MEMBERS_FILE, MAX_MEMBERS_FILE)
    except Rejected as error:
        raise refused_members(error) from None
    envelopes, refused = _signatures(evidence)
    first = _first(current, envelopes, root)
    state, log = _state(evidence, first, current, envelopes, seen, disputed=now is None)
    _not_forgotten(state, seen, envelopes)
    if isinstance(root, PinnedRoot) and len(state.versions) < root.floor:
        raise Rejected(
            f"is version {len(state.versions)}, and the pinned root asks for version {root.floor} or later",
            where=MEMBERS_FILE,
            hint="this may be an old file",
            code="members-rollback",
        )
    beside = state.versions if now is None else state.versions[:-1]
    if all(file.raw != current for file in state.versions) and not _beside(beside, current, envelopes):
        raise _not_in_force(state.versions[-1], MembersFile.decode(current))
    if now is not None and state.versions[-1].expires <= now:
        raise Rejected(
            f"expired at {utc(state.versions[-1].expires)}",
            where=MEMBERS_FILE,
            hint="the members sign a new version with a later expiry",
            code="members-expired",
        )
    return MembersChain(state, refused, log)


def _state(
    evidence: Evidence,
    first: MembersFile,
    current: bytes,
    envelopes: Signatures,
    seen: Seen | None,
    *,
    disputed: bool = False,
) -> tuple[LogState, CheckedLog]:
    payloads = {data: hashlib.sha256(data).hexdigest() for data in {current, *envelopes}}
    remembered, root = _remembered(payloads, seen), bytes.fromhex(first.sha256)

    def folded(log: CheckedLog) -> LogState:
        entries = readable(log.entries)[0] if isinstance(log, Log) else []
        named = {entry.sha256 for entry in entries if entry.kind == MEMBERS}

        def successors(base: MembersFile) -> list[Candidate]:
            wanted = (data for data, digest in payloads.items() if data != base.raw)
            return _successors(base, wanted, named, envelopes)

        @functools.cache
        def cosigned(version: MembersFile) -> Mapping[str, int]:
            found = cosigned_by(evidence, log, version)
            notes = found.cosignatures if isinstance(found, Log) else {}
            return {name: note.checkpoint.size for name, note in notes.items()}

        def agreed(base: MembersFile, following: MembersFile) -> int:
            return agreed_size(base, (cosigned(base), cosigned(following)))

        return fold(first, entries, successors, agreed, remembered, disputed=disputed)

    found = checked_log(evidence, root, first, seen.log if seen else None)
    state = folded(found)
    here = found
    if state.began and not isinstance(found, Log):
        here = checked_log(evidence, root, first, None)  # it need not extend the log that was given up
    log = log_in_force(here, state, root, seen.log if seen else None)
    if log is not found:
        began, state = state.began, folded(log)
        if state.began != began:
            text = "the log goes on from a version of the members file that it does not lead to"
            log = Finding("log-fork", CHECKPOINT_FILE, text)
            state = folded(log)
    return state, cosigned_by(evidence, log, state.versions[-1])


def latest_state(evidence: Evidence, current: MembersFile, envelopes: Signatures | None = None) -> LogState:
    """What is in force in a folder whose ``quorum.toml`` is ``current``: every version from the first here.

    ``envelopes`` are the signatures here, where they were read before. Raises Rejected for a fork. Without a
    pinned root this says nothing about who the members are (``follow`` does).
    """
    envelopes = read_signatures(evidence) if envelopes is None else envelopes
    first = _first_of(current, envelopes)
    state = _state(evidence, first, current.raw, envelopes, None)[0]
    if current not in state.versions and current.version > state.versions[-1].version:
        return _state(evidence, current, current.raw, envelopes, None)[0]
    return state


def _first_of(current: MembersFile, envelopes: Signatures) -> MembersFile:
    first, by_digest = current, {hashlib.sha256(data).hexdigest(): data for data in envelopes}
    while first.previous is not None and (data := by_digest.get(first.previous.removeprefix("sha256:"))):
        first = MembersFile.decode(data)
    return first


def claimed_root(evidence: Evidence, current: MembersFile) -> bytes:
    """The root that a version says to come from: 32 bytes. Nothing here proves it (``follow`` does)."""
    return bytes.fromhex(_first_of(current, read_signatures(evidence)).sha256)


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


def signature_entries(evidence: Evidence, versions: Sequence[MembersFile]) -> list[bytes]:
    """The log entries of the signatures here on successors of ``versions``: one for each member's key."""
    envelopes, found = read_signatures(evidence), []
    for base in versions:
        signed = {data for data in envelopes if data != base.raw and signers(base, data, envelopes)}
        named = {hashlib.sha256(data).hexdigest() for data in signed}
        for candidate in _successors(base, signed, named, envelopes):
            for name, fingerprints in sorted(candidate.signed.items()):
                found += [members_entry(candidate.file, name, key) for key in sorted(fingerprints)]
    return found


def _successors(
    base: MembersFile, payloads: Iterable[bytes], named: Collection[str], envelopes: Signatures
) -> list[Candidate]:
    """The versions after ``base`` that enough members signed, or whose digest is named; sorted by digest."""
    found = []
    for data in payloads:
        # Signatures first: bytes that too few members signed, and nobody logged, are not worth parsing.
        digest = hashlib.sha256(data).hexdigest()
        if digest not in named and base.unmet_change(signers(base, data, envelopes)):
            continue
        try:
            candidate = MembersFile.decode(data)
        except Rejected:
            continue
        if candidate.version == base.version + 1 and candidate.previous == f"sha256:{base.sha256}":
            found.append(Candidate(candidate, _signed(base, candidate, envelopes)))
    return sorted(found, key=lambda each: each.file.sha256)


def _signed(base: MembersFile, candidate: MembersFile, envelopes: Signatures) -> dict[str, frozenset[str]]:
    """The members of both versions that signed the candidate, and the fingerprints of the keys that did."""
    signed = {}
    for name, found in envelopes.get(candidate.raw, {}).items():
        keys = [key for version in (base, candidate) if (party := version.member(name)) for key in party.keys]
        by = {key.fingerprint for envelope in found for key in envelope.signers(list(dict.fromkeys(keys)))}
        if by:
            signed[name] = frozenset(by)
    return signed


def _remembered(payloads: Mapping[bytes, str], seen: Seen | None) -> frozenset[str]:
    """The digest of the version that was seen, and of those that it came from."""
    found: set[str] = set()
    by_digest = {digest: data for data, digest in payloads.items()}
    digest = seen.sha256 if seen else ""
    while digest in by_digest and digest not in found:
        found.add(digest)
        with contextlib.suppress(Rejected):
            digest = (MembersFile.decode(by_digest[digest]).previous or "").removeprefix("sha256:")
    return frozenset(found)


def _not_forgotten(state: LogState, seen: Seen | None, envelopes: Signatures) -> None:
    if seen is None or _overruled(state, seen, envelopes):
        return
    chain = state.versions
    if len(chain) < seen.version:
        raise Rejected(
            f"is version {len(chain)}, but version {seen.version} was seen before",
            where=MEMBERS_FILE,
            hint="this may be an old file",
            code="members-rollback",
        )
    if chain[seen.version - 1].sha256 != seen.sha256:
        raise Rejected(
            f"a different version {seen.version} was seen before", where=MEMBERS_FILE, code="members-fork"
        )


def _overruled(state: LogState, seen: Seen, envelopes: Signatures) -> bool:
    """Whether the log has put another version in the place of one that was seen before it was agreed."""
    if seen.agreed:
        return False
    came_from = _remembered({data: hashlib.sha256(data).hexdigest() for data in envelopes}, seen)
    if any(file.restart and file.sha256 not in came_from for file in state.versions):
        return False  # a log that was begun again orders what it likes: it has to follow on what was seen
    return any(
        file.sha256 not in came_from
        for file, since in zip(state.versions[1:], state.since[1:], strict=True)
        if since is not None and (file.version == seen.version or (came_from and file.version < seen.version))
    )


def _not_in_force(signed: MembersFile, found: MembersFile) -> Rejected:
    if found.version <= signed.version:
        what, hint = f"is version {found.version}, but a different version {found.version} is signed", None
    else:
        what = f"is version {found.version}, which too few members signed"
        hint = "verify members countersign, by enough members of the old and of the new version"
    return Rejected(what, where=MEMBERS_FILE, hint=hint, code="members-not-in-force")


def _beside(bases: Sequence[MembersFile], current: bytes, envelopes: Signatures) -> bool:
    """Whether ``quorum.toml`` is a signed version after one of these that the log has not first."""
    return any(
        each.file.raw == current and each.complete(base)
        for base in bases
        for each in _successors(base, [current], (), envelopes)
    )
