"""``eif measure``: the registers of an image, as nitro-cli prints them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from coattest.errors import FoundFalse
from coattest.files import open_plain
from coattest.jsontext import emit_json
from coattest.shell import utc_now
from coattest.text import printable
from coattest_build.cli.options import FILE, given_image
from coattest_build.explain.describe import crc_findings, found_signature
from coattest_build.formats.lenient.layout import read_found_layout
from coattest_build.formats.measure import measure_found


@click.command("measure")
@click.argument("image", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Accepted for consistency; the output is always JSON.")
def measure_command(image: Path, as_json: bool) -> None:
    """Print an image's measurements as nitro-cli prints them.

    JSON with PCR0, PCR1 and PCR2, and PCR8 of a signed image, of an image of any builder. A signature that
    is not valid gives no PCR8; that, a wrong CRC-32 and sections that can be read in two ways are exit 1. A
    file that is no image is exit 2.
    """
    del as_json
    with given_image(image), open_plain(image) as file:
        found = read_found_layout(file)
        measured = measure_found(file, found.layout, whole=False)
        signed = found_signature(file, found.layout, bytes.fromhex(measured.pcr0), utc_now())
    broken, notes = (signed.findings, signed.notes) if signed is not None else ((), ())
    findings = (*found.findings, *broken, *crc_findings(found.layout, measured.crc32))
    emit_json(replace(measured, pcr8=signed.pcr8 if signed is not None and not broken else None).nitro_json())
    for note in (*map(str, found.notes), *notes):
        print(printable(f"note: {image}: {note}"), file=sys.stderr)
    if findings:
        hint = "PCR8 is left out; eif describe shows the signature"
        raise FoundFalse(
            "; ".join(finding.detail for finding in findings),
            where=str(image),
            hint=hint if broken else None,
            code=findings[0].code,
            findings=findings,
        )
