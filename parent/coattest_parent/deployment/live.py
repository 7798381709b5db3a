"""Deployment that starts from the decision and nothing else.

``apply`` measures the image itself, starts it, asks the *running* enclave for a document over a fresh nonce
and verifies that against the decision before anything is called a success. Whatever fails on the way, an
enclave that was started here is ended here.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from coattest.errors import FoundFalse, UsageError
from coattest.files import write_atomic
from coattest_enclave.protocol import messages
from coattest_parent.deployment.runner import Enclave, Runner, require_local, require_plain
from coattest_parent.link.enclave import EnclaveClient
from coattest_verify.attestation import (
    ExpectNonce,
    ExpectPcrs,
    ExpectPublicKey,
    ExpectUserData,
    MaxAge,
    verify_document,
)
from coattest_verify.attestation.profiles import root_for
from coattest_verify.quorum.decision import Decision
from coattest_verify.rebuild.remeasure import binding_pcrs, check_image

STATE_FORMAT = "coattest-deployment/v1"

LIVE_TIMEOUT = 60.0
"""Seconds for a liveness document: an NSM signs within one, an enclave under load may not."""

LIVE_MAX_AGE_MS = 5 * 60 * 1000
"""Milliseconds of age a live document may have; its nonce is fresh, so this bounds clocks that disagree."""

LIVE_SKEW_MS = 60 * 1000
"""Milliseconds the hypervisor's clock may be ahead of this instance's."""

Say = Callable[[str], None]


class LiveMismatch(FoundFalse):
    """The running enclave's document does not verify against the decision."""

    default_code = "live-document"


class Expired(FoundFalse):
    """The decision is none any more: its quorum.toml has expired."""

    default_code = "no-decision"


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``apply`` would do."""

    release: str
    profile: str
    decision: str
    image: str
    image_sha384: str
    pcrs: dict[str, str]
    role_arn: str
    instance_id: str
    running: str | None


@dataclass(frozen=True, slots=True)
class Live:
    """A verified liveness document of a running enclave."""

    module_id: str
    time: datetime
    enclave: Enclave


def require_local_profile(decision: Decision) -> None:
    """Raise UsageError for a decision that the software host cannot run: its documents are not AWS's."""
    if decision.profile != "local":
        raise UsageError(
            f"a decision of profile {decision.profile!r} cannot run on the software host",
            hint="use --profile local",
            code="bad-profile",
        )


def require_in_force(decision: Decision, now: datetime) -> None:
    """Raise Expired at the day that the decision's quorum.toml names, also when a command began before it."""
    if now >= decision.expires:
        raise Expired(
            f"the decision expired at {decision.expires.isoformat()}",
            hint="the members sign a newer quorum.toml",
        )


def make_plan(decision: Decision, image: Path, runner: Runner, *, role_arn: str, instance_id: str) -> Plan:
    """Measure the image against the decision and say what would be done; starts nothing, changes nothing."""
    found = check_image(image, decision)
    running = runner.describe()
    return Plan(
        release=decision.release,
        profile=decision.profile,
        decision=decision.digest.hex(),
        image=str(image),
        image_sha384=found.sha384,
        pcrs={"PCR0": found.pcr0, "PCR1": found.pcr1, "PCR2": found.pcr2},
        role_arn=role_arn,
        instance_id=instance_id,
        running=running.id if running else None,
    )


def apply(
    decision: Decision,
    image: Path,
    runner: Runner,
    *,
    role_arn: str,
    instance_id: str,
    state: Path,
    clock: Callable[[], datetime],
    say: Say = lambda _: None,
) -> Live:
    """Start the decided image, or find it running, and return its verified document.

    Raises FoundFalse before anything is started, LiveMismatch or another CoattestError after the started
    enclave is gone again. An enclave that ran before is never ended here.
    """
    make_plan(decision, image, runner, role_arn=role_arn, instance_id=instance_id)
    say("the image measures as decided")
    running = runner.describe()
    if running is not None:
        live = check_live(decision, running, role_arn=role_arn, instance_id=instance_id, now=clock)
        say("it runs already, and its live document matches the decision")
        _remember(state, decision, live, role_arn, instance_id)
        return live
    enclave = runner.run(image, role_arn=role_arn, instance_id=instance_id)
    try:
        say(f"{enclave.id} listens; asking it for a document over a fresh nonce")
        live = check_live(decision, enclave, role_arn=role_arn, instance_id=instance_id, now=clock)
        _remember(state, decision, live, role_arn, instance_id)
    except BaseException:
        say("terminating the enclave that was just started")
        runner.terminate(enclave)
        raise
    return live


def ask(enclave: Enclave, nonce: bytes) -> bytes:
    """A live document of an enclave of this machine, unverified."""
    with EnclaveClient(enclave.address, LIVE_TIMEOUT) as client:
        return client.alive(nonce)


def check_live(
    decision: Decision,
    enclave: Enclave,
    *,
    role_arn: str,
    instance_id: str,
    now: Callable[[], datetime],
    get: Callable[[Enclave, bytes], bytes] | None = None,
) -> Live:
    """The verified document of a running enclave, over a fresh nonce; raises LiveMismatch with every
    reason.

    ``get`` asks for the document where the enclave is elsewhere. What the runner says of it must agree too.
    """
    require_in_force(decision, now())
    require_plain(enclave)
    require_described(enclave, decision)
    if get is None and decision.profile == "local":
        require_local(enclave)
    nonce = secrets.token_bytes(32)
    document = (get or ask)(enclave, nonce)
    decided = {index: bytes.fromhex(value) for index, value in decision.pcrs.items()}
    verdict = verify_document(
        document,
        [
            ExpectPcrs({**decided, **binding_pcrs(role_arn, instance_id)}),
            ExpectNonce(nonce),
            ExpectUserData(messages.alive_user_data()),
            ExpectPublicKey(None),
            MaxAge(LIVE_MAX_AGE_MS, skew_ms=LIVE_SKEW_MS),
        ],
        now=now(),
        root=root_for(decision.profile),
    )
    if not verdict.ok:
        reasons = "; ".join(
            f"{failure.field}: {failure.rule} ({failure.code})" for failure in verdict.failures
        )
        raise LiveMismatch(f"the running enclave is not the decided one: {reasons}", where=enclave.id)
    found = verdict.document
    time = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=found.timestamp_ms)
    return Live(found.module_id, time, enclave)


def require_described(enclave: Enclave, decision: Decision) -> None:
    """Refuse an enclave whose own runner says other registers than the decided ones, before it is asked."""
    differ = [f"PCR{index}" for index, value in enclave.pcrs if decision.pcrs.get(index, value) != value]
    if differ:
        raise LiveMismatch(
            f"the runner describes another image: {', '.join(differ)} differ", where=enclave.id
        )


def recorded(state: Path) -> dict[str, Any] | None:
    """What ``apply`` wrote down about its last success, or None; for display, never as proof.

    Raises UsageError for a record that is none.
    """
    try:
        value = json.loads((state / "deployment.json").read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"not a deployment record: {error}", where=str(state), code="bad-state") from None
    if not isinstance(value, dict) or value.get("format") != STATE_FORMAT:
        raise UsageError(f"format is not {STATE_FORMAT}", where=str(state), code="bad-state")
    return value


def destroy(runner: Runner, state: Path) -> str | None:
    """End the enclave and forget the deployment; returns its id, or None when nothing ran."""
    enclave = runner.describe()
    if enclave is not None:
        runner.terminate(enclave)
    (state / "deployment.json").unlink(missing_ok=True)
    return enclave.id if enclave else None


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as JSON."""
    return asdict(plan)


def live_json(live: Live) -> dict[str, Any]:
    """A verified live enclave as JSON."""
    return {
        "module_id": live.module_id,
        "time": live.time.isoformat(),
        "enclave": {
            "id": live.enclave.id,
            "address": str(live.enclave.address),
            "proxy": str(live.enclave.proxy),
            "pid": live.enclave.pid,
        },
    }


def _remember(state: Path, decision: Decision, live: Live, role_arn: str, instance_id: str) -> None:
    value = {
        "format": STATE_FORMAT,
        "decision": decision.digest.hex(),
        "release": decision.release,
        "profile": decision.profile,
        "role_arn": role_arn,
        "instance_id": instance_id,
        **live_json(live),
    }
    write_atomic(state / "deployment.json", json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")
