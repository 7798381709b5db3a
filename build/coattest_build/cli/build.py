"""`eif build`: from lock to image."""

from __future__ import annotations

import json
from pathlib import Path

import click

from coattest.files import write_atomic
from coattest.jsontext import emit_json
from coattest.progress import Terminal
from coattest.shell import json_option, out
from coattest_build import builder
from coattest_build.cli.options import (
    FOLDER,
    cache_option,
    fresh_kernel_option,
    jobs_option,
    mirror_option,
    source_option,
)


@click.command()
@source_option
@click.option("--out", "target", type=FOLDER, required=True, help="Where images go.")
@click.option("--profile", "profiles", multiple=True, help="Only this profile (repeatable); default: all.")
@cache_option
@mirror_option
@jobs_option
@fresh_kernel_option
@click.option("--claim", type=click.Path(path_type=Path), help="Write the claim for these images here.")
@json_option
def build(
    *,
    source: Path,
    target: Path,
    profiles: tuple[str, ...],
    cache: Path | None,
    mirror: str | None,
    jobs: int | None,
    fresh_kernel: bool,
    claim: Path | None,
    as_json: bool,
) -> None:
    """Build the enclave images of a source tree.

    Needs no root, no Docker and no apt: the locked inputs are downloaded and checked, kernel and init are
    compiled by the locked toolchain in a sandbox, and the images are assembled. Writes OUT/image.eif for
    the default profile, OUT/image.PROFILE.eif for others, and OUT/build.json.
    """
    report = builder.build(
        source,
        target,
        profiles=profiles or None,
        cache=cache,
        mirror=mirror,
        jobs=jobs,
        fresh_kernel=fresh_kernel,
        progress=Terminal(),
    )
    document = report.to_json()
    write_atomic(target / "build.json", (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())
    if claim:
        write_atomic(claim, report.claim())
    if as_json:
        emit_json(document)
        return
    console = out()
    for profile, result in report.profiles:
        console.print(f"{profile}: {target / result.name}, {result.size:,} bytes", markup=False)
        for register, value in result.pcrs:
            console.print(f"  {register} {value}", markup=False)
    console.print(f"source tree {report.source.tree_sha256}{' (dirty)' if report.source.dirty else ''}")
    console.print(f"lock        {report.source.lock_sha256}")
