"""``python -m ceremony``: ceremonies, each in the order that its seed gives; ``--seed N`` replays one."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

from ceremony.story import whole_story


def main() -> int:
    """Exit code: 0 when every ceremony ended as it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--git-runs", type=int, default=1, help="of them, so many push with git itself")
    parser.add_argument("--other-tool", action="store_true", help="have aics-tlog read each log, too")
    chosen = parser.parse_args()
    if chosen.seed is None and chosen.runs < 1:
        parser.error("--runs is at least 1: no run shows nothing")
    seeds = range(chosen.first, chosen.first + chosen.runs) if chosen.seed is None else [chosen.seed]
    started, failed, lost, commits, entries = time.monotonic(), [], 0, 0, 0
    for count, seed in enumerate(seeds):
        with tempfile.TemporaryDirectory(prefix="coattest-ceremony-") as folder:
            try:
                table = whole_story(Path(folder), seed, real=count < chosen.git_runs)
                if chosen.other_tool:
                    from ceremony import other_tool

                    entries += other_tool.check(table)
            except Exception:
                traceback.print_exc()
                failed.append(seed)
                continue
            lost += table.lost
            commits += len(table.commits())
    print(
        f"{len(seeds)} ceremonies, {len(failed)} failed; {commits} commits, {lost} pushes lost and made"
        f" again; {time.monotonic() - started:.0f} s"
    )
    if chosen.other_tool:
        print(f"aics-tlog accepts {entries} entries, their logs' signatures and cosignatures")
    for seed in failed:
        print(f"failed: tox -e ceremony -- --seed {seed}")
    return 1 if failed or not lost or (chosen.other_tool and not entries) else 0


if __name__ == "__main__":
    sys.exit(main())
