"""Runs a command in a root of its own: no network, no path of the host, no capability, own processes.

`coattest_build.sandbox.entry` does the set-up in a new process with system calls alone (no unshare, bwrap or
sudo), as root or as an ordinary user. Every step succeeds or raises: there is no weaker mode.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from coattest.errors import EnvironmentFailure
from coattest.files import write_plain
from coattest.programs.start import start_program

ENTRY = Path(__file__).with_name("entry.py")
STARTED = b"+"
"""As in entry.py, which is never imported."""
FORKS = 4096
"""The least RLIMIT_NPROC that is set: before Linux 5.14 it counts the user's processes outside, too."""
MAX_MADE = 1_000_000
"""Files that one step may make; the kernel's source has 80,000."""
WATCH_SECONDS = 0.5
END_SECONDS = 10
TAIL = 64 * 1024
"""Bytes of a step's output that are kept for an error."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the host that the sandbox sees at ``target`` (absolute), nosuid and nodev."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Lack:
    """System calls (by number) and address families that end with ``errno``, as where they are not built in.

    ``what`` they are is told once on the command's stderr when it is refused.
    """

    what: str
    errno: int
    calls: tuple[int, ...] = ()
    families: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step may use: seconds, and bytes of all its processes' memory, of what it says, of one file.

    ``disk`` bounds how many bytes the file system of the writable binds may lose while the step runs.
    ``tmpfs`` bounds /tmp.
    """

    seconds: float
    memory: int
    processes: int
    disk: int
    output: int
    file: int = 4 << 30
    tmpfs: int = 256 << 20

    def rlimits(self) -> dict[str, int]:
        """The kernel's own limits for each process (setrlimit(2)); those on all together are watched."""
        return {"AS": self.memory, "FSIZE": self.file, "NPROC": max(self.processes, FORKS), "NOFILE": 4096}


ISOLATION: Mapping[str, Any] = {
    "namespaces": ["user", "mount", "pid", "net", "ipc", "uts"],
    "no_new_privs": True,
    "capabilities": "none",
    "network": "none",
    "host_paths": "none",
    "vsock": "refused",
}
"""What a sandbox that started has, for the report of a build."""


def spawn(
    root: Path,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    binds: Sequence[Bind] = (),
    cwd: str = "/",
    network: bool = False,
    loopback: bool = False,
    writable_root: bool = False,
    tmpfs: Sequence[str] = (),
    proc: bool = True,
    uid: int = 0,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    pass_fds: Sequence[int] = (),
    limits: Limits | None = None,
    lacks: Sequence[Lack] = (),
) -> subprocess.Popen[bytes]:
    """Start ``argv`` inside ``root`` and return when it has been executed.

    ``argv[0]`` is an absolute path inside. ``root`` is read-only unless ``writable_root``; missing mount
    points are made in a tmpfs, not in ``root``. ``binds`` are mounted last, in order. ``/tmp`` and each of
    ``tmpfs`` are empty and writable. ``proc`` asks for a /proc with the sandbox's own processes; a host that
    forbids it gives an empty one. Everything inside ends when the returned process or this process ends.
    Without the host's ``network`` there is none; ``loopback`` brings 127.0.0.1 up in it.
    ``limits`` sets the kernel's limits on each process; `run_limited` watches the others. ``lacks`` is what
    a kernel lacks that this one has.

    The returned process's exit code is the command's, or 128 + n when signal n ended it.

    Raises EnvironmentFailure (``no-sandbox``) when a namespace, a mount or a privilege step is refused.
    """
    specification, spec_writer = os.pipe()
    status_reader, status = os.pipe()
    arguments = [sys.executable, "-I", "-S", str(ENTRY), str(specification), str(status)]
    spec = {
        "parent": os.getpid(),
        "root": str(Path(root).resolve(strict=True)),
        "argv": list(argv),
        "env": dict(env),
        "binds": [
            {"source": str(b.source.resolve(strict=True)), "target": b.target, "writable": b.writable}
            for b in binds
        ],
        "cwd": cwd,
        "network": network,
        "loopback": loopback,
        "writable_root": writable_root,
        "tmpfs": list(tmpfs),
        "proc": proc,
        "uid": uid,
        "pass_fds": list(pass_fds),
        "rlimits": limits.rlimits() if limits else {},
        "tmpfs_size": limits.tmpfs if limits else None,
        "lacks": [asdict(lack) for lack in lacks],
    }
    try:
        process = start_program(
            arguments,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(specification, status, *pass_fds),
            session=False,
        )
    finally:
        os.close(specification)
        os.close(status)
    try:
        with os.fdopen(spec_writer, "wb") as writer:
            writer.write(json.dumps(spec).encode())
    except BrokenPipeError:
        pass
    with os.fdopen(status_reader, "rb") as reader:
        _, started, failure = reader.read().rpartition(STARTED)
    if failure:
        process.wait()
        raise _unavailable(json.loads(failure))
    if not started:
        code = process.wait()
        raise EnvironmentFailure(
            f"the sandbox ended with exit code {code} before the command started", code="no-sandbox"
        )
    return process


def run_isolated(root: Path, argv: Sequence[str], *, env: Mapping[str, str], **options: Any) -> int:
    """Run ``argv`` until it ends and return its exit code; the options are those of `spawn`."""
    process = spawn(root, argv, env=env, **options)
    try:
        return process.wait()
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End what `spawn` started, and return when nothing inside is left that could write."""
    if process.poll() is not None:
        return
    process.terminate()  # it kills process 1 of the namespace and waits, which it cannot when it is killed
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_limited(
    root: Path,
    argv: Sequence[str],
    *,
    limits: Limits,
    env: Mapping[str, str],
    log: Path | None = None,
    heard: Callable[[bytes], None] = lambda _: None,
    **options: Any,
) -> tuple[int, str]:
    """Run ``argv`` until it ends; return its exit code and the end of what it said.

    All of what it says is added to ``log``, and ``heard`` gets each piece of it. The options are those of
    `spawn`. Raises EnvironmentFailure: ``sandbox-limit`` when it used more than ``limits``, and as `spawn`.
    """
    reader, writer = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, reader)
        file = stack.enter_context(write_plain(log, append=True)) if log else None
        try:
            process = spawn(root, argv, env=env, stdout=writer, stderr=writer, limits=limits, **options)
        finally:
            os.close(writer)
        stack.callback(end, process)
        watch = _Watch(
            process.pid, limits, [bind.source for bind in options.get("binds", ()) if bind.writable]
        )

        def take(data: bytes) -> None:
            heard(data)
            if file:
                file.write(data)

        said = _said(reader, process, watch, take)
        return process.wait(), said.decode(errors="replace")


def _said(
    reader: int, process: subprocess.Popen[bytes], watch: _Watch, take: Callable[[bytes], None]
) -> bytes:
    """The end of what a process says until it ends. Raises EnvironmentFailure (``sandbox-limit``)."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    end, heard, closed = b"", 0, False
    while not closed or process.poll() is None:
        if closed:
            time.sleep(WATCH_SECONDS / 4)
        elif poll.poll(WATCH_SECONDS * 1000):
            data = os.read(reader, 1 << 16)
            closed = not data
            heard += len(data)
            if heard > watch.limits.output:
                raise _over(f"wrote more than {watch.limits.output} bytes")
            take(data)
            end = (end + data)[-TAIL:]
        watch.check()
    return end


class _Watch:
    """Compares what a process and its descendants use with the limits, twice a second."""

    def __init__(self, pid: int, limits: Limits, folders: Sequence[Path]) -> None:
        self.limits = limits
        self._pid, self._folders = pid, [folder for folder in folders if folder.is_dir()]
        self._ends = time.monotonic() + limits.seconds
        self._next = 0.0
        self._free = [self._left(folder) for folder in self._folders]

    @staticmethod
    def _left(folder: Path) -> tuple[int, int]:
        found = os.statvfs(folder)
        return found.f_bfree * found.f_frsize, found.f_ffree

    def check(self) -> None:
        """Raise EnvironmentFailure (``sandbox-limit``) when a limit is passed."""
        now = time.monotonic()
        if now >= self._ends:
            raise _over(f"took more than {self.limits.seconds:g} seconds")
        if now < self._next:
            return
        self._next = now + WATCH_SECONDS
        count, memory = _used(self._pid)
        if count > self.limits.processes:
            raise _over(f"started more than {self.limits.processes} processes")
        if memory > self.limits.memory:
            raise _over(f"used more than {self.limits.memory} bytes of memory")
        for folder, (bytes_before, files_before) in zip(self._folders, self._free, strict=True):
            bytes_now, files_now = self._left(folder)
            if bytes_before - bytes_now > self.limits.disk:
                raise _over(f"used more than {self.limits.disk} bytes of disk")
            if files_before - files_now > MAX_MADE:
                raise _over(f"created more than {MAX_MADE} files")


def _used(pid: int) -> tuple[int, int]:
    """How many descendants a process has, and the bytes of memory that they hold (proc_pid_stat(5))."""
    children: dict[int, list[int]] = {}
    resident: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
                resident[int(folder.name)] = int(fields[21])
                children.setdefault(int(fields[1]), []).append(int(folder.name))
    pending, count, pages = [pid], 0, 0
    while pending:
        for child in children.get(pending.pop(), ()):
            pending.append(child)
            count += 1
            pages += resident[child]
    return count, pages * os.sysconf("SC_PAGE_SIZE")


def _over(what: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"a step in the sandbox {what}",
        hint="this image's source or inputs ask for too much: tell its publisher",
        code="sandbox-limit",
    )


def _unavailable(failure: Mapping[str, Any]) -> EnvironmentFailure:
    number = int(failure["errno"] or 0)
    what = f"the sandbox could not be set up: {failure['step']}: {os.strerror(number)}"
    hint = None
    if failure["step"] == "unshare" or failure["step"].endswith("_map") or number == errno.EPERM:
        hint = (
            "allow unprivileged user namespaces (sysctl user.max_user_namespaces, "
            "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns) "
            "or use the container route"
        )
    elif number == errno.ENOSPC:
        hint = "the limit of user namespaces is reached: raise sysctl user.max_user_namespaces"
    return EnvironmentFailure(what, hint=hint, code="no-sandbox")
