"""A plan: everything that ``apply`` would create, as files. Pure but for measuring the image.

The plan is for reading. It decides nothing: ``apply`` makes it again from a decision that it recomputes, and
refuses to go on when that is not the same plan.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coattest.errors import FoundFalse, UsageError
from coattest_parent.deployment.stack import templates
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.deployment.stack.units import units
from coattest_parent.deployment.stack.userdata import USER_DATA_MAX, at_every_boot, user_data
from coattest_verify.keypolicy.report import Report, check_report
from coattest_verify.quorum.authority import Authority
from coattest_verify.quorum.decision import Decision
from coattest_verify.rebuild.remeasure import check_image

SETTINGS, SUMMARY, BASE, MAIN, PARAMETERS = (
    "settings.json",
    "plan.json",
    "phase-1.template.json",
    "phase-2.template.json",
    "phase-2.parameters.json",
)
REPORTS = "reports"
FROM_PHASE_1 = {"ArtifactBucket": "from-phase-1", "ResultBucket": "from-phase-1"}


class PolicyFirst(FoundFalse):
    """A buyer's key does not admit this decision yet, as far as the buyer reports."""

    default_code = "policy-first"


class PlanDiffers(FoundFalse):
    """The plan that was read is not what the decision of now gives."""

    default_code = "plan-differs"


class WrongRole(FoundFalse):
    """A buyer's stack lets in another role than this deployment's."""

    default_code = "wrong-role"


class WrongOwner(FoundFalse):
    """A buyer reports a key that is the service's own, or another buyer's."""

    default_code = "wrong-owner"


class WrongRegion(FoundFalse):
    """Something of this deployment is not in the region or partition that it must be in."""

    default_code = "wrong-region"


@dataclass(frozen=True, slots=True)
class Artifact:
    """The image as an S3 object. Digests are of the whole file, in hex."""

    key: str
    size: int
    sha256: str
    sha384: str

    def metadata(self, decision: Decision) -> dict[str, str]:
        """The object's metadata; for people, as the checksum and the decision are what counts."""
        return {"sha256": self.sha256, "sha384": self.sha384, "decision": decision.digest.hex()}


@dataclass(frozen=True, slots=True)
class StackPlan:
    """What is created for a decision. Without reports there is no phase 2 yet."""

    settings: Settings
    decision: Decision
    artifact: Artifact
    reports: tuple[Report, ...]

    @property
    def release_id(self) -> str:
        """The release's name on the instance: 16 hex digits of the decision's digest."""
        return release_id(self.decision)

    @property
    def base_text(self) -> str:
        """Phase 1's template."""
        return templates.canonical(templates.base_template(self.settings))

    @property
    def main_text(self) -> str:
        """Phase 2's template."""
        return templates.canonical(templates.main_template(self.settings))

    def summary(self) -> dict[str, Any]:
        """What stands in plan.json."""
        decision = self.decision
        return {
            "decision": decision.digest.hex(),
            "release": decision.release,
            "profile": decision.profile,
            "pcrs": {f"PCR{index}": value for index, value in sorted(decision.pcrs.items())},
            "image": {
                "key": self.artifact.key,
                "size": self.artifact.size,
                "sha256": self.artifact.sha256,
                "sha384": self.artifact.sha384,
            },
            "role": self.settings.role_arn,
            "stacks": [self.settings.base_stack, self.settings.main_stack],
            "buyers": [report.to_json() for report in self.reports],
            "phase": 2 if self.reports else 1,
        }


def release_id(decision: Decision) -> str:
    """The name of a decision's enclave: the first 16 hex digits of the digest."""
    return decision.digest.hex()[:16]


def make_stack_plan(
    authority: Authority, image: Path, settings: Settings, reports: Mapping[str, bytes]
) -> StackPlan:
    """The plan for the decision, with the image measured here and every report checked.

    ``reports`` are signed reports by where they come from. Raises FoundFalse, BadReport, PolicyFirst,
    WrongRole, WrongRegion, UsageError.
    """
    decision = authority.decision
    found = check_image(image, decision)
    artifact = Artifact(
        f"releases/{release_id(decision)}/{found.sha384}.eif", found.size, found.sha256, found.sha384
    )
    checked = _checked(authority, settings, reports)
    made = StackPlan(settings, decision, artifact, checked)
    for text, most, what in (
        (made.base_text, templates.TEMPLATE_MAX, "phase 1"),
        (made.main_text, templates.TEMPLATE_MAX, "phase 2"),
        (at_every_boot(user_data(settings)), USER_DATA_MAX, "user data"),
    ):
        if len(text.encode()) > most:
            raise UsageError(f"{what} is larger than {most} bytes", code="too-large")
    return made


def _checked(authority: Authority, settings: Settings, reports: Mapping[str, bytes]) -> tuple[Report, ...]:
    found: dict[str, Report] = {}
    for where, content in sorted(reports.items()):
        report = check_report(content, authority.members)
        if report.member in found:
            raise UsageError(f"a second report of {report.member}", where=where, code="two-reports")
        found[report.member] = report
    digest = authority.decision.digest.hex()
    owners: dict[str, str] = {}
    for name, report in sorted(found.items()):
        if report.account == settings.account:
            raise WrongOwner(f"{name}'s key is in the service's own account: {report.kms}", where=name)
        if owners.setdefault(report.kms, name) != name:
            raise WrongOwner(f"{name} reports the key of {owners[report.kms]}: {report.kms}", where=name)
        if report.role != settings.role_arn:
            raise WrongRole(f"{name} lets in {report.role}, not {settings.role_arn}", where=name)
        if report.kms.split(":")[1] != settings.partition:
            raise WrongRegion(
                f"{name}'s key {report.kms} is not in partition {settings.partition}", where=name
            )
        if digest not in report.decisions:
            raise PolicyFirst(
                f"{name}'s key does not admit decision {digest[:16]}",
                where=name,
                hint="the buyer updates its stack (verify policy --stack) and reports again (verify report)",
            )
    return tuple(report for _, report in sorted(found.items()))


def plan_files(plan: StackPlan, reports: Mapping[str, bytes]) -> dict[str, bytes]:
    """The plan's folder: content by relative path."""
    files = {
        SETTINGS: _text(plan.settings.to_json()),
        SUMMARY: _text(plan.summary()),
        BASE: plan.base_text.encode(),
        "user-data.sh": user_data(plan.settings).encode(),
        **{f"units/{name}": text.encode() for name, text in units(plan.settings).items()},
        **{f"{REPORTS}/{Path(where).name}": content for where, content in reports.items()},
    }
    if plan.reports:
        files[MAIN] = plan.main_text.encode()
        files[PARAMETERS] = _text(templates.main_parameters(plan.settings, plan.reports, FROM_PHASE_1))
    return files


def differing(folder: Path, files: Mapping[str, bytes]) -> tuple[str, ...]:
    """The names of the files that are missing in ``folder`` or differ from what the plan is now."""
    return tuple(name for name, content in sorted(files.items()) if _read(folder / name) != content)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _text(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"


def created(plan: StackPlan) -> Sequence[tuple[str, str, str]]:
    """Every resource as (stack, logical name, type), for people."""
    stacks = [(plan.settings.base_stack, templates.base_template(plan.settings))]
    if plan.reports:
        stacks.append((plan.settings.main_stack, templates.main_template(plan.settings)))
    return [
        (stack, name, str(resource["Type"]))
        for stack, template in stacks
        for name, resource in template["Resources"].items()
    ]
