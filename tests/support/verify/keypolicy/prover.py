"""Policies for the prover, and its answers. Needs z3-solver."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from coattest_verify.keypolicy.iam import parse_policy
from coattest_verify.keypolicy.prove import GoalResult, ProofQuestion, Status
from support.verify.keypolicy.solving import solve_measured

A, B = (tuple(f"{first}{index}" * 48 for index in range(3)) for first in "ab")
ACCOUNT, SERVICE = "222233334444", "111122223333"
PARENT = f"arn:aws:iam::{SERVICE}:role/parent"
ADMIN = f"arn:aws:iam::{ACCOUNT}:user/admin"
BIDDER = f"arn:aws:iam::{ACCOUNT}:user/bidder"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
KEY = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
DECIDED = (tuple(A), tuple(B))
LISTED = "kms:EncryptionContextKeys"
SHA, PCR = "kms:RecipientAttestation:ImageSha384", "kms:RecipientAttestation:PCR"


def allow(principal: Any = PARENT, action: Any = "kms:Decrypt", **more: Any) -> dict[str, Any]:
    """An Allow statement."""
    named = principal if principal == "*" or isinstance(principal, dict) else {"AWS": principal}
    return {"Effect": "Allow", "Principal": named, "Action": action, "Resource": "*", **more}


def deny(action: Any = "kms:Decrypt", **more: Any) -> dict[str, Any]:
    """A Deny for everybody."""
    return {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": "*", **more}


def exactly(*tuples: Any, operator: str = "StringEqualsIgnoreCase", registers: int = 3) -> dict[str, Any]:
    """Conditions on the registers; several tuples are merged, which is the mistake."""
    names = [SHA, f"{PCR}1", f"{PCR}2"][:registers]
    return {operator: {name: [item[index] for item in tuples] for index, name in enumerate(names)}}


def ask(
    *statements: dict[str, Any], tuples: Any = DECIDED, key: str | None = None, now: datetime | None = None
) -> dict[str, GoalResult]:
    """The four answers for a policy with an administrator and an encrypter."""
    document = {
        "Version": "2012-10-17",
        "Statement": [
            allow(ADMIN, ["kms:PutKeyPolicy", "kms:DescribeKey"]),
            allow(BIDDER, ["kms:GenerateDataKey", "kms:Encrypt"]),
            *statements,
        ],
    }
    question = ProofQuestion(tuple(tuples), (ADMIN,), (BIDDER,), key, now)
    found, seconds = solve_measured(parse_policy(json.dumps(document)), question, deadline=300)
    assert seconds < 10
    return {item.goal: item for item in found}


def statuses(results: Mapping[str, GoalResult]) -> tuple[Status, ...]:
    """Plaintext, power, encryption."""
    return tuple(results[goal].status for goal in ("plaintext", "power", "encryption"))


PROVED, REFUTED, UNKNOWN = Status.PROVED, Status.REFUTED, Status.UNKNOWN
NULL = deny(Condition={"Null": {SHA: "true"}})
