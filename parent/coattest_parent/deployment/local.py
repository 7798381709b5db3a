"""The local target: the decided image on this machine's software host.

``apply_local`` measures the image itself, starts it, asks the *running* enclave for a document over a fresh
nonce and verifies that against the decision before it reports success. Whatever fails on the way, an enclave
that was started here is ended here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from coattest.errors import UsageError
from coattest.files import read_whole, write_atomic
from coattest_parent.deployment.live import Live, check_live
from coattest_parent.deployment.runner import LocalRunner
from coattest_verify.quorum.decision import Decision
from coattest_verify.rebuild.remeasure import check_image

STATE_FORMAT = "coattest-deployment/v1"
STATE_FILE = "deployment.json"


def require_local_profile(decision: Decision) -> None:
    """Raise UsageError for a decision that the software host cannot run: its documents are not AWS's."""
    if decision.profile != "local":
        raise UsageError(
            f"a decision of profile {decision.profile!r} cannot run on the software host",
            hint="use --profile local",
            code="bad-profile",
        )


def make_local_plan(
    decision: Decision, image: Path, runner: LocalRunner, *, role_arn: str, instance_id: str
) -> dict[str, Any]:
    """Measure the image against the decision and say what ``apply_local`` would do; starts and changes
    nothing. Digests and registers are lower-case hex; ``running`` is the id of the enclave that runs already.
    """
    found, running = check_image(image, decision), runner.describe()
    return {
        **_decided(decision, role_arn, instance_id),
        "image": str(image),
        "image_sha384": found.sha384,
        "pcrs": {"PCR0": found.pcr0, "PCR1": found.pcr1, "PCR2": found.pcr2},
        "running": running.id if running else None,
    }


def apply_local(
    decision: Decision,
    image: Path,
    runner: LocalRunner,
    *,
    role_arn: str,
    instance_id: str,
    state: Path,
    clock: Callable[[], datetime],
    say: Callable[[str], None] = lambda _: None,
) -> Live:
    """Start the decided image, or find it running, and return its verified document.

    Raises FoundFalse (image-differs) before anything is started; after that what ``check_live`` raises, once
    the enclave that was started here has ended. An enclave that ran before is never ended here.
    """
    check_image(image, decision)
    say("the image measures as decided")
    running = runner.describe()
    enclave = running or runner.run(image, role_arn=role_arn, instance_id=instance_id)
    try:
        found = "runs already" if running else "listens"
        say(f"{enclave.id} {found}; asking it for a document over a fresh nonce")
        live = check_live(decision, enclave, role_arn=role_arn, instance_id=instance_id, now=clock)
        value = {**_decided(decision, role_arn, instance_id), **live.to_json(), "format": STATE_FORMAT}
        write_atomic(state / STATE_FILE, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")
    except BaseException:
        if running is None:
            say("terminating the enclave that was just started")
            runner.terminate()
        raise
    return live


def read_deployment(state: Path) -> dict[str, Any] | None:
    """What ``apply_local`` recorded at its last success, or None; for display, never as proof.

    Raises UsageError (bad-state) for a record that does not parse.
    """
    try:
        value = json.loads(read_whole(state / STATE_FILE))
        if not isinstance(value, dict) or value.get("format") != STATE_FORMAT:
            raise ValueError(f"format is not {STATE_FORMAT}")
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not a deployment record: {error}", where=str(state), code="bad-state") from None
    return value


def destroy_local(runner: LocalRunner, state: Path) -> str | None:
    """End the enclave; returns its id, or None when it had ended already. The record stays, and says what was
    deployed in this folder.

    Raises UsageError (no-deployment) for a folder without one: with a mistyped name the enclave would go on.
    """
    enclave = runner.describe()
    if enclave is None and read_deployment(state) is None:
        raise UsageError(
            "there is no deployment in this folder",
            where=str(state),
            hint="give the folder that apply --state made",
            code="no-deployment",
        )
    if enclave is not None:
        runner.terminate()
    return enclave.id if enclave else None


def _decided(decision: Decision, role_arn: str, instance_id: str) -> dict[str, str]:
    return {
        "decision": decision.digest.hex(),
        "release": decision.release,
        "profile": decision.profile,
        "role_arn": role_arn,
        "instance_id": instance_id,
    }
