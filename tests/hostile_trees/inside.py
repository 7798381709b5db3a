"""Runs as an ordinary user in a mount namespace: makes trees, runs commands, looks at the canaries."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import pkgutil
import resource
import select
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

import coattest
import coattest_build
import coattest_parent
import coattest_verify
from coattest.command import PROGRAMS
from coattest.shell import run
from coattest_build.sandbox.leftovers import remove_tree
from hostile_trees.canaries import Canaries
from hostile_trees.commands import COMMANDS, NOT_TRIED
from hostile_trees.trees import Maker

SECONDS = 60
MEMORY = 1 << 30
SECRET = b"CANARY-3f1c5b"
PRINTED_MAX = 1 << 20


@dataclass(slots=True)
class Work:
    """The folders of one run below /work."""

    base: Path
    root: str
    canaries: list[Path] = field(default_factory=list)

    @property
    def tree(self) -> Path:
        """The checkout."""
        return self.base / "tree"

    def prepare(self) -> Canaries:
        """A home, a TMPDIR and somebody else's files, all with secrets."""
        home, temporary, others = (self.base / name for name in ("home", "tmp", "others"))
        for name in (
            "home/.bashrc", "home/.gitconfig", "home/.ssh/id_ed25519", "home/member.key", "home/mine.py",
            "home/private/.git/HEAD", "home/private/build/image.toml", "home/private/quorum.toml",
            "home/private/claim.json", "home/private/image.eif",
            "tmp/canary", "tmp/folder/canary", "others/secret.json", "others/notes/secret.pem",
        ):  # fmt: skip
            (self.base / name).parent.mkdir(parents=True, exist_ok=True)
            (self.base / name).write_bytes(SECRET + name.encode())
        self.canaries = [
            home,
            *sorted(home.rglob("*")),
            *sorted(temporary.rglob("*")),
            *sorted(others.rglob("*")),
        ]
        (self.base / "tool").mkdir()
        self.cli("verify", ["keygen", "--out", str(self.base / "tool/key.pem")], self.base)
        return Canaries([home, others], temporary)

    def environment(self) -> dict[str, str]:
        """Everything that a command finds in its environment."""
        tool = self.base / "tool"
        return {
            "HOME": str(self.base / "home"),
            "TMPDIR": str(self.base / "tmp"),
            "PATH": "/usr/bin:/bin",
            "COATTEST_CACHE": str(tool / "cache"),
            **{f"XDG_{name}_HOME": str(tool / name.lower()) for name in ("CACHE", "CONFIG", "DATA", "STATE")},
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SHARED_CREDENTIALS_FILE": str(tool / "credentials"),
            "AWS_CONFIG_FILE": str(tool / "config"),
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "LC_ALL": "C.UTF-8",
            "NO_COLOR": "1",
        }

    def cli(self, program: str, words: list[str], folder: Path) -> Ended:
        """Run a command in a process of its own; its memory and time are measured."""
        said = [self.base / name for name in ("stdout", "stderr")]
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            self._become(program, words, folder, said)
        watched = os.pidfd_open(child)
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        late = not poll.poll(SECONDS * 1000)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL) if late else None
        _, status, used = os.wait4(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.close(watched)
        printed = [path.open("rb").read(PRINTED_MAX) for path in said]
        return Ended(
            os.waitstatus_to_exitcode(status), *printed, time.monotonic() - begun, used.ru_maxrss << 10, late
        )

    def _become(self, program: str, words: list[str], folder: Path, said: list[Path]) -> None:
        try:
            os.setsid()
            os.environ.clear()
            os.environ.update(self.environment())
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            for number, handle in enumerate(
                (os.open(os.devnull, os.O_RDONLY), *(os.open(path, flags, 0o600) for path in said))
            ):
                os.dup2(handle, number)
            resource.setrlimit(resource.RLIMIT_AS, (4 * MEMORY, 4 * MEMORY))
            os.chdir(folder)
            sys.argv = [program, *words]
            module, attribute = PROGRAMS[program].split(":")
            run(getattr(importlib.import_module(module), attribute), program)
        except SystemExit as ended:
            os._exit(ended.code if isinstance(ended.code, int) else 1)
        except BaseException as error:
            os.write(2, f"escaped: {error!r}\n".encode())
        os._exit(99)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: bytes
    err: bytes
    seconds: float
    memory: int
    late: bool

    def wrong(self, program: str, *, reports: bool, verdict: bool) -> Iterator[str]:
        """What a command must not do, whatever it is given."""
        lines = self.err.decode(errors="replace").splitlines()
        if self.late:
            yield f"still ran after {SECONDS} s"
        elif self.code not in (0, 1, 2, 3):
            yield f"exit code {self.code}"
        if self.memory > MEMORY:
            yield f"{self.memory >> 20} MB of memory"
        if b"No such option" in self.err or b"Missing " in self.err:
            yield "not tried: its arguments are wrong"
        if b"Traceback" in self.err + self.out:
            yield "a traceback"
        if SECRET in self.out + self.err:
            yield "printed a canary's content"
        if any(byte < 32 and byte not in b"\n\t" for byte in self.err):
            yield "control characters on stderr"
        undecided = b"no decision: " in self.err or all(
            part in self.out for part in (b'"decided": false', b'"reasons": [')
        )
        if verdict and self.code == 3 and undecided:
            return
        if self.code in (2, 3) and not self.late and not reports:
            ours = [line for line in lines if line.startswith((f"{program}: ", "Error: "))]
            if len(ours) != 1 or lines[-1] != ours[0]:
                yield "not one line that says what is wrong"


def state(tree: Path) -> dict[str, tuple[int, int, int, int]]:
    """What is in a tree, without opening any file."""
    found = {}
    pending = [os.fsencode(tree)]
    while pending:
        at = pending.pop()
        if at.count(b"/") > 90:
            continue
        try:
            entries = list(os.scandir(at))
        except OSError:
            continue
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            found[os.fsdecode(entry.path)] = (
                status.st_mode,
                status.st_ino,
                status.st_size,
                status.st_mtime_ns,
            )
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
    return found


REPORTS = frozenset({"auction serve", "verify inputs"})
"""Commands that do not end in one line: a service's log, and a verdict with all its findings."""

VERDICTS = frozenset({"verify quorum"})
"""Commands whose exit code 3 says "undecided", with every reason; an error is one line there too."""

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


def changed(
    before: dict[str, tuple[int, int, int, int]],
    after: dict[str, tuple[int, int, int, int]],
    tree: Path,
    command: str,
) -> list[str]:
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


def main() -> int:
    """Exit code: 0 when no command did anything wrong on any tree."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--numbers", required=True, help="the trees' numbers, with commas")
    parser.add_argument("--root", required=True)
    parser.add_argument("--only", help="only commands that begin so")
    parser.add_argument("--verbose", action="store_true")
    chosen = parser.parse_args()
    if missing := uncovered():
        print(f"not tried: {', '.join(missing)}")
        return 1
    for room in (coattest, coattest_build, coattest_verify, coattest_parent):
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            if not module.name.endswith("__main__") and module.name != "coattest_build.sandbox.entry":
                importlib.import_module(module.name)  # once, not in each of 30,000 processes
    work = Work(chosen.work, chosen.root)
    canaries = work.prepare()
    codes: Counter[int] = Counter()
    failures, slowest, largest = 0, 0.0, 0
    for number in map(int, chosen.numbers.split(",")):
        for place in (work.tree, work.base / "made"):
            if place.exists():
                remove_tree(place)
        (work.base / "made").mkdir()
        maker = Maker(work.tree, f"{chosen.seed}-{number}", work.canaries)
        done = maker.make(work.base / "template")
        canaries.touched()
        before = state(work.tree)
        for command, invocations in COMMANDS.items():
            if chosen.only and not command.startswith(chosen.only):
                continue
            for index, text in enumerate(invocations):
                out = work.base / "made" / f"{command.replace(' ', '-')}-{index}"
                words = shlex.split(
                    text.format(out=out, tree=work.tree, root=work.root, key=work.base / "tool/key.pem")
                )
                program, *verbs = command.split()
                ended = work.cli(program, [*verbs, *words], work.tree)
                after = state(work.tree)
                wrong = [
                    *ended.wrong(program, reports=command in REPORTS, verdict=command in VERDICTS),
                    *canaries.touched(),
                    *changed(before, after, work.tree, command),
                ]
                before = after
                codes[ended.code] += 1
                slowest, largest = max(slowest, ended.seconds), max(largest, ended.memory)
                if wrong or chosen.verbose:
                    failures += bool(wrong)
                    print(f"tree {number} ({'; '.join(done)}): {command} {text}")
                    used = f"{ended.seconds:.1f} s, {ended.memory >> 20} MB"
                    print(f"  exit {ended.code}, {used}: {', '.join(wrong)}")
                    for line in ascii(ended.err.decode(errors="replace")[-600:]).split("\\n"):
                        print(f"    {line}")
                    sys.stdout.flush()
    shown = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
    print(
        f"{chosen.numbers.count(',') + 1} trees, {sum(codes.values())} commands, exit codes {shown}; "
        f"at most {slowest:.1f} s and {largest >> 20} MB; {failures} wrong"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
