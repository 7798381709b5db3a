"""``eif measure``: the registers of an image, as nitro-cli prints them."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.errors import FoundFalse
from coattest.jsontext import emit_json
from coattest.shell import utc_now
from coattest_build.cli.options import FILE
from coattest_build.explain.describe import signature_findings
from coattest_build.formats.measure import measure_registers


@click.command("measure")
@click.argument("image", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Accepted for consistency; the output is always JSON.")
def measure_command(image: Path, as_json: bool) -> None:
    """Print an image's measurements as nitro-cli prints them.

    JSON with PCR0, PCR1 and PCR2, and PCR8 of a signed image. A signature that does not hold gives no PCR8,
    and exit code 1.
    """
    del as_json
    found = measure_registers(image)
    registers = found["Measurements"]
    findings = (
        signature_findings(image, bytes.fromhex(registers["PCR0"]), utc_now()) if "PCR8" in registers else ()
    )
    if findings:
        del registers["PCR8"]
    emit_json(found)
    if findings:
        raise FoundFalse(
            "; ".join(finding.detail for finding in findings),
            where=str(image),
            hint="PCR8 is left out; eif describe shows the signature",
            code=findings[0].code,
            findings=findings,
        )
