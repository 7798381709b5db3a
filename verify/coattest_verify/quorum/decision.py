"""The decision: a value that every command recomputes from the statements against its pinned root.

No command reads a decision from a file. ``decide`` reads the folder and the remembered roots; ``decide_from``
is the part without I/O.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from coattest.errors import PATHS, EnvironmentFailure, FoundFalse, Rejected, require_aware, require_kind
from coattest.files import Evidence, Folder
from coattest.findings import Finding
from coattest.strictjson import canonical
from coattest_build.ownwork import sha256_hex
from coattest_verify.quorum.alongside import with_files
from coattest_verify.quorum.commitments import Committed, timely_commitments, uncommitted
from coattest_verify.quorum.diversity import undiversified
from coattest_verify.quorum.lapse import end_of, ending
from coattest_verify.quorum.log.entries import SeenLog
from coattest_verify.quorum.log.examine import CHECKPOINT_FILE, Log, LogVerdict, examine
from coattest_verify.quorum.log.publication import publication
from coattest_verify.quorum.members.chain import ROOT_HINT, MembersChain, Seen, SeenObjection, follow
from coattest_verify.quorum.members.file import MEMBERS_FILE, MembersFile, too_few, utc
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.objections import (
    Lifted,
    dissent_stands,
    gone,
    lifted,
    overruled,
    seen_objections,
    votes_that_stand,
)
from coattest_verify.quorum.releases import release_files, release_place, releases_in
from coattest_verify.quorum.statements.claim import CLAIM_FILE
from coattest_verify.quorum.statements.question import DecisionQuestion, enough_until
from coattest_verify.quorum.statements.signed import read_statements
from coattest_verify.quorum.statements.statement import DISSENT
from coattest_verify.quorum.statements.votes import (
    OLD_KEY,
    REVIEW,
    REVOKE,
    Vote,
    leaf,
    votes_on,
    without_undone,
)
from coattest_verify.quorum.tally import Answer, Tally, count

PURPOSE = "coattest/decision/v1"
RELEASE_PURPOSE = "coattest/release/v1"

LACKING = frozenset(
    {
        "too-few-members",
        "group-unmet",
        "too-few-commitments",
        "too-few-reviews",
        "too-few-routes",
        "too-few-hosts",
        "no-answer",
        "own-statement-missing",
        "log-shrunk",
        "log-gone",
        "claim-unsigned",
        "claim-disputed",
        "log-not-fresh",
        "no-claim",
    }
)
"""Codes of reasons that say what is not there yet, or not here. Nothing was found false by one of these."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided. ``pcrs`` are PCR0 to PCR2 in lower-case hex.

    ``expires`` is the earliest of all that it rests on: the members file, statements, excuses (``lapse``).
    """

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
    root_sha256: str
    """SHA-256 (hex) of quorum.toml version 1."""
    container: str | None = None
    """SHA-256 (hex) of the configuration of a container image that is the payload, as all who agreed say:
    it was taken as given, not built from source. ``lock_sha256`` covers it."""

    @property
    def release_digest(self) -> bytes:
        """SHA-256 (32 bytes) of what was decided, under which root: what bids, seals and key policies bind.

        The version of the members file and who agreed are left out: enrolling somebody must not make anything
        unreadable that is bound to the release.
        """
        decided = {name: value for name, value in self._decided().items() if name != "quorum_sha256"}
        named = {"purpose": RELEASE_PURPOSE, "root_sha256": self.root_sha256, **decided}
        return hashlib.sha256(canonical(named)).digest()

    @property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of what was decided and under which quorum.toml.

        Who agreed is left out: one more agreeing statement must not invalidate what is bound to the decision.
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
            "container": self.container,
            "agreed": list(self.agreed),
            "expires": utc(self.expires),
            "root_sha256": self.root_sha256,
            "digest": self.digest.hex(),
            "release_digest": self.release_digest.hex(),
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """The decision, or every reason why there is none; and what each member said in either case."""

    decision: Decision | None
    agree: tuple[str, ...]
    dissent: tuple[Answer, ...]
    refused: tuple[Finding, ...]
    missing: tuple[str, ...]
    reasons: tuple[Finding, ...]
    warnings: tuple[Finding, ...] = ()
    members: MembersFile | None = field(default=None, repr=False)
    profile: str = ""
    answers: tuple[Answer, ...] = field(default=(), repr=False)
    """The agreeing answers, with their statements."""
    log: SeenLog | None = None
    """The log that was checked, if there is one."""
    remembered: Seen | None = field(default=None, repr=False)
    """What a verifier remembers of this: the version, the agreed log, every dissent and revocation."""

    @property
    def exit_code(self) -> int:
        """0 decided; 1 when a reason is something false: a dissent, a revocation, a fork; 3 undecided."""
        if self.decision is not None:
            return 0
        return 3 if all(reason.code in LACKING for reason in self.reasons) else 1

    def __bool__(self) -> bool:
        return self.decision is not None

    def require(self) -> Decision:
        """The decision.

        Raises (``no-decision``) an error whose findings are all the reasons: FoundFalse, or
        EnvironmentFailure when something is lacking and nothing was found false.
        """
        return self.decided()[0]

    def decided(self) -> tuple[Decision, MembersFile]:
        """The decision and the members file that it was made under. Raises as ``require``."""
        if self.decision is None or self.members is None:
            kind = EnvironmentFailure if self.exit_code == EnvironmentFailure.exit_code else FoundFalse
            raise kind(
                "no decision: " + "; ".join(map(str, self.reasons)),
                hint="see verify quorum",
                code="no-decision",
                findings=self.reasons,
            )
        return self.decision, self.members

    def to_json(self) -> dict[str, Any]:
        """The whole outcome for ``--json``."""
        return {
            "decided": self.decision is not None,
            "decision": self.decision.to_json() if self.decision else None,
            "profile": self.profile,
            "agree": list(self.agree),
            "dissent": [{"member": answer.member, "detail": answer.detail} for answer in self.dissent],
            "missing": list(self.missing),
            "refused": [finding.to_json() for finding in self.refused],
            "reasons": [finding.to_json() for finding in self.reasons],
            "warnings": [finding.to_json() for finding in self.warnings],
            "quorum": (
                {
                    "version": self.members.version,
                    "sha256": self.members.sha256,
                    "threshold": self.members.threshold,
                    "dissent": self.members.dissent,
                    "round": self.members.round,
                    "expires": utc(self.members.expires),
                }
                if self.members
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
    release: str | None = None,
    roots: Roots | None = None,
    also: tuple[Path, ...] = (),
    fresh: timedelta | None = None,
) -> Outcome:
    """Decide from a folder. ``root`` is the SHA-256 of quorum.toml version 1; None takes the remembered one.

    ``release`` is the release's name; None takes the only one that is there.
    ``own`` is a member whose own agreeing statement must be among those that count. The root and the highest
    version are remembered (``roots``, by default this user's). Raises UsageError when no root is known, the
    folder does not exist, or it has not exactly one release and none is named. ``also`` are files that came
    another way (``alongside``).
    """
    require_kind(attestations, PATHS, "attestations")
    _require_question(root, now, fresh)
    memory = roots or Roots()
    pinned, seen = memory.known(root)
    with Folder(attestations) as folder:
        outcome = decide_from(
            with_files(folder, also, release),
            root=pinned,
            seen=seen,
            profile=profile,
            now=now,
            own=own,
            release=release,
            fresh=fresh,
        )
    if outcome.remembered is not None:
        memory.remember(pinned, outcome.remembered)
    return outcome


def _require_question(root: bytes | None, now: datetime, fresh: timedelta | None) -> None:
    """Refuse arguments of another kind. Raises UsageError."""
    if root is not None:
        require_kind(root, bytes, "root", hint=ROOT_HINT)
    require_aware(now)
    if fresh is not None:
        require_kind(fresh, timedelta, "fresh")


def decide_from(
    evidence: Evidence,
    *,
    root: bytes,
    seen: Seen | None,
    profile: str,
    now: datetime,
    own: str | None = None,
    release: str | None = None,
    fresh: timedelta | None = None,
) -> Outcome:
    """Decide from named files, a pinned root and what was seen before under it. Writes nothing.

    ``fresh`` is how old the cosignatures of ``change`` members on the agreed log may be, None for any age.
    Raises UsageError when no release is named and there is not exactly one.
    """
    _require_question(root, now, fresh)
    try:
        chain = follow(evidence, root, seen=seen, now=now)
    except Rejected as error:
        what = f"{error.what} ({error.hint})" if error.hint else error.what
        return _undecided(Finding(error.code, error.where or MEMBERS_FILE, what), profile=profile)
    where = release_place(release, CLAIM_FILE) if release else CLAIM_FILE
    try:
        files = release_files(evidence, release)
        where = files.place(CLAIM_FILE)
        claim = files.claim()
    except Rejected as error:
        code, what = "bad-claim", error.what
        if release and error.code == "absent":
            others = ", ".join(name for name in releases_in(evidence) if name != release)[:200]
            code, what = (
                "no-claim",
                f"{what} (not claimed here yet; other releases here: {others or 'none'})",
            )
        return _undecided(Finding(code, where, what), profile=profile, chain=chain, seen=seen)
    if profile not in claim.profiles:
        known = ", ".join(sorted(claim.profiles))
        reason = Finding("wrong-profile", where, f"has no profile {profile!r}, only {known}")
        return _undecided(reason, profile=profile, chain=chain, seen=seen)
    members = chain.current
    earlier = chain.versions[:-1]
    signed, refused = read_statements(files, members, earlier, lambda item: dissent_stands(item, chain.state))
    votes, bad_votes = votes_that_stand(files, chain)
    question = DecisionQuestion(claim, members, profile, now, chain.versions)
    set_aside = lifted(signed, votes, chain.state, question, root)
    asked = [item for item in signed if item.signed_sha256 not in set_aside.dissents]
    published = publication(claim, votes, chain.state, root)
    tally = count(asked, question, refused=[*refused, *bad_votes, *chain.refused, *files.misplaced])
    counted = [answer.statement for answer in tally.agree if answer.statement is not None]
    log = examine(
        chain.log,
        question,
        signed,
        votes=votes,
        counted=counted,
        agreed=len(chain.state.entries),
        remembered=(seen is not None and seen.log is not None) or chain.restart != "",
        void=[sha256_hex(files.read(item.where)) for item in (*refused, *bad_votes) if item.code == OLD_KEY],
    )
    taken_back = overruled(votes, chain.state, members)
    valid, undone = without_undone(votes, taken_back)
    objections = seen_objections(signed, votes, question, root)
    outcome = _conclude(
        tally,
        question,
        log,
        root=root,
        own=own,
        set_aside=set_aside,
        removed=gone(seen, objections, votes, question, taken_back),
        committed=timely_commitments(chain.state.entries, votes, claim, profile, root)
        if members.commitments
        else {},
        revoked=votes_on(valid, REVOKE, claim, root),
        undone=votes_on(undone, REVOKE, claim, root),
        reviewed=votes_on(votes, REVIEW, claim, root),
        unpublished=published.finding,
    )
    if fresh is not None:
        outcome = _while_fresh(outcome, chain, fresh, now)
    return replace(outcome, remembered=_remembered(chain, seen, log.agreed, objections))


def _while_fresh(outcome: Outcome, chain: MembersChain, fresh: timedelta, now: datetime) -> Outcome:
    """The outcome, undecided unless the agreed log was cosigned lately, and no longer than it was."""
    notes = chain.log.cosignatures if isinstance(chain.log, Log) else {}
    size = len(chain.state.entries)
    times = {name: note.time for name, note in notes.items() if note.checkpoint.size >= size}
    until = enough_until(times, chain.current, fresh, now)
    if until is None:
        text = f"too few members cosigned the log in the last {fresh.days} days: this may be an old copy"
        reason = Finding("log-not-fresh", CHECKPOINT_FILE, text)
        return replace(outcome, decision=None, reasons=(*outcome.reasons, reason))
    if outcome.decision is None or until >= outcome.decision.expires:
        return outcome
    return replace(outcome, decision=replace(outcome.decision, expires=until))


def _remembered(
    chain: MembersChain,
    seen: Seen | None,
    log: SeenLog | None = None,
    objections: frozenset[SeenObjection] = frozenset(),
) -> Seen:
    if seen is not None and seen.log is not None and isinstance(chain.log, Finding):
        return replace(seen, objections=objections)  # without the log that was seen no version is a newer one
    current = chain.current
    known = chain.known(log) if log else None
    return Seen(current.version, current.sha256, known, chain.state.since[-1] is not None, objections)


def _conclude(
    tally: Tally,
    question: DecisionQuestion,
    log: LogVerdict,
    *,
    root: bytes,
    own: str | None,
    set_aside: Lifted,
    removed: Mapping[str, tuple[Finding, ...]],
    committed: Committed,
    revoked: Mapping[str, Vote],
    undone: Mapping[str, Vote],
    reviewed: Mapping[str, Vote],
    unpublished: Finding | None,
) -> Outcome:
    claim, members, profile = question.claim, question.members, question.profile
    agree = tuple(answer.member for answer in tally.agree)
    reasons = [*members.unmet(agree), *([unpublished] if unpublished else [])]
    warnings: list[Finding] = [*log.refused, *set_aside.dissents.values(), *set_aside.pending]
    excused = {**set_aside.silent, **log.excused}
    revocations = [
        Finding("revoked", name, f"revoked this release: {vote.note}")
        for name, vote in sorted(revoked.items())
    ]
    warnings += [
        Finding("undone", name, f"revoked this release, and that was taken back: {vote.note}")
        for name, vote in sorted(undone.items())
        if name not in revoked
    ]
    # Not a revocation any more (a stolen key would block for ever), but not to be overlooked either.
    warnings += [
        Finding(
            OLD_KEY,
            leaf(item.where).split(".")[1],
            "revoked this release with a key that it no longer has: not counted",
        )
        for item in tally.refused
        if item.code == OLD_KEY and leaf(item.where).startswith(f"{REVOKE}.")
    ]
    revocations += removed.get(REVOKE, ())
    revoking = {*revoked, *(each.where for each in removed.get(REVOKE, ()))}
    (reasons if len(revoking) >= members.revoke_threshold else warnings).extend(revocations)
    if len(reviewed) < members.reviews:
        reasons.append(
            too_few("too-few-reviews", len(reviewed), members.reviews, "members reviewed the source")
        )
    reasons += undiversified(tally.agree, members)
    reasons += uncommitted(tally.agree, members, committed, root)
    objections = [Finding("dissent", answer.member, f"dissents: {answer.detail}") for answer in tally.dissent]
    objections += [*removed.get(DISSENT, ()), *log.findings]
    if members.dissent == "block":
        reasons += objections
        # Silence may be a dissent that somebody removed (ADR 55); the log can tell.
        reasons += [
            Finding("no-answer", name, "has not answered, and silence is not agreement")
            for name in tally.missing
            if name not in excused
        ]
    else:
        # The log that was seen before says what is in force: without it nothing is known to be.
        reasons += [each for each in objections if each is log.finding and log.lost]
        warnings += [each for each in objections if each not in reasons]
    if own is not None and own not in agree:
        text = "has no agreeing statement of its own: others' votes do not bind it"
        if own not in members.names:
            text = f"is not a member (one of {', '.join(members.names)})"
        reasons.append(Finding("own-statement-missing", own, text))
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
            quorum_sha256=members.sha256,
            expires=end_of(
                tally.agree,
                members,
                excused,
                own,
                lambda left: not uncommitted(left, members, committed, root),
            ),
            root_sha256=root.hex(),
            container=claim.container,
        )
        warnings += ending(decision.release, decision.expires, question.now)
    return Outcome(
        decision=decision,
        agree=agree,
        dissent=tally.dissent,
        refused=tally.refused,
        missing=tally.missing,
        reasons=tuple(reasons),
        warnings=tuple(warnings),
        members=members,
        profile=profile,
        answers=tally.agree,
        log=SeenLog(log.size, log.root) if log.size and not log.finding else None,
    )


def _undecided(
    reason: Finding, *, profile: str, chain: MembersChain | None = None, seen: Seen | None = None
) -> Outcome:
    members = chain.current if chain else None
    return Outcome(
        decision=None,
        agree=(),
        dissent=(),
        refused=chain.refused if chain else (),
        missing=members.names if members else (),
        reasons=(reason,),
        members=members,
        profile=profile,
        remembered=_remembered(chain, seen) if chain else None,
    )
