"""Starting and stopping enclaves through a nitro-cli-like program, reached as a subprocess.

``LocalRunner`` drives ``nitro-local run-enclave``, the software host. A runner for nitro-cli itself has the
same three methods. Debug mode does not exist here: no argument of any runner leads to it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from coattest.errors import EnvironmentFailure, FoundFalse
from coattest_parent.link.channels import Address, is_local, parse_address, proxy_address_for

START_TIMEOUT = 120.0
"""Seconds for an enclave to be measured, unpacked and listening."""

STOP_TIMEOUT = 60.0
"""Seconds for the program to end an enclave, killing it if need be."""

RECORD_MAX = 64 * 1024
"""Bytes of enclave.json."""


class RunnerFailure(EnvironmentFailure):
    """The nitro-cli-like program did not start an enclave."""

    default_code = "enclave-not-started"


@dataclass(frozen=True, slots=True)
class Enclave:
    """An enclave as its runner describes it; none of it is evidence of what runs inside."""

    id: str
    address: Address
    proxy: Address
    pid: int
    flags: str
    pcrs: tuple[tuple[int, str], ...] = ()
    """Registers by index, lower-case hex, where the runner says them (nitro-cli: ``Measurements``)."""


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
        """Start the image in ``nitro-local run-enclave --detach``. Raises RunnerFailure."""
        self._call(
            START_TIMEOUT,
            "run-enclave",
            str(image),
            "--role-arn",
            role_arn,
            "--instance-id",
            instance_id,
            "--detach",
        )
        enclave = self.describe()
        if enclave is None:
            raise RunnerFailure("the enclave ended as soon as it was started", where=str(self.directory))
        return enclave

    def describe(self) -> Enclave | None:
        """The enclave of ``enclave.json``, if its host process is alive. Raises RunnerFailure."""
        path = self.directory / "enclave.json"
        try:
            with path.open("rb") as file:
                enclave = _parse(json.loads(file.read(RECORD_MAX)))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise RunnerFailure(f"not an enclave record: {error}", where=str(path)) from None
        return enclave if _alive(enclave.pid) else None

    def terminate(self, enclave: Enclave) -> None:
        """``nitro-local terminate-enclave``; which enclave that is, the directory says."""
        self._call(STOP_TIMEOUT, "terminate-enclave")
        (self.directory / "enclave.json").unlink(missing_ok=True)

    def _call(self, timeout: float, verb: str, *arguments: str) -> None:
        """Run the program; its errors become a RunnerFailure with its own last line."""
        command = [*self.program, verb, *arguments, "--directory", str(self.directory), "--json"]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            if verb == "run-enclave":
                self._call(STOP_TIMEOUT, "terminate-enclave")
            raise RunnerFailure(f"no answer after {timeout:.0f} s", where=f"nitro-local {verb}") from None
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            said = lines[-1].removeprefix("nitro-local: ")[:300] if lines else f"exit {done.returncode}"
            raise RunnerFailure(said, where=f"nitro-local {verb}")


def require_plain(enclave: Enclave) -> None:
    """Refuse an enclave that its own runner calls anything but plain (nitro-cli: ``Flags``)."""
    if enclave.flags != "NONE":
        raise FoundFalse(
            f"the enclave runs with flags {enclave.flags!r}", where=enclave.id, code="debug-mode"
        )


def require_local(enclave: Enclave) -> None:
    """Refuse an enclave of the local profile that could be reached from elsewhere."""
    for address in (enclave.address, enclave.proxy):
        if not is_local(address):
            raise FoundFalse(
                "a local decision is for this machine only", where=str(address), code="local-not-loopback"
            )


def _parse(value: Any) -> Enclave:
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
        flags=str(value["Flags"]),
    )


def _alive(pid: int) -> bool:
    """Whether there is a process of that number that has not ended (proc(5), stat, field 3)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _nitro_local() -> tuple[str, ...]:
    """The console script of this installation, or the module when there is no script."""
    beside = Path(sys.executable).with_name("nitro-local")
    if beside.exists():
        return (str(beside),)
    found = shutil.which("nitro-local")
    return (found,) if found else (sys.executable, "-c", "from coattest_local.cli import main; main()")
