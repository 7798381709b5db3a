"""``eif measure``: the registers of an image, as nitro-cli prints them."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.jsontext import emit_json
from coattest_build.cli.options import FILE
from coattest_build.formats.measure import measure_registers


@click.command("measure")
@click.argument("image", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Accepted for consistency; the output is always JSON.")
def measure_command(image: Path, as_json: bool) -> None:
    """Print an image's measurements as nitro-cli prints them.

    JSON with PCR0, PCR1 and PCR2, and PCR8 of a signed image.
    """
    del as_json
    emit_json(measure_registers(image))
