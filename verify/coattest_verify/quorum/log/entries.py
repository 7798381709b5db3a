"""Entries of the log: canonical JSON about one file (its SHA-256) or one signature, and reading them back.

An entry says what its file says; who cosigns recomputes it. The files stay where they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coattest.strictjson import Fields, canonical, parse
from coattest_verify.quorum.log.merkle import MAX_ENTRY
from coattest_verify.quorum.members.file import NAME, MembersFile, utc
from coattest_verify.quorum.statements.claim import SHA256, Claimed
from coattest_verify.quorum.statements.question import DecisionQuestion
from coattest_verify.quorum.statements.signed import SignedStatement
from coattest_verify.quorum.statements.statement import COULD_NOT_BUILD, DISSENT, Statement
from coattest_verify.quorum.statements.votes import KINDS as VOTE_KINDS
from coattest_verify.quorum.statements.votes import PUBLISH, REVOKE, Vote

_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,127}")

MEMBERS = "members"
"""A signature on a version of the members file; its digest is the version's."""

CLAIM = "claim"

IMAGE = "image."
"""Beginning of the facts with the SHA-256 of each profile's image."""

MAX_FACTS = 32

KINDS = ("rebuild", *VOTE_KINDS, CLAIM, MEMBERS)


@dataclass(frozen=True, slots=True)
class SeenLog:
    """The largest log that a verifier has accepted: how many entries, and the tree's root in hex.

    ``restart`` is the SHA-256 (hex) of the version of the members file that began the log again, and
    ``version`` its number; "" and 1 for the first log.
    """

    size: int
    root: str
    restart: str = ""
    version: int = 1


def statement_entry(signed: SignedStatement) -> bytes:
    """The log entry of a statement."""
    made = signed.statement
    return _entry(
        "rebuild",
        signed.sha256,
        made.member,
        outcome=made.outcome,
        quorum=made.quorum_sha256,
        round=made.round,
        time=utc(made.time),
        **_result(made),
    )


def vote_entry(vote: Vote) -> bytes:
    """The log entry of a vote."""
    commit = {"commit": vote.commit} if vote.commit else {}
    return _entry(
        vote.kind,
        vote.sha256,
        vote.member,
        release=vote.release,
        tree_sha256=vote.tree_sha256,
        lock_sha256=vote.lock_sha256,
        **({"claim": vote.claim, "tag": vote.tag, **commit} if vote.kind == PUBLISH else {}),
    )


def claim_entry(claim: Claimed) -> bytes:
    """The log entry of a claim: after it the result to copy is known."""
    return _entry(CLAIM, claim.sha256, None, **_result(claim))


def _result(of: Statement | Claimed) -> dict[str, str]:
    """What a statement or a claim shows: from then on who has not built it can copy it."""
    return {
        "release": of.release,
        "architecture": of.architecture,
        "tree_sha256": of.tree_sha256,
        "lock_sha256": of.lock_sha256,
        **{f"{IMAGE}{profile}": result.sha256 for profile, result in of.profiles.items()},
    }


def members_entry(version: MembersFile, member: str, key: str) -> bytes:
    """The log entry of a member's signature on a version; ``key`` is the key's fingerprint (hex)."""
    return _entry(
        MEMBERS,
        version.sha256,
        member,
        version=str(version.version),
        previous=(version.previous or "").removeprefix("sha256:"),
        key=key,
    )


def _entry(kind: str, sha256: str, member: str | None, **facts: Any) -> bytes:
    return canonical({"kind": kind, "sha256": sha256, "member": member, "facts": facts})


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A parsed entry. For statements ``facts`` hold outcome, quorum, round, release, architecture."""

    kind: str
    sha256: str
    member: str | None
    facts: Mapping[str, str] = field(hash=False)

    @property
    def outcome(self) -> str:
        """A statement's outcome, "" for other entries."""
        return self.facts.get("outcome", "")

    @property
    def time(self) -> str:
        """When a statement was signed (RFC 3339 in UTC: texts compare like times), "" for others."""
        return self.facts.get("time", "")

    @property
    def shows(self) -> bool:
        """Whether it is a claim or a statement from which a result can be copied."""
        return self.kind == CLAIM or (self.kind == "rebuild" and self.outcome != COULD_NOT_BUILD)

    @property
    def source(self) -> tuple[str | None, str | None]:
        """The source tree and the lock that it is about, where it says so."""
        return self.facts.get("tree_sha256"), self.facts.get("lock_sha256")

    def revokes(self, question: DecisionQuestion) -> bool:
        """Whether this is a revocation, by a present member, of the source that the question is about."""
        source = (question.claim.tree_sha256, question.claim.lock_sha256)
        return (self.kind, self.source) == (REVOKE, source) and self.member in question.members.names

    def asks(self, question: DecisionQuestion) -> bool:
        """Whether this is a statement about the question's release, in its round unless it is a dissent."""
        values, claim = self.facts, question.claim
        return (
            self.kind == "rebuild"
            and (values.get("release"), values.get("architecture")) == (claim.release, claim.architecture)
            and values.get("quorum") in question.made_under
            and (self.outcome == DISSENT or values.get("round") == question.members.round)
            and self.member in question.members.names
        )

    def reveals(self, claim: Claimed | Statement, profile: str) -> bool:
        """Whether this is a claim or a statement from which a profile's result can be copied.

        It is about the same source, or shows the same image, under whatever name; an entry that does not
        say its source is about the same release.
        """
        if not self.shows:
            return False
        values, shown = self.facts, claim.profiles[profile].sha256
        if any(name.startswith(IMAGE) and value == shown for name, value in values.items()):
            return True
        return values.get("architecture") == claim.architecture and (
            self.source == (claim.tree_sha256, claim.lock_sha256)
            if "tree_sha256" in values
            else values.get("release") == claim.release
        )


def parse_entry(entry: bytes) -> LogEntry:
    """An entry of the log. Raises Rejected; it reaches terminals, so it holds names and words only."""
    fields = Fields(parse(entry, max_size=MAX_ENTRY), "entry")
    member = fields.optional("member", fields.text, NAME)
    facts = Fields(fields.mapping("facts", low=0, high=MAX_FACTS), "entry.facts")
    found = LogEntry(
        fields.choice("kind", KINDS),
        fields.text("sha256", SHA256),
        member,
        {name: facts.text(name, _TEXT) for name in sorted(facts.values)},
    )
    fields.done()
    return found
