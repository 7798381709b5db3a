"""Starting and ending enclaves through a program like nitro-cli, run as a subprocess.

``LocalRunner`` drives ``nitro-local run-enclave``, the software host. No argument of a runner starts an
enclave in debug mode.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coattest.errors import EnvironmentFailure, FoundFalse
from coattest.programs.environment import OWN_VARIABLES, program_environment, python_program
from coattest.programs.start import ProgramLimits, run_program
from coattest_parent.link.channels import Address, is_local, parse_address, proxy_address_for

START_TIMEOUT = 120.0
"""Seconds for an enclave to be measured, unpacked and listening."""

STOP_TIMEOUT = 60.0
"""Seconds for the program to end an enclave, killing it if need be."""

RECORD_MAX = 64 * 1024
"""Bytes of enclave.json."""


@dataclass(frozen=True, slots=True)
class Enclave:
    """An enclave as its runner describes it: no evidence of what runs inside."""

    id: str
    address: Address
    proxy: Address
    pid: int
    flags: str


class LocalRunner:
    """Enclaves on the software host, one at a time, with all their files in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, image: Path, *, role_arn: str, instance_id: str) -> Enclave:
        """Start the image in ``nitro-local run-enclave --detach``. Raises EnvironmentFailure."""
        whose = ("--role-arn", role_arn, "--instance-id", instance_id)
        self._call(START_TIMEOUT, "run-enclave", str(image.resolve()), *whose, "--detach")
        if enclave := self.describe():
            return enclave
        raise not_started("the enclave ended as soon as it was started", str(self.directory))

    def describe(self) -> Enclave | None:
        """The enclave of ``enclave.json``, if its host process is alive. Raises EnvironmentFailure."""
        path = self.directory / "enclave.json"
        try:
            with path.open("rb") as file:
                enclave = _parse(json.loads(file.read(RECORD_MAX)))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise not_started(f"not an enclave record: {error}", str(path)) from None
        return enclave if _alive(enclave.pid) else None

    def terminate(self) -> None:
        """``nitro-local terminate-enclave`` on the directory, which removes the record too."""
        self._call(STOP_TIMEOUT, "terminate-enclave")

    def _call(self, timeout: float, verb: str, *arguments: str) -> None:
        """Run the program; when it fails, raise EnvironmentFailure with the last line of its stderr."""
        own = ("--directory", str(self.directory.resolve()), "--json")
        command = python_program("coattest_local.cli:main", verb, *arguments, *own)
        limits, environment = ProgramLimits(seconds=timeout), program_environment(OWN_VARIABLES)
        try:
            done = run_program(command, environment=environment, limits=limits, leaves_service=True)
        except EnvironmentFailure as error:
            if error.code != "program-time":
                raise
            if verb == "run-enclave":
                self._call(STOP_TIMEOUT, "terminate-enclave")
            raise not_started(f"no answer after {timeout:.0f} s", f"nitro-local {verb}") from None
        if done.code:
            lines = done.said.strip().splitlines()
            said = lines[-1].removeprefix("nitro-local: ")[:300] if lines else f"exit {done.code}"
            raise not_started(said, f"nitro-local {verb}")


def not_started(what: str, where: str) -> EnvironmentFailure:
    """The error of a program like nitro-cli that did not start an enclave, or gave a wrong answer."""
    return EnvironmentFailure(what, where=where, code="enclave-not-started")


def require_plain(enclave: Enclave) -> None:
    """Raise FoundFalse (debug-mode) unless the runner says it has no flags (nitro-cli: ``Flags`` is NONE)."""
    if enclave.flags != "NONE":
        raise FoundFalse(
            f"the enclave runs with flags {enclave.flags!r}", where=enclave.id, code="debug-mode"
        )


def require_local(enclave: Enclave) -> None:
    """Raise FoundFalse (local-not-loopback) unless the enclave is reached through Unix sockets only."""
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
    """Whether the process exists and has not ended (proc(5), stat, field 3)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
