"""`eif stage`: the two ends of the container route, as Dockerfile.reproducible calls them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from coattest.files import write_atomic
from coattest.jsontext import emit_json
from coattest.progress import Terminal
from coattest.shell import json_option, out
from coattest_build import container
from coattest_build.cli.options import FOLDER, jobs_option, mirror_option, source_option


@click.group()
def stage() -> None:
    """Build in stages of a container, where the sandbox cannot be entered."""


@stage.command()
@source_option
@click.option("--stage", "folder", type=FOLDER, required=True, help="Where the compile stage's root goes.")
@mirror_option
@jobs_option
@json_option
def prepare(*, source: Path, folder: Path, mirror: str | None, jobs: int | None, as_json: bool) -> None:
    """Download and check the locked inputs and write the root of the compile stage."""
    container.prepare(source, folder, mirror=mirror, jobs=jobs, progress=Terminal())
    if as_json:
        emit_json({"stage": str(folder), "run": ["/usr/bin/perl", f"/{container.DRIVER}"]})
    else:
        out().print(f"{folder}: run /usr/bin/perl /{container.DRIVER} inside", markup=False)


@stage.command()
@source_option
@click.option("--stage", "folder", type=FOLDER, required=True, help="What `prepare` wrote.")
@click.option("--compiled", type=FOLDER, required=True, help="What ran there left: folders out and image.")
@click.option("--out", "target", type=FOLDER, required=True, help="Where images go.")
@mirror_option
@click.option("--run", default="", help="What the compile stage must have recorded to count as this run.")
@json_option
def assemble(
    *,
    source: Path,
    folder: Path,
    compiled: Path,
    target: Path,
    mirror: str | None,
    run: str,
    as_json: bool,
) -> None:
    """Assemble the images from what was compiled. Writes the same files as `eif build`."""
    report = container.assemble(source, folder, compiled, target, mirror=mirror, run=run, progress=Terminal())
    document = report.to_json()
    write_atomic(target / "build.json", (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())
    if as_json:
        emit_json(document)
        return
    for profile, result in report.profiles:
        out().print(f"{profile}: {result.name} {dict(result.pcrs)['PCR0']}", markup=False)
