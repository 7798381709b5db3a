"""A member's own work: compare its build with the claim, and sign the result."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from coattest.errors import EnvironmentFailure, FoundFalse, Rejected, UsageError, require_kind
from coattest.files import Evidence, given_file, read_bounded, write_atomic
from coattest.findings import Finding
from coattest.strictjson import MAX_SIZE, canonical, parse
from coattest_build.formats.measure import measure
from coattest_build.ownwork import (
    BUILDER_FILE,
    BUILT,
    COMPARED,
    CONFIRMED,
    INPUTS,
    REPORT_FILE,
    OwnWork,
    sha256_hex,
)
from coattest_verify.quorum.links import link_name, sign_link
from coattest_verify.quorum.log.examine import CHECKPOINT_FILE, LOG
from coattest_verify.quorum.log.fold import LogState
from coattest_verify.quorum.log.publication import Published, publication
from coattest_verify.quorum.members.chain import claimed_root, latest_state
from coattest_verify.quorum.members.file import MAX_MEMBERS_FILE, MEMBERS_FILE, MembersFile, own_key
from coattest_verify.quorum.releases import ReleaseFiles, put_file, release_files, release_place
from coattest_verify.quorum.statements.claim import (
    CLAIM_FILE,
    Claimed,
    ClaimedSection,
    ProfileResult,
)
from coattest_verify.quorum.statements.provenance import sign_statement
from coattest_verify.quorum.statements.question import CLOCK_SKEW
from coattest_verify.quorum.statements.signed import read_statements
from coattest_verify.quorum.statements.statement import (
    AGREE,
    COULD_NOT_BUILD,
    DISSENT,
    RebuildReport,
    Statement,
    statement_for,
)
from coattest_verify.quorum.statements.votes import WITHDRAW, read_votes
from coattest_verify.signatures.journal import SignatureJournal
from coattest_verify.signatures.keys import Signer

CHANGED_MIND = (
    "two results of one member count as dissent; verify release withdraw takes a dissent back, and another"
    " result needs a new round"
)
"""What to do about a second result."""
INPUTS_FILE, COMMITMENT_FILE = "inputs.json", "commitment.json"
"""What verify inputs is told to write beside a rebuild, and what nothing writes there."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The question that members answer: a release's claim, the members file, and the release's files.

    ``published`` says who published the claim.
    """

    claim: Claimed
    members: MembersFile
    files: ReleaseFiles
    published: Published


def read_ask(evidence: Evidence, where: Path, release: str | None = None) -> Ask:
    """A release's claim and the members file of a folder (``where``, for messages), parsed strictly.

    Signatures back to the root are not checked here: a statement names the digest of the members file, so one
    made under a forged file counts nowhere else. Without ``release`` it is the only one there. Raises
    UsageError for a file that is absent, Rejected or UsageError for one that does not parse.
    """
    claim, files = read_claim(evidence, where, release)
    state = read_state(evidence, where)
    members = state.versions[-1]
    root = claimed_root(evidence, members)
    return Ask(claim, members, files, publication(claim, read_votes(files, members)[0], state, root))


def read_members(evidence: Evidence, where: Path) -> MembersFile:
    """``quorum.toml`` of a folder, or the last fully signed version after it; see ``read_ask``.

    Raises UsageError, Rejected.
    """
    return read_state(evidence, where).versions[-1]


def read_state(evidence: Evidence, where: Path) -> LogState:
    """What is in force in a folder, from ``quorum.toml`` on; see ``read_ask``.

    Raises UsageError, Rejected.
    """
    try:
        data = evidence.read(MEMBERS_FILE, MAX_MEMBERS_FILE)
    except Rejected as error:
        hint = "verify members init makes one" if error.code == "absent" else None
        raise UsageError(error.what, where=str(where / MEMBERS_FILE), hint=hint) from None
    return latest_state(evidence, MembersFile.decode(data))


def read_claim(evidence: Evidence, where: Path, release: str | None) -> tuple[Claimed, ReleaseFiles]:
    """The claim of a release, or of the only one there, and the release's files. Raises UsageError."""
    place = release_place(release, CLAIM_FILE) if release else CLAIM_FILE
    try:
        files = release_files(evidence, release)
        place = files.place(CLAIM_FILE)
        return files.claim(), files
    except Rejected as error:
        raise UsageError(
            error.what,
            where=str(where / place),
            hint="the publisher writes it",
            code="bad-claim",
        ) from None


def write_report(out: Path, report: Mapping[str, Any], claim: Claimed, own: OwnWork) -> None:
    """Write OUT/rebuild.json, and record it as this machine's own work, compared with ``claim``."""
    content = (json.dumps(report, indent=2, sort_keys=True) + "\n").encode()
    digest = sha256_hex(content)
    write_atomic(out / REPORT_FILE, content)
    own.note(BUILT, digest)
    own.note(COMPARED, digest, claim.sha256)


@dataclass(frozen=True, slots=True)
class OwnReport:
    """A build report, the folder with its images, and the SHA-256 (hex) of the report's file."""

    report: RebuildReport
    folder: Path
    sha256: str


def read_report(rebuilt: Path, own: OwnWork, vouched: Path | None = None) -> OwnReport:
    """The build report of ``verify rebuild --out`` or ``eif build --out``, which this machine made.

    ``vouched`` is a report for which the member vouches instead: the container route's is made where no
    record can be kept. Whether the inputs were confirmed comes from this machine's record alone. Raises
    UsageError, with ``not-own-work`` for a report, inputs or a commitment that something else put there.
    """
    path = vouched or rebuilt / REPORT_FILE
    if vouched is None and not path.exists() and (rebuilt / BUILDER_FILE).exists():
        path = rebuilt / BUILDER_FILE
    with given_file(path, hint="verify rebuild --out writes it", code="bad-report"):
        content = read_bounded(path, MAX_SIZE)
        report = RebuildReport.read(parse(content))
    if vouched is None:
        own.require(
            BUILT,
            content,
            path,
            "run verify rebuild; for a build of your own that it did not make, such as the container route's,"
            " --report FILE says that you vouch for it",
        )
        _refuse_planted(rebuilt, own)
    confirmed = own.made(CONFIRMED, report.lock_sha256)
    return OwnReport(replace(report, inputs_confirmed=confirmed), path.parent, sha256_hex(content))


def _refuse_planted(rebuilt: Path, own: OwnWork) -> None:
    """Raise UsageError when a folder that this machine built into has results that it did not make.

    None of them would be signed; but whoever put them there meant them to be.
    """
    planted = [
        name
        for name in (INPUTS_FILE, COMMITMENT_FILE)
        if os.path.lexists(rebuilt / name)
        and not (name == INPUTS_FILE and own.made(INPUTS, sha256_hex(read_bounded(rebuilt / name, MAX_SIZE))))
    ]
    if planted:
        raise UsageError(
            f"this machine has no record of making {' or '.join(planted)}: did the source bring it?",
            where=str(rebuilt),
            hint="nothing of it counts: remove it; verify inputs confirms, and verify commit keeps its own"
            " secret elsewhere",
            code="not-own-work",
        )


def remeasure(own: OwnReport) -> None:
    """Measure the image files again; raises FoundFalse unless they are what the report says."""
    for profile, result in sorted(own.report.profiles.items()):
        path = own.folder / result.name
        if not path.is_file():
            raise UsageError("no such file", where=str(path), hint="verify rebuild --out writes it")
        measured = measure(path)
        found = ProfileResult(
            name=result.name,
            size=measured.size,
            sha256=measured.sha256,
            sha384=measured.sha384,
            pcrs=(measured.pcr0, measured.pcr1, measured.pcr2),
            sections=tuple(ClaimedSection(item.type, item.size, item.sha384) for item in measured.sections),
        )
        differences = found.differences(result, profile)
        if differences:
            raise FoundFalse(
                f"profile {profile} is not what {REPORT_FILE} says: {differences[0].detail}",
                where=str(path),
                hint="run verify rebuild again",
                code="changed-image",
                findings=differences,
            )


def answer(
    ask: Ask,
    report: RebuildReport | None,
    *,
    member: str,
    dissent: bool,
    now: datetime,
    reason: str | None = None,
    host: str | None = None,
    salt: str | None = None,
) -> Statement:
    """The statement to sign: agreement, dissent (``dissent``), or "could not build" (no report).

    Raises EnvironmentFailure when the tree was dirty, or another source than the claim's was built (unless a
    ``dissent`` gives a ``reason``); FoundFalse when the build differs and ``dissent`` is not set; UsageError
    for a dissent without a difference or a reason.
    """
    outcome = COULD_NOT_BUILD
    if report is not None:
        outcome = DISSENT if dissent else AGREE
        differences = _checked(ask, report, dissent=dissent, reason=reason)
        if dissent:
            reason = reason or _summary(differences)
        else:
            now = _later_than_own_dissents(ask, member, now)
    return statement_for(
        report,
        ask.claim,
        ask.members,
        member=member,
        outcome=outcome,
        now=now,
        reason=reason,
        host=host,
        salt=salt,
    )


def _checked(ask: Ask, report: RebuildReport, *, dissent: bool, reason: str | None) -> tuple[Finding, ...]:
    """The differences of a build that may be signed as agreement, or as dissent. Raises as ``answer``."""
    refuse_dirty(report)
    if not dissent:
        refuse_unpublished(ask)
    differences = report.differences(ask.claim)
    if built_elsewhere(report, ask.claim) and not (dissent and reason):
        raise EnvironmentFailure(
            "the source that was built is not the claim's: " + _summary(differences),
            hint="check out the release's commit and rebuild; if the claim names the wrong source, --dissent"
            " with --reason says so",
            code="wrong-source",
            findings=differences,
        )
    if differences and not dissent:
        raise FoundFalse(
            _summary(differences),
            hint="look at the differences, and rebuild on another machine if you can; a dissent stays, and"
            " --dissent signs it",
            code="mismatch",
            findings=differences,
        )
    if not dissent:
        _refuse_other_commit(ask.published, report)
    if dissent and not differences and not reason:
        raise UsageError(
            "the rebuild matches the claim",
            hint="--reason says what else is wrong",
            code="nothing-to-dissent",
        )
    return differences


def refuse_unpublished(ask: Ask) -> None:
    """Raise EnvironmentFailure unless a member published the claim, and its name is its own."""
    finding = ask.published.finding
    if finding is not None:
        raise EnvironmentFailure(finding.detail, where=finding.where, code=finding.code)


def _refuse_other_commit(published: Published, report: RebuildReport) -> None:
    built, named = report.built.commit, published.commit
    if built and named and built not in published.commits:
        raise EnvironmentFailure(
            f"commit {built} was built, and {published.by} published commit {named} ({published.tag})",
            hint="check out that commit and rebuild; if nobody has it, publish the same claim with yours",
            code="wrong-source",
        )


def _later_than_own_dissents(ask: Ask, member: str, now: datetime) -> datetime:
    """``now``, or the second after a dissent of this member with the same date: only a later one replaces it.

    What stands later in the log is not always later: whoever appends both at once chooses their order.
    """
    subject = (member, ask.claim.release, ask.claim.architecture)
    made = [
        other.time + timedelta(seconds=1)
        for item in read_statements(ask.files, ask.members)[0]
        for other in (item.statement,)
        if other.outcome == DISSENT
        and (other.member, other.release, other.architecture) == subject
        and other.time <= now + CLOCK_SKEW
    ]
    return max([now, *made])


def built_elsewhere(report: RebuildReport, claim: Claimed) -> bool:
    """Whether a build has another source or architecture than the claim, of which it then says nothing."""
    return any(
        getattr(report, name) != getattr(claim, name)
        for name in ("tree_sha256", "lock_sha256", "architecture")
    )


def refuse_dirty(report: RebuildReport) -> None:
    """Raise EnvironmentFailure when the report is of a source with uncommitted changes."""
    if report.dirty:
        raise EnvironmentFailure(
            "the source had uncommitted changes",
            hint="commit or discard them, then rebuild",
            code="dirty-tree",
        )


def _summary(differences: Sequence[Finding]) -> str:
    more = f" (and {len(differences) - 3} more differences)" if len(differences) > 3 else ""
    return "; ".join(f"{item.where}: {item.detail}" for item in differences[:3]) + more


def sign_answer(
    attestations: Path,
    files: ReleaseFiles,
    statement: Statement,
    members: MembersFile,
    signer: Signer,
    *,
    journal: SignatureJournal,
) -> tuple[Path, ...]:
    """Write the signed statement and, where something was built, the link; returns their paths.

    ``files`` are the release's, as they were when the statement was made. Raises UsageError when the key is
    not the member's in ``members``, FoundFalse when this would contradict a statement of the same member that
    is in the folder, or that the journal remembers.
    """
    require_kind(statement, Statement, "statement")
    require_kind(members, MembersFile, "members")
    key = own_key(statement.member, members, signer)
    published, given_up = _must_not_contradict(attestations, files, statement, members)
    if statement.profiles:
        journal.record(
            _slot(statement), _result(statement), remedy=CHANGED_MIND, adopted=published, instead_of=given_up
        )
    content = sign_statement(statement, signer)
    made = {_own_name(files, statement.member, members, content): content}
    if statement.profiles:
        made[link_name(key)] = sign_link(statement, signer)
    return tuple(put_file(attestations, files.place(name), content) for name, content in made.items())


def _own_name(files: ReleaseFiles, member: str, members: MembersFile, content: bytes) -> str:
    """The statement's file: never in the place of a dissent, nor of what a log may be about."""
    name = f"rebuild.{member}.intoto.json"
    dissents = {item.file for item in read_statements(files, members)[0] if item.statement.outcome == DISSENT}
    logged = CHECKPOINT_FILE.rpartition("/")[2] in files.names(LOG.rstrip("/"))
    if (logged and name in files.names()) or name in dissents:
        return name.replace(".intoto.", f".{sha256_hex(content)[:16]}.intoto.")
    return name


def _slot(statement: Statement) -> dict[str, str]:
    """Where a member has one result: a release, for an architecture, in a round of a members file."""
    return {
        "kind": "result",
        "member": statement.member,
        "members-file": statement.quorum_sha256,
        "round": statement.round,
        "release": statement.release,
        "architecture": statement.architecture,
    }


def _result(statement: Statement) -> str:
    """SHA-256 (hex) of what a statement says about the release, without time, host and reason."""
    value = {
        "outcome": statement.outcome,
        "tree_sha256": statement.tree_sha256,
        "lock_sha256": statement.lock_sha256,
        "profiles": {name: result.to_json() for name, result in statement.profiles.items()},
    }
    return sha256_hex(canonical(value))


def _must_not_contradict(
    attestations: Path, files: ReleaseFiles, statement: Statement, members: MembersFile
) -> tuple[str | None, str | None]:
    """The result of this member that is published in the statement's slot, and one that it withdrew there."""
    published = given_up = None
    withdrawn = {
        vote.undoes
        for vote in read_votes(files, members)[0]
        if (vote.kind, vote.member) == (WITHDRAW, statement.member)
    }
    signed, _ = read_statements(files, members)
    for item in signed:
        other = item.statement
        if not other.profiles or _slot(other) != _slot(statement):
            continue
        if other.outcome == DISSENT and item.signed_sha256 in withdrawn:
            given_up = _result(other)
            continue
        if statement.profiles and _result(other) != _result(statement):
            raise FoundFalse(
                f"you signed another result for release {other.release} in round {members.round}",
                where=str(attestations / files.place(item.file)),
                hint=CHANGED_MIND,
                code="already-signed",
            )
        published = _result(other)
    return published, given_up
