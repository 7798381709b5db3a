"""``python -m faults``: many runs, each under the faults that its seed gives; ``--seed N`` replays one.

With ``--spool`` several couriers on one spool in S3. With ``--host`` on the software host: real processes,
real services, a real image.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from coattest_build import builder
from faults import harness, host, host_run, invariants, spool_run
from support.enclave.running_enclave import ROOT


def main() -> int:
    """Exit code: 0 when nothing was lost or inconsistent in any run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--seed", type=int, help="replay this one and say what happened")
    parser.add_argument("--spool", action="store_true", help="several couriers on one spool")
    parser.add_argument("--spool-runs", type=int, default=0, help="after these, so many of those")
    parser.add_argument("--host", action="store_true", help="on the software host")
    parser.add_argument("--host-runs", type=int, default=0, help="after these, so many on the software host")
    parser.add_argument("--image", type=Path, help="the image for it; by default this checkout's is built")
    chosen = parser.parse_args()
    if chosen.seed is None and (chosen.runs < 1 or chosen.jobs < 1):
        parser.error("--runs and --jobs are at least 1: no run shows nothing")
    code = _one_kind(chosen)
    if chosen.spool_runs and chosen.seed is None:
        runs, chosen.spool, chosen.runs = chosen.runs, True, chosen.spool_runs
        code = max(code, _one_kind(chosen))
        chosen.spool, chosen.runs = False, runs
    if chosen.host_runs and chosen.seed is None:
        chosen.host, chosen.runs = True, chosen.host_runs
        # Runs with the doubles wait most of the time, these work.
        chosen.jobs = min(chosen.jobs, os.cpu_count() or 1)
        code = max(code, _one_kind(chosen))
    return code


def _one_kind(chosen: argparse.Namespace) -> int:
    """Runs with the doubles, of one opening or of a spool, or on the software host."""
    with contextlib.ExitStack() as stack:
        if chosen.host and not chosen.image:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coattest-image-")))
            builder.build(ROOT, folder, profiles=["local"])
            chosen.image = folder / "image.local.eif"
        if chosen.jobs > 1 and chosen.seed is None:
            return _side_by_side(chosen)
        return _run(chosen)


def _run(chosen: argparse.Namespace) -> int:
    """The runs in this process."""
    seeds = range(chosen.first, chosen.first + chosen.runs) if chosen.seed is None else [chosen.seed]
    started, failed = time.monotonic(), []
    endings: collections.Counter[str] = collections.Counter()
    kills: collections.Counter[str] = collections.Counter()
    kind: Any = host_run if chosen.host else spool_run if chosen.spool else harness
    with host.world(chosen.image) if chosen.host else kind.world() as here:
        for seed in seeds:
            run, broken = kind.attempt(here, seed)
            if run.outcomes:
                endings[run.outcomes[0].kind] += 1
            if chosen.host:
                kills.update(f"{kill.victim} at {kill.kind}" for kill in run.fired)
            if broken:
                failed.append(seed)
                print(f"seed {seed}: {broken}", flush=True)
            if broken or chosen.seed is not None:
                print(host_run.describe(run) if chosen.host else invariants.describe(run), flush=True)
    ended = ", ".join(f"{count} {kind}" for kind, count in endings.most_common())
    print(f"{len(seeds)} runs in {time.monotonic() - started:.0f} s; the first under faults: {ended}")
    if kills:
        print("killed: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kills.items())))
    if failed:
        print(f"{len(failed)} broken; replay with --seed: {' '.join(map(str, failed))}")
    return 1 if failed else 0


def _side_by_side(chosen: argparse.Namespace) -> int:
    """The same runs in several processes, each with a world of its own."""
    each = -(-chosen.runs // chosen.jobs)
    command = [sys.executable, "-m", "faults"]
    command += ["--host", "--image", str(chosen.image)] if chosen.host else []
    command += ["--spool"] if chosen.spool else []
    running = [
        subprocess.Popen(
            [*command, "--first", str(start), "--runs", str(min(each, chosen.first + chosen.runs - start))]
        )
        for start in range(chosen.first, chosen.first + chosen.runs, each)
    ]
    return max(abs(process.wait()) for process in running)


if __name__ == "__main__":
    sys.exit(main())
