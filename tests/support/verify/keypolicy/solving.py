"""The prover's answers from a fresh process each, which is ended at its deadline. Needs z3-solver.

A solver that earlier questions have used decides otherwise now and then, and one that misses its own time-out
would hold the whole test run: no signal reaches it. A process that has the solver imported forks for each
question, which takes a hundredth of the time that a start takes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

from coattest_verify.keypolicy.iam import Policy
from coattest_verify.keypolicy.prove import GOALS, GoalResult, ProofQuestion, Status

ROOM = Path(__file__).parents[3]


def solve(policy: Policy, question: ProofQuestion, *, deadline: float) -> tuple[GoalResult, ...]:
    """The four answers, about ``deadline`` seconds later at the most; one that did not come is "unknown"."""
    return solve_measured(policy, question, deadline=deadline)[0]


def solve_measured(
    policy: Policy, question: ProofQuestion, *, deadline: float
) -> tuple[tuple[GoalResult, ...], float]:
    """The four answers, and the seconds of CPU that they took: what else the machine does is not counted."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(pickle.dumps((policy, question, deadline)))
    server.stdin.flush()
    found, seconds = pickle.load(server.stdout)
    named = {item.goal: item for item in found}
    missing = "the solver did not keep to its time and was ended"
    return tuple(named.get(goal, GoalResult(goal, Status.UNKNOWN, reason=missing)) for goal in GOALS), seconds


@functools.cache
def _server() -> subprocess.Popen[bytes]:
    server = subprocess.Popen(
        [sys.executable, "-m", "support.verify.keypolicy.solving"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOM,
    )
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[bytes]) -> None:
    server.kill()
    server.wait()
    for stream in (server.stdin, server.stdout):
        with contextlib.suppress(OSError):
            stream and stream.close()


def _serve(questions: BinaryIO, answers_to: BinaryIO) -> None:
    from coattest_verify.keypolicy.prove.goals import answers

    while questions.peek(1):  # type: ignore[attr-defined]
        policy, question, deadline = pickle.load(questions)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            with os.fdopen(writer, "wb") as out:
                for item in answers(policy, question, until=time.monotonic() + deadline):
                    out.write(pickle.dumps(item))
                    out.flush()
            os._exit(0)
        os.close(writer)
        said = _read(reader, time.monotonic() + deadline + 2)
        os.kill(child, signal.SIGKILL)
        used = os.wait4(child, 0)[2]
        answers_to.write(pickle.dumps((said, used.ru_utime + used.ru_stime)))
        answers_to.flush()


def _read(reader: int, until: float) -> list[GoalResult]:
    found: list[GoalResult] = []
    with os.fdopen(reader, "rb") as answers:
        while select.select([answers], [], [], max(until - time.monotonic(), 0))[0]:
            try:
                found.append(pickle.load(answers))
            except EOFError:
                break
    return found


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
