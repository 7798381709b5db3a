"""Can the parent tell from the time of one opening what was bid? The enclave's program as a process.

python bench/bench_timing.py [--json] [--openings N] [--lots N] [--only WORD]

There are auctions with the same winners and prices whose amounts are not the same: eight buyers, of whom
one wins everything and six lose with nothing, with amounts in rising or falling order, or shuffled; and under
first price a buyer who bids on all lots or on none. They are opened in random order. Of each opening the
parent's seat sees: the time from "deciding" to the first frame of the result, and what a second
connection sees that asks "alive" all the time: its longest wait, how many answers came before the result, the
mean of the others. For each pair of auctions the best classifier is a feature with a threshold and a side,
chosen on one half of the openings and judged on the other, both ways round: 0.5 is guessing, and with 200
openings of each the standard error is 0.025.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from coattest_enclave.protocol import wire
from coattest_verify.auction import messages
from support.enclave.fake_kms import HOST, FakeKms, make_ca, make_leaf
from support.enclave.running_enclave import Auction, Enclave, running

GOAL = 0.55
BUYERS = 8
FEATURES = ("deciding to result", "longest wait for alive", "answers to alive", "mean wait for alive")
STEP = 1_000_000
Row = list[int]


def amounts(lots: int) -> dict[str, dict[str, list[Row]]]:
    """For each rule, the auctions to tell apart: a row of amounts per buyer."""
    rnd = random.Random(5)  # noqa: S311 - amounts to tell apart, no secrets
    steps = [STEP * (index + 1) for index in range(BUYERS - 2)]
    shuffled = [list(row) for row in zip(*(rnd.sample(steps, len(steps)) for _ in range(lots)), strict=True)]
    top = [[8 * STEP] * lots, [9 * STEP] * lots]
    losers = {
        "losers bid nothing": [[0] * lots for _ in steps],
        "losers rise": [[step] * lots for step in steps],
        "losers fall": [[step] * lots for step in reversed(steps)],
        "losers shuffled": shuffled,
    }
    whole = {what: [*rows, *top] for what, rows in losers.items()}
    others = [[9 * STEP] * lots, *[[STEP] * lots] * (BUYERS - 2)]
    one = [[*others, own] for own in ([0] * lots, [2 * STEP] * lots)]
    return {
        messages.SECOND_PRICE: whole,
        messages.FIRST_PRICE: {**whole, "a buyer bids on none": one[0], "a buyer bids on all": one[1]},
    }


class Poller:
    """The second connection: it asks "alive" until it is told to stop."""

    def __init__(self, program: Enclave) -> None:
        self.answers: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._stream = program.connect()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        with self._stream, contextlib.suppress(OSError):
            while not self._stop.is_set():
                asked = time.perf_counter()
                wire.write_frame(self._stream, wire.Frame(1, "alive", {"nonce": bytes(16)}))
                wire.read_frame(self._stream)
                self.answers.append((asked, time.perf_counter()))

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join()


def seen(program: Enclave, book: Auction) -> tuple[list[float], bytes, bool]:
    """What the parent sees of an opening: a value per feature, the result, whether a tick was overrun."""
    poller = Poller(program)
    overrun, result, decided, first = False, b"", 0.0, 0.0
    with program.connect() as stream:
        sender = threading.Thread(target=send, args=(stream, list(book.open_frames())), daemon=True)
        sender.start()
        while True:
            frame = wire.read_frame(stream)
            now = time.perf_counter()
            assert frame is not None
            if frame.type == "progress":
                overrun |= "ticks" in frame.body["stage"]
                decided = now if frame.body["stage"] == "deciding" else decided
                continue
            first = first or now
            result += frame.body["chunk"] if frame.type == "data" else b""
            if frame.type != "data":
                break
        sender.join()
    poller.stop()
    assert frame.type == "result", frame
    waits = [(asked, got - asked) for asked, got in poller.answers if got >= decided - 0.2]
    before = [wait for asked, wait in waits if asked + wait <= first]
    longest = max(wait for _, wait in waits)
    others = [wait for _, wait in waits if wait != longest] or [0.0]
    features = [first - decided, longest, float(len(before)), statistics.fmean(others)]
    return features, result or frame.body["result"], overrun


def send(stream: object, frames: Sequence[wire.Frame]) -> None:
    """Send frames."""
    for frame in frames:
        wire.write_frame(stream, frame)  # type: ignore[arg-type]


def accuracy(left: list[list[float]], right: list[list[float]]) -> float:
    """How often the best classifier is right, chosen on one half and judged on the other."""
    halves = [(left[::2], right[::2]), (left[1::2], right[1::2])]
    right_ones = total = 0
    for learnt, judged in (halves, halves[::-1]):
        rule = best_rule(*learnt)
        for side, rows in enumerate(judged):
            right_ones += sum(rule(row) is bool(side) for row in rows)
            total += len(rows)
    return right_ones / total


def best_rule(left: list[list[float]], right: list[list[float]]) -> Callable[[list[float]], bool]:
    """The threshold on one feature that tells most of these apart: true means the right ones."""
    best, found = -1, (0, 0.0, True)
    for feature in range(len(FEATURES)):
        values = sorted({row[feature] for row in (*left, *right)})
        for threshold in values:
            above = sum(row[feature] > threshold for row in right) + sum(
                row[feature] <= threshold for row in left
            )
            for score, side in ((above, True), (len(left) + len(right) - above, False)):
                if score > best:
                    best, found = score, (feature, threshold, side)
    feature, threshold, side = found
    return lambda row: (row[feature] > threshold) is side


def measure(rule: str, lots: int, openings: int) -> dict[str, object]:
    """The best accuracy for each pair of auctions under one rule."""
    directory = Path(tempfile.mkdtemp(prefix="enc-"))
    authority = make_ca()
    features: dict[str, list[list[float]]] = {}
    results: dict[str, bytes] = {}
    overruns = 0
    try:
        with (
            FakeKms(make_leaf(*authority, HOST, directory)) as kms,
            running(authority, directory, kms) as program,
        ):
            names = [f"b{index}" for index in range(BUYERS)]
            books = {
                what: Auction.make(dict(zip(names, rows, strict=True)), rule=rule).encrypt(kms)
                for what, rows in amounts(lots)[rule].items()
            }
            features = {what: [] for what in books}
            seen(program, next(iter(books.values())))
            for _ in range(openings):
                for what, book in random.sample(list(books.items()), len(books)):
                    values, result, overrun = seen(program, book)
                    features[what].append(values)
                    results[what] = result
                    overruns += overrun
    finally:
        shutil.rmtree(directory)
    outcomes = {what: messages.Result.decode(result).lots for what, result in results.items()}
    pairs = {
        f"{one} / {other}": round(accuracy(features[one], features[other]), 3)
        for one, other in itertools.combinations(features, 2)
        if outcomes[one].winners == outcomes[other].winners and outcomes[one].prices == outcomes[other].prices
    }
    return {"pairs": pairs, "worst": max(pairs.values()), "overruns": overruns}


def main() -> None:
    """Print the figures, or with --json one document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--openings", type=int, default=200, help="of each auction")
    parser.add_argument("--lots", type=int, default=100_000)
    parser.add_argument("--only", choices=sorted(messages.DISCLOSURE), help="one rule")
    options = parser.parse_args()
    rules = [options.only] if options.only else sorted(messages.DISCLOSURE)
    document = {
        "benchmark": "timing",
        "lots": options.lots,
        "openings": options.openings,
        "rules": {rule: measure(rule, options.lots, options.openings) for rule in rules},
        "goal": {"accuracy": GOAL},
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }
    if options.json:
        print(json.dumps(document, indent=2))
        return
    print(f"Python {document['python']}, {os.cpu_count()} cores, load {document['load']:.1f}")
    for rule, found in document["rules"].items():  # type: ignore[attr-defined]
        print(f"{rule}, {options.lots} lots, {options.openings} openings each, {found['overruns']} overruns")
        for pair, value in found["pairs"].items():
            print(f"  {pair:<48} {value:.3f}   goal at most {GOAL}")


if __name__ == "__main__":
    main()
