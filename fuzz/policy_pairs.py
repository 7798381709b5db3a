"""10,000 generated (policy, request) pairs, twice: evaluator and prover agree on all; and proofs are sampled.

Once with a fixed seed, which makes a failure the same on every machine, once with a fresh one, which is
printed. ``tox -e policy-pairs`` runs it; ``--seed N`` repeats a run.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from pathlib import Path

import pytest

FIXED = 20261124
POLICIES = 1000
"""Generated policies of a run; each is asked ten requests."""
TIME = 3600
"""Seconds for a test: each question has a deadline of its own, of ten seconds."""
TESTS = Path(__file__).resolve().parent.parent / "tests/verify/keypolicy/prove"
CHOSEN = {
    "test_policy_prove.py": "generated_pairs or solver_finds",
    "test_policy_prove_callers.py": "no_caller_contradicts",
    "test_policy_prove_samples.py": "no_sampled_request or sampled_too",
}
"""The pairs, and proofs of whole policies against callers and requests: a tenth as many."""


def main() -> int:
    """Exit code: 0 when both agree on all pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, action="append", help="instead of the fixed and a fresh seed")
    parser.add_argument("--policies", type=int, default=POLICIES, help="generated policies of a run")
    options = parser.parse_args()
    seeds = options.seed or [FIXED, secrets.randbelow(2**32)]
    for seed in seeds:
        print(f"seed {seed}: {options.policies} policies, ten requests each", flush=True)
        for name, chosen in CHOSEN.items():
            pairs = name == "test_policy_prove.py"
            os.environ["COATTEST_POLICIES"] = str(options.policies if pairs else options.policies // 10)
            words = ["-q", "-x", "-k", chosen, f"--hypothesis-seed={seed}", f"--timeout={TIME}"]
            code = pytest.main([str(TESTS / name), *words])
            if code:
                return int(code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
