"""The proof in a process of its own, which is ended at the deadline.

A solver can miss its own time-out, use up the memory, or end its process: none of that may be the end of the
command, and none of it is a proof. A goal without an answer is unknown.
"""

from __future__ import annotations

import json
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict

from coattest.errors import require_kind
from coattest.programs.environment import python_program
from coattest.programs.start import start_program
from coattest_verify.keypolicy.iam import Policy
from coattest_verify.keypolicy.prove.goals import (
    GOALS,
    Counterexample,
    GoalResult,
    ProofQuestion,
    Status,
    answers,
)

DEADLINE = 9.0
"""Seconds until the process is ended; a command that waits for it answers within ten."""

ENDING = 1.0
"""Seconds before the deadline at which the process stops asking by itself, so that it can say what it has."""

MEMORY = 4 << 30
"""Bytes of address space for the solver."""


def prove(policy: Policy, question: ProofQuestion, *, deadline: float = DEADLINE) -> tuple[GoalResult, ...]:
    """Answer the four goals, in about ``deadline`` seconds at the most. Needs no solver in this process."""
    require_kind(policy, Policy, "policy", hint="parse_policy(..)")
    require_kind(question, ProofQuestion, "question")
    given = pickle.dumps((policy, question, deadline))
    with start_program(
        python_program("coattest_verify.keypolicy.prove.bounded"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        why = None
        try:
            said, _ = process.communicate(given, timeout=deadline)
        except subprocess.TimeoutExpired:
            why = f"no answer in {deadline:.0f} seconds; fewer or simpler conditions would help"
            process.kill()
            said, _ = process.communicate()
    why = why or f"the solver ended without an answer (status {process.returncode})"
    found = {item.goal: item for item in _read(said)}
    return tuple(found.get(goal, GoalResult(goal, Status.UNKNOWN, reason=why)) for goal in GOALS)


def _read(said: bytes) -> Iterable[GoalResult]:
    for line in said.splitlines(keepends=True):
        if line.endswith(b"\n"):
            raw = json.loads(line)
            example = raw["counterexample"]
            yield GoalResult(
                raw["goal"],
                Status(raw["status"]),
                Counterexample(
                    **{
                        **example,
                        "context": {key: tuple(values) for key, values in example["context"].items()},
                        "allowed_by": tuple(example["allowed_by"]),
                    }
                )
                if example
                else None,
                raw["reason"],
            )


def _main() -> None:
    """The process: the question on stdin, each answer as a line of JSON as soon as it is there."""
    started = time.monotonic()
    policy, question, deadline = pickle.load(sys.stdin.buffer)  # noqa: S301 (the process that started this one)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(int(deadline) + 2)  # should nobody be left to end it
    for item in answers(policy, question, until=started + max(deadline - ENDING, deadline / 2)):
        sys.stdout.write(json.dumps({**asdict(item), "status": item.status.value}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
