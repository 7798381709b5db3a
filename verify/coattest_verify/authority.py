"""The decision together with the quorum it came from: what a command may rely on, recomputed at every use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coattest_enclave import messages
from coattest_verify.certify import check_buyer_certificate
from coattest_verify.decision import Answer, Decision, decide
from coattest_verify.memory import parse_root
from coattest_verify.quorum.errors import NoDecision
from coattest_verify.quorum_policy import QuorumPolicy


@dataclass(frozen=True, slots=True)
class Authority:
    """A decision and the policy of the operators who made it."""

    decision: Decision
    policy: QuorumPolicy
    answers: tuple[Answer, ...] = ()
    """Who agreed, each with its statement."""

    def check_certificate(self, buyer: messages.Buyer) -> None:
        """Return when the buyer's key and KMS ARN are certified by that operator; raises BadCertificate."""
        check_buyer_certificate(buyer.certificate, self.policy, buyer.name, buyer.key, buyer.kms)


def authority_from(options: Mapping[str, Any], now: datetime, own: str | None = None) -> Authority:
    """The authority at ``now`` from the options of ``decision_options``; raises NoDecision with every reason.

    With ``own`` that operator's own agreeing statement must be among those that count.
    """
    root = options["root"]
    outcome = decide(
        options["attestations"],
        root=parse_root(root) if isinstance(root, str) else root,
        profile=options["profile"],
        now=now,
        own=own,
    )
    decision = outcome.require()
    if outcome.policy is None:
        raise NoDecision(("no quorum policy",))
    return Authority(decision, outcome.policy, outcome.answers)
