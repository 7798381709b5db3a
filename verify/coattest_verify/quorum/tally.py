"""The count: which members agree with the claim, which dissent, which files do not count, and why.

No I/O and no clock. Rules, in the order in which they are applied to a file (docs/quorum.md):

1. A plain file with a statement's name; strict JSON within limits; a DSSE envelope of in-toto's payload type.
2. Signed by a key of the member that the file's name says. Only then the payload is parsed.
3. For the claim's release and architecture, and, but for a dissent, for this round; made under this members
   file or an earlier version, where its member and signing key stand in every version since.

(Rules 1 and 2 are ``coattest_verify.quorum.statements.signed``.)

Then per member, over all of its statements that passed:

4. Two different results for one target count as dissent.
5. A signed dissent counts as dissent, however old. "Could not build" does, until a later result replaces it.
6. Agreement means: every digest, size and section of the profile equals the claim's, and so does the
   container image that was taken as given, or that there is none; the statement is neither from the future
   nor too old, and the kernel was compiled by that member where the members file asks for it.

Adding an agreeing statement never makes a member stop agreeing, and the order of files does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from coattest.findings import Finding
from coattest_verify.quorum.members.file import utc
from coattest_verify.quorum.statements.claim import ProfileResult
from coattest_verify.quorum.statements.question import CLOCK_SKEW, DecisionQuestion
from coattest_verify.quorum.statements.signed import SignedStatement
from coattest_verify.quorum.statements.statement import AGREE, COULD_NOT_BUILD, DISSENT, Statement

DIFFERENCES_SHOWN = 3


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
    refused: tuple[Finding, ...]


def count(
    signed: Iterable[SignedStatement], question: DecisionQuestion, *, refused: Iterable[Finding] = ()
) -> Tally:
    """Apply rules 3 to 6. The claim must have the profile."""
    not_counted = list(refused)
    by_member: dict[str, _MemberTally] = {}
    for item in signed:
        finding = _not_asked(item, question)
        if finding:
            not_counted.append(finding)
        else:
            member = item.statement.member
            by_member.setdefault(member, _MemberTally(member)).items.append(item)
    agree: list[Answer] = []
    dissent: list[Answer] = []
    for member in question.members.names:
        if member not in by_member:
            continue
        answer = by_member[member].answer(question, not_counted)
        if answer is not None:
            (agree if answer.agrees else dissent).append(answer)
    answered = {answer.member for answer in (*agree, *dissent)}
    return Tally(
        agree=tuple(agree),
        dissent=tuple(dissent),
        missing=tuple(name for name in question.members.names if name not in answered),
        refused=tuple(sorted(not_counted, key=lambda item: (item.where, item.code))),
    )


def _not_asked(item: SignedStatement, question: DecisionQuestion) -> Finding | None:
    """Why a statement does not answer this question (rule 3), or None."""
    statement, claim, members = item.statement, question.claim, question.members
    agrees, objects = statement.outcome == AGREE, statement.outcome == DISSENT
    source = (claim.tree_sha256, claim.lock_sha256)
    checks = (
        (
            "wrong-members-file",
            item.stood((*question.versions[:-1], members))
            or (objects and statement.quorum_sha256 in question.made_under),
            f"made under version {statement.quorum_version} of quorum.toml, since when its key was not always"
            " its member's",
        ),
        (
            "wrong-round",
            statement.round == members.round or objects,
            f"made for round {statement.round} instead of {members.round}",
        ),
        (
            "wrong-release",
            statement.release == claim.release,
            f"about release {statement.release} instead of {claim.release}",
        ),
        (
            "wrong-architecture",
            statement.architecture == claim.architecture,
            f"about {statement.architecture} instead of {claim.architecture}",
        ),
        # A dissent may well be about the source or the missing profile, so it is not set aside for these.
        (
            "wrong-source",
            not agrees or (statement.tree_sha256, statement.lock_sha256) == source,
            "about a different source tree or lock than the claim's",
        ),
        (
            "wrong-profile",
            not agrees or question.profile in statement.profiles,
            f"says nothing about profile {question.profile}",
        ),
    )
    return next((Finding(code, item.file, text) for code, holds, text in checks if not holds), None)


@dataclass(slots=True)
class _MemberTally:
    member: str
    items: list[SignedStatement] = field(default_factory=list)

    def answer(self, question: DecisionQuestion, refused: list[Finding]) -> Answer | None:
        """Rules 4 to 6; None when nothing counts. Files that do not count go to ``refused``."""
        member, profile = self.member, question.profile
        contradiction = self._contradiction(profile)
        if contradiction:
            return Answer(member, False, contradiction)
        objections = [item for item in self.items if item.statement.outcome == DISSENT]
        if objections:
            return Answer(member, False, _objection(objections, question))
        results = [item for item in self.items if item.statement.outcome == AGREE]
        differing = [item for item in results if item.statement.profiles[profile] != question.claimed]
        if differing:
            return Answer(member, False, _differs(differing[0].statement.profiles[profile], question))
        counting = []
        for item in results:
            finding = _unfit(item, question)
            if finding:
                refused.append(finding)
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

    def _contradiction(self, profile: str) -> str | None:
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


def _unfit(item: SignedStatement, question: DecisionQuestion) -> Finding | None:
    """Why an agreeing statement does not count (rule 6), or None."""
    statement, members, now = item.statement, question.members, question.now
    if statement.time > now + CLOCK_SKEW:
        return Finding("from-the-future", item.file, f"dated {utc(statement.time)}")
    if now - statement.time > members.max_age:
        text = f"dated {utc(statement.time)}, older than {members.max_age_days} days"
        return Finding("too-old", item.file, text)
    found, claimed = statement.built.container if statement.built else None, question.claim.container
    if found != claimed:
        text = f"container {found or 'none'} instead of {claimed or 'none'}"
        return Finding("mismatch", item.file, text, claimed, found)
    if members.require_compiled_kernel and not (statement.built and statement.built.kernel_compiled):
        text = "this member did not compile the kernel, and quorum.toml requires it"
        return Finding("cached-kernel", item.file, text)
    return None


def _route(statement: Statement) -> str:
    return statement.built.route if statement.built else ""


def _objection(items: list[SignedStatement], question: DecisionQuestion) -> str:
    claim = question.claim
    first = min(items, key=lambda item: item.file).statement
    parts = [first.reason] if first.reason else []
    if first.tree_sha256 != claim.tree_sha256:
        parts.append(f"source tree {first.tree_sha256} instead of {claim.tree_sha256}")
    if first.lock_sha256 != claim.lock_sha256:
        parts.append(f"lock {first.lock_sha256} instead of {claim.lock_sha256}")
    result = first.profiles.get(question.profile)
    if result is not None and result != question.claimed:
        parts.append(_differs(result, question))
    return "; ".join(parts) or "signed a dissent"


def _differs(result: ProfileResult, question: DecisionQuestion) -> str:
    found = [item.detail for item in result.differences(question.claimed, question.profile)]
    more = f" and {len(found) - DIFFERENCES_SHOWN} more" if len(found) > DIFFERENCES_SHOWN else ""
    return ", ".join(found[:DIFFERENCES_SHOWN]) + more
