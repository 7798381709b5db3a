"""Runs a command in a root of its own: no network, no path of the host, no capability, own processes.

`coattest_build.sandbox.entry` does the set-up in a new process with system calls alone (no unshare, bwrap or
sudo), as root or as an ordinary user. Every step succeeds or raises: there is no weaker mode.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from coattest.errors import EnvironmentFailure
from coattest.programs.start import start_program

ENTRY = Path(__file__).with_name("entry.py")
STARTED = b"+"
"""As in entry.py, which is never imported."""
NAMESPACES = ("user", "mount", "pid", "net", "ipc", "uts")


def read_result(path: Path, *, most: int, code: str) -> bytes:
    """The bytes of a regular file that a sandbox wrote; it could have made a link or a device instead.

    Raises EnvironmentFailure with ``code`` for those, and for more than ``most`` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise EnvironmentFailure(
            f"the sandbox left no such file: {error.strerror}", where=path.name, code=code
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise EnvironmentFailure(
                f"the sandbox left something that is not a file of at most {most} bytes",
                where=path.name,
                code=code,
            )
        return file.read()


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the host that the sandbox sees at ``target`` (absolute), nosuid and nodev."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Isolation:
    """What a sandbox that started has, for the report of a build."""

    namespaces: tuple[str, ...] = NAMESPACES
    no_new_privs: bool = True
    capabilities: str = "none"
    network: str = "none"
    host_paths: str = "none"
    vsock: str = "refused"

    def to_json(self) -> dict[str, Any]:
        """Its object in the report."""
        return {
            "namespaces": list(self.namespaces),
            "no_new_privs": self.no_new_privs,
            "capabilities": self.capabilities,
            "network": self.network,
            "host_paths": self.host_paths,
            "vsock": self.vsock,
        }


def spawn(
    root: Path,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    binds: Sequence[Bind] = (),
    cwd: str = "/",
    network: bool = False,
    writable_root: bool = False,
    tmpfs: Sequence[str] = (),
    proc: bool = True,
    uid: int = 0,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start ``argv`` inside ``root`` and return when it has been executed.

    ``argv[0]`` is an absolute path inside. ``root`` is read-only unless ``writable_root``; missing mount
    points are made in a tmpfs, not in ``root``. ``binds`` are mounted last, in order. ``/tmp`` and each of
    ``tmpfs`` are empty and writable. ``proc`` asks for a /proc with the sandbox's own processes; a host that
    forbids it gives an empty one. Everything inside ends when the returned process or this process ends.

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
        "writable_root": writable_root,
        "tmpfs": list(tmpfs),
        "proc": proc,
        "uid": uid,
        "pass_fds": list(pass_fds),
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
    except BaseException:
        process.kill()
        process.wait()
        raise


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
