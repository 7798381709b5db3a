"""``eif sbom``: what an image is made of."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import click

from coattest.files import write_atomic
from coattest.shell import err
from coattest_build import image
from coattest_build.explain.sbom import sbom as bill_of
from coattest_build.inputs import lock as locks


@click.command()
@click.option(
    "--source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Source tree with build/image.lock.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Instead of stdout.")
@click.option("--json", "as_json", is_flag=True, help="Accepted as everywhere; the output is always JSON.")
def sbom(source: Path, out: Path | None, as_json: bool) -> None:
    """Print the image's bill of materials (CycloneDX 1.6, JSON), made from the lock alone.

    The same lock gives the same bytes. What only compiled the image has scope "excluded".
    """
    del as_json
    lock, digest = locks.load(source)
    spec = image.load(source)
    lock.check_against(spec)
    document = bill_of(spec, lock, digest, metadata.version("coattest"))
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    write_atomic(out, text.encode())
    err().print(f"{out}: {len(document['components'])} components", markup=False)
