"""A member's own work: compare its build with the claim, and sign the result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest.files import Folder, read_bounded, write_atomic
from coattest.findings import Finding
from coattest.strictjson import MAX_SIZE, parse
from coattest_build.formats.measure import measure
from coattest_verify.quorum.links import link_name, sign_link
from coattest_verify.quorum.members.file import MAX_MEMBERS_FILE, MEMBERS_FILE, MembersFile, own_key
from coattest_verify.quorum.statements.claim import (
    CLAIM_FILE,
    MAX_CLAIM,
    Claimed,
    ClaimedSection,
    ProfileResult,
)
from coattest_verify.quorum.statements.provenance import sign_statement
from coattest_verify.quorum.statements.signed import read_statements
from coattest_verify.quorum.statements.statement import (
    AGREE,
    COULD_NOT_BUILD,
    DISSENT,
    RebuildReport,
    Statement,
    statement_for,
)
from coattest_verify.rebuild.inputs.document import inputs_confirmed
from coattest_verify.signatures.keys import Signer

REPORT_FILE = "rebuild.json"
BUILDER_FILE = "build.json"


@dataclass(frozen=True, slots=True)
class Ask:
    """The question that members answer: the claim and the members file of a folder of attestations."""

    claim: Claimed
    members: MembersFile


def read_ask(attestations: Path) -> Ask:
    """The claim and ``quorum.toml`` of a folder, parsed strictly; signatures are not checked here.

    A statement names the digest of the members file, so one made under a forged file counts nowhere else.
    Raises UsageError for a file that is absent, Rejected or UsageError for one that does not parse.
    """
    return Ask(read_claim(attestations), read_members(attestations))


def read_members(attestations: Path) -> MembersFile:
    """``quorum.toml`` of a folder, parsed only; see ``read_ask``. Raises UsageError, Rejected."""
    with Folder(attestations) as folder:
        try:
            data = folder.read(MEMBERS_FILE, MAX_MEMBERS_FILE)
        except Rejected as error:
            hint = "verify members init makes one" if error.code == "absent" else None
            raise UsageError(error.what, where=str(attestations / MEMBERS_FILE), hint=hint) from None
    return MembersFile.decode(data)


def read_claim(attestations: Path) -> Claimed:
    """The claim of a folder. Raises UsageError."""
    with Folder(attestations) as folder:
        try:
            return Claimed.decode(folder.read(CLAIM_FILE, MAX_CLAIM))
        except Rejected as error:
            raise UsageError(
                error.what,
                where=str(attestations / CLAIM_FILE),
                hint="the publisher writes it",
                code="bad-claim",
            ) from None


def write_report(out: Path, report: Mapping[str, Any]) -> None:
    """Write OUT/rebuild.json."""
    write_atomic(out / REPORT_FILE, (json.dumps(report, indent=2, sort_keys=True) + "\n").encode())


def read_report(rebuilt: Path) -> RebuildReport:
    """The build report of ``verify rebuild --out``, and whether ``verify inputs`` confirmed its inputs.

    The container route has no ``verify rebuild``: its report is the builder's own. Raises UsageError.
    """
    path = rebuilt / REPORT_FILE
    if not path.exists() and (rebuilt / BUILDER_FILE).exists():
        path = rebuilt / BUILDER_FILE
    try:
        report = RebuildReport.read(parse(read_bounded(path, MAX_SIZE)))
    except FileNotFoundError:
        raise UsageError("no such file", where=str(path), hint="verify rebuild --out writes it") from None
    except Rejected as error:
        raise UsageError(error.what, where=str(path), code="bad-report") from None
    return replace(report, inputs_confirmed=inputs_confirmed(rebuilt, report.lock_sha256))


def remeasure(rebuilt: Path, report: RebuildReport) -> None:
    """Measure the image files again; raises FoundFalse unless they are what the report says."""
    for profile, result in sorted(report.profiles.items()):
        path = rebuilt / result.name
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

    Raises FoundFalse when the tree was dirty, or the build differs and ``dissent`` is not set; UsageError for
    a dissent without a difference or a reason.
    """
    if report is None:
        return statement_for(
            None,
            ask.claim,
            ask.members,
            member=member,
            outcome=COULD_NOT_BUILD,
            now=now,
            reason=reason,
            host=host,
        )
    refuse_dirty(report)
    differences = report.differences(ask.claim)
    if differences and not dissent:
        raise FoundFalse(
            _summary(differences),
            hint="verify sign-pcrs --dissent tells the others",
            code="mismatch",
            findings=differences,
        )
    if dissent and not differences and not reason:
        raise UsageError(
            "the rebuild matches the claim",
            hint="--reason says what else is wrong",
            code="nothing-to-dissent",
        )
    return statement_for(
        report,
        ask.claim,
        ask.members,
        member=member,
        outcome=DISSENT if dissent else AGREE,
        now=now,
        reason=reason or (_summary(differences) if dissent else None),
        host=host,
        salt=salt,
    )


def refuse_dirty(report: RebuildReport) -> None:
    """Raise FoundFalse when the report is of a source with uncommitted changes."""
    if report.dirty:
        raise FoundFalse(
            "the source had uncommitted changes",
            hint="commit or discard them, then rebuild",
            code="dirty-tree",
        )


def _summary(differences: Sequence[Finding]) -> str:
    more = f" (and {len(differences) - 3} more differences)" if len(differences) > 3 else ""
    return "; ".join(f"{item.where}: {item.detail}" for item in differences[:3]) + more


def sign_answer(
    attestations: Path, statement: Statement, members: MembersFile, signer: Signer
) -> tuple[Path, ...]:
    """Write the signed statement and, where something was built, the link; returns their paths.

    Raises UsageError when the key is not the member's in ``members``, FoundFalse when this would
    contradict a statement of the same member that is in the folder.
    """
    key = own_key(statement.member, members, signer)
    _must_not_contradict(attestations, statement, members)
    paths = [attestations / f"rebuild.{statement.member}.intoto.json"]
    write_atomic(paths[0], sign_statement(statement, signer))
    if statement.profiles:
        paths.append(attestations / link_name(key))
        write_atomic(paths[1], sign_link(statement, signer))
    return tuple(paths)


def _must_not_contradict(attestations: Path, statement: Statement, members: MembersFile) -> None:
    with Folder(attestations) as folder:
        signed, _ = read_statements(folder, members)
    for item in signed:
        other = item.statement
        if (other.member, other.quorum_sha256, other.round, other.target) != (
            statement.member,
            members.sha256,
            members.round,
            statement.target,
        ):
            continue
        both_built = other.profiles and statement.profiles
        shared = set(other.profiles) & set(statement.profiles)
        if both_built and (
            any(other.profiles[name] != statement.profiles[name] for name in shared)
            or {other.outcome, statement.outcome} == {AGREE, DISSENT}
        ):
            raise FoundFalse(
                f"you signed another result for this source in round {members.round}",
                where=str(attestations / item.file),
                hint="two results of one member count as dissent; a changed mind needs a new round",
                code="already-answered",
            )
