"""nitro-cli: an enclave for the length of a block, a boot's console, and what this machine is."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coattest.errors import EnvironmentFailure
from coattest.programs.environment import find_program
from coattest.programs.start import EndedProgram, ProgramLimits, run_program
from coattest.text import printable
from coattest_parent.link.channels import CID_MAX, ENCLAVE_PORT, Vsock
from coattest_verify.fleet.hardware import CONSOLE_MAX, TEXT_MAX

NITRO_CLI = "nitro-cli"

NITRO_CLI_SECONDS = 120.0
"""Seconds for one call of nitro-cli."""

CONSOLE_SECONDS = 30
"""Seconds for which a boot in debug mode is listened to."""

ENCLAVE_ID = re.compile(r"i-[0-9a-f]{1,17}-enc[0-9a-f]{1,17}")
"""What nitro-cli calls an enclave; it goes back to nitro-cli as an argument."""

DMI = Path("/sys/class/dmi/id")
"""board_asset_tag is an instance's id (EC2 User Guide, "Detect whether a host is an EC2 instance"), and
product_name its type.
"""


def sizes(cpu_count: int, memory: int) -> tuple[str, ...]:
    """Arguments for vCPUs and MiB."""
    return ("--cpu-count", str(cpu_count), "--memory", str(memory))


@contextlib.contextmanager
def nitro_enclave(image: Path, size: tuple[str, ...]) -> Iterator[Vsock]:
    """Start the image, never in debug mode, and end it afterwards. Raises EnvironmentFailure (nitro-cli)."""
    started = _answer("run-enclave", "--eif-path", str(image.resolve()), *size)
    cid, enclave = started.get("EnclaveCID"), started.get("EnclaveID")
    if not isinstance(enclave, str) or not ENCLAVE_ID.fullmatch(enclave):
        raise _failed("nitro-cli run-enclave: its answer names no enclave")
    try:
        if type(cid) is not int or not 0 <= cid <= CID_MAX:
            raise _failed("nitro-cli run-enclave: its answer has no CID")
        yield Vsock(cid, ENCLAVE_PORT)
    finally:
        _answer("terminate-enclave", "--enclave-id", enclave)


def console(image: Path, size: tuple[str, ...]) -> str:
    """What a boot in debug mode says in its first seconds: its registers are zeros, and no key opens to it.

    A boot that fails says something too; what nitro-cli could not do is in the text.
    """
    name = f"console-{secrets.token_hex(4)}"
    debug = ("--debug-mode", "--attach-console", "--enclave-name", name)
    with contextlib.suppress(EnvironmentFailure):  # the console is for reading, and nothing rests on it
        end = (find_program("timeout"), str(CONSOLE_SECONDS))
        done = _call("run-enclave", "--eif-path", str(image.resolve()), *size, *debug, before=end)
        _call("terminate-enclave", "--enclave-name", name)
        text = (done.stdout + done.stderr).decode("utf-8", "replace")
        return "\n".join(map(printable, text.splitlines()))[:CONSOLE_MAX]
    return ""


def machine(instance_id: str | None) -> Mapping[str, str]:
    """What this machine says of itself, for a report: each a text, ``unknown`` where it says nothing."""
    version = b""
    with contextlib.suppress(EnvironmentFailure):
        version = _call("--version").stdout
    found = {
        "architecture": platform.machine(),
        "instance": instance_id or _dmi("board_asset_tag"),
        "instance-type": _dmi("product_name"),
        "kernel": os.uname().release,
        "nitro-cli": version.decode("utf-8", "replace"),
    }
    return {name: printable(text.strip())[:TEXT_MAX] or "unknown" for name, text in found.items()}


def _dmi(name: str) -> str:
    try:
        return (DMI / name).read_text("utf-8", "replace")
    except OSError:
        return ""


def _answer(*arguments: str) -> dict[str, Any]:
    """Run nitro-cli and return the JSON object on its stdout."""
    done = _call(*arguments)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if done.code or not isinstance(answer, dict):
        raise _failed(f"nitro-cli {arguments[0]}: {' '.join(done.said.split())[-300:]}")
    return answer


def _call(*arguments: str, before: tuple[str, ...] = ()) -> EndedProgram:
    try:
        program = find_program(NITRO_CLI)
    except EnvironmentFailure:
        raise _failed("nitro-cli is not installed", hint="run this on an enclave-enabled instance") from None
    limits = ProgramLimits(seconds=NITRO_CLI_SECONDS)
    return run_program([*before, program, *arguments], limits=limits, leaves_service=True)


def _failed(what: str, hint: str | None = None) -> EnvironmentFailure:
    return EnvironmentFailure(what, hint=hint, code="nitro-cli")
