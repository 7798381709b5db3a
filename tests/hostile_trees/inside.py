"""Runs as an ordinary user in a mount namespace: makes trees, runs commands, looks at the canaries."""

from __future__ import annotations

import argparse
import heapq
import importlib
import json
import os
import random
import shlex
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from coattest.command import PROGRAMS
from coattest_build.sandbox.leftovers import remove_tree
from hostile_trees.canaries import Canaries, State, Tree
from hostile_trees.commands import COMMANDS, NOT_TRIED
from hostile_trees.trees import Maker
from hostile_trees.trial import Ended, Work, import_all

FRESH = 40
"""One command of so many starts an interpreter of its own: sys.path, .pth files, what it imports when."""
SHOWN = 5
"""How many of the slowest and of the largest commands are named at the end."""

REPORTS = frozenset({"auction serve", "verify inputs"})
"""Commands that do not end in one line: a service's log, and a verdict with all its findings."""

VERDICTS = {"verify quorum": b"no decision: ", "verify fleet": b" [fleet-"}
"""Commands whose exit code 3 says "undecided", with every reason, and how; an error is one line there too."""

WRITES = {
    "verify commit": ("attestations", "out"),
    "verify log append": ("attestations",),
    "verify log cosign": ("attestations",),
    "verify members countersign": ("attestations",),
    "verify members enroll": ("attestations",),
    "verify members init": ("attestations",),
    "verify release publish": ("attestations",),
    "verify release revoke": ("attestations",),
    "verify release review": ("attestations",),
    "verify release unrevoke": ("attestations",),
    "verify release excuse": ("attestations",),
    "verify release withdraw": ("attestations",),
    "verify sign-pcrs": ("attestations",),
    "verify rebuild": ("out",),
    "verify inputs": ("out",),
    "eif build": ("out",),
    "eif lock": ("build/image.lock", "build"),
    "auction serve": ("files/spool",),
    "deploy-from-attestation apply": ("files/state",),
    "deploy-from-attestation plan": ("files/state",),
    "deploy-from-attestation destroy": ("files/state",),
    "deploy-from-attestation status": ("files/state",),
}
"""Where in the checkout a command may write: the output folder that it was given, or the one by default."""


def changed(before: State, after: State, tree: Path, command: str) -> list[str]:
    """What a command changed in the checkout that it may not."""
    allowed = [f"{tree}/{name}" for name in WRITES.get(command, ())]
    different = [
        name for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
        and not any(name == place or name.startswith(f"{place}/") for place in allowed)
    ]  # fmt: skip
    return [f"changed {name!a}" for name in different[:3]]


def uncovered() -> list[str]:
    """Commands that take a path and are neither tried nor explained, from the parser."""
    found = []

    def walk(command: click.Command, context: click.Context, name: str) -> None:
        if isinstance(command, click.Group):
            for verb in command.list_commands(context):
                below = command.get_command(context, verb)
                assert below is not None
                walk(below, click.Context(below, parent=context), f"{name} {verb}".strip())
        elif any(isinstance(parameter.type, click.Path) for parameter in command.params):
            found.append(name)

    for program, place in PROGRAMS.items():
        module, attribute = place.split(":")
        command = getattr(importlib.import_module(module), attribute)
        walk(command, click.Context(command), program)
    return sorted({*found, "verify audit"} - {*COMMANDS, *NOT_TRIED})


@dataclass(slots=True)
class Summary:
    """What several trees came to; `Summary(**json)` is what another process had."""

    trees: int = 0
    fresh: int = 0
    wrong: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    largest: list[tuple[int, str]] = field(default_factory=list)

    def count(self, ended: Ended, what: str, *, fresh: bool, wrong: bool) -> None:
        """One more command."""
        self.add(
            Summary(
                fresh=fresh,
                wrong=wrong,
                codes={str(ended.code): 1},
                slowest=[(ended.seconds, what)],
                largest=[(ended.memory, what)],
            )
        )

    def add(self, other: Summary) -> None:
        """All of another's too."""
        self.trees += other.trees
        self.fresh += other.fresh
        self.wrong += other.wrong
        for code, count in other.codes.items():
            self.codes[code] = self.codes.get(code, 0) + count
        # From JSON they are lists.
        self.slowest = heapq.nlargest(SHOWN, [*self.slowest, *((took, what) for took, what in other.slowest)])
        self.largest = heapq.nlargest(SHOWN, [*self.largest, *((took, what) for took, what in other.largest)])

    @property
    def commands(self) -> int:
        """How many were run."""
        return sum(self.codes.values())

    def lines(self) -> list[str]:
        """For people."""
        shown = ", ".join(f"{code}: {count}" for code, count in sorted(self.codes.items()))
        return [
            f"{self.trees} trees, {self.commands} commands ({self.fresh} with an interpreter of their own), "
            f"exit codes {shown}; {self.wrong} wrong",
            *(f"  slow: {seconds:5.1f} s  {what}" for seconds, what in self.slowest),
            *(f"  large: {memory >> 20:4} MB  {what}" for memory, what in self.largest),
        ]


class Run:
    """Tree after tree, in one folder."""

    def __init__(self, work: Work, canaries: Canaries, *, seed: str, only: str, verbose: bool) -> None:
        self.work, self.canaries, self.summary = work, canaries, Summary()
        self.seed, self.only, self.verbose = seed, only, verbose

    def make(self, number: int) -> list[str]:
        """Make a tree, in a process of its own, whose memory is not ours; returns what is odd about it."""
        for place in (self.work.tree, self.work.base / "made"):
            if place.exists():
                remove_tree(place)
        (self.work.base / "made").mkdir()
        said = self.work.base / "done.json"
        child = os.fork()
        if child == 0:
            try:
                maker = Maker(self.work.tree, f"{self.seed}-{number}", self.work.canaries)
                said.write_text(json.dumps(maker.make(self.work.template)))
            except BaseException as error:
                os.write(2, f"tree {number}: {error!r}\n".encode())
                os._exit(1)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise RuntimeError(f"tree {number} could not be made")
        self.canaries.touched()
        done: list[str] = json.loads(said.read_text())
        return done

    def go_through(self, number: int) -> None:
        """Every command on one tree."""
        done, work = self.make(number), self.work
        tree = Tree(work.tree)
        for command, invocations in COMMANDS.items():
            if not command.startswith(self.only):
                continue
            for index, text in enumerate(invocations):
                out = work.base / "made" / f"{command.replace(' ', '-')}-{index}"
                words = shlex.split(
                    text.format(out=out, tree=work.tree, root=work.root, key=work.base / "tool/key.pem")
                )
                program, *verbs = command.split()
                fresh = random.Random(f"{self.seed}-{number}-{command}-{index}").random() * FRESH < 1
                ended = work.cli(program, [*verbs, *words], work.tree, fresh=fresh)
                wrong = [
                    *ended.wrong(program, reports=command in REPORTS, verdict=VERDICTS.get(command)),
                    *self.canaries.touched(),
                ]
                if fresh or not tree.quiet():
                    wrong += changed(tree.state, tree.look(), work.tree, command)
                self.summary.count(
                    ended, f"tree {number}: {command} {text}"[:160], fresh=fresh, wrong=bool(wrong)
                )
                if wrong or self.verbose:
                    print(f"tree {number} ({'; '.join(done)}): {command} {text}")
                    used = f"{ended.seconds:.1f} s, {ended.memory >> 20} MB{', fresh' * fresh}"
                    print(f"  exit {ended.code}, {used}: {', '.join(wrong)}")
                    for line in ascii(ended.err.decode(errors="replace")[-600:]).split("\\n"):
                        print(f"    {line}")
        if unseen := changed(tree.state, tree.look(), work.tree, ""):
            print(f"tree {number} ({'; '.join(done)}): {', '.join(unseen)}, unseen by inotify")
            self.summary.wrong += 1
        tree.close()
        self.summary.trees += 1


def main() -> int:
    """Exit code: 0 when no command did anything wrong on any tree."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--numbers", required=True, help="the trees' numbers, with commas")
    parser.add_argument("--root", required=True)
    parser.add_argument("--only", default="", help="only commands that begin so")
    parser.add_argument("--verbose", action="store_true")
    chosen = parser.parse_args()
    if missing := uncovered():
        print(f"not tried: {', '.join(missing)}")
        return 1
    import_all()
    work = Work(chosen.work, chosen.template, chosen.root)
    run = Run(work, work.prepare(), seed=chosen.seed, only=chosen.only, verbose=chosen.verbose)
    numbers, begun = [int(number) for number in chosen.numbers.split(",")], time.monotonic()
    for number in numbers:
        run.go_through(number)
        summary = run.summary
        done = f"{summary.trees} of {len(numbers)} trees, {summary.commands} commands"
        print(f"tree {number}: {done} in {time.monotonic() - begun:.0f} s, {summary.wrong} wrong")
        sys.stdout.flush()
        (chosen.work / "summary.json").write_text(json.dumps(asdict(summary)))
    return 1 if run.summary.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
