"""``python -m ceremony``: ceremonies, each in the order that its seed gives; ``--seed N`` replays one."""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from ceremony.story import whole_story
from coattest_verify.signatures.keys import PublicKey

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where all folders are: whatever a member writes waits for the disk elsewhere."""


def main() -> int:
    """Exit code: 0 when every ceremony ended as it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--git-runs", type=int, default=1, help="of them, so many push with git itself")
    parser.add_argument("--other-tool", action="store_true", help="have aics-tlog read each log, too")
    chosen = parser.parse_args()
    if chosen.seed is None and (chosen.runs < 1 or chosen.jobs < 1):
        parser.error("--runs and --jobs are at least 1: no run shows nothing")
    seeds = range(chosen.first, chosen.first + chosen.runs) if chosen.seed is None else [chosen.seed]
    started, failed, lost, commits, entries = time.monotonic(), [], 0, 0, 0
    tempfile.tempdir = MEMORY
    # A member's round looks at everything again, and at little that is new: the same key says the same.
    PublicKey.verifies = functools.cache(PublicKey.verifies)  # type: ignore[method-assign]
    PublicKey.from_text = functools.cache(PublicKey.from_text)  # type: ignore[method-assign]
    whole = functools.partial(_whole, git_seeds=seeds[: chosen.git_runs], other_tool=chosen.other_tool)
    with ProcessPoolExecutor(chosen.jobs, multiprocessing.get_context("fork")) as pool:
        for seed, found in zip(seeds, pool.map(whole, seeds), strict=True):
            if found is None:
                failed.append(seed)
                continue
            lost, commits, entries = lost + found[0], commits + found[1], entries + found[2]
    print(
        f"{len(seeds)} ceremonies, {len(failed)} failed; {commits} commits, {lost} pushes lost and made"
        f" again; {time.monotonic() - started:.0f} s"
    )
    if chosen.other_tool:
        print(f"aics-tlog accepts {entries} entries, their logs' signatures and cosignatures")
    for seed in failed:
        print(f"failed: tox -e ceremony -- --seed {seed}")
    return 1 if failed or not lost or (chosen.other_tool and not entries) else 0


def _whole(seed: int, *, git_seeds: Sequence[int], other_tool: bool) -> tuple[int, int, int] | None:
    """A ceremony: pushes lost, commits, entries that the other tool accepts; None when it failed."""
    with tempfile.TemporaryDirectory(prefix="coattest-ceremony-") as folder:
        try:
            table = whole_story(Path(folder), seed, real=seed in git_seeds)
            if not other_tool:
                return table.lost, len(table.commits()), 0
            from ceremony import other_tool as other

            return table.lost, len(table.commits()), other.check(table)
        except Exception:
            traceback.print_exc()
            return None


if __name__ == "__main__":
    sys.exit(main())
