"""How long a decision over 1,000 statements takes, as a ratio to bare signature checks in the same run.

python bench/bench_quorum.py [--json] [--statements N] [--members N] [--rounds N]

Seconds are of this process's processor time, so that other programs show less; rounds of the decision and of
the bare checks alternate, and the best round of each counts. The bare checks verify the same signatures over
the same bytes with keys that are loaded already: no files, no JSON, no rules. Statements name as many inputs
as the shipped lock has.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coattest_build.inputs import lock as locks
from coattest_verify.quorum.statements.provenance import PAYLOAD_TYPE
from coattest_verify.signatures.dsse import DsseEnvelope

if TYPE_CHECKING:
    from support.verify.members import Members

ROOT = Path(__file__).resolve().parent.parent
GOAL_SECONDS = 3.0
"""For 1,000 statements."""


def clocked(work: Callable[[], object]) -> float:
    """Seconds of processor time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def prepare(folder: Path, statements: int, members: int) -> tuple[Members, int]:
    """A quorum whose members signed so many agreeing statements; and how many inputs each names."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.verify.members import Members, report_json  # noqa: PLC0415

    names = [f"member-{index}" for index in range(members)]
    quorum = Members.make(folder, names, kinds=("ed25519",))
    lock, _ = locks.load_lock(ROOT)
    inputs = len(lock.packages) + len(lock.wheels)
    report = report_json(inputs=inputs)
    quorum.claim(report)
    for index in range(statements):
        name = names[index % members]
        age = timedelta(minutes=index)
        quorum.sign(name, report, name=f"rebuild.{name}.{index}.intoto.json", age=age)
    return quorum, inputs


def bare_checks(quorum: Members, statements: int) -> Callable[[], None]:
    """Verify every statement's signature, and nothing else."""
    checks = []
    for path in quorum.released.glob("rebuild.*.intoto.json"):
        party = quorum.file.member(path.name.split(".")[1])
        if party is None:
            raise SystemExit(f"{path.name}: not a member's")
        envelope = DsseEnvelope.decode(path.read_bytes(), PAYLOAD_TYPE)
        checks.append((party.keys[0], envelope.signatures[0][1], envelope.pae))
    if len(checks) != statements:
        raise SystemExit(f"{len(checks)} statements instead of {statements}")

    def run() -> None:
        for key, signature, message in checks:
            if not key.verifies(signature, message):
                raise SystemExit("a signature that does not verify")

    return run


def measure(statements: int, members: int, rounds: int) -> dict[str, Any]:
    """Best seconds of the decision and of the bare checks, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        quorum, inputs = prepare(Path(folder), statements, members)
        bare = bare_checks(quorum, statements)
        decide, raw = [], []
        for _ in range(rounds):
            decide.append(clocked(lambda: quorum.decide().require()))
            raw.append(clocked(bare))
    return {
        "statements": statements,
        "members": members,
        "inputs_each": inputs,
        "decide_seconds": min(decide),
        "bare_seconds": min(raw),
        "ratio": min(decide) / min(raw),
        "goal_seconds": GOAL_SECONDS * statements / 1000,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Print the figures, or with --json one document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--statements", type=int, default=1000)
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    result = measure(options.statements, options.members, options.rounds)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"{result['statements']} statements of {result['members']} members, "
        f"{result['inputs_each']} inputs each, load {result['load']:.1f}"
    )
    print(f"  decided               {result['decide_seconds']:6.2f} s    goal {result['goal_seconds']:.1f} s")
    print(f"  bare signature checks {result['bare_seconds']:6.2f} s    ratio {result['ratio']:.1f}")


if __name__ == "__main__":
    main()
