"""``verify release which``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from coattest.errors import UsageError
from coattest.files import ReadOnce
from coattest.findings import Finding
from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.shell import err, json_option, out, utc_now
from coattest.text import printable
from coattest_verify.attestation.profiles import root_for
from coattest_verify.cli.options import EXISTING_FILE, evidence_options
from coattest_verify.cli.release.measured import Measured, read_measured
from coattest_verify.quorum.authority import evidence_from, tell_end
from coattest_verify.quorum.decision import Outcome, decide_from
from coattest_verify.quorum.members.file import utc
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.releases import claims_in
from coattest_verify.quorum.statements.claim import Claimed

DECIDED, PENDING, REVOKED, REFUSED, UNKNOWN = "decided", "pending", "revoked", "refused", "unknown"


@dataclass(frozen=True, slots=True)
class Belonging:
    """A release that has the measurements, and what the quorum says of it."""

    release: str
    outcome: Outcome
    same_file: bool | None
    """For an image: whether it is the released file, byte for byte."""

    @property
    def answer(self) -> str:
        """One of the words above; ``refused`` is a dissent, a fork, or anything else that is false."""
        if self.outcome.decision is not None:
            return DECIDED
        if any(reason.code == REVOKED for reason in self.outcome.reasons):
            return REVOKED
        return REFUSED if self.outcome.exit_code == 1 else PENDING

    def to_json(self) -> dict[str, Any]:
        """The release, the answer, why there is no decision, and the decision."""
        decision = self.outcome.decision
        return {
            "release": self.release,
            "answer": self.answer,
            "same_file": self.same_file,
            "reasons": [reason.to_json() for reason in self.outcome.reasons],
            "decision": decision.to_json() if decision else None,
        }


@dataclass(frozen=True, slots=True)
class Found:
    """One set of measurements, the releases that have it, and what is to be said beside."""

    measured: Measured
    releases: tuple[Belonging, ...]
    findings: tuple[Finding, ...]
    """For an unknown set: that no release has it, and the claims that could not be read."""

    @property
    def answer(self) -> str:
        """The releases' answers as one.

        A revocation goes first: it is signed, and says that these bytes are bad. Then a decision: anybody can
        put a claim of the same bytes into the folder, and nobody has to agree with that one.
        """
        answers = {each.answer for each in self.releases}
        return next(
            (word for word in (REVOKED, DECIDED, REFUSED, PENDING) if word in answers),
            UNKNOWN,
        )

    @property
    def exit_code(self) -> int:
        """0 decided; 3 pending, or unknown while a claim cannot be read; 1 everything else."""
        if self.answer == UNKNOWN:
            return 3 if any(finding.code == "bad-claim" for finding in self.findings) else 1
        return {DECIDED: 0, PENDING: 3}.get(self.answer, 1)

    def to_json(self) -> dict[str, Any]:
        """What was measured, the answer, and each release."""
        return {
            "kind": self.measured.kind,
            "name": self.measured.name,
            "pcrs": {f"PCR{index}": value for index, value in sorted(self.measured.pcrs.items())},
            "answer": self.answer,
            "releases": [each.to_json() for each in self.releases],
            "findings": [finding.to_json() for finding in self.findings],
            "notes": list(self.measured.notes),
        }


@click.command("which")
@click.argument("subject", metavar="IMAGE|DOCUMENT|MEASUREMENTS", type=EXISTING_FILE)
@click.option("--set", "set_name", metavar="NAME", help="Which set of a measurements file; default: each.")
@click.option(
    "--at",
    metavar="TIME|document",
    help="Verify the document at this time (ISO 8601 with zone) or at the one that it claims; the release is "
    "judged as of now all the same.",
)
@evidence_options
@json_option
def which_command(
    *, subject: Path, set_name: str | None, at: str | None, as_json: bool, **options: Any
) -> int:
    """Say which release of this folder an image, a document or a measurements file belongs to.

    The answer is decided, pending, revoked, refused (a dissent, a fork) or unknown: no release has it. A
    document is verified first. Exit code 0: each set belongs to a decided release. 1: one is revoked, refused
    or unknown. 3: one is pending, or a claim could not be read.
    """
    now, profile = utc_now(), options["profile"]
    memory = Roots()
    root, seen = memory.known(options["root"])
    if options["bundle"] is not None:
        refuse_ignored(("attestations",), "with --bundle")
    sets = read_measured(subject, set_name=set_name, at=at, root=root_for(profile), now=now)
    outcomes: dict[str, Outcome] = {}
    with evidence_from(options) as opened:
        evidence = ReadOnce(opened)  # for all releases: each is decided by others' revocations, too
        claims, unread = claims_in(evidence)
        for claim in claims:
            if any(_has(claim, profile, each) for each in sets):
                outcomes[claim.release] = decide_from(
                    evidence,
                    root=root,
                    seen=seen,
                    profile=profile,
                    now=now,
                    release=claim.release,
                    fresh=options.get("fresh"),
                )
    for outcome in outcomes.values():
        if outcome.remembered is not None and options["bundle"] is None:
            memory.remember(root, outcome.remembered)
        tell_end(outcome.warnings)
    if not claims and not unread:
        raise UsageError(
            "no release is here",
            where=str(options["bundle"] or options["attestations"]),
            hint="the publisher claims one first",
            code="no-release",
        )
    found = [_found(each, claims, outcomes, profile=profile, unread=unread) for each in sets]
    if as_json:
        emit_json({"file": str(subject), "profile": profile, "sets": [each.to_json() for each in found]})
    else:
        for each in found:
            _show(subject, each)
    codes = [each.exit_code for each in found]
    return 1 if 1 in codes else max(codes)


def _has(claim: Claimed, profile: str, measured: Measured) -> bool:
    """Whether a profile of a claim has the registers that are known."""
    result = claim.profiles.get(profile)
    return result is not None and all(result.pcrs[index] == value for index, value in measured.pcrs.items())


def _found(
    measured: Measured,
    claims: Sequence[Claimed],
    outcomes: Mapping[str, Outcome],
    *,
    profile: str,
    unread: tuple[Finding, ...],
) -> Found:
    releases = []
    for claim in claims:
        if not _has(claim, profile, measured):
            continue
        outcome = outcomes[claim.release]
        decision = outcome.decision
        released = decision.image_sha384 if decision else claim.profiles[profile].sha384
        same = None if measured.sha384 is None else measured.sha384 == released
        releases.append(Belonging(claim.release, outcome, same))
    if releases:
        return Found(measured, tuple(releases), ())
    text = f"no release here has these measurements under profile {profile}"
    others = [
        f"release {claim.release} has them under profile {other}"
        for claim in claims
        for other in sorted(claim.profiles)
        if _has(claim, other, measured)
    ]
    detail = "; ".join([text, *others])
    return Found(measured, (), (Finding("unknown-release", measured.name, detail), *unread))


def _show(subject: Path, found: Found) -> None:
    """One line a release on stdout, with its registers above; reasons, notes and warnings on stderr."""
    measured = found.measured
    name = f" {measured.name}" if measured.name else ""
    rows = [(measured.kind, f"{subject}{name}")]
    rows += [(f"PCR{index}", value) for index, value in sorted(measured.pcrs.items())]
    for each in found.releases:
        decision = each.outcome.decision
        until = f", until {utc(decision.expires)}" if decision else ""
        rows.append((each.answer, f"release {each.release}{until}"))
        if decision:
            rows.append(("decision", decision.digest.hex()))
    if not found.releases:
        rows.append((UNKNOWN, "no release here has these measurements"))
    out().show_facts(rows)
    for note in measured.notes:
        err().print(printable(f"note: {note}"), style="yellow")
    for finding in found.findings:
        err().print(printable(str(finding)), style="red")
    for each in found.releases:
        if each.same_file is False:
            text = "not the released file, though it measures the same: signed, or built by other tools"
            err().print(f"note: release {each.release}: {text}", style="yellow")
        for warning in each.outcome.warnings:
            err().print(f"warning: release {each.release}: {warning}", style="yellow")
        for reason in each.outcome.reasons:
            err().print(f"release {each.release} is {each.answer}: {reason}", style="red")
