"""One command on a hostile checkout: started, measured, judged by itself.

Most are forked from this process, which has imported everything once; some start as a user starts them.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import coattest
import coattest_build
import coattest_parent
import coattest_verify
from coattest.command import PROGRAMS
from coattest.shell import run
from hostile_trees.canaries import Canaries

SECONDS = 60
MEMORY = 1 << 30
SECRET = b"CANARY-3f1c5b"
PRINTED_MAX = 1 << 20
LATER = (
    *("_strptime", "boto3.session", "botocore.config", "click._textwrap", "encodings.utf_8_sig"),
    *("pysequoia.packet", "rich.live", "rich.progress"),
)
"""What commands import when they come to it."""


def import_all() -> None:
    """Import what the commands need, once, and keep the collector from copying it into each of them."""
    for room in (coattest, coattest_build, coattest_verify, coattest_parent):
        for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            if not module.name.endswith("__main__") and module.name != "coattest_build.sandbox.entry":
                importlib.import_module(module.name)
    for name in LATER:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


@dataclass(slots=True)
class Work:
    """The folders of one run below /work."""

    base: Path
    template: Path
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

    def cli(self, program: str, words: list[str], folder: Path, *, fresh: bool = False) -> Ended:
        """Run a command in a process of its own, with an interpreter of its own when it is ``fresh``.

        Its memory is what it takes in all: a forked one begins with that of all modules of all commands.
        """
        said = [self.base / name for name in ("stdout", "stderr")]
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            self._become(program, words, folder, said, fresh)
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
        out, err = (path.open("rb").read(PRINTED_MAX) for path in said)
        code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - begun
        return Ended(code, out, err, seconds, used.ru_maxrss << 10, late)

    def _become(self, program: str, words: list[str], folder: Path, said: list[Path], fresh: bool) -> None:
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
            if fresh:
                os.execve(f"{sys.prefix}/bin/{program}", [program, *words], dict(os.environ))
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

    def wrong(self, program: str, *, reports: bool, verdict: bytes | None) -> Iterator[str]:
        """What a command must not do, whatever it is given; ``verdict`` is what it says when undecided."""
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
        undecided = verdict is not None and (
            verdict in self.err or all(part in self.out for part in (b'"decided": false', b'"reasons": ['))
        )
        if self.code == 3 and undecided:
            return
        if self.code in (2, 3) and not self.late and not reports:
            ours = [line for line in lines if line.startswith((f"{program}: ", "Error: "))]
            if len(ours) != 1 or lines[-1] != ours[0]:
                yield "not one line that says what is wrong"
