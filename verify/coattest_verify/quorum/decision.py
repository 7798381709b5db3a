"""The decision: a value that every command recomputes from the statements against its pinned root.

No command reads a decision from a file. ``decide`` reads the folder and the remembered roots; ``decide_from``
is the part without I/O.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from coattest.errors import Rejected
from coattest.strictjson import canonical
from coattest_verify.quorum.commitments import early
from coattest_verify.quorum.directory import Evidence, Folder
from coattest_verify.quorum.diversity import undiversified
from coattest_verify.quorum.errors import NoDecision, PolicyRefused
from coattest_verify.quorum.log.examine import Findings, examine
from coattest_verify.quorum.members.chain import Chain, Refused, Seen, SeenLog, follow
from coattest_verify.quorum.members.file import MembersFile, utc
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.statements.claim import MAX_CLAIM, Claimed
from coattest_verify.quorum.tally import Answer, Question, Tally, count, read_statements
from coattest_verify.quorum.votes import OLD_KEY, REVIEW, REVOKE, Vote, about, read_votes

__all__ = ["Answer", "Decision", "NoDecision", "Outcome", "Refused", "decide", "decide_from"]

PURPOSE = "coattest/decision/v1"
CLAIM_FILE = "claim.json"


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided. ``pcrs`` are PCR0 to PCR2 in lower-case hex, ``expires`` is the policy's."""

    release: str
    architecture: str
    profile: str
    pcrs: Mapping[int, str] = field(hash=False)
    image_sha384: str
    image_size: int
    tree_sha256: str
    lock_sha256: str
    agreed: tuple[str, ...]
    quorum_sha256: str
    expires: datetime

    @property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of what was decided and under which quorum.toml.

        Who agreed is not in it: one more agreeing statement must not invalidate what binds to the decision.
        """
        return hashlib.sha256(canonical({"purpose": PURPOSE, **self._decided()})).digest()

    def _decided(self) -> dict[str, Any]:
        return {
            "release": self.release,
            "architecture": self.architecture,
            "profile": self.profile,
            "pcrs": {f"PCR{index}": value for index, value in sorted(self.pcrs.items())},
            "image": {"sha384": self.image_sha384, "size": self.image_size},
            "source": {"tree_sha256": self.tree_sha256, "lock_sha256": self.lock_sha256},
            "quorum_sha256": self.quorum_sha256,
        }

    def to_json(self) -> dict[str, Any]:
        """The decision for ``--json`` output; nothing reads it back."""
        return {
            **self._decided(),
            "agreed": list(self.agreed),
            "expires": utc(self.expires),
            "digest": self.digest.hex(),
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """The decision, or every reason why there is none; and who said what in either case."""

    decision: Decision | None
    agree: tuple[str, ...]
    dissent: tuple[Answer, ...]
    refused: tuple[Refused, ...]
    missing: tuple[str, ...]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    policy: MembersFile | None = field(default=None, repr=False)
    profile: str = ""
    answers: tuple[Answer, ...] = field(default=(), repr=False)
    """The agreeing answers, with their statements."""
    log: SeenLog | None = None
    """The log that was checked, if there is one."""

    def require(self) -> Decision:
        """The decision. Raises NoDecision with all reasons."""
        if self.decision is None:
            raise NoDecision(self.reasons)
        return self.decision

    def to_json(self) -> dict[str, Any]:
        """The whole outcome for ``--json``."""
        return {
            "decided": self.decision is not None,
            "decision": self.decision.to_json() if self.decision else None,
            "profile": self.profile,
            "agree": list(self.agree),
            "dissent": [{"member": answer.member, "detail": answer.detail} for answer in self.dissent],
            "missing": list(self.missing),
            "refused": [
                {"file": item.file, "reason": item.reason, "detail": item.detail} for item in self.refused
            ],
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "quorum": (
                {
                    "version": self.policy.version,
                    "sha256": self.policy.sha256,
                    "threshold": self.policy.threshold,
                    "dissent": self.policy.dissent,
                    "round": self.policy.round,
                    "expires": utc(self.policy.expires),
                }
                if self.policy
                else None
            ),
            "log": {"size": self.log.size, "root": self.log.root} if self.log else None,
        }


def decide(
    attestations: Path,
    *,
    root: bytes | None,
    profile: str,
    now: datetime,
    own: str | None = None,
    roots: Roots | None = None,
) -> Outcome:
    """Decide from a folder. ``root`` is the SHA-256 of quorum.toml version 1; None takes the remembered one.

    ``own`` is a member whose own agreeing statement must be among them. The root and the highest version
    are remembered (``roots``, by default this user's). Raises UsageError when no root is known, or no folder
    is there.
    """
    memory = roots or Roots()
    pinned = memory.pinned(root)
    with Folder(attestations) as folder:
        outcome = decide_from(
            folder, root=pinned, seen=memory.seen(pinned), profile=profile, now=now, own=own
        )
    if outcome.policy is not None:
        memory.remember(pinned, Seen(outcome.policy.version, outcome.policy.sha256, outcome.log))
    return outcome


def decide_from(
    evidence: Evidence, *, root: bytes, seen: Seen | None, profile: str, now: datetime, own: str | None = None
) -> Outcome:
    """Decide from named files, a pinned root and what was seen before under it. Writes nothing."""
    try:
        chain = follow(evidence, root, seen=seen, now=now)
    except (PolicyRefused, Rejected) as error:
        return _undecided(str(error), profile=profile)
    try:
        claim = Claimed.decode(evidence.read(CLAIM_FILE, MAX_CLAIM))
    except Rejected as error:
        return _undecided(f"{CLAIM_FILE}: {error.what}", profile=profile, chain=chain)
    if profile not in claim.profiles:
        known = ", ".join(sorted(claim.profiles))
        reason = f"{CLAIM_FILE}: has no profile {profile!r}, only {known}"
        return _undecided(reason, profile=profile, chain=chain)
    signed, refused = read_statements(evidence, chain.current)
    votes, bad_votes = read_votes(evidence, chain.current, chain.policies[:-1])
    before = seen.log if seen is not None else None
    question = Question(claim, chain.current, profile, now)
    if chain.current.commitments:
        question = replace(question, committed=early(evidence, root, question, votes, before))
    tally = count(signed, question, refused=[*refused, *bad_votes, *chain.refused])
    counted = [answer.statement for answer in tally.agree if answer.statement is not None]
    log = examine(
        evidence,
        root,
        question,
        signed,
        votes=votes,
        counted=counted,
        seen=before,
    )
    return _conclude(
        tally,
        question,
        log,
        own=own,
        revoked=about(votes, REVOKE, claim, root),
        reviewed=about(votes, REVIEW, claim, root),
    )


def _conclude(
    tally: Tally,
    question: Question,
    log: Findings,
    *,
    own: str | None,
    revoked: Mapping[str, Vote],
    reviewed: Mapping[str, Vote],
) -> Outcome:
    claim, policy, profile = question.claim, question.policy, question.profile
    agree = tuple(answer.member for answer in tally.agree)
    reasons = list(policy.unmet(agree))
    warnings: list[str] = []
    revocations = [f"{name} revoked this release: {vote.note}" for name, vote in sorted(revoked.items())]
    # Not a revocation any more (a stolen key would block for ever), but not to be overlooked either.
    warnings += [
        f"{item.file.split('.')[1]} revoked this release with a key that it no longer has: not counted"
        for item in tally.refused
        if item.reason == OLD_KEY and item.file.startswith(f"{REVOKE}.")
    ]
    (reasons if len(revoked) >= policy.revoke_threshold else warnings).extend(revocations)
    if len(reviewed) < policy.reviews:
        reasons.append(f"{len(reviewed)} of {policy.reviews} members reviewed the source")
    reasons += undiversified(tally.agree, policy)
    objections = [f"{answer.member} dissents: {answer.detail}" for answer in tally.dissent]
    objections += [*log.removed, *([log.problem] if log.problem else [])]
    if policy.dissent == "block":
        reasons += objections
        # Silence may be a dissent that somebody removed (ADR 55); the log can tell.
        silent = [name for name in tally.missing if name not in log.excused]
        reasons += [f"{name} has not answered, and silence is not agreement" for name in silent]
    else:
        warnings += objections
    if own is not None and own not in agree:
        reasons.append(f"no agreeing statement of {own} itself: others' votes do not bind it")
    result = question.claimed
    decision = None
    if not reasons:
        decision = Decision(
            release=claim.release,
            architecture=claim.architecture,
            profile=profile,
            pcrs=dict(enumerate(result.pcrs)),
            image_sha384=result.sha384,
            image_size=result.size,
            tree_sha256=claim.tree_sha256,
            lock_sha256=claim.lock_sha256,
            agreed=agree,
            quorum_sha256=policy.sha256,
            expires=policy.expires,
        )
    return Outcome(
        decision=decision,
        agree=agree,
        dissent=tally.dissent,
        refused=tally.refused,
        missing=tally.missing,
        reasons=tuple(reasons),
        warnings=tuple(warnings),
        policy=policy,
        profile=profile,
        answers=tally.agree,
        log=SeenLog(log.size, log.root) if log.size and not log.problem else None,
    )


def _undecided(reason: str, *, profile: str, chain: Chain | None = None) -> Outcome:
    policy = chain.current if chain else None
    return Outcome(
        decision=None,
        agree=(),
        dissent=(),
        refused=chain.refused if chain else (),
        missing=policy.names if policy else (),
        reasons=(reason,),
        policy=policy,
        profile=profile,
    )
