"""A plan: everything that ``apply`` would create, as files. Pure but for measuring the image.

The plan is for reading and decides nothing: ``apply`` makes it again from a decision that it recomputes, and
refuses to go on when the two plans differ.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coattest.errors import FoundFalse, UsageError
from coattest.files import read_whole
from coattest_parent.deployment.stack import configuration, templates
from coattest_parent.deployment.stack.settings import Settings
from coattest_verify.keypolicy.report import BuyerReport, check_report
from coattest_verify.quorum.authority import Authority
from coattest_verify.quorum.decision import Decision
from coattest_verify.rebuild.remeasure import check_image

SETTINGS, SUMMARY, REPORTS = "settings.json", "plan.json", "reports"
BASE, PARENTS = "base.template.json", "parents.template.json"
USER_DATA, CONFIGURATION = "user-data.sh", "configuration.tar"
ROLE_MAX = 10_240
"""Characters of a role's inline policies (IAM User Guide, "IAM and AWS STS quotas")."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """The image as an S3 object. Digests are of the whole file, in hex."""

    key: str
    size: int
    sha256: str
    sha384: str

    def metadata(self, decision: Decision) -> dict[str, str]:
        """The object's metadata, for people; what counts is the checksum and the decision."""
        return {"sha256": self.sha256, "sha384": self.sha384, "decision": decision.digest.hex()}


@dataclass(frozen=True, slots=True)
class StackPlan:
    """What is created for a decision. Without reports there is only the base: phase 1."""

    settings: Settings
    decision: Decision
    artifact: Artifact
    reports: tuple[BuyerReport, ...]

    @property
    def base_text(self) -> str:
        """The base's template."""
        return templates.template_text(templates.base_template(self.settings, self.reports))

    @property
    def configuration(self) -> bytes:
        """The archive that an instance fetches by its digest."""
        regions = (report.region for report in self.reports)
        return configuration.configuration(self.settings, self.decision, regions)

    @property
    def digest(self) -> str:
        """The archive's digest."""
        return configuration.archive_digest(self.configuration)

    @property
    def parents_text(self) -> str:
        """The template of the parents."""
        made = templates.parents_template(self.settings, self.digest, self.decision.release)
        return templates.template_text(made)

    @property
    def parents_stack(self) -> str:
        """The stack of the parents, which no other release and no other settings have."""
        return templates.parents_name(self.settings, self.parents_text)

    @property
    def stacks(self) -> tuple[str, ...]:
        """The names of the stacks."""
        return (self.settings.base_stack, *([self.parents_stack] if self.reports else []))

    def summary(self) -> dict[str, Any]:
        """The content of plan.json."""
        decision = self.decision
        return {
            "decision": decision.digest.hex(),
            "release": decision.release,
            "profile": decision.profile,
            "pcrs": {f"PCR{index}": value for index, value in sorted(decision.pcrs.items())},
            "image": asdict(self.artifact),
            "role": self.settings.role_arn,
            "stacks": list(self.stacks),
            "buyers": [report.to_json() for report in self.reports],
            "phase": 2 if self.reports else 1,
        }


def make_stack_plan(
    authority: Authority, image: Path, settings: Settings, reports: Mapping[str, bytes]
) -> StackPlan:
    """The plan for the decision, with the image measured here and every report checked.

    ``reports`` are signed reports by the file they come from. Raises Rejected, UsageError, and FoundFalse
    (image-differs, policy-first, wrong-owner, wrong-role, wrong-region).
    """
    decision = authority.decision
    found = check_image(image, decision)
    artifact = Artifact(configuration.image_key(decision), found.size, found.sha256, found.sha384)
    made = StackPlan(settings, decision, artifact, _checked(authority, settings, reports))
    require_room(made)
    return made


def require_room(plan: StackPlan) -> None:
    """Raise UsageError (too-large) for more buyers than IAM or CloudFormation has room for."""
    boot = configuration.boot_script(plan.digest)
    rights = templates.inline_size(plan.settings, plan.reports)
    for size, most, what in (
        (len(plan.base_text), templates.TEMPLATE_MAX, "the base's template"),
        (len(plan.parents_text), templates.TEMPLATE_MAX, "the parents' template"),
        (len(boot.encode()), configuration.USER_DATA_MAX, "user data"),
        (rights, ROLE_MAX, f"what the role may do for {len(plan.reports)} buyers"),
    ):
        if size > most:
            raise UsageError(f"{what} is over {most} bytes", code="too-large")


def _checked(
    authority: Authority, settings: Settings, reports: Mapping[str, bytes]
) -> tuple[BuyerReport, ...]:
    found: dict[str, BuyerReport] = {}
    names: set[str] = set()
    for where, content in sorted(reports.items()):
        report = check_report(content, authority.members)
        if (name := Path(where).name) in names:
            what = f"another report's file is called {name} too, and the plan has them in one folder"
            raise UsageError(what, where=where, hint="rename one", code="two-reports")
        names.add(name)
        if report.member in found:
            raise UsageError(f"two reports of {report.member}", where=where, code="two-reports")
        found[report.member] = report
    digest = authority.decision.release_digest.hex()
    owners: dict[str, str] = {}
    for name, report in sorted(found.items()):
        unfit = functools.partial(FoundFalse, where=name)
        if report.account == settings.account:
            raise unfit(f"{name}'s key is in the service's own account: {report.kms}", code="wrong-owner")
        if owners.setdefault(report.kms, name) != name:
            raise unfit(f"{name} reports the key of {owners[report.kms]}: {report.kms}", code="wrong-owner")
        if report.role != settings.role_arn:
            raise unfit(f"{name} admits {report.role}, not {settings.role_arn}", code="wrong-role")
        if report.kms.split(":")[1] != settings.partition:
            what = f"{name}'s key {report.kms} is not in partition {settings.partition}"
            raise unfit(what, code="wrong-region")
        if digest not in report.decisions:
            raise unfit(
                f"{name}'s key does not admit decision {digest}",
                hint="the buyer updates its stack (verify policy make --format stack), then reports again",
                code="policy-first",
            )
    return tuple(report for _, report in sorted(found.items()))


def plan_files(plan: StackPlan, reports: Mapping[str, bytes]) -> dict[str, bytes]:
    """The plan's folder: content by relative path."""
    files = {
        SETTINGS: _text(plan.settings.to_json()),
        SUMMARY: _text(plan.summary()),
        BASE: plan.base_text.encode(),
        **{f"{REPORTS}/{Path(where).name}": content for where, content in reports.items()},
    }
    if plan.reports:
        files[PARENTS] = plan.parents_text.encode()
        files[CONFIGURATION] = plan.configuration
        files[USER_DATA] = configuration.boot_script(plan.digest).encode()
    return files


def differing(folder: Path, files: Mapping[str, bytes]) -> tuple[str, ...]:
    """The names of the files that are missing in ``folder`` or differ from the plan as it is now."""

    def there(name: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return read_whole(folder / name) == files[name]
        return False

    return tuple(name for name in sorted(files) if not there(name))


def _text(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"


def created(plan: StackPlan) -> Sequence[tuple[str, str, str]]:
    """Every resource as (stack, logical name, type)."""
    return [
        (stack, name, str(resource["Type"]))
        for stack, text in zip(plan.stacks, (plan.base_text, plan.parents_text), strict=False)
        for name, resource in json.loads(text)["Resources"].items()
    ]
