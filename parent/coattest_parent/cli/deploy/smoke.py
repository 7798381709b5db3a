"""``deploy-from-attestation smoke``: does an image work on this machine's Nitro hardware?"""

from __future__ import annotations

import contextlib
import hashlib
from datetime import datetime
from pathlib import Path

import click

from coattest.errors import CoattestError, UsageError
from coattest.files import read_whole, write_atomic
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE, refuse_ignored
from coattest.shell import confirm_signing, err, expect_option, json_option, out, signing_key, utc_now
from coattest.text import printable
from coattest_parent.auction.smoke import refused_upload
from coattest_parent.cli.deploy import nitro_cli
from coattest_parent.cli.options import FILE
from coattest_parent.deployment.live import LIVE_SKEW_MS
from coattest_parent.deployment.smoke import smoke
from coattest_parent.link.channels import Address, await_listener, parse_address
from coattest_verify.attestation.limits import SKEW_MAX_MS
from coattest_verify.attestation.measurements import (
    MEASUREMENTS_MAX,
    choose_set,
    missing_registers,
    read_measurements,
)
from coattest_verify.attestation.profiles import root_for
from coattest_verify.fleet.hardware import HardwareReport, SmokeCheck, hardware_findings, sign_hardware
from coattest_verify.rebuild.remeasure import binding_pcrs
from coattest_verify.signatures.keys import load_signer

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
@click.option(
    "--cpu-count", type=click.IntRange(1), default=2, show_default=True, help="vCPUs of the enclave."
)
@click.option(
    "--memory", type=click.IntRange(64), default=1024, show_default=True, help="MiB of the enclave."
)
@click.option(
    "--listen-seconds",
    type=click.FloatRange(0),
    default=LISTEN_SECONDS,
    show_default=True,
    help="Seconds to wait until it listens.",
)
@click.option("--role-arn", help="ARN of the instance's role: check PCR3 too.")
@click.option("--instance-id", help="Id of this instance: check PCR4 too.")
@click.option(
    "--profile",
    type=click.Choice(["aws", "local"]),
    default="aws",
    show_default=True,
    help="The image's profile, and with it the root of trust.",
)
@click.option("--report", type=NEW_FILE, help="Write a signed report, also of what failed; needs --key.")
@signing_key(click.option("--key", type=FILE, help="The key that signs the report: any of verify keygen."))
@expect_option
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
    report: Path | None,
    key: Path | None,
    expect: str | None,
    as_json: bool,
) -> int:
    """Check that an image works on this machine's Nitro hardware.

    Starts the image, or asks a running one; attests it and puts its vsock under load. Exits 1 when a check
    fails. It tells whether the image works here; apply tells whether it is the decided one. For --report an
    --image boots once more, in debug mode, for its console; --expect is the SHA-256 of the measurements.
    """
    if (image is None) == (address is None):
        raise UsageError("give either --image or --address")
    if address is not None:
        refuse_ignored(("cpu_count", "memory"), "with --address")
    if (report is None) != (key is None):
        raise UsageError("--report and --key go together")
    if report is None:
        refuse_ignored(("expect",), "without --report")
    pcrs = _registers(measurements, set_name)
    binding = binding_pcrs(role_arn or "", instance_id or "")
    pcrs.update({index: binding[index] for index, given in ((3, role_arn), (4, instance_id)) if given})
    signer = load_signer(key) if key else None
    size, began = nitro_cli.sizes(cpu_count, memory), utc_now()
    machine = nitro_cli.machine(instance_id) if signer else {}
    if signer:
        confirm_signing(
            [
                ("signs", "what this machine shows of the image with these measurements, whatever it is"),
                *machine.items(),
            ],
            subject="measurements",
            digest=hashlib.sha256(read_whole(measurements, MEASUREMENTS_MAX)).hexdigest(),
            expected=expect,
        )
    checks: list[SmokeCheck] = []
    failure: CoattestError | None = None
    try:
        enclave: contextlib.AbstractContextManager[Address] = (
            nitro_cli.nitro_enclave(image, size)
            if image
            else contextlib.nullcontext(parse_address(address or ""))
        )
        with enclave as target:
            await_listener(target, listen_seconds)
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
    except CoattestError as error:
        failure = error
    if report and signer:
        said = nitro_cli.console(image, size) if image else ""
        simulator, ended = profile == "local", utc_now()
        made = HardwareReport(simulator, _ms(began), _ms(ended), machine, pcrs, tuple(checks), said)
        write_atomic(report, sign_hardware(signer, made))
        for finding in hardware_findings(made):
            err().print(f"counts for nothing: {printable(str(finding))}", style="yellow")
    if failure:
        raise failure
    _show(checks, as_json)
    return 0 if all(check.ok for check in checks) else 1


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


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


def _show(checks: list[SmokeCheck], as_json: bool) -> None:
    if as_json:
        rows = [{"check": check.name, "ok": check.ok, "detail": check.detail} for check in checks]
        emit_json({"ok": all(check.ok for check in checks), "checks": rows})
        return
    out().show_rows(
        ("check", "result", "detail"),
        [(check.name, "ok" if check.ok else ("FAILED", "red"), check.detail) for check in checks],
    )
