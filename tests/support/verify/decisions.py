"""Decisions made by hand, and policies from them, for tests that are not about quorums."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from coattest_enclave.protocol.binding import AUCTION, BUYER, IMAGE, SEAL_KEY
from coattest_verify.keypolicy.generate import ContextRules, generate_policy
from coattest_verify.quorum.decision import Decision

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)
ACCOUNT, SERVICE = "222233334444", "111122223333"
PARENT = f"arn:aws:iam::{SERVICE}:role/parent"
ADMINS = (f"arn:aws:iam::{ACCOUNT}:user/admin", f"arn:aws:iam::{ACCOUNT}:role/second")
ENCRYPTER = f"arn:aws:iam::{ACCOUNT}:user/bidder"
AN_AUCTIONS = ContextRules({BUYER: "buyer-1", SEAL_KEY: "5e" * 32}, (AUCTION,), IMAGE)
"""What an auction's key of buyer-1 requires."""


def decision(first: str = "a", *, release: str = "1.0.0", **changes: Any) -> Decision:
    """A decision whose registers begin with a digit of one's choice."""
    made = Decision(
        release=release,
        architecture="x86_64",
        profile="aws",
        pcrs={index: f"{first}{index}" * 48 for index in range(3)},
        image_sha384="11" * 48,
        image_size=1,
        tree_sha256="22" * 32,
        lock_sha256="33" * 32,
        agreed=("buyer-1", "buyer-2"),
        quorum_sha256="44" * 32,
        expires=NOW + timedelta(days=30),
        root_sha256="55" * 32,
    )
    return replace(made, **changes)


def make(decisions: Any = None, **changes: Any) -> dict[str, Any]:
    """A policy from one decision, with ordinary principals."""
    arguments: dict[str, Any] = {
        "account": ACCOUNT,
        "parent_roles": [PARENT],
        "administrators": ADMINS,
        "encrypters": [ENCRYPTER],
        "now": NOW,
    }
    return generate_policy(decisions or decision(), **(arguments | changes))
