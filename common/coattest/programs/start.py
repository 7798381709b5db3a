"""Starts programs: a fixed list of arguments, a neutral folder, an environment from nothing, limits."""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from coattest.errors import EnvironmentFailure
from coattest.programs.environment import program_environment

NEUTRAL = Path("/")
"""The working folder of a program: only root can put anything there."""

_LIMIT = Path(__file__).with_name("limit.py")
_PIECE = 64 * 1024
_END_SECONDS = 30
"""Longer than ``limit.py`` takes at most."""


@dataclass(frozen=True, slots=True)
class ProgramLimits:
    """What a program may use.

    ``seconds`` of time, ``output`` bytes of stdout and of stderr, ``memory`` bytes of each process, ``file``
    bytes of each file that it writes, ``processes`` and threads beside those that the user runs already. The
    kernel does not hold root to ``processes`` (setrlimit(2), RLIMIT_NPROC).
    """

    seconds: float = 300.0
    output: int = 16 * 1024 * 1024
    memory: int = 4 * 1024**3
    file: int = 2 * 1024**3
    processes: int = 256


@dataclass(frozen=True, slots=True)
class EndedProgram:
    """How a program ended: its exit code (-n for signal n), and what it wrote."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def said(self) -> str:
        """Its stderr as text; what is not UTF-8 is replaced."""
        return self.stderr.decode("utf-8", "replace")


def start_program(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path = NEUTRAL,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    pass_fds: Sequence[int] = (),
    session: bool = True,
    umask: int = -1,
) -> subprocess.Popen[bytes]:
    """Start a program without limits: a service, or a program that sets its own limits.

    ``argv[0]`` is an absolute path; ``environment`` is the whole one (`program_environment`); ``folder`` is
    of our own making. Raises EnvironmentFailure (``no-program``) when it cannot be executed.
    """
    if not Path(argv[0]).is_absolute() or any("\0" in word for word in argv):
        raise ValueError("a program is started by its absolute path, with arguments without NUL")
    try:
        return subprocess.Popen(
            list(argv),
            cwd=folder,
            env=dict(program_environment() if environment is None else environment),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            start_new_session=session,
            umask=umask,
        )
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise EnvironmentFailure(
            f"cannot be started: {error.strerror}", where=argv[0], code="no-program"
        ) from error


def run_program(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    limits: ProgramLimits | None = None,
    folder: Path = NEUTRAL,
    show_errors: bool = False,
    leaves_service: bool = False,
    umask: int = -1,
) -> EndedProgram:
    """Run a program to its end, and end what it left running.

    With ``show_errors`` its stderr is ours. A program that ``leaves_service`` starts something that is to go
    on, such as an enclave: of the limits only time and output hold then, because the others would pass on to
    it. Raises EnvironmentFailure: ``no-program``, ``program-time`` when it takes longer than its time,
    ``program-output`` when it writes more than its limit.
    """
    bounds = limits or ProgramLimits()
    if not os.access(argv[0], os.X_OK):
        raise EnvironmentFailure("there is no such program", where=argv[0], code="no-program")
    process = start_program(
        argv if leaves_service else _limited(argv, bounds),
        environment=environment,
        folder=folder,
        stdout=subprocess.PIPE,
        stderr=None if show_errors else subprocess.PIPE,
        umask=umask,
    )
    name = Path(argv[0]).name
    try:
        written = _read(process, bounds, name, keeps_service=leaves_service)
    except BaseException:
        _end(process, supervised=not leaves_service)
        raise
    finally:
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
        code = process.wait()
    return EndedProgram(code, *written)


def _limited(argv: Sequence[str], bounds: ProgramLimits) -> list[str]:
    """The command under ``limit.py``, which ends it, and all that it started, when this process is killed."""
    values = {
        "parent": os.getpid(),
        "cpu": math.ceil(bounds.seconds) * (os.cpu_count() or 1),
        "memory": bounds.memory,
        "file": bounds.file,
        "processes": bounds.processes,
    }
    return [sys.executable, "-I", "-S", str(_LIMIT), json.dumps(values), *argv]


def _end(process: subprocess.Popen[bytes], *, supervised: bool) -> None:
    """End the program, and what it started: ``limit.py`` finds that in other sessions, too."""
    if supervised and process.returncode is None:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)  # the program may have stopped it
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    _end_session(process)


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """Kill all of the program's group. It has not been waited for yet, so no other group has its number."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _read(
    process: subprocess.Popen[bytes], bounds: ProgramLimits, name: str, *, keeps_service: bool
) -> tuple[bytes, bytes]:
    """What the program writes, until it has ended and its pipes are closed.

    Unless ``keeps_service``, what it left running is ended with it.
    """
    deadline = time.monotonic() + bounds.seconds
    streams = {stream: bytearray() for stream in (process.stdout, process.stderr) if stream}
    handle = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            for stream in streams:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise EnvironmentFailure(
                        f"did not end within {bounds.seconds:g} s", where=name, code="program-time"
                    )
                for key, _ in selector.select(left):
                    if key.fileobj == handle:
                        selector.unregister(handle)
                        if not keeps_service:
                            _end_session(process)  # what it left behind would keep the pipes open
                        continue
                    piece = os.read(key.fd, _PIECE)
                    output = streams[key.fileobj]  # type: ignore[index]  # the other file is the handle
                    output += piece
                    if not piece:
                        selector.unregister(key.fileobj)
                    if len(output) > bounds.output:
                        raise EnvironmentFailure(
                            f"wrote more than {bounds.output} bytes", where=name, code="program-output"
                        )
    finally:
        os.close(handle)
    found = [bytes(streams[stream]) if stream else b"" for stream in (process.stdout, process.stderr)]
    return found[0], found[1]
