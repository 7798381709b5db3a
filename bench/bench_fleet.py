"""How fast a fleet is looked at, as ratios against raw P-384 verification in the same run, and its memory.

python bench/bench_fleet.py [--json] [--rounds N] [--enclaves N] [--many N]

Enclaves are on an instance each, in one zone: they share the root, the region's and the zone's certificate. A
first sight is held against a third of the raw rate (instance, enclave, document), a second look against the
raw rate. Seconds are processor time, so that other programs show less; candidates alternate, eight enclaves
at a time (as many as are verified together), and of each eight the best round counts. Two processes are two
of this script at once, each with its own cache. The peak is VmHWM of a process that looks twice at files of
``--many`` enclaves, as `verify fleet --every` does.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from coattest_verify.attestation import ChainCache, Root
from coattest_verify.attestation.batch import AT_A_TIME
from coattest_verify.fleet.file import load_fleet
from coattest_verify.fleet.judge import DECIDED, ExpectedRelease, FetchedDocument, SourceJudge
from coattest_verify.fleet.look import Watcher
from coattest_verify.fleet.reach import no_aws

if TYPE_CHECKING:
    from support.verify.nitro_ca import TestChain

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
SLICE = AT_A_TIME
"""Enclaves at a time, as `verify fleet` takes files: some 8 ms at first sight."""

PAIRS = 3
"""Times that two processes are held against one; the median counts."""

GOALS = {"first sight": 0.85, "again": 0.85, "two processes": 1.8, "peak, MB": 300}


def documents(chain: TestChain, count: int, *, fresh_keys: bool = True) -> list[bytes]:
    """A document of each enclave; keys that are used again save time and make the same certificates."""
    from support.verify.fleet.worlds import shown_by  # noqa: PLC0415
    from support.verify.nitro_ca import sibling  # noqa: PLC0415

    keys = {} if fresh_keys else {at: {"key": ec.generate_private_key(ec.SECP384R1())} for at in (3, 4)}
    return [shown_by(number, chain=sibling(chain, 3, keys)) for number in range(count)]


def prepare(folder: Path, count: int, *, fresh_keys: bool) -> bytes:
    """FLEET.toml and a file for each enclave; returns the fingerprint of their root."""
    from support.verify.fleet.worlds import files_toml  # noqa: PLC0415
    from support.verify.nitro_ca import make_chain  # noqa: PLC0415

    chain = make_chain()
    (folder / "documents").mkdir()
    (folder / "FLEET.toml").write_text(files_toml(count=count))
    for number, data in enumerate(documents(chain, count, fresh_keys=fresh_keys)):
        (folder / "documents" / f"{number}.bin").write_bytes(data)
    return chain.root.sha256


def watcher(folder: Path, root: bytes) -> Watcher:
    """A watcher of these files at their own time."""
    from support.verify.fleet.worlds import IMAGE_PCRS  # noqa: PLC0415
    from support.verify.nitro_ca import NOW  # noqa: PLC0415

    decided = {"0.1.0": ExpectedRelease("0.1.0", DECIDED, IMAGE_PCRS)}
    return Watcher(
        load_fleet(folder / "FLEET.toml"),
        lambda _: decided,
        Root("bench", root),
        lambda: NOW,
        no_aws,
        state=folder / "state.json",
        prometheus=folder / "fleet.prom",
    )


def raw_task() -> Callable[[], object]:
    """One P-384 verification by cryptography over 32 bytes."""
    key = ec.generate_private_key(ec.SECP384R1())
    algorithm, message = ec.ECDSA(hashes.SHA384()), os.urandom(32)
    signature, public = key.sign(message, algorithm), key.public_key()
    return lambda: public.verify(signature, message, algorithm)


def clocked(work: Callable[[], object]) -> float:
    """Seconds of processor time."""
    start = time.process_time()
    work()
    return time.process_time() - start


Look = Callable[[SourceJudge], None]


def looks_at(folder: Path, root: bytes) -> tuple[list[Look], Callable[[], SourceJudge]]:
    """A look at the documents, which are in memory: a slice of them at each call; and who judges, anew."""
    made = watcher(folder, root)
    (source,) = made.fleet.sources
    at = made.clock()
    answers = [
        (path.name, FetchedDocument(path.read_bytes(), None, at)) for path in (folder / "documents").iterdir()
    ]

    def look(part: list[tuple[str, FetchedDocument]], judge: SourceJudge) -> None:
        assert [row.status for row in judge(part)] == ["verified"] * len(part)

    slices = [partial(look, answers[start : start + SLICE]) for start in range(0, len(answers), SLICE)]
    releases = list(made.decide(at).values())
    return slices, lambda: SourceJudge(source, releases, made.root, ChainCache(len(answers)))


def rates(folder: Path, root: bytes, rounds: int) -> dict[str, float]:
    """Enclaves, and raw verifications, per second of processor time: all slices, each in its best round."""
    (slices, judging), raw = looks_at(folder, root), raw_task()
    best = {label: [float("inf")] * len(slices) for label in ("raw", "first sight", "again")}
    for _ in range(rounds):
        judge = judging()
        for number, look in enumerate(slices):
            for label, work in (
                ("raw", lambda: [raw() for _ in range(SLICE)]),
                ("first sight", partial(look, judge)),
                ("again", partial(look, judge)),
            ):
                best[label][number] = min(best[label][number], clocked(work))
    return {label: len(slices) * SLICE / sum(seconds) for label, seconds in best.items()}


def child(*words: str) -> subprocess.Popen[str]:
    """This script in a process of its own."""
    return subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)


def first_sights(processes: int, folder: Path, root: bytes) -> float:
    """Enclaves a second of processor time, over so many processes that run at once."""
    running = [child("--first-sight", str(folder), "--root", root.hex()) for _ in range(processes)]
    return sum(float(process.communicate()[0]) for process in running)


def measure(rounds: int, enclaves: int, many: int) -> dict[str, Any]:
    """Every figure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = prepare(folder, enclaves, fresh_keys=True)
        found = rates(folder, root, rounds)
        both = [first_sights(2, folder, root) / first_sights(1, folder, root) for _ in range(PAIRS)]
    with tempfile.TemporaryDirectory() as name:
        root = prepare(Path(name), many, fresh_keys=False)
        peak = float(child("--peak", name, "--root", root.hex()).communicate()[0])
    return {
        "benchmark": "fleet",
        "enclaves": enclaves,
        "many": many,
        "per_second": {label: round(value, 1) for label, value in found.items()},
        "figures": {
            "first sight": round(3 * found["first sight"] / found["raw"], 3),
            "again": round(found["again"] / found["raw"], 3),
            "two processes": round(statistics.median(both), 3),
            "peak, MB": round(peak, 1),
        },
        "goal": GOALS,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Print the figures, or with --json one document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--enclaves", type=int, default=1000)
    parser.add_argument("--many", type=int, default=10_000)
    for hidden in ("--first-sight", "--peak"):
        parser.add_argument(hidden, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=bytes.fromhex, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_sight is not None:
        slices, judging = looks_at(options.first_sight, options.root)
        judge = judging()
        print(len(slices) * SLICE / sum(clocked(partial(look, judge)) for look in slices))
        return
    if options.peak is not None:
        watching = watcher(options.peak, options.root)
        assert [watching.look().code for _ in range(2)] == [0, 0]
        status = Path("/proc/self/status").read_text()
        print(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 / 1e6)
        return
    result = measure(options.rounds, options.enclaves, options.many)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['enclaves']} enclaves (memory: {result['many']}), load {result['load']:.1f}")
    print("first sight is 3 times its rate against raw, again is its rate against raw")
    for label, value in result["per_second"].items():
        print(f"  {label:<16} {value:>9.1f} /s")
    for label, value in result["figures"].items():
        at_most = label == "peak, MB"
        met = value <= GOALS[label] if at_most else value >= GOALS[label]
        goal = f"goal at {'most' if at_most else 'least'} {GOALS[label]}: {'met' if met else 'MISSED'}"
        print(f"  {label:<16} {value:>9.3f}    {goal}")


if __name__ == "__main__":
    main()
