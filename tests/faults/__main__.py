"""``python -m faults``: many runs, each under the faults that its seed gives; ``--seed N`` replays one."""

from __future__ import annotations

import argparse
import collections
import subprocess
import sys
import time

from faults.harness import attempt, describe, world


def main() -> int:
    """Exit code: 0 when nothing was lost or inconsistent in any run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--seed", type=int, help="replay this one and say what happened")
    chosen = parser.parse_args()
    seeds = range(chosen.first, chosen.first + chosen.runs) if chosen.seed is None else [chosen.seed]
    if chosen.jobs > 1 and chosen.seed is None:
        return _side_by_side(chosen.first, chosen.runs, chosen.jobs)
    started, failed = time.monotonic(), []
    endings: collections.Counter[str] = collections.Counter()
    with world() as here:
        for seed in seeds:
            run, broken = attempt(here, seed)
            first = run.outcomes[0] if run.outcomes else None
            if first:
                kind = (
                    "killed"
                    if first.code < 0
                    else "result"
                    if first.code == 0
                    else first.answer.get("reason", "?")
                )
                endings[kind] += 1
            if broken:
                failed.append(seed)
                print(f"seed {seed}: {broken}", flush=True)
            if broken or chosen.seed is not None:
                print(describe(run), flush=True)
    ended = ", ".join(f"{count} {kind}" for kind, count in endings.most_common())
    print(f"{len(seeds)} runs in {time.monotonic() - started:.0f} s; the openings under faults: {ended}")
    if failed:
        print(f"{len(failed)} broken; replay with --seed: {' '.join(map(str, failed))}")
    return 1 if failed else 0


def _side_by_side(first: int, runs: int, jobs: int) -> int:
    """The same runs in several processes, each with a world of its own."""
    each = -(-runs // jobs)
    command = (sys.executable, "-m", "faults", "--first")
    running = [
        subprocess.Popen([*command, str(start), "--runs", str(min(each, first + runs - start))])
        for start in range(first, first + runs, each)
    ]
    return max(abs(process.wait()) for process in running)


if __name__ == "__main__":
    sys.exit(main())
