"""`eif container build`: an enclave's image of a container image, without Docker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from coattest.errors import UsageError
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE, refuse_ignored
from coattest.progress import Terminal
from coattest.shell import err, json_option
from coattest_build.cli.container_options import (
    IMAGE,
    blobs_option,
    decided_blocks,
    decided_options,
    image_options,
    network_options,
    note_decided,
    note_start,
    nsm_option,
    opened_image,
    opened_own,
    opened_tree,
    style_option,
)
from coattest_build.cli.options import cache_option, jobs_option, mirror_option
from coattest_build.containers.application import ContainerTree
from coattest_build.containers.blobs import read_blobs, write_enclave
from coattest_build.containers.errors import path_text
from coattest_build.containers.own.imagefile import own_report, write_own_image
from coattest_build.containers.own.profile import obtain_kernel, read_profile
from coattest_build.containers.own.tree import OwnTree
from coattest_build.containers.registry.reference import ImagePlace
from coattest_build.formats.eif import FLAG_AARCH64
from coattest_build.formats.measure import measure_registers
from coattest_build.formats.metadata import metadata_section
from coattest_build.inputs.cache import Cache, cache_folder


@click.command("build")
@IMAGE
@style_option
@blobs_option
@nsm_option
@network_options
@click.option("--out", "target", type=NEW_FILE, required=True, help="File to write.")
@image_options
@decided_options
@cache_option
@mirror_option
@jobs_option
@json_option
def container_build_command(
    *,
    image: ImagePlace,
    style: str,
    blobs: Path | None,
    target: Path,
    cache: Path | None,
    mirror: str | None,
    jobs: int | None,
    **given: Any,
) -> None:
    """Write the image file of an enclave that runs a container image.

    Style nitro-cli: PCR0, PCR1 and PCR2 are nitro-cli's, with its kernel and init from --blobs; only
    the metadata, which is not measured, differs. Style coattest: a kernel and init of coattest, compiled from
    pinned source (some minutes, once), that run the image as Docker does: Entrypoint with Cmd, user, working
    folder, a file system that can be written, TCP on the loopback. The same content gives the same bytes,
    whichever daemon saved it. --listen and --connect are measured; with one of them, the program has no
    other way in or out.

    Prints the measurements. Exit codes are those of `eif container ramdisk`, and 3 with `blobs-missing` when
    a file of --blobs is not there.
    """
    if style == "coattest":
        refuse_ignored(("blobs", "times", "store", "docker"), "for style coattest")
        with opened_image(image, **given) as opened:
            tree = opened_own(opened, **given)
            profile = read_profile()
            compiled = obtain_kernel(
                profile,
                Cache(cache_folder(cache)),
                mirror=mirror,
                jobs=jobs or len(os.sched_getaffinity(0)),
                reporter=Terminal(),
            )
            write_own_image(target, profile, compiled, tree)
        _note_own(tree)
        emit_json({**measure_registers(target), **own_report(compiled, tree)})
        return
    refuse_ignored(("nsm", "listen", "connect", "cache", "mirror", "jobs"), "for style nitro-cli")
    if blobs is None:
        raise UsageError("style nitro-cli needs --blobs", hint="nitro-cli's folder of kernel and init")
    with opened_tree(image, **given) as found:
        _write_nitro_cli(target, found, blobs, **given)
        note_start(found, given["docker"])
    note_decided(found, given["store"])
    emit_json(measure_registers(target))


def _note_own(tree: OwnTree) -> None:
    for path in tree.hidden:
        err().print(
            f"note: {path_text(path)} is a folder and hides the link of a layer below, as in Docker",
            style="yellow",
        )


def _write_nitro_cli(target: Path, tree: ContainerTree, blobs: Path, **given: Any) -> None:
    config = tree.image.config
    if config is None:
        raise UsageError("a file system names no architecture", hint="build from an image")
    blocks = decided_blocks(tree, **given)
    before = read_blobs(blobs, config.platform.architecture)
    # The fields of nitro-cli; what it takes from the clock and the daemon is fixed here.
    metadata = metadata_section(
        tree.image.names[0] if tree.image.names else "container",
        tree.image.config_sha256,
        built="1970-01-01T00:00:00.000000000+00:00",
    )
    flags = FLAG_AARCH64 if config.platform.architecture == "arm64" else 0
    write_enclave(target, before, metadata, blocks, flags=flags)
