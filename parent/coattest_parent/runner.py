"""Starting and stopping enclaves through a nitro-cli-like program, reached as a subprocess.

``LocalRunner`` drives ``nitro-local run-enclave``, the software host. A runner for nitro-cli itself has the
same three methods. Debug mode does not exist here: no argument of any runner leads to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from coattest_parent.channels import Address, is_local, parse_address, proxy_address_for
from coattest_verify.shell import EnvironmentFailure, FoundFalse, UsageError

START_TIMEOUT = 120.0
"""Seconds for an enclave to be measured, unpacked and listening."""

STOP_TIMEOUT = 15.0
"""Seconds for a host process to end after SIGTERM before it is killed."""

RECORD_MAX = 64 * 1024
"""Bytes of enclave.json."""


class RunnerFailure(EnvironmentFailure):
    """The nitro-cli-like program did not start an enclave."""

    default_reason = "enclave-not-started"


@dataclass(frozen=True, slots=True)
class Enclave:
    """An enclave as its runner describes it; none of it is evidence of what runs inside."""

    id: str
    address: Address
    proxy: Address
    pid: int
    started: str
    flags: str
    record: Path


class Runner(Protocol):
    """What deployment needs of nitro-cli."""

    def run(self, image: Path, *, role_arn: str, instance_id: str) -> Enclave:
        """Start the image; returns when the enclave listens. Raises RunnerFailure."""
        ...

    def describe(self) -> Enclave | None:
        """The enclave that runs now, or None."""
        ...

    def terminate(self, enclave: Enclave) -> None:
        """End the enclave; returns when it is gone. Ending one that is gone already is fine."""
        ...


class LocalRunner:
    """Enclaves on the software host, one at a time, with all their files in one directory."""

    def __init__(self, directory: Path, program: tuple[str, ...] | None = None) -> None:
        self.directory = directory
        self.program = program or _nitro_local()

    def run(self, image: Path, *, role_arn: str, instance_id: str) -> Enclave:
        """Start the image in ``nitro-local run-enclave --detach``."""
        if self.describe() is not None:
            raise UsageError(
                "an enclave runs here already",
                where=str(self.directory),
                hint="destroy it first",
                reason="running",
            )
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        command = [
            *self.program, "run-enclave", str(image), "--directory", str(self.directory),
            "--role-arn", role_arn, "--instance-id", instance_id, "--detach", "--json",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=START_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            self._terminate_stray()
            raise RunnerFailure(f"no enclave after {START_TIMEOUT:.0f} s", where=self.program[0]) from None
        if done.returncode:
            self._terminate_stray()
            last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [
                f"exit {done.returncode}"
            ]
            raise RunnerFailure(last[0][:300], where=" ".join(command[:3]))
        enclave = self.describe()
        if enclave is None:
            raise RunnerFailure("the enclave ended as soon as it was started", where=str(self.directory))
        return enclave

    def describe(self) -> Enclave | None:
        """The enclave of ``enclave.json`` if its host process is alive and is the one that was started."""
        path = self.directory / "enclave.json"
        try:
            with path.open("rb") as file:
                value = json.loads(file.read(RECORD_MAX))
            enclave = _parse(value, path)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise RunnerFailure(f"not an enclave record: {error}", where=str(path)) from None
        return enclave if enclave.started else None

    def terminate(self, enclave: Enclave) -> None:
        """SIGTERM to the host process, SIGKILL when it does not go."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(enclave.pid)
            try:
                # Compared after the pidfd is held: from here on the number cannot mean another process.
                if _started(enclave.pid) == enclave.started:
                    _end(handle, enclave.pid)
            finally:
                os.close(handle)
        enclave.record.unlink(missing_ok=True)

    def _terminate_stray(self) -> None:
        with contextlib.suppress(RunnerFailure):
            if stray := self.describe():
                self.terminate(stray)


def require_plain(enclave: Enclave) -> None:
    """Refuse an enclave that its own runner calls anything but plain (nitro-cli: ``Flags``)."""
    if enclave.flags != "NONE":
        raise FoundFalse(
            f"the enclave runs with flags {enclave.flags!r}", where=enclave.id, reason="debug-mode"
        )


def require_local(enclave: Enclave) -> None:
    """Refuse an enclave of the local profile that could be reached from elsewhere."""
    for address in (enclave.address, enclave.proxy):
        if not is_local(address):
            raise FoundFalse(
                "a local decision is for this machine only", where=str(address), reason="local-not-loopback"
            )


def _parse(value: Any, path: Path) -> Enclave:
    address = parse_address(str(value["address"]))
    pid = value["pid"]
    if type(pid) is not int or pid <= 1:
        raise ValueError("pid")
    proxy = value.get("proxy_address")
    return Enclave(
        id=str(value["EnclaveID"]),
        address=address,
        proxy=parse_address(str(proxy)) if proxy else proxy_address_for(address),
        pid=pid,
        started=_started(pid),
        flags=str(value["Flags"]),
        record=path,
    )


def _end(handle: int, pid: int) -> None:
    gone = select.poll()
    gone.register(handle, select.POLLIN)
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal.pidfd_send_signal(handle, number)
        if gone.poll(STOP_TIMEOUT * 1000):
            return
    raise RunnerFailure("the enclave's host process does not end", where=f"pid {pid}")


def _started(pid: int) -> str:
    """A process's start time in clock ticks (proc(5), field 22), or "" when there is none: pids are
    reused.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def _nitro_local() -> tuple[str, ...]:
    """The console script of this installation, or the module when there is no script."""
    beside = Path(sys.executable).with_name("nitro-local")
    if beside.exists():
        return (str(beside),)
    found = shutil.which("nitro-local")
    return (found,) if found else (sys.executable, "-c", "from coattest_local.cli import main; main()")
