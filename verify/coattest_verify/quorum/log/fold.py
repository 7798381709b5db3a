"""What the log puts in force: a fold over its agreed beginning. Pure: entries and signatures in, a state out.

Rules (docs/quorum.md, ADR 193):

1. The agreed beginning is what ``change`` members of a version cosigned, with keys that they have in it or
   in the version that follows. They recompute each entry from its file, so an entry says what was signed.
2. Version n+1 is in force from the entry with which signatures by ``change`` members and all groups of n and
   of n+1 are first complete. Its signatures have to be in the files, too.
3. A member stands behind the last version after n that the log has its signature on: signing another one
   withdraws the earlier signature, until a version is complete. A member that left a version does not
   come back to it: its signature is the same one, and who writes an entry again needs no key.
4. What is complete in the files, without signatures that the log shows to be withdrawn, counts while nothing
   stands beside it: a stolen key is removed at once. Of two such versions none counts, unless one leads to
   what a verifier remembers.

5. A version may begin the log again: it names the entries so far. They are agreed, and every version up to
   this one is in force there at the latest. So a key that was removed in a stretch that was lost does not
   come back in the entries that follow.

More entries never take back what the log has put in force: 2 and 3 look at no later entry than the one that
completes a version, and 1 only grows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from coattest.errors import Rejected
from coattest_verify.quorum.log.entries import MEMBERS, LogEntry
from coattest_verify.quorum.members.file import MEMBERS_FILE, MembersFile

MAX_VERSIONS = 1024
"""Versions of one quorum's members file that are followed."""

Keys = Mapping[str, frozenset[str]]
"""Members, and the fingerprints of their keys."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that follows another one, and with which keys members signed it, verified."""

    file: MembersFile
    signed: Keys = field(hash=False)

    def complete(self, base: MembersFile) -> bool:
        """Whether the files have every signature that it needs after ``base``."""
        return _enough(base, self.signed) and _enough(self.file, self.signed)

    def without(self, stands: Mapping[str, str]) -> Candidate:
        """This version with the signatures alone of those who do not stand behind another one."""
        left = {
            name: by
            for name, by in self.signed.items()
            if stands.get(name, self.file.sha256) == self.file.sha256
        }
        return Candidate(self.file, left)


@dataclass(frozen=True)
class LogState:
    """What is in force: each version and the entry that completed it, and the agreed entries."""

    versions: tuple[MembersFile, ...]
    since: tuple[int | None, ...]
    """The index of the entry at which each version came into force, -1 for version 1; None by files alone."""
    entries: tuple[LogEntry, ...] = field(default=(), repr=False)

    @property
    def began(self) -> MembersFile | None:
        """The last version that began the log again; None for the first log."""
        return next((file for file in reversed(self.versions) if file.restart), None)

    @property
    def vouched(self) -> int:
        """How many entries ``began`` names: its signers vouch for what they say, not for their order."""
        return self.began.restart.size if self.began and self.began.restart else 0

    @property
    def settled(self) -> tuple[MembersFile, ...]:
        """The versions that no further entry or file takes back."""
        count = next((index for index, since in enumerate(self.since) if since is None), len(self.since))
        return self.versions[:count]

    @functools.cached_property
    def logged(self) -> Mapping[tuple[str, str], int]:
        """For each file, by kind and SHA-256, the first agreed entry about it."""
        found: dict[tuple[str, str], int] = {}
        for index, entry in enumerate(self.entries):
            found.setdefault((entry.kind, entry.sha256), index)
        return found


Agreed = Callable[[MembersFile, MembersFile], int]
"""How many entries ``change`` members of the first version cosigned, with keys of it or of the second."""


def fold(
    first: MembersFile,
    entries: Sequence[LogEntry],
    successors: Callable[[MembersFile], Sequence[Candidate]],
    agreed: Agreed,
    remembered: Collection[str] = (),
    *,
    disputed: bool = False,
) -> LogState:
    """The state after ``entries`` of a quorum that begins with ``first``.

    ``successors`` gives the versions after one that members signed, complete or not. ``remembered`` are
    digests (hex) of versions that lead to what this verifier accepted before. Raises Rejected
    (``members-fork``) for two complete successors of one version of which neither is first, unless with
    ``disputed`` the state ends before them, and (``removed-entry``) when the signatures that the log has are
    not in the files.
    """
    versions: list[MembersFile] = [first]
    since: list[int | None] = [-1]
    last, settled = first, -1
    while len(versions) <= MAX_VERSIONS:
        base = versions[-1]
        try:
            following = _following(base, entries, successors(base), agreed, remembered)
        except Rejected as error:
            if not disputed or error.code != "members-fork":
                raise
            break
        if following is None:
            break
        version, index = following
        versions.append(version)
        if index is not None:
            last, settled = version, max(settled, index)
        since.append(None if index is None else settled)
    size = max(settled + 1, agreed(last, versions[-1]), agreed(versions[-1], versions[-1]))
    state = LogState(tuple(versions), tuple(since), tuple(entries[:size]))
    return _begun_again(state, entries) if state.began else state


def _begun_again(state: LogState, entries: Sequence[LogEntry]) -> LogState:
    """The state after rule 5: the versions up to the one that began the log again are in force there."""
    last = state.vouched - 1
    count = max(index for index, file in enumerate(state.versions) if file.restart) + 1
    since = [last if each is None else min(each, last) for each in state.since[:count]]
    size = max(len(state.entries), state.vouched)
    return LogState(state.versions, (*since, *state.since[count:]), tuple(entries[:size]))


def _following(
    base: MembersFile,
    entries: Sequence[LogEntry],
    candidates: Sequence[Candidate],
    agreed: Agreed,
    remembered: Collection[str],
) -> tuple[MembersFile, int | None] | None:
    """The version in force after ``base`` and the entry that completed it, or None."""
    complete = [each for each in candidates if each.complete(base)]
    size = max((agreed(base, each.file) for each in complete), default=agreed(base, base))
    first, stands = first_complete(base, candidates, entries[:size])
    if first is not None and first[1] < agreed(base, first[0].file):
        return first[0].file, first[1]
    complete = [each for each in complete if each.without(stands).complete(base)]
    known = [each for each in complete if each.file.sha256 in remembered]
    if len(complete) > 1 and len(known) != 1:
        raise Rejected(
            f"two signed files are version {base.version + 1}: "
            + ", ".join(sorted(f"sha256:{each.file.sha256}" for each in complete)),
            where=MEMBERS_FILE,
            hint="no agreed log says which was first: members have signed both, ask them which one is right",
            code="members-fork",
        )
    return ((known or complete)[0].file, None) if complete else None


def first_complete(
    base: MembersFile, candidates: Sequence[Candidate], entries: Sequence[LogEntry]
) -> tuple[tuple[Candidate, int] | None, Mapping[str, str]]:
    """The version after ``base`` whose signatures the entries complete first, and with which entry; or None.

    And the digest of the version that each member stands behind, at that entry or at the end. Raises Rejected
    (``removed-entry``) when its signatures are not in the files.
    """
    known = {each.file.sha256: each for each in candidates}
    stands: dict[str, str] = {}
    logged: dict[tuple[str, str], frozenset[str]] = {}
    for index, entry in enumerate(entries):
        if entry.kind != MEMBERS or entry.member is None:
            continue
        if entry.facts.get("previous") != base.sha256:
            continue
        place = (entry.sha256, entry.member)
        if place in logged and stands[entry.member] != entry.sha256:
            continue
        stands[entry.member] = entry.sha256
        logged[place] = logged.get(place, frozenset()) | {entry.facts.get("key", "")}
        behind = {name: logged[digest, name] for name, digest in stands.items() if digest == entry.sha256}
        if not _enough(base, behind):
            continue
        candidate = known.get(entry.sha256)
        if candidate is not None and not _enough(candidate.file, behind):
            continue
        if candidate is None or not candidate.complete(base):
            raise Rejected(
                f"signatures on version {base.version + 1} (sha256:{entry.sha256}) are in the log, not here",
                where=MEMBERS_FILE,
                hint="the files were removed: get them from the other members",
                code="removed-entry",
            )
        return (candidate, index), stands
    return None, stands


def _enough(version: MembersFile, signed: Keys) -> bool:
    """Whether members with these keys are ``change`` members and all groups of a version."""
    return not version.unmet_change(
        [
            member.name
            for member in version.members
            if any(key.fingerprint in signed.get(member.name, ()) for key in member.keys)
        ]
    )
