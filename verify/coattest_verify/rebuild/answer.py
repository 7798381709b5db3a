"""What a member does on its own machine: compare its build with the claim, and sign what it got."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest.files import write_atomic
from coattest.strictjson import MAX_SIZE, parse
from coattest_build.formats.measure import measure
from coattest_verify.quorum.directory import Folder
from coattest_verify.quorum.links import link_name, sign_link
from coattest_verify.quorum.members.chain import MEMBERS_FILE
from coattest_verify.quorum.members.file import MAX_MEMBERS_FILE, MembersFile
from coattest_verify.quorum.statements.claim import MAX_CLAIM, Claimed, ProfileResult, Section
from coattest_verify.quorum.statements.provenance import sign
from coattest_verify.quorum.statements.statement import (
    AGREE,
    COULD_NOT_BUILD,
    DISSENT,
    Report,
    Statement,
    statement_for,
)
from coattest_verify.quorum.tally import read_statements
from coattest_verify.rebuild.inputs.document import inputs_confirmed
from coattest_verify.signatures.keys import PublicKey, public_key_of

REPORT_FILE = "rebuild.json"
BUILDER_FILE = "build.json"
CLAIM_FILE = "claim.json"


class Mismatch(FoundFalse):
    """What was rebuilt is not what is claimed; ``differences`` name all of it, most telling first."""

    default_code = "mismatch"

    def __init__(self, differences: tuple[str, ...]) -> None:
        more = f" (and {len(differences) - 3} more differences)" if len(differences) > 3 else ""
        super().__init__(
            "; ".join(differences[:3]) + more, hint="verify sign-pcrs --dissent says so to the others"
        )
        self.differences = differences


class DirtyTree(FoundFalse):
    """The source has changes that are not committed."""

    default_code = "dirty-tree"


class ChangedImage(FoundFalse):
    """An image file is not the one that rebuild.json describes."""

    default_code = "changed-image"


class AlreadyAnswered(FoundFalse):
    """The member signed another result for the same source in this round."""

    default_code = "already-answered"


@dataclass(frozen=True, slots=True)
class Ask:
    """What there is to answer: the claim and the policy of a folder of attestations."""

    claim: Claimed
    policy: MembersFile


def read_ask(attestations: Path) -> Ask:
    """The claim and ``quorum.toml`` of a folder, parsed strictly; signatures are not checked here.

    A statement names the policy's digest, so one that was made under a forged policy counts nowhere else.
    Raises UsageError for files that are absent or do not parse.
    """
    return Ask(read_claim(attestations), read_policy(attestations))


def read_policy(attestations: Path) -> MembersFile:
    """``quorum.toml`` of a folder, parsed only; see ``read_ask``. Raises UsageError."""
    with Folder(attestations) as folder:
        try:
            return MembersFile.decode(folder.read(MEMBERS_FILE, MAX_MEMBERS_FILE))
        except Rejected as error:
            hint = "verify quorum-init makes one" if error.code == "absent" else None
            raise UsageError(error.what, where=str(attestations / MEMBERS_FILE), hint=hint) from None


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


def read_report(rebuilt: Path) -> Report:
    """The build report of ``verify rebuild --out``, with the word of ``verify inputs`` where it is there.

    The container route has no ``verify rebuild``: its report is the builder's own. Raises UsageError.
    """
    path = rebuilt / REPORT_FILE
    if not path.exists() and (rebuilt / BUILDER_FILE).exists():
        path = rebuilt / BUILDER_FILE
    try:
        with path.open("rb") as file:
            report = Report.read(parse(file.read(MAX_SIZE + 1)))
    except FileNotFoundError:
        raise UsageError("no such file", where=str(path), hint="verify rebuild --out writes it") from None
    except Rejected as error:
        raise UsageError(error.what, where=str(path), code="bad-report") from None
    return replace(report, inputs_confirmed=inputs_confirmed(rebuilt, report.lock_sha256))


def remeasure(rebuilt: Path, report: Report) -> None:
    """Measure the image files again; raises ChangedImage unless they are what the report says."""
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
            sections=tuple(Section(item.type, item.size, item.sha384) for item in measured.sections),
        )
        differences = found.differences(result)
        if differences:
            raise ChangedImage(
                f"profile {profile} is not what {REPORT_FILE} says: {differences[0]}",
                where=str(path),
                hint="run verify rebuild again",
            )


def answer(
    ask: Ask,
    report: Report | None,
    *,
    member: str,
    dissent: bool,
    now: datetime,
    reason: str | None = None,
    host: str | None = None,
    salt: str | None = None,
) -> Statement:
    """The statement to sign: agreement, dissent (``dissent``), or "could not build" (no report).

    Raises DirtyTree, Mismatch when the build differs and ``dissent`` is not set, UsageError for a dissent
    that has nothing to say.
    """
    if report is None:
        return statement_for(
            None,
            ask.claim,
            ask.policy,
            member=member,
            outcome=COULD_NOT_BUILD,
            now=now,
            reason=reason,
            host=host,
        )
    if report.dirty:
        raise DirtyTree("the source had uncommitted changes", hint="commit or discard them, then rebuild")
    differences = report.differences(ask.claim)
    if differences and not dissent:
        raise Mismatch(differences)
    if dissent and not differences and not reason:
        raise UsageError(
            "the rebuild matches the claim",
            hint="--reason says what else is wrong",
            code="nothing-to-dissent",
        )
    return statement_for(
        report,
        ask.claim,
        ask.policy,
        member=member,
        outcome=DISSENT if dissent else AGREE,
        now=now,
        reason=reason or ("; ".join(differences[:3]) if dissent else None),
        host=host,
        salt=salt,
    )


def sign_answer(
    attestations: Path, statement: Statement, policy: MembersFile, signer: Any
) -> tuple[Path, ...]:
    """Write the signed statement and, where something was built, the link; returns their paths.

    Raises UsageError when the key is not the member's in ``policy``, AlreadyAnswered when this would
    contradict a statement of the same member that is in the folder.
    """
    key = own_key(statement.member, policy, signer)
    _must_not_contradict(attestations, statement, policy)
    paths = [attestations / f"rebuild.{statement.member}.intoto.json"]
    write_atomic(paths[0], sign(statement, signer))
    if statement.profiles:
        paths.append(attestations / link_name(key))
        write_atomic(paths[1], sign_link(statement, signer))
    return tuple(paths)


def own_key(member: str, policy: MembersFile, signer: Any) -> PublicKey:
    """The signer's public key. Raises UsageError unless it is one of the member's in ``policy``."""
    key = public_key_of(signer)
    party = policy.member(member)
    if party is None:
        raise UsageError(
            f"{member} is not a member of {MEMBERS_FILE}", hint=f"one of {', '.join(policy.names)}"
        )
    if key not in party.keys:
        raise UsageError(
            f"this is not a key of {member} in {MEMBERS_FILE}",
            hint=f"it belongs to {policy.owner(key) or 'nobody there'}",
            code="other-key",
        )
    return key


def _must_not_contradict(attestations: Path, statement: Statement, policy: MembersFile) -> None:
    with Folder(attestations) as folder:
        signed, _ = read_statements(folder, policy)
    for item in signed:
        other = item.statement
        if (other.member, other.quorum_sha256, other.round, other.target) != (
            statement.member,
            policy.sha256,
            policy.round,
            statement.target,
        ):
            continue
        both_built = other.profiles and statement.profiles
        shared = set(other.profiles) & set(statement.profiles)
        if both_built and (
            any(other.profiles[name] != statement.profiles[name] for name in shared)
            or {other.outcome, statement.outcome} == {AGREE, DISSENT}
        ):
            raise AlreadyAnswered(
                f"you signed another result for this source in round {policy.round}",
                where=str(attestations / item.file),
                hint="two results of one member count as dissent; a changed mind needs a new round",
            )
