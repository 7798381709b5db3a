"""`eif container build`: an enclave's image of a container image, without Docker."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from coattest import __version__
from coattest.errors import UsageError
from coattest.jsontext import emit_json
from coattest.network import parse_network
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
    nsm_option,
    opened_image,
    opened_tree,
    style_option,
)
from coattest_build.cli.options import cache_option, jobs_option, mirror_option
from coattest_build.containers.application import ContainerTree
from coattest_build.containers.blobs import read_blobs
from coattest_build.containers.errors import path_text
from coattest_build.containers.image import OpenedImage
from coattest_build.containers.manifests import Platform
from coattest_build.containers.nitrocli import MAX_RAMDISK
from coattest_build.containers.own.imagefile import own_report, write_own_image
from coattest_build.containers.own.profile import obtain_kernel, read_profile
from coattest_build.containers.own.tree import OwnTree, own_tree
from coattest_build.containers.registry.reference import ImagePlace
from coattest_build.containers.sources import Spool, plain_blocks
from coattest_build.formats.eif import FLAG_AARCH64, Part, SectionType, write_parts
from coattest_build.formats.measure import measure_registers
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
    nsm: bool,
    listen: tuple[str, ...],
    connect: tuple[str, ...],
    target: Path,
    ref: str | None,
    platform: Platform | None,
    max_size: int,
    times: dict[int, int],
    store: str | None,
    docker: str | None,
    cache: Path | None,
    mirror: str | None,
    jobs: int | None,
    as_json: bool,
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
        with opened_image(image, ref, platform, max_size) as opened:
            tree = own_tree(opened, nsm=nsm, network=parse_network(listen, connect))
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
    with opened_tree(image, ref, platform, max_size) as found:
        _write_nitro_cli(target, found, blobs, times=times, store=store, docker=docker)
    note_decided(found, store)
    emit_json(measure_registers(target))


def _note_own(tree: OwnTree) -> None:
    for path in tree.hidden:
        err().print(
            f"note: {path_text(path)} is a folder and hides the link of a layer below, as in Docker",
            style="yellow",
        )


def _write_nitro_cli(
    target: Path,
    tree: ContainerTree,
    blobs: Path,
    *,
    times: dict[int, int],
    store: str | None,
    docker: str | None,
) -> None:
    config = tree.image.config
    if config is None:
        raise UsageError("a file system names no architecture", hint="build from an image")
    with Spool(MAX_RAMDISK) as spool:
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
