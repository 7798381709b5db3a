"""Proof, for any key policy, that only a decided enclave gets plaintext. Needs z3-solver."""

from __future__ import annotations

from coattest_verify.keypolicy.prove.goals import (
    ASSUMPTIONS,
    Counterexample,
    GoalResult,
    ProofQuestion,
    Status,
    answer_goals,
)

__all__ = ["ASSUMPTIONS", "Counterexample", "GoalResult", "ProofQuestion", "Status", "answer_goals"]
