"""The AWS target of ``deploy-from-attestation``: the options, the plan's folder, and what is shown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Table

from coattest_parent.cli.options import FILE
from coattest_parent.stack import plan as planning
from coattest_parent.stack.settings import Settings
from coattest_verify.authority import Authority
from coattest_verify.shell import UsageError, emit_json, err, out, write_atomic

F = TypeVar("F", bound=Callable[..., Any])
NEEDED = ("name", "account", "region", "vpc", "subnet", "ami", "out")


def plan_options(command: F) -> F:
    """What a plan for AWS is made from, beside the decision and the image."""
    folder = click.Path(file_okay=False, path_type=Path)
    for option in (
        click.option("--out", type=folder, help="aws: the folder of the plan."),
        click.option("--wheel", type=FILE, help="aws: coattest's wheel, for the instance."),
        click.option(
            "--report", "reports", type=FILE, multiple=True, help="aws: a buyer's signed report; repeatable."
        ),
        click.option("--auto-recovery", is_flag=True, help="aws: an alarm that moves a failed instance."),
        click.option("--memory", type=int, default=2048, show_default=True, help="aws: MiB per enclave."),
        click.option("--cpus", type=int, default=2, show_default=True, help="aws: vCPUs per enclave."),
        click.option("--instance-type", default="c6i.2xlarge", show_default=True, help="aws: the parent's."),
        click.option("--ami", help="aws: the image of the parent (Amazon Linux 2023)."),
        click.option("--subnet", help="aws: the subnet of the parent."),
        click.option("--vpc", help="aws: the VPC of the parent."),
        click.option("--region", help="aws: where the parent is."),
        click.option("--account", help="aws: the service's account, 12 digits."),
        click.option("--name", help="aws: the name of this deployment."),
    ):
        command = option(command)
    return command


def write_plan(authority: Authority, image: Path, given: Mapping[str, Any]) -> None:
    """Make the plan and write its folder; the image stays where it is."""
    missing = [f"--{name}" for name in NEEDED if not given[name]]
    if missing:
        raise UsageError(f"the aws target needs {', '.join(missing)}", reason="usage")
    settings = Settings(
        **{name: given[name] for name in ("name", "account", "region", "vpc", "subnet", "ami")},
        **{name: given[name] for name in ("instance_type", "cpus", "memory", "auto_recovery")},
        wheel=_wheel(given["wheel"]),
    )
    reports = {str(path): path.read_bytes() for path in given["reports"]}
    plan = planning.make_stack_plan(authority, image, settings, reports)
    folder: Path = given["out"]
    files = planning.plan_files(plan, reports)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, content)
    for stale in (planning.MAIN, planning.PARAMETERS):
        if stale not in files:
            (folder / stale).unlink(missing_ok=True)
    if given["as_json"]:
        emit_json({**plan.summary(), "folder": str(folder)})
        return
    table = Table("stack", "resource", "type")
    for row in planning.created(plan):
        table.add_row(*row)
    out().print(table)
    out().print(f"decision  {authority.decision.digest.hex()}", markup=False)
    out().print(f"image     {plan.artifact.key}", markup=False)
    out().print(f"role      {settings.role_arn}", markup=False)
    if not plan.reports:
        err().print(
            "phase 1 only: apply it, give the role to the buyers, plan again with their reports", markup=False
        )


def read_plan(authority: Authority, image: Path, folder: Path) -> planning.StackPlan:
    """The plan in a folder, made again from the decision of now; raises PlanDiffers when it is another."""
    path = folder / planning.SETTINGS
    try:
        settings = Settings.from_json(json.loads(path.read_bytes()), str(path))
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(f"no plan: {error}", where=str(path), hint="see plan --out") from None
    place = folder / planning.REPORTS
    reports = {str(item): item.read_bytes() for item in sorted(place.glob("*"))} if place.is_dir() else {}
    plan = planning.make_stack_plan(authority, image, settings, reports)
    changed = planning.differing(folder, planning.plan_files(plan, reports))
    if changed:
        raise planning.PlanDiffers(
            f"the decision of now gives another plan: {', '.join(changed)} differ",
            where=str(folder),
            hint="plan again and read it",
        )
    return plan


def _wheel(path: Path | None) -> str | None:
    if path is None:
        return None
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()}/{path.name}"
