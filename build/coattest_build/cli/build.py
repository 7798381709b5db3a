"""`eif build`: from lock to image."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import click

from coattest.errors import EnvironmentFailure
from coattest.files import Folder, write_atomic
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE, NEW_FOLDER
from coattest.progress import Terminal
from coattest.shell import json_option, needs_extra, out
from coattest_build import builder
from coattest_build.cli.options import (
    cache_option,
    container_option,
    fresh_kernel_option,
    jobs_option,
    mirror_option,
    source_option,
)
from coattest_build.ownwork import BUILDER_FILE, BUILT, OwnWork, remove_reports, sha256_hex


@needs_extra("build")
@click.command("build")
@source_option
@click.option("--out", "target", type=NEW_FOLDER, required=True, help="Folder to write the images to.")
@click.option(
    "--profile", "profiles", multiple=True, help="Build only this profile (repeatable; default: all)."
)
@cache_option
@mirror_option
@jobs_option
@fresh_kernel_option
@container_option
@click.option("--claim", type=NEW_FILE, help="Also write the claim for these images to this file.")
@json_option
def build_command(
    *,
    source: Path,
    target: Path,
    profiles: tuple[str, ...],
    claim: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Build the enclave images of a source tree.

    Downloads and checks the locked inputs, compiles kernel and init with the locked toolchain in a sandbox,
    and assembles the images. Needs no root, no Docker and no apt. Writes OUT/image.eif for the default
    profile, OUT/image.PROFILE.eif for others, and OUT/build.json.
    """
    if os.path.lexists(target):
        Folder(target).close()  # a link is refused before minutes of building
    remove_reports(target)
    report = builder.build(source, target, profiles=profiles or None, progress=Terminal(), **options)
    document = report.to_json()
    content = (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
    write_atomic(target / BUILDER_FILE, content)
    # Who cannot sign later can build none the less.
    with contextlib.suppress(OSError, EnvironmentFailure):
        OwnWork().note(BUILT, sha256_hex(content))
    if claim:
        write_atomic(claim, report.claim())
    if as_json:
        emit_json(document)
        return
    console = out()
    for profile, result in report.profiles:
        console.print(f"{profile}: {target / result.name}, {result.size:,} bytes")
        for register, value in result.pcrs:
            console.print(f"  {register} {value}")
    changes = " (uncommitted changes)" if report.source.dirty else ""
    console.print(f"source tree {report.source.tree_sha256}{changes}")
    console.print(f"lock        {report.source.lock_sha256}")
