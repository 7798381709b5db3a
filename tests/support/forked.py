"""Commands as processes forked from one that has imported everything: most of a short command is imports.

with forking(["coattest_parent.cli.deploy"], clients=["ec2"]) as forks:
    subprocess.run([*forks.command("coattest_parent.cli.deploy:main"), "status", ...], env=..., cwd=...)

``own("verify")`` is the same for the project's own programs, by one server for all tests of a process.

The command gets the folder, the environment (the whole of it), the three streams and the arguments that its
caller gave ``subprocess``, who sees its exit code or the signal that ended it. What it reads of the
environment while it is imported it has from the server: where that is what a test is about, it is started as
always. ``forked_client.py`` is what the caller starts.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
CLIENT = Path(__file__).with_name("forked_client.py")
PIECE = 64 * 1024
_SET: dict[str, str] = {}
"""Variables that modules set when they are imported: in every command, as if it had imported them."""


PROGRAMS = {
    "auction": "coattest_parent.cli.auction:main",
    "deploy-from-attestation": "coattest_parent.cli.deploy:main",
    "eif": "coattest_build.entry:main",
    "verify": "coattest_verify.cli:main",
}


@dataclass(frozen=True, slots=True)
class Forks:
    """A server that forks commands, at a socket."""

    address: Path

    def command(self, call: str, name: str = "") -> tuple[str, ...]:
        """What to start in place of a console script whose entry point is ``call`` (``module:function``)."""
        return (sys.executable, "-I", "-S", str(CLIENT), str(self.address), call, name or call)


@contextlib.contextmanager
def forking(modules: Sequence[str], clients: Sequence[str] = ()) -> Iterator[Forks]:
    """A server for the length of the block; it has imported ``modules`` and read boto3's models of
    ``clients``.
    """
    with tempfile.TemporaryDirectory(prefix="forks-") as folder:
        address = Path(folder) / "socket"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(address))
            listening.listen(64)
            server = subprocess.Popen(
                [sys.executable, "-m", "support.forked", str(listening.fileno()), *modules, "--", *clients],
                stdin=subprocess.PIPE,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": folder,
                    "LANG": "C.UTF-8",
                    "PYTHONPATH": str(TESTS),
                    "AWS_EC2_METADATA_DISABLED": "true",
                },
                cwd=folder,
                pass_fds=[listening.fileno()],
            )
        try:
            yield Forks(address)
        finally:
            assert server.stdin
            server.stdin.close()
            server.wait()


def own(program: str) -> tuple[str, ...]:
    """What to start in place of one of the project's programs."""
    return _own().command(PROGRAMS[program], program)


@functools.cache
def _own() -> Forks:
    """A server with every module of the programs' commands, for as long as this process lives."""
    lasting = contextlib.ExitStack()
    atexit.register(lasting.close)
    modules = [
        found.name
        for call in PROGRAMS.values()
        for package in [importlib.import_module(f"{call.partition('.')[0]}.cli")]
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return lasting.enter_context(forking([*modules, "coattest_build.entry"], ("kms", "s3", "sts")))


def _import(modules: Sequence[str], clients: Sequence[str]) -> None:
    """All that the commands would import and parse."""
    before = dict(os.environ)
    for name in modules:
        importlib.import_module(name)
    _SET.update({name: value for name, value in os.environ.items() if name not in before})
    if clients:
        import boto3
        import botocore.session

        botocore.session.create_loader = functools.lru_cache(botocore.session.create_loader)
        for name in clients:
            boto3.Session("a", "b", region_name="eu-central-1").client(name)
    # A fork has one thread: what another one held would stay held.
    assert threading.active_count() == 1


def _serve(listening: socket.socket) -> None:
    """Fork for each caller until stdin ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listening, 0], [], [])
        if 0 in ready:
            return
        caller = listening.accept()[0]
        if os.fork() == 0:
            listening.close()
            _attend(caller)
        caller.close()


def _attend(caller: socket.socket) -> None:
    """In a process for this caller: fork the command, tell how it ends; it does not outlive its caller."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, streams, _, _ = socket.recv_fds(caller, PIECE, 3)
    while not text.endswith(b"\n"):
        text += caller.recv(PIECE)
    request = json.loads(text)
    child = os.fork()
    if child == 0:
        caller.close()
        _become(request, streams)
    for stream in streams:
        os.close(stream)
    handle = os.pidfd_open(child)
    ready, _, _ = select.select([caller, handle], [], [])
    if handle not in ready:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        caller.sendall(str(code).encode())
    os._exit(0)


def _become(request: Mapping[str, Any], streams: Sequence[int]) -> None:
    """Be the command: its streams, folder, environment and arguments, and its exit code."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, max(*streams, 64) + 1)
    # New ones: those of the server know whether it could seek in what it was given.
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update({**_SET, **request["environment"]})
    sys.argv = [request["name"], *request["arguments"]]
    module, _, function = request["call"].partition(":")
    code: int | str | None = 1
    try:
        code = getattr(importlib.import_module(module), function)()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    chosen = sys.argv[2:]
    _import(chosen[: chosen.index("--")], chosen[chosen.index("--") + 1 :])
    _serve(socket.socket(fileno=int(sys.argv[1])))
