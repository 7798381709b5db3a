"""The decision together with the quorum it came from: what a command may rely on, recomputed at every use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coattest.errors import UsageError
from coattest_enclave.protocol import messages
from coattest_verify.auction.certify import check_buyer_certificate
from coattest_verify.quorum.bundle import load_bundle
from coattest_verify.quorum.decision import Answer, Decision, decide, decide_from
from coattest_verify.quorum.errors import NoDecision
from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.memory import Roots, parse_root


@dataclass(frozen=True, slots=True)
class Authority:
    """A decision and the policy of the members who made it."""

    decision: Decision
    policy: MembersFile
    answers: tuple[Answer, ...] = ()
    """Who agreed, each with its statement."""

    def check_certificate(self, buyer: messages.Buyer) -> None:
        """Return when the buyer's key and KMS ARN are certified by that member; raises BadCertificate."""
        check_buyer_certificate(buyer.certificate, self.policy, buyer.name, buyer.key, buyer.kms)


def authority_from(options: Mapping[str, Any], now: datetime, own: str | None = None) -> Authority:
    """The authority at ``now`` from the options of ``decision_options``; raises NoDecision with every reason.

    With ``own`` that member's own agreeing statement must be among those that count. A ``bundle`` among the
    options is a proof bundle, to decide from in place of the folder; it needs a root.
    """
    given = options["root"]
    root = parse_root(given) if isinstance(given, str) else given
    bundle, profile = options.get("bundle"), options["profile"]
    if bundle is None:
        outcome = decide(options["attestations"], root=root, profile=profile, now=now, own=own)
    else:
        if root is None:
            raise UsageError(
                "--bundle needs --root sha256:HEX",
                hint="a bundle brings everything but the root",
                code="no-root",
            )
        files = load_bundle(bundle).files
        outcome = decide_from(files, root=root, seen=Roots().seen(root), profile=profile, now=now, own=own)
    decision = outcome.require()
    if outcome.policy is None:
        raise NoDecision(("no quorum policy",))
    return Authority(decision, outcome.policy, outcome.answers)
