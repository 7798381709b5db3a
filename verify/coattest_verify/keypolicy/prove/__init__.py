"""Proof, for any key policy, that only a decided enclave gets plaintext. Needs z3-solver."""

from __future__ import annotations

from coattest_verify.keypolicy.prove.bounded import DEADLINE, prove
from coattest_verify.keypolicy.prove.goals import (
    ASSUMPTIONS,
    GOALS,
    Counterexample,
    GoalResult,
    ProofQuestion,
    Status,
)
from coattest_verify.keypolicy.prove.notes import policy_notes

__all__ = [
    "ASSUMPTIONS",
    "DEADLINE",
    "GOALS",
    "Counterexample",
    "GoalResult",
    "ProofQuestion",
    "Status",
    "policy_notes",
    "prove",
]
