"""nitro-local boot: the real image in QEMU, measured by a second implementation."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

import click

from coattest.console import Cell
from coattest.jsontext import emit_json
from coattest.parser import NEW_FOLDER
from coattest.progress import Terminal
from coattest.shell import json_option, out
from coattest_build.cli.options import FILE
from coattest_local.qemu.boot import BootReport, compare_registers, expected
from coattest_local.qemu.enclave import BOOT_SECONDS, QemuEnclave, run_in_qemu
from coattest_local.qemu.tools import find_tools
from coattest_parent.link.channels import ChannelFailure, parse_address
from coattest_parent.link.enclave import EnclaveClient, EnclaveFailed

NONCE_SIZE = 32
OTHER_PAYLOAD = (
    "boot asks for the liveness document of docs/protocol.md; for other programs use "
    "run-enclave --host qemu and verify attestation"
)


@click.command("boot")
@click.argument("image", type=FILE)
@click.option(
    "--role-arn",
    metavar="ARN",
    default="arn:aws:iam::123456789012:role/parent",
    show_default=True,
    help="The parent's role: becomes PCR3.",
)
@click.option(
    "--instance-id",
    metavar="ID",
    default="i-1234567890abcdef0",
    show_default=True,
    help="The parent's instance: becomes PCR4.",
)
@click.option("--directory", type=NEW_FOLDER, help="Folder for the logs.")
@click.option(
    "--accelerator",
    type=click.Choice(["tcg", "kvm"]),
    default="tcg",
    show_default=True,
    help="QEMU's accelerator; kvm needs /dev/kvm.",
)
@click.option(
    "--timeout", type=click.IntRange(1), default=int(BOOT_SECONDS), show_default=True, help="Seconds."
)
@json_option
def boot_command(
    *,
    image: Path,
    role_arn: str,
    instance_id: str,
    directory: Path | None,
    accelerator: str,
    timeout: int,
    as_json: bool,
) -> int:
    """Boot IMAGE in QEMU's nitro-enclave machine and compare its registers with ours.

    Exits 1 when a register differs.
    """
    tools = find_tools()
    nonce = secrets.token_bytes(NONCE_SIZE)
    with tempfile.TemporaryDirectory(prefix="coattest-boot-") as temporary:
        with (
            Terminal().step(f"Booting {image.name} in QEMU"),
            run_in_qemu(
                image,
                directory or Path(temporary),
                role_arn=role_arn,
                instance_id=instance_id,
                tools=tools,
                accelerator=accelerator,
                boot_seconds=timeout,
            ) as enclave,
            EnclaveClient(parse_address(enclave.address)) as client,
        ):
            document = liveness(client, nonce)
        ours = expected(enclave.measurements, role_arn=role_arn, instance_id=instance_id)
        report = compare_registers(document, nonce=nonce, ours=ours)
    if as_json:
        emit_json(
            {
                **report.to_json(),
                "image": image.name,
                "image_sha384": enclave.measurements.sha384,
                "heartbeat_seconds": round(enclave.heartbeat_seconds, 3),
                "listening_seconds": round(enclave.listening_seconds, 3),
            }
        )
    else:
        _show(report, enclave)
    return 0 if report.equal else 1


def liveness(client: EnclaveClient, nonce: bytes) -> bytes:
    """The liveness document. Raises with a hint when the program does not speak coattest's protocol."""
    try:
        return client.alive(nonce)
    except (EnclaveFailed, ChannelFailure) as error:
        error.hint = OTHER_PAYLOAD
        raise


def _show(report: BootReport, enclave: QemuEnclave) -> None:
    facts: list[tuple[Cell, Cell]] = []
    for register in report.registers:
        facts.append((f"PCR{register.index}", register.ours))
        if not register.equal:
            facts.append(("  in QEMU", (register.machine, "red")))
    out().show_facts(facts)
    verdict = "all six registers are equal" if report.equal else "QEMU's registers differ"
    out().print(
        f"{verdict}; heartbeat after {enclave.heartbeat_seconds:.1f} s, "
        f"listening after {enclave.listening_seconds:.1f} s"
    )
