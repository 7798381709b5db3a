"""`eif container build`: nitro-cli's image of a container image, without Docker."""

from __future__ import annotations

import json
from pathlib import Path

import click

from coattest import __version__
from coattest.errors import UsageError
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE
from coattest.shell import json_option
from coattest_build.cli.container_options import (
    IMAGE,
    decided_blocks,
    decided_options,
    image_options,
    note_decided,
    opened_tree,
    style_option,
)
from coattest_build.containers.blobs import read_blobs
from coattest_build.containers.image import OpenedImage
from coattest_build.containers.manifests import Platform
from coattest_build.containers.sources import Spool, plain_blocks
from coattest_build.formats.eif import FLAG_AARCH64, Part, SectionType, write_parts
from coattest_build.formats.measure import measure_registers

MAX_RAMDISK = 8 << 30
"""Bytes of an application ramdisk."""


@click.command("build")
@IMAGE
@style_option
@click.option(
    "--blobs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="nitro-cli's folder of kernel, command line, init and driver (/usr/share/nitro_enclaves/blobs).",
)
@click.option("--out", "target", type=NEW_FILE, required=True, help="File to write.")
@image_options
@decided_options
@json_option
def container_build_command(
    *,
    image: Path,
    style: str,
    blobs: Path,
    target: Path,
    ref: str | None,
    platform: Platform | None,
    max_size: int,
    times: dict[int, int],
    store: str | None,
    docker: str | None,
    as_json: bool,
) -> None:
    """Write the image file that nitro-cli makes of a container image: PCR0, PCR1 and PCR2 are nitro-cli's.

    Prints the measurements as nitro-cli does. The file's bytes are not nitro-cli's, whose metadata has the
    time of the build; metadata is not measured. Exit codes are those of `eif container ramdisk`, and 3 with
    `blobs-missing` when a file of --blobs is not there.
    """
    del style, as_json
    with opened_tree(image, ref, platform, max_size) as tree, Spool(MAX_RAMDISK) as spool:
        config = tree.image.config
        if config is None:
            raise UsageError("a file system names no architecture", hint="build from an image")
        blocks = decided_blocks(tree, times=times, store=store, docker=docker)
        found = read_blobs(blobs, config.platform.architecture)
        part, _ = spool.add(blocks, "application ramdisk")
        parts = [
            Part.of_bytes(SectionType.KERNEL, found.kernel),
            Part.of_bytes(SectionType.CMDLINE, found.cmdline),
            Part.of_bytes(SectionType.METADATA, _metadata(tree.image)),
            Part.of_bytes(SectionType.RAMDISK, found.boot),
            Part(SectionType.RAMDISK, part.size, lambda: plain_blocks(part)),
        ]
        flags = FLAG_AARCH64 if config.platform.architecture == "arm64" else 0
        write_parts(target, parts, flags=flags)
    note_decided(tree, store)
    emit_json(measure_registers(target))


def _metadata(image: OpenedImage) -> bytes:
    """The fields of nitro-cli; what it takes from the clock and the daemon is fixed here."""
    document = {
        "ImageName": image.names[0] if image.names else "container",
        "ImageVersion": image.config_sha256,
        "BuildMetadata": {
            "BuildTime": "1970-01-01T00:00:00.000000000+00:00",
            "BuildTool": "coattest",
            "BuildToolVersion": __version__,
            "OperatingSystem": "Linux",
            "KernelVersion": "unknown",
        },
        "DockerInfo": {},
        "CustomMetadata": None,
    }
    return json.dumps(document, separators=(",", ":")).encode()
