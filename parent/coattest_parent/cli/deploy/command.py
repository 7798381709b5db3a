"""``deploy-from-attestation plan``, ``apply``, ``status`` and ``destroy``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from coattest.errors import FoundFalse, UsageError
from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.shell import err, json_option, needs_extra, option_group, out, utc_now
from coattest_parent.cli.deploy.stack import (
    PLANNED,
    apply_plan,
    cloud_options,
    destroy_plan,
    plan_options,
    show_status,
    tell_applied,
    write_plan,
)
from coattest_parent.cli.options import FILE, OWN_FOLDER, aws_options
from coattest_parent.deployment.live import Live, check_live
from coattest_parent.deployment.local import (
    apply_local,
    destroy_local,
    make_local_plan,
    read_deployment,
    require_local_profile,
)
from coattest_parent.deployment.runner import LocalRunner
from coattest_verify.cli.options import named_decision_options
from coattest_verify.quorum.authority import authority_from

OF_LOCAL = ("role_arn", "instance_id", "state")
"""Options that mean nothing for AWS, and that plan and apply need for the local target."""

OF_AWS = frozenset(
    {
        "account", "ami", "ca_bundle", "capacity", "cpus", "delete_data", "endpoint_url", "instance_type",
        "memory", "name", "out", "plan_folder", "region", "reports", "retire", "subnets", "vpc", "wheel",
        "wheelhouse",
    }
)  # fmt: skip
"""Options that mean nothing for the local target."""

OPTION = {"plan_folder": "--plan", "subnets": "--subnet"}
"""Options that are called otherwise."""

state_option = click.option(
    "--state",
    type=OWN_FOLDER,
    help="Folder of this deployment's local enclaves.",
)
target_option = click.option(
    "--target",
    type=click.Choice(["local", "aws"]),
    default="local",
    show_default=True,
    help="The software host of this machine, or AWS.",
)
image_option = click.option("--image", type=FILE, required=True, help="The decided image.")
identity_options = option_group(
    click.option("--role-arn", help="local: ARN of the parent's role; becomes PCR3."),
    click.option("--instance-id", help="local: id of the parent instance; becomes PCR4."),
)


enclave_options = option_group(target_option, image_option, identity_options, state_option)
"""Which enclave, and where: passed as target, image, role_arn, instance_id, state."""


def runner_in(state: Path) -> LocalRunner:
    """The runner of the enclave in a state folder."""
    return LocalRunner(state / "enclave")


@needs_extra("aws")
@click.command()
@enclave_options
@plan_options
@aws_options
@named_decision_options
@json_option
def plan_command(**given: Any) -> None:
    """Recompute the decision, measure the image, say what apply does.

    For AWS the plan is a folder: templates, user data, what an instance is made of. What AWS says will not
    work is refused.
    """
    require_options(given, local=OF_LOCAL, aws=PLANNED)
    authority = authority_from(given, utc_now())
    if given["target"] == "aws":
        write_plan(authority, given["image"], given)
        return
    decided = authority.decision
    require_local_profile(decided)
    made = make_local_plan(
        decided,
        given["image"],
        runner_in(given["state"]),
        role_arn=given["role_arn"],
        instance_id=given["instance_id"],
    )
    if given["as_json"]:
        emit_json(made)
        return
    for name, value in made.items():
        out().print(f"{name:12}  {value}")
    step = f"check {made['running']}, already running" if made["running"] else "start the enclave, check it"
    out().print(f"apply would {step}")


@needs_extra("aws")
@click.command()
@enclave_options
@cloud_options
@click.option(
    "--retire", is_flag=True, help="aws: delete the stacks of other releases, once this one is verified."
)
@named_decision_options
@json_option
def apply_command(**given: Any) -> None:
    """Start the decided enclave and verify its live document.

    An enclave that does not verify is terminated. For AWS a stack of parents is made beside what serves; it
    is rolled back unless the document of every instance verifies. Run it again when it was interrupted.
    """
    require_options(given, local=OF_LOCAL, aws=("plan_folder",))
    authority = authority_from(given, utc_now())
    if given["target"] == "aws":
        apply_plan(authority, given)
        return
    require_local_profile(authority.decision)
    live = apply_local(
        authority.decision,
        given["image"],
        runner_in(given["state"]),
        role_arn=given["role_arn"],
        instance_id=given["instance_id"],
        state=given["state"],
        clock=utc_now,
        say=lambda text: err().print(text),
    )
    _show(live, given["as_json"])
    if not given["as_json"]:
        tell_applied(f"what `auction open` needs is above, and `status --state {given['state']}` looks again")


@needs_extra("aws")
@click.command()
@target_option
@click.option("--image", type=FILE, help="aws: the decided image.")
@state_option
@cloud_options
@named_decision_options
@json_option
def status_command(**given: Any) -> int:
    """Verify a fresh document of the running enclave.

    It must match the decision as it is now. For AWS also: the stacks, what was changed by hand, and the state
    of the buyers' keys where it can be read.
    """
    require_options(given, local=("state",), aws=("plan_folder", "image"))
    if given["target"] == "local":
        refuse_ignored(("image",), "for the local target")
    authority = authority_from(given, utc_now())
    if given["target"] == "aws":
        return show_status(authority, given)
    state: Path = given["state"]
    record = read_deployment(state)
    enclave = runner_in(state).describe()
    if record is None or enclave is None:
        raise FoundFalse(
            "no enclave of this deployment is running",
            where=str(state),
            hint="start it with apply",
            code="not-running",
        )
    role_arn, instance_id = record.get("role_arn"), record.get("instance_id")
    if not isinstance(role_arn, str) or not isinstance(instance_id, str):
        raise UsageError(
            "the deployment record lacks the role or the instance", where=str(state), code="bad-state"
        )
    live = check_live(authority.decision, enclave, role_arn=role_arn, instance_id=instance_id, now=utc_now)
    _show(live, given["as_json"])
    return 0


@needs_extra("aws")
@click.command()
@target_option
@state_option
@cloud_options
@click.option("--delete-data", is_flag=True, help="aws: delete the buckets too, with everything in them.")
@json_option
def destroy_command(**given: Any) -> None:
    """End this deployment's enclave; for AWS, delete what apply made.

    Exit code 0 also when the enclave had ended already; not when there is no such deployment.
    """
    require_options(given, local=("state",), aws=("plan_folder",))
    if given["target"] == "aws":
        destroy_plan(given)
        return
    ended = destroy_local(runner_in(given["state"]), given["state"])
    if given["as_json"]:
        emit_json({"terminated": ended})
    else:
        err().print(f"terminated {ended}" if ended else "its enclave had ended already")


def require_options(given: Mapping[str, Any], *, local: Sequence[str], aws: Sequence[str]) -> None:
    """Raise UsageError with every option that the target needs and that was not given, or for one that is the
    other target's.
    """
    other, needed = (OF_LOCAL, aws) if given["target"] == "aws" else (OF_AWS, local)
    refuse_ignored(other, f"for the {given['target']} target")
    missing = [name for name in needed if not given[name]]
    if missing:
        options = (OPTION.get(name, f"--{name.replace('_', '-')}") for name in missing)
        raise UsageError(f"the {given['target']} target needs {', '.join(options)}", code="usage")


def _show(live: Live, as_json: bool) -> None:
    if as_json:
        emit_json({"verified": True, **live.to_json()})
        return
    out().print(f"verified  {live.module_id} at {live.time.isoformat()}")
    out().print(f"enclave   {live.enclave.address}")
    out().print(f"proxy     {live.enclave.proxy}")
