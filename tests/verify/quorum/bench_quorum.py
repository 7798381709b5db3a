"""How long 1,000 statements take to decide, and how that compares with bare signature checks.

    python tests/verify/quorum/bench_quorum.py [OPERATORS]

Not a test: times on a shared machine are no verdict.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from coattest_verify.provenance import PAYLOAD_TYPE
from coattest_verify.quorum.dsse import Envelope
from support.operators import Operators, report_json

STATEMENTS = 1000


def clocked(work: Callable[[], object]) -> float:
    """Seconds of processor time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Make the statements, decide, and print the figures."""
    operators = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder:
        names = [f"operator-{index}" for index in range(operators)]
        quorum = Operators.make(Path(folder), names, kinds=("ed25519",))
        report = report_json(inputs=150)
        quorum.claim(report)
        for index in range(STATEMENTS):
            name = names[index % operators]
            age = timedelta(minutes=index)
            quorum.sign(name, report, name=f"rebuild.{name}.{index}.intoto.json", age=age)
        quorum.decide().require()
        decide = min(clocked(lambda: quorum.decide().require()) for _ in range(3))
        checks = []
        for path in quorum.attestations.glob("rebuild.*.json"):
            party = quorum.policy.operator(path.name.split(".")[1])
            assert party is not None
            envelope = Envelope.decode(path.read_bytes(), PAYLOAD_TYPE)
            checks.append((party.keys[0], envelope.signatures[0][1], envelope.pae))
        raw = clocked(lambda: all(key.verifies(signature, message) for key, signature, message in checks))
    print(f"{STATEMENTS} statements of {operators} operators: {decide:.2f} s of processor time")
    print(f"{len(checks)} bare signature checks: {raw:.2f} s; ratio {decide / raw:.1f}")


if __name__ == "__main__":
    main()
