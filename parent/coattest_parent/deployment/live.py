"""The live document of a running enclave: asked for over a fresh nonce, and verified against the decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coattest.errors import FoundFalse
from coattest.findings import Finding
from coattest_parent.deployment.runner import Enclave, require_local, require_plain
from coattest_parent.link.enclave import live_document
from coattest_verify.attestation import Expectation, ExpectNonce, ExpectPcrs, MaxAge, Verdict, verify_document
from coattest_verify.attestation.profiles import root_for
from coattest_verify.fleet.live import LIVE_MAX_AGE_MS, alive_expectations
from coattest_verify.quorum.decision import Decision
from coattest_verify.rebuild.remeasure import binding_pcrs

LIVE_TIMEOUT = 60.0
"""Seconds for a live document: an NSM signs within one second, an enclave under load may take longer."""

ASKED_MAX_AGE_MS = 5 * 60 * 1000
"""Milliseconds of age a document over our nonce may have: it is new, so this bounds clocks that disagree."""

LIVE_SKEW_MS = 60 * 1000
"""Milliseconds the hypervisor's clock may be ahead of this instance's."""


@dataclass(frozen=True, slots=True)
class Live:
    """A running enclave whose live document was verified: its module id, and the document's time."""

    module_id: str
    time: datetime
    enclave: Enclave

    def to_json(self) -> dict[str, Any]:
        """``module_id``, ``time`` (ISO 8601) and ``enclave`` with its id, addresses and process id."""
        found = self.enclave
        enclave = {"id": found.id, "address": str(found.address), "proxy": str(found.proxy), "pid": found.pid}
        return {"module_id": self.module_id, "time": self.time.isoformat(), "enclave": enclave}


def require_in_force(decision: Decision, now: datetime) -> None:
    """Raise FoundFalse (no-decision) once the decision has expired, also when a command began before that."""
    if now >= decision.expires:
        raise FoundFalse(
            f"the decision expired at {decision.expires.isoformat()}",
            hint="the members sign a newer quorum.toml",
            code="no-decision",
        )


def check_live(
    decision: Decision, enclave: Enclave, *, role_arn: str, instance_id: str, now: Callable[[], datetime]
) -> Live:
    """Ask an enclave that runs here for its document over a fresh nonce and verify it against the decision.

    What the runner says of the enclave must agree too. Raises FoundFalse: ``live-document`` with every
    finding, ``debug-mode``, ``no-decision``, or ``local-not-loopback``.
    """
    require_in_force(decision, now())
    require_plain(enclave)
    if decision.profile == "local":
        require_local(enclave)
    nonce, document = live_document(enclave.address, timeout=LIVE_TIMEOUT)
    verdict = judge_live(
        decision, document, role_arn=role_arn, instance_id=instance_id, now=now(), nonce=nonce
    )
    if not verdict.ok:
        raise not_the_decided(enclave.id, verdict.findings)
    return Live(verdict.document.module_id, verdict.document.timestamp, enclave)


def judge_live(
    decision: Decision,
    document: bytes,
    *,
    role_arn: str,
    instance_id: str,
    now: datetime,
    nonce: bytes | None = None,
) -> Verdict:
    """What a live document is worth: whether it is of the decided image, that role and that instance.

    Without a nonce its age is what makes it live (LIVE_MAX_AGE_MS).
    """
    decided = {index: bytes.fromhex(value) for index, value in decision.pcrs.items()}
    expected: list[Expectation] = [
        ExpectPcrs({**decided, **binding_pcrs(role_arn, instance_id)}),
        *alive_expectations(),
        MaxAge(LIVE_MAX_AGE_MS if nonce is None else ASKED_MAX_AGE_MS, skew_ms=LIVE_SKEW_MS),
        *([] if nonce is None else [ExpectNonce(nonce)]),
    ]
    return verify_document(document, expected, now=now, root=root_for(decision.profile))


def not_the_decided(where: str, findings: Sequence[Finding]) -> FoundFalse:
    """The error for an enclave whose document was refused, with everything that is wrong with it."""
    return FoundFalse(
        f"the running enclave is not the decided one: {'; '.join(map(str, findings))}",
        where=where,
        code="live-document",
        findings=findings,
    )
