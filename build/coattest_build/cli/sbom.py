"""``eif sbom``: what the image of a source tree is made of."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from coattest.files import write_atomic
from coattest.parser import NewPath
from coattest.shell import err
from coattest_build import image
from coattest_build.cli.options import source_option
from coattest_build.explain.sbom import bill_of_materials
from coattest_build.inputs import lock as locks

STDOUT = Path("-")


class _FileOrStdout(NewPath):
    """A file to write, or ``-``: the document is text, so that stdout makes sense."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A Path."""
        return STDOUT if value == "-" else super().convert(value, param, ctx)


@click.command("sbom")
@source_option
@click.option(
    "--out",
    type=_FileOrStdout(dir_okay=False, path_type=Path),
    default="-",
    help="Write to this file instead of stdout.",
)
@click.option("--json", "as_json", is_flag=True, help="Accepted for consistency; the output is always JSON.")
def sbom_command(source: Path, out: Path, as_json: bool) -> None:
    """Print what a source tree's image is made of: its bill of materials.

    CycloneDX 1.6 (JSON), made from image.toml and the lock of --source, and from no image file: the same lock
    gives the same bytes. Packages that are not in the image but compiled it have scope "excluded".
    """
    del as_json
    spec = image.load_spec(source)
    lock, digest = locks.load_lock(source)
    lock.check_against(spec)
    document = bill_of_materials(spec, lock, digest, metadata.version("coattest"))
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if out == STDOUT:
        click.echo(text, nl=False)
        return
    write_atomic(out, text.encode())
    err().print(f"{out}: {len(document['components'])} components")
