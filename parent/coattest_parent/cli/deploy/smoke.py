"""``deploy-from-attestation smoke``: does an image work on this machine's Nitro hardware?"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from coattest.errors import EnvironmentFailure, UsageError
from coattest.files import read_whole
from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.programs.environment import find_program
from coattest.programs.start import ProgramLimits, run_program
from coattest.shell import err, json_option, out, utc_now
from coattest.text import printable
from coattest_parent.auction.smoke import refused_upload
from coattest_parent.cli.options import FILE
from coattest_parent.deployment.live import LIVE_SKEW_MS
from coattest_parent.deployment.smoke import SmokeCheck, smoke
from coattest_parent.link.channels import CID_MAX, ENCLAVE_PORT, Address, Vsock, await_listener, parse_address
from coattest_verify.attestation.limits import SKEW_MAX_MS
from coattest_verify.attestation.measurements import (
    MEASUREMENTS_MAX,
    choose_set,
    missing_registers,
    read_measurements,
)
from coattest_verify.attestation.profiles import root_for
from coattest_verify.rebuild.remeasure import binding_pcrs

NITRO_CLI = "nitro-cli"

NITRO_CLI_SECONDS = 120.0
"""Seconds for one call of nitro-cli."""

ENCLAVE_ID = re.compile(r"i-[0-9a-f]{1,17}-enc[0-9a-f]{1,17}")
"""What nitro-cli calls an enclave; it goes back to nitro-cli as an argument."""

LISTEN_SECONDS = 60.0
"""Seconds until the enclave listens, unless told otherwise."""


@click.command("smoke")
@click.option(
    "--measurements",
    type=FILE,
    required=True,
    help="What `eif measure IMAGE` or nitro-cli printed elsewhere, in any form that --expect reads.",
)
@click.option("--set", "set_name", metavar="NAME", help="Which set of the --measurements file is meant.")
@click.option(
    "--clock-skew",
    metavar="MS",
    type=click.IntRange(0, SKEW_MAX_MS),
    default=LIVE_SKEW_MS,
    show_default=True,
    help="How far ahead of this machine's clock a document's time may be, in milliseconds.",
)
@click.option("--image", type=FILE, help="Start this image with nitro-cli, and end it afterwards.")
@click.option("--address", help="Ask this running enclave instead: vsock:CID:5005.")
@click.option("--cpu-count", type=click.IntRange(1), default=2, show_default=True)
@click.option("--memory", type=click.IntRange(64), default=1024, show_default=True, help="MiB.")
@click.option(
    "--listen-seconds",
    type=click.FloatRange(0),
    default=LISTEN_SECONDS,
    show_default=True,
    help="Seconds to wait until it listens.",
)
@click.option("--role-arn", help="ARN of the instance's role: check PCR3 too.")
@click.option("--instance-id", help="Id of this instance: check PCR4 too.")
@click.option("--profile", type=click.Choice(["aws", "local"]), default="aws", show_default=True)
@json_option
def smoke_command(
    *,
    measurements: Path,
    set_name: str | None,
    clock_skew: int,
    image: Path | None,
    address: str | None,
    cpu_count: int,
    memory: int,
    listen_seconds: float,
    role_arn: str | None,
    instance_id: str | None,
    profile: str,
    as_json: bool,
) -> int:
    """Check that an image works on this machine's Nitro hardware.

    Starts the image, or asks a running one; attests it and puts its vsock under load. Exits 1 when a check
    fails. It tells whether the image works here; apply tells whether it is the decided one.
    """
    if (image is None) == (address is None):
        raise UsageError("give either --image or --address")
    if address is not None:
        refuse_ignored(("cpu_count", "memory"), "with --address")
    pcrs = _registers(measurements, set_name)
    binding = binding_pcrs(role_arn or "", instance_id or "")
    pcrs.update({index: binding[index] for index, given in ((3, role_arn), (4, instance_id)) if given})
    with _running(image, address, cpu_count, memory) as target:
        await_listener(target, listen_seconds)
        checks = []
        for check in smoke(
            target,
            pcrs=pcrs,
            root=root_for(profile),
            clock=utc_now,
            upload=refused_upload,
            skew_ms=clock_skew,
        ):
            err().print(f"{check.name}: {'ok' if check.ok else 'FAILED'}")
            checks.append(check)
    _show(checks, as_json)
    return 0 if all(check.ok for check in checks) else 1


def _registers(path: Path, name: str | None) -> dict[int, bytes]:
    """The registers that eif or nitro-cli measured, at least PCR0, 1 and 2. Raises UsageError."""
    where = str(path)
    sets = read_measurements(read_whole(path, MEASUREMENTS_MAX), where=where)
    (chosen,) = choose_set(sets, name, where=where)
    for note in chosen.notes:
        err().print(f"note: {printable(note)}")
    missing = missing_registers(chosen.pcrs, (0, 1, 2))
    if missing is not None:
        raise UsageError(missing, where=where, hint="eif measure image.eif > FILE")
    return dict(chosen.pcrs)


@contextlib.contextmanager
def _running(image: Path | None, address: str | None, cpu_count: int, memory: int) -> Iterator[Address]:
    if image is None:
        yield parse_address(address or "")
        return
    sizes = ("--cpu-count", str(cpu_count), "--memory", str(memory))
    started = _nitro_cli("run-enclave", "--eif-path", str(image.resolve()), *sizes)
    cid, enclave = started.get("EnclaveCID"), started.get("EnclaveID")
    if not isinstance(enclave, str) or not ENCLAVE_ID.fullmatch(enclave):
        raise _nitro_cli_failed("nitro-cli run-enclave: its answer names no enclave")
    try:
        if type(cid) is not int or not 0 <= cid <= CID_MAX:
            raise _nitro_cli_failed("nitro-cli run-enclave: its answer has no CID")
        yield Vsock(cid, ENCLAVE_PORT)
    finally:
        _nitro_cli("terminate-enclave", "--enclave-id", enclave)


def _nitro_cli(*arguments: str) -> dict[str, Any]:
    """Run nitro-cli and return the JSON object on its stdout."""
    try:
        program = find_program(NITRO_CLI)
    except EnvironmentFailure:
        raise _nitro_cli_failed(
            "nitro-cli is not installed", hint="run this on an enclave-enabled instance"
        ) from None
    done = run_program(
        [program, *arguments], limits=ProgramLimits(seconds=NITRO_CLI_SECONDS), leaves_service=True
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if done.code or not isinstance(answer, dict):
        raise _nitro_cli_failed(f"nitro-cli {arguments[0]}: {' '.join(done.said.split())[-300:]}")
    return answer


def _nitro_cli_failed(what: str, hint: str | None = None) -> EnvironmentFailure:
    return EnvironmentFailure(what, hint=hint, code="nitro-cli")


def _show(checks: list[SmokeCheck], as_json: bool) -> None:
    if as_json:
        rows = [{"check": check.name, "ok": check.ok, "detail": check.detail} for check in checks]
        emit_json({"ok": all(check.ok for check in checks), "checks": rows})
        return
    out().show_rows(
        ("check", "result", "detail"),
        [(check.name, "ok" if check.ok else ("FAILED", "red"), check.detail) for check in checks],
    )
