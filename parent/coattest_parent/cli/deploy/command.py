"""``deploy-from-attestation plan``, ``apply``, ``status`` and ``destroy``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from coattest.errors import FoundFalse, UsageError
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, option_group, out, utc_now
from coattest_parent.cli.deploy.stack import (
    apply_plan,
    cloud_options,
    destroy_plan,
    plan_options,
    show_status,
    write_plan,
)
from coattest_parent.cli.options import FILE, NEW_FOLDER
from coattest_parent.deployment import live as deployment
from coattest_parent.deployment.runner import LocalRunner
from coattest_verify.cli.options import decision_options
from coattest_verify.quorum.authority import authority_from

state_option = click.option(
    "--state",
    type=NEW_FOLDER,
    help="Directory of this deployment's local enclaves.",
)
target_option = click.option(
    "--target", type=click.Choice(["local", "aws"]), default="local", show_default=True
)
bundle_option = click.option(
    "--bundle", type=FILE, help="Decide from a proof bundle instead of the folder; needs --root."
)
identity_options = option_group(
    click.option("--role-arn", help="local: the parent's role; becomes PCR3."),
    click.option("--instance-id", help="local: the parent instance; becomes PCR4."),
)


class NothingRuns(FoundFalse):
    """No enclave of this deployment runs."""

    default_code = "not-running"


def runner_in(state: Path) -> LocalRunner:
    """The runner of the enclave that belongs to a state directory."""
    return LocalRunner(state / "enclave")


def local_options(given: Mapping[str, Any]) -> None:
    """Raise UsageError unless the options that the local target needs are there."""
    missing = [
        f"--{name.replace('_', '-')}" for name in ("role_arn", "instance_id", "state") if not given[name]
    ]
    if missing:
        raise UsageError(f"the local target needs {', '.join(missing)}", code="usage")


@click.command()
@target_option
@click.option("--image", type=FILE, required=True)
@identity_options
@state_option
@plan_options
@decision_options
@bundle_option
@json_option
def plan(**given: Any) -> None:
    """Recompute the decision, measure the image against it, and say what apply would do.

    For AWS the plan is a folder: templates, user data, units, parameters.
    """
    authority = authority_from(given, utc_now())
    if given["target"] == "aws":
        write_plan(authority, given["image"], given)
        return
    local_options(given)
    decided = authority.decision
    deployment.require_local_profile(decided)
    made = deployment.make_plan(
        decided,
        given["image"],
        runner_in(given["state"]),
        role_arn=given["role_arn"],
        instance_id=given["instance_id"],
    )
    if given["as_json"]:
        emit_json(deployment.plan_json(made))
        return
    for name, value in deployment.plan_json(made).items():
        out().print(f"{name:12}  {value}", markup=False)
    step = f"check {made.running}, which runs already" if made.running else "start the enclave, check it"
    out().print(f"apply would {step}", markup=False)


@click.command()
@target_option
@click.option("--image", type=FILE, required=True)
@identity_options
@state_option
@cloud_options
@decision_options
@bundle_option
@json_option
def apply(**given: Any) -> None:
    """Start the decided enclave and verify its live document before reporting success.

    What does not verify is terminated. For AWS the stacks come first, by change sets; another release that
    ran ends after the decided one was verified.
    """
    authority = authority_from(given, utc_now())
    if given["target"] == "aws":
        apply_plan(authority, given)
        return
    local_options(given)
    deployment.require_local_profile(authority.decision)
    live = deployment.apply(
        authority.decision,
        given["image"],
        runner_in(given["state"]),
        role_arn=given["role_arn"],
        instance_id=given["instance_id"],
        state=given["state"],
        clock=utc_now,
        say=lambda text: err().print(text, markup=False),
    )
    _show(live, given["as_json"])


@click.command()
@target_option
@click.option("--image", type=FILE, help="aws: the decided image.")
@state_option
@cloud_options
@decision_options
@bundle_option
@json_option
def status(**given: Any) -> int:
    """Ask the running enclave for a fresh document and verify it against the decision of now.

    For AWS also: the stacks, what was changed by hand, the buyers' keys as far as they can be read.
    """
    authority = authority_from(given, utc_now())
    if given["target"] == "aws":
        return show_status(authority, given)
    state = required_state(given)
    recorded = deployment.recorded(state)
    enclave = runner_in(state).describe()
    if recorded is None or enclave is None:
        raise NothingRuns("no enclave of this deployment runs", where=str(state), hint="see apply")
    role_arn, instance_id = recorded.get("role_arn"), recorded.get("instance_id")
    if not isinstance(role_arn, str) or not isinstance(instance_id, str):
        raise UsageError("the record names no role or instance", where=str(state), code="bad-state")
    live = deployment.check_live(
        authority.decision, enclave, role_arn=role_arn, instance_id=instance_id, now=utc_now
    )
    _show(live, given["as_json"])
    return 0


@click.command()
@target_option
@state_option
@cloud_options
@click.option("--delete-data", is_flag=True, help="aws: the buckets too, with everything in them.")
@json_option
def destroy(**given: Any) -> None:
    """End the enclave of this deployment; fine when none runs. For AWS: everything that apply made."""
    if given["target"] == "aws":
        destroy_plan(given)
        return
    ended = deployment.destroy(runner_in(required_state(given)), given["state"])
    if given["as_json"]:
        emit_json({"terminated": ended})
    else:
        err().print(f"terminated {ended}" if ended else "nothing ran", markup=False)


def required_state(given: Mapping[str, Any]) -> Path:
    """The state directory, which the local target needs."""
    state = given["state"]
    if not isinstance(state, Path):
        raise UsageError("the local target needs --state", code="usage")
    return state


def _show(live: deployment.Live, as_json: bool) -> None:
    if as_json:
        emit_json({"verified": True, **deployment.live_json(live)})
        return
    out().print(f"verified  {live.module_id} at {live.time.isoformat()}", markup=False)
    out().print(f"enclave   {live.enclave.address}", markup=False)
    out().print(f"proxy     {live.enclave.proxy}", markup=False)
