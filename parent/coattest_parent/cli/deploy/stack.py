"""The AWS target of ``deploy-from-attestation``: its options, the plan's folder, and what is printed."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import click

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest.files import Folder, make_folder, read_whole, write_atomic
from coattest.findings import Finding
from coattest.jsontext import emit_json
from coattest.parser import NEW_FOLDER
from coattest.shell import err, option_group, out, utc_now
from coattest_parent.cli.options import FILE, FOLDER, aws_from, aws_options
from coattest_parent.deployment.stack import checks, configuration, planning, programs, rollout
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.link.aws import Aws
from coattest_verify.quorum.authority import Authority

PLANNED = ("name", "account", "region", "vpc", "subnets", "ami", "out")
CHOSEN = (*PLANNED[:-1], "instance_type", "cpus", "memory", "capacity")
"""Options that a plan for AWS requires; CHOSEN are the settings among its options."""


plan_options = option_group(
    click.option("--name", help="aws: the name of this deployment."),
    click.option("--account", help="aws: the service's account, 12 digits."),
    click.option("--region", help="aws: the region of the parents."),
    click.option("--vpc", help="aws: the VPC of the parents."),
    click.option(
        "--subnet",
        "subnets",
        multiple=True,
        help="aws: a subnet of the parents; two or more, in as many zones.",
    ),
    click.option(
        "--ami",
        help="aws: the AMI of the parents (Amazon Linux 2023); 'latest' asks AWS, and the plan has its id.",
    ),
    click.option(
        "--instance-type",
        default="c6i.xlarge",
        show_default=True,
        help="aws: the instance type of the parents.",
    ),
    click.option("--cpus", type=int, default=2, show_default=True, help="aws: vCPUs per enclave."),
    click.option("--memory", type=int, default=2048, show_default=True, help="aws: MiB per enclave."),
    click.option("--capacity", type=int, default=1, show_default=True, help="aws: how many parents."),
    click.option(
        "--report", "reports", type=FILE, multiple=True, help="aws: a buyer's signed report; repeatable."
    ),
    click.option("--wheel", type=FILE, help="aws: coattest's wheel, for the instances; needs --wheelhouse."),
    click.option(
        "--wheelhouse",
        type=FOLDER,
        help="aws: a folder with the wheels that --wheel depends on.",
    ),
    click.option("--out", type=NEW_FOLDER, help="aws: write the plan to this folder."),
)
"""What a plan for AWS is made from besides the decision and the image."""
cloud_options = option_group(
    aws_options, click.option("--plan", "plan_folder", type=FOLDER, help="aws: the folder that plan wrote.")
)
"""The plan, and where AWS is."""


def write_plan(authority: Authority, image: Path, given: Mapping[str, Any]) -> None:
    """``plan --target aws``: write the plan's folder; the image stays where it is."""
    archive = _programs(given["wheel"], given["wheelhouse"], authority.decision.architecture)
    aws, chosen = _aws(authority.decision.profile, given), {name: given[name] for name in CHOSEN}
    if chosen["ami"] == checks.LATEST:
        chosen["ami"] = checks.latest_ami(aws, given["region"], authority.decision.architecture)
    settings = Settings(**chosen, programs=configuration.archive_digest(archive) if archive else None)
    reports = {str(path): read_whole(path) for path in given["reports"]}
    plan = planning.make_stack_plan(authority, image, settings, reports)
    _require_programs(plan)
    checks.require_workable(plan, aws)
    folder: Path = given["out"]
    files = planning.plan_files(plan, reports)
    require_no_other_reports(folder / planning.REPORTS, {Path(name).name for name in files})
    make_folder(folder)
    for name, content in {**files, **({programs.NAME: archive} if archive else {})}.items():
        write_atomic(folder / name, content)
    left = {planning.PARENTS, planning.CONFIGURATION, planning.USER_DATA} - set(files)
    for stale in (*left, *([] if archive else [programs.NAME])):
        (folder / stale).unlink(missing_ok=True)
    if given["as_json"]:
        emit_json({**plan.summary(), "folder": str(folder)})
        return
    out().show_rows(("stack", "resource", "type"), planning.created(plan))
    out().print(f"decision  {authority.decision.digest.hex()}")
    out().print(f"image     {plan.artifact.key}")
    out().print(f"role      {settings.role_arn}")
    if not plan.reports:
        err().print(
            "this is phase 1 only: apply it, give the role to the buyers, plan again with their reports"
        )


def require_no_other_reports(place: Path, names: Collection[str]) -> None:
    """Raise UsageError (not-empty) where an earlier plan left reports: ``apply`` would take them for this
    plan's, and they may be somebody's only copies."""
    if not os.path.lexists(place):
        return
    others = [] if place.is_symlink() else sorted({path.name for path in place.iterdir()} - set(names))
    if place.is_symlink() or others:
        raise UsageError(
            f"reports that are not of this plan: {', '.join(others) or 'a link'}",
            where=str(place),
            hint="remove them, or name another folder",
            code="not-empty",
        )


def read_plan(authority: Authority, image: Path, folder: Path) -> planning.StackPlan:
    """The plan in a folder, made again from the decision as it is now; raises FoundFalse (plan-differs)
    with a finding for each file that differs."""
    settings = _settings(folder / planning.SETTINGS)
    place = folder / planning.REPORTS
    reports = _reports(place) if os.path.lexists(place) else {}
    plan = planning.make_stack_plan(authority, image, settings, reports)
    changed = planning.differing(folder, planning.plan_files(plan, reports))
    if settings.programs is not None and _digest(folder / programs.NAME) != settings.programs:
        changed = (*changed, programs.NAME)
    if changed:
        raise FoundFalse(
            f"the decision now gives a different plan: {', '.join(changed)} differ",
            where=str(folder),
            hint="plan again and read it",
            code="plan-differs",
            findings=[Finding("plan-differs", name, "differs from the plan made now") for name in changed],
        )
    return plan


def apply_plan(authority: Authority, given: Mapping[str, Any]) -> None:
    """``apply --target aws``."""
    cloud = _cloud(authority.decision.profile, given)
    plan = read_plan(authority, given["image"], given["plan_folder"])
    _require_programs(plan)
    done = rollout.apply_stacks(
        plan,
        given["image"],
        cloud,
        programs=given["plan_folder"] / programs.NAME,
        retire=given["retire"],
    )
    if given["as_json"]:
        emit_json(done.to_json())
        return
    out().print(f"role      {done.role}")
    if done.stack is None:
        err().print("applied phase 1: the role is there, and no instance yet")
        err().print("next: give the role to the buyers, and plan again with their reports")
        return
    out().print(f"stack     {done.stack}")
    for parent in done.parents:
        out().print(f"verified  {parent.instance} {parent.module_id} at {parent.time}")
    for name in done.retired:
        out().print(f"retired   {name}")
    for name in done.beside:
        out().print(f"serving   {name}")
    tell_applied("apply with --retire once the other stacks have no open job" if done.beside else "`status`")


def tell_applied(then: str) -> None:
    """End ``apply``: the verdict, and what to do next."""
    err().print("applied: the decided enclave runs, and its live document verified")
    err().print(f"next: {then}")


def show_status(authority: Authority, given: Mapping[str, Any]) -> int:
    """``status --target aws``; 1 when something is not as decided."""
    cloud = _cloud(authority.decision.profile, given)
    found = rollout.stacks_status(read_plan(authority, given["image"], given["plan_folder"]), cloud)
    if given["as_json"]:
        emit_json(found)
        return 1 if found["findings"] else 0
    out().show_facts(
        [
            *[(name, state or "not there") for name, state in found["stacks"].items()],
            *[(f"key of {name}", state) for name, state in found["keys"].items()],
            *[
                (each["instance"], f"{each['lifecycle']}, {each['module_id'] or 'not verified'}")
                for each in found["parents"]
            ],
            *[("serves too", name) for name in found["beside"]],
        ]
    )
    for finding in found["findings"]:
        err().print(f"{finding['where']}: {finding['detail']}", style="red")
    return 1 if found["findings"] else 0


def destroy_plan(given: Mapping[str, Any]) -> None:
    """``destroy --target aws``; it starts nothing, so it needs no decision."""
    path = given["plan_folder"] / planning.SETTINGS
    settings = _settings(path)
    found = rollout.destroy_stacks(settings, _cloud(None, given), delete_data=given["delete_data"])
    if given["as_json"]:
        emit_json(dict(found))
        return
    for item in found["gone"]:
        out().print(f"gone     {item}")
    for item in found["remains"]:
        out().print(f"remains  {item}")


def _cloud(profile: str | None, given: Mapping[str, Any]) -> rollout.Cloud:
    return rollout.Cloud(_aws(profile, given), lambda text: err().print(text), utc_now)


def _aws(profile: str | None, given: Mapping[str, Any]) -> Aws:
    """AWS, or a stand-in on this machine.

    Documents of the ``local`` profile chain to a root whose key is published: they count on this machine
    only.
    """
    endpoint: str | None = given["endpoint_url"]
    wanted = "local" if endpoint else "aws"
    if profile not in (None, wanted):
        raise UsageError(
            f"a decision of profile {profile!r} is not for "
            + ("a stand-in of AWS" if endpoint else "AWS itself, whose enclaves attest with AWS's root"),
            hint=f"use --profile {wanted}",
            code="bad-profile",
        )
    return aws_from(endpoint, given["ca_bundle"])


def _require_programs(plan: planning.StackPlan) -> None:
    """Raise UsageError for parents on which nothing of coattest would be installed: none could be verified.

    A simulated instance installs nothing.
    """
    if plan.reports and plan.settings.programs is None and plan.decision.profile != "local":
        raise UsageError(
            "the plan installs no programs on the instances, so their enclaves could not be verified",
            hint="plan again with --wheel and --wheelhouse",
            code="no-programs",
        )


def _reports(place: Path) -> dict[str, bytes]:
    with Folder(place) as folder:
        try:
            return {str(place / name): folder.read(name) for name in folder.names()}
        except Rejected as error:
            raise UsageError(error.what, where=str(place), hint="plan again", code=error.code) from None


def _settings(path: Path) -> Settings:
    try:
        return Settings.from_json(json.loads(read_whole(path)), str(path))
    except (FileNotFoundError, ValueError, RecursionError) as error:
        raise UsageError(f"not a plan: {error}", where=str(path), hint="make one with plan --out") from None


def _programs(wheel: Path | None, wheelhouse: Path | None, architecture: str) -> bytes | None:
    if (wheel is None) != (wheelhouse is None):
        raise UsageError("--wheel and --wheelhouse go together", code="usage")
    return programs.pack_programs(wheel, wheelhouse, architecture) if wheel and wheelhouse else None


def _digest(path: Path) -> str | None:
    try:
        return configuration.archive_digest(read_whole(path, programs.PROGRAMS_MAX))
    except FileNotFoundError:
        return None
