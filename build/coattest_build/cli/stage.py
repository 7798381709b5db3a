"""`eif stage`: the first and the last step of the container route; Dockerfile.reproducible runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from coattest.files import make_folder, write_atomic
from coattest.jsontext import emit_json
from coattest.parser import NEW_FOLDER
from coattest.progress import Terminal
from coattest.shell import json_option, out
from coattest_build.cli.options import FOLDER, container_option, jobs_option, mirror_option, source_option
from coattest_build.container import DRIVER, assemble_stage, prepare_stage


@click.group("stage")
def stage_command() -> None:
    """Build in a container, stage by stage.

    For containers that cannot run the sandbox; Dockerfile.reproducible has the stages.
    """


@stage_command.command("prepare")
@source_option
@click.option(
    "--stage", "folder", type=FOLDER, required=True, help="Folder to write the compile stage's root to."
)
@mirror_option
@jobs_option
@container_option
@json_option
def prepare_command(*, source: Path, folder: Path, as_json: bool, **options: Any) -> None:
    """Write the root of the compile stage.

    Downloads and checks the locked inputs first.
    """
    prepare_stage(source, folder, progress=Terminal(), **options)
    if as_json:
        emit_json({"stage": str(folder), "run": ["/usr/bin/perl", f"/{DRIVER}"]})
    else:
        out().print(f"{folder}: run /usr/bin/perl /{DRIVER} inside")


@stage_command.command("assemble")
@source_option
@click.option("--stage", "folder", type=FOLDER, required=True, help="The folder that `prepare` wrote.")
@click.option(
    "--compiled",
    type=FOLDER,
    required=True,
    help="Folder with the compile stage's results: `out` and `image`.",
)
@click.option("--out", "target", type=NEW_FOLDER, required=True, help="Folder to write the images to.")
@mirror_option
@click.option(
    "--run", default="", help="The text that the compile stage must have recorded to count as this run."
)
@json_option
def assemble_command(
    *, source: Path, folder: Path, compiled: Path, target: Path, as_json: bool, **options: Any
) -> None:
    """Assemble the images from the compile stage's results.

    Writes the same files as `eif build`.
    """
    make_folder(target)
    report = assemble_stage(source, folder, compiled, target, progress=Terminal(), **options)
    document = report.to_json()
    write_atomic(target / "build.json", (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())
    if as_json:
        emit_json(document)
        return
    for profile, result in report.profiles:
        out().print(f"{profile}: {result.name} {dict(result.pcrs)['PCR0']}")
