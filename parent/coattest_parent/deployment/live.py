"""The live document of a running enclave: asked for over a fresh nonce, and verified against the decision."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from coattest.errors import FoundFalse
from coattest.findings import Finding
from coattest_enclave.protocol import alive
from coattest_parent.deployment.runner import Enclave, require_local, require_plain
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
from coattest_verify.rebuild.remeasure import binding_pcrs

LIVE_TIMEOUT = 60.0
"""Seconds for a live document: an NSM signs within one second, an enclave under load may take longer."""

LIVE_MAX_AGE_MS = 5 * 60 * 1000
"""Milliseconds of age a live document may have; its nonce is fresh, so this bounds clocks that disagree."""

LIVE_SKEW_MS = 60 * 1000
"""Milliseconds the hypervisor's clock may be ahead of this instance's."""

NONCE_SIZE = 32
"""Bytes of a nonce."""


@dataclass(frozen=True, slots=True)
class Live:
    """A running enclave whose live document was verified: its module id, and the document's time."""

    module_id: str
    time: datetime
    enclave: Enclave

    def to_json(self) -> dict[str, Any]:
        """``module_id``, ``time`` (ISO 8601) and ``enclave`` with its id, addresses and process id."""
        return {
            "module_id": self.module_id,
            "time": self.time.isoformat(),
            "enclave": {
                "id": self.enclave.id,
                "address": str(self.enclave.address),
                "proxy": str(self.enclave.proxy),
                "pid": self.enclave.pid,
            },
        }


def require_in_force(decision: Decision, now: datetime) -> None:
    """Raise FoundFalse (no-decision) once the decision has expired, also when a command began before that."""
    if now >= decision.expires:
        raise FoundFalse(
            f"the decision expired at {decision.expires.isoformat()}",
            hint="the members sign a newer quorum.toml",
            code="no-decision",
        )


def require_described(enclave: Enclave, decision: Decision) -> None:
    """Refuse an enclave whose own runner reports other registers than the decided ones, before asking it.

    Raises FoundFalse (live-document) with a finding for each register that differs.
    """
    findings = [
        Finding("live-document", f"PCR{index}", "differs from the decision", decision.pcrs[index], value)
        for index, value in enclave.pcrs
        if decision.pcrs.get(index, value) != value
    ]
    if findings:
        names = ", ".join(finding.where for finding in findings)
        raise FoundFalse(
            f"the runner describes another image: {names} differ",
            where=enclave.id,
            code="live-document",
            findings=findings,
        )


def ask(enclave: Enclave, nonce: bytes) -> bytes:
    """A live document of an enclave of this machine over a nonce, unverified."""
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
    """Ask a running enclave for its document over a fresh nonce and verify it against the decision.

    ``get`` asks for the document where the enclave is elsewhere. What the runner says of the enclave must
    agree too. Raises FoundFalse: ``live-document`` with every finding, ``debug-mode``, ``no-decision``, or
    ``local-not-loopback``.
    """
    require_in_force(decision, now())
    require_plain(enclave)
    require_described(enclave, decision)
    if get is None and decision.profile == "local":
        require_local(enclave)
    nonce = secrets.token_bytes(NONCE_SIZE)
    document = (get or ask)(enclave, nonce)
    decided = {index: bytes.fromhex(value) for index, value in decision.pcrs.items()}
    verdict = verify_document(
        document,
        [
            ExpectPcrs({**decided, **binding_pcrs(role_arn, instance_id)}),
            ExpectNonce(nonce),
            ExpectUserData(alive.alive_user_data()),
            ExpectPublicKey(None),
            MaxAge(LIVE_MAX_AGE_MS, skew_ms=LIVE_SKEW_MS),
        ],
        now=now(),
        root=root_for(decision.profile),
    )
    if not verdict.ok:
        findings = verdict.findings
        found = "; ".join(map(str, findings))
        raise FoundFalse(
            f"the running enclave is not the decided one: {found}",
            where=enclave.id,
            code="live-document",
            findings=findings,
        )
    document_time = timedelta(milliseconds=verdict.document.timestamp_ms)
    time = datetime(1970, 1, 1, tzinfo=timezone.utc) + document_time
    return Live(verdict.document.module_id, time, enclave)
