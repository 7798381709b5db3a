"""The count: which members agree with the claim, which dissent, which files do not count, and why.

No I/O and no clock. Rules, in the order in which they are applied to a file (docs/quorum.md):

1. A plain file with a statement's name; strict JSON within limits; a DSSE envelope of in-toto's payload type.
2. Signed by a key of the member that the file's name says. Only then the payload is parsed.
3. Made under exactly this policy and this round, for the claim's release and architecture.

Then per member, over all of its statements that passed:

4. Two different results for one target: an equivocator, which counts as dissent.
5. A signed dissent counts as dissent, however old. "Could not build" does, until a later result replaces it.
6. Agreement means: every digest, size and section of the profile equals the claim's, the statement is neither
   from the future nor too old, and the kernel was compiled by that member where the policy says so.

Adding an agreeing statement never makes a member stop agreeing, and the order of files does not matter.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from coattest.errors import Rejected
from coattest_verify.quorum.directory import Evidence
from coattest_verify.quorum.members.chain import Refused
from coattest_verify.quorum.members.file import NAME, MembersFile, utc
from coattest_verify.quorum.statements.claim import Claimed, ProfileResult
from coattest_verify.quorum.statements.provenance import PAYLOAD_TYPE, parse_statement
from coattest_verify.quorum.statements.salt import digest_of
from coattest_verify.quorum.statements.statement import AGREE, COULD_NOT_BUILD, DISSENT, Statement
from coattest_verify.signatures.dsse import Envelope

STATEMENT_NAME = re.compile(rf"rebuild\.({NAME.pattern})(?:\.[A-Za-z0-9_-]{{1,64}})?\.intoto\.json")

CLOCK_SKEW = timedelta(minutes=5)
"""How far a member's clock may be ahead of the verifier's."""

DIFFERENCES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement whose signature was verified, and the file that it came from."""

    file: str
    statement: Statement
    sha256: str
    """SHA-256 of the file, lower-case hex."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one member's statements add up to; ``detail`` says why it dissents."""

    member: str
    agrees: bool
    detail: str
    statement: Statement | None = field(default=None, repr=False, compare=False)
    """The newest agreeing statement; None for a dissent."""
    counting: tuple[Statement, ...] = field(default=(), repr=False, compare=False)
    """Every agreeing statement that counts."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Everybody's answers. ``missing`` are members without any statement that counts."""

    agree: tuple[Answer, ...]
    dissent: tuple[Answer, ...]
    missing: tuple[str, ...]
    refused: tuple[Refused, ...]


def read_statements(evidence: Evidence, policy: MembersFile) -> tuple[list[Signed], list[Refused]]:
    """Every statement with a good signature (rules 1 and 2), and every other file with a statement's name."""
    accepted, refused = [], []
    for name in evidence.names():
        if not name.startswith("rebuild.") or name.endswith(".link"):
            continue
        try:
            accepted.append(_authentic(name, evidence, policy))
        except Rejected as error:
            refused.append(Refused(name, error.code, error.what))
    return accepted, refused


def _authentic(name: str, evidence: Evidence, policy: MembersFile) -> Signed:
    match = STATEMENT_NAME.fullmatch(name)
    if match is None:
        raise Rejected("not the name of a statement", code="bad-name")
    member = policy.member(match[1])
    if member is None:
        raise Rejected(f"{match[1]} is not a member", code="not-a-member")
    data = evidence.read(name)
    envelope = Envelope.decode(data, PAYLOAD_TYPE)
    if not envelope.signers(member.keys):
        raise Rejected(f"not signed by a key of {member.name}", code="bad-signature")
    statement = parse_statement(envelope.payload)
    if statement.member != member.name:
        raise Rejected(f"signed by {member.name}, but speaks for {statement.member}", code="other-member")
    return Signed(name, statement, hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be decided, under which policy, when."""

    claim: Claimed
    policy: MembersFile
    profile: str
    now: datetime
    committed: Mapping[str, frozenset[str]] = field(default_factory=dict, hash=False)
    """Each member's early commitments; looked at where the policy wants them."""

    @property
    def claimed(self) -> ProfileResult:
        """The claim's result for the profile."""
        return self.claim.profiles[self.profile]


def count(signed: Iterable[Signed], question: Question, *, refused: Iterable[Refused] = ()) -> Tally:
    """Apply rules 3 to 6. The claim must have the profile."""
    not_counted = list(refused)
    standing: dict[str, _Standing] = {}
    for item in signed:
        problem = _elsewhere(item.statement, question)
        if problem:
            not_counted.append(Refused(item.file, *problem))
        else:
            member = item.statement.member
            standing.setdefault(member, _Standing(member)).items.append(item)
    agree: list[Answer] = []
    dissent: list[Answer] = []
    for member in question.policy.names:
        if member not in standing:
            continue
        answer = standing[member].answer(question, not_counted)
        if answer is not None:
            (agree if answer.agrees else dissent).append(answer)
    answered = {answer.member for answer in (*agree, *dissent)}
    return Tally(
        agree=tuple(agree),
        dissent=tuple(dissent),
        missing=tuple(name for name in question.policy.names if name not in answered),
        refused=tuple(sorted(not_counted, key=lambda item: (item.file, item.reason))),
    )


def _elsewhere(statement: Statement, question: Question) -> tuple[str, str] | None:
    """Why a statement answers another question (rule 3), as (code, text), or None."""
    claim, policy = question.claim, question.policy
    agrees = statement.outcome == AGREE
    source = (claim.tree_sha256, claim.lock_sha256)
    checks = (
        (
            "other-policy",
            (statement.quorum_version, statement.quorum_sha256) == (policy.version, policy.sha256),
            f"made under another quorum.toml (version {statement.quorum_version})",
        ),
        (
            "other-round",
            statement.round == policy.round,
            f"made for round {statement.round} instead of {policy.round}",
        ),
        (
            "other-release",
            statement.release == claim.release,
            f"about release {statement.release} instead of {claim.release}",
        ),
        (
            "other-architecture",
            statement.architecture == claim.architecture,
            f"about {statement.architecture} instead of {claim.architecture}",
        ),
        # A dissent may well be about the source or the missing profile, so it is not set aside for these.
        (
            "other-source",
            not agrees or (statement.tree_sha256, statement.lock_sha256) == source,
            "about another source tree or lock than the claim's",
        ),
        (
            "other-profile",
            not agrees or question.profile in statement.profiles,
            f"says nothing about profile {question.profile}",
        ),
    )
    return next(((code, text) for code, holds, text in checks if not holds), None)


@dataclass(slots=True)
class _Standing:
    member: str
    items: list[Signed] = field(default_factory=list)

    def answer(self, question: Question, refused: list[Refused]) -> Answer | None:
        """Rules 4 to 6; None when nothing counts. Files that do not count go to ``refused``."""
        member, profile = self.member, question.profile
        contradiction = self._equivocates(profile)
        if contradiction:
            return Answer(member, False, contradiction)
        objections = [item for item in self.items if item.statement.outcome == DISSENT]
        if objections:
            return Answer(member, False, _objection(objections, question))
        results = [item for item in self.items if item.statement.outcome == AGREE]
        differing = [item for item in results if item.statement.profiles[profile] != question.claimed]
        if differing:
            return Answer(member, False, _differs(differing[0].statement.profiles[profile], question.claimed))
        counting = []
        for item in results:
            problem = _unfit(item.statement, question)
            if problem:
                refused.append(Refused(item.file, *problem))
            else:
                counting.append(item.statement)
        gave_up = [item.statement for item in self.items if item.statement.outcome == COULD_NOT_BUILD]
        latest = max((statement.time for statement in counting), default=None)
        still = [statement for statement in gave_up if latest is None or statement.time >= latest]
        if still:
            newest = max(still, key=lambda statement: (statement.time, statement.reason or ""))
            return Answer(member, False, f"could not build: {newest.reason or 'no reason given'}")
        if not counting:
            return None
        newest = max(counting, key=lambda statement: (statement.time, _route(statement)))
        return Answer(member, True, utc(newest.time), newest, tuple(counting))

    def _equivocates(self, profile: str) -> str | None:
        results: dict[tuple[str, ...], set[ProfileResult]] = {}
        for item in self.items:
            result = item.statement.profiles.get(profile)
            if result is not None:
                results.setdefault(item.statement.target, set()).add(result)
        twice = next((found for found in results.values() if len(found) > 1), None)
        if twice is None:
            return None
        files = ", ".join(sorted(item.file for item in self.items))
        return f"signed {len(twice)} different results for one source ({files})"


def _unfit(statement: Statement, question: Question) -> tuple[str, str] | None:
    """Why an agreeing statement does not count (rule 6), as (code, text), or None."""
    policy, now = question.policy, question.now
    if statement.time > now + CLOCK_SKEW:
        return "from-the-future", f"dated {utc(statement.time)}"
    if now - statement.time > policy.max_age:
        return "too-old", f"dated {utc(statement.time)}, older than {policy.max_age_days} days"
    if policy.require_compiled_kernel and not (statement.built and statement.built.kernel_compiled):
        return "cached-kernel", "the kernel was not compiled by this member, and the policy wants it to be"
    if policy.commitments and digest_of(statement) not in question.committed.get(statement.member, ()):
        return "not-committed", "the log shows no commitment to this result before results were known"
    return None


def _route(statement: Statement) -> str:
    return statement.built.route if statement.built else ""


def _objection(items: list[Signed], question: Question) -> str:
    claim = question.claim
    first = min(items, key=lambda item: item.file).statement
    parts = [first.reason] if first.reason else []
    if first.tree_sha256 != claim.tree_sha256:
        parts.append(f"source tree {first.tree_sha256[:16]}.. instead of {claim.tree_sha256[:16]}..")
    if first.lock_sha256 != claim.lock_sha256:
        parts.append(f"lock {first.lock_sha256[:16]}.. instead of {claim.lock_sha256[:16]}..")
    result = first.profiles.get(question.profile)
    if result is not None and result != question.claimed:
        parts.append(_differs(result, question.claimed))
    return "; ".join(parts) or "signed a dissent"


def _differs(result: ProfileResult, claimed: ProfileResult) -> str:
    found = result.differences(claimed)
    more = f" and {len(found) - DIFFERENCES_SHOWN} more" if len(found) > DIFFERENCES_SHOWN else ""
    return ", ".join(found[:DIFFERENCES_SHOWN]) + more
