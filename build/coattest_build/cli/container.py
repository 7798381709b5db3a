"""`eif container`: container images without Docker."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click
from rich.table import Column, Table
from rich.text import Text

from coattest.errors import UsageError
from coattest.files import atomic_file
from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.shell import err, json_option, out
from coattest.text import printable
from coattest_build.cli.container_check import check_command
from coattest_build.cli.container_options import IMAGE, image_options, opened_tree, parse_times
from coattest_build.containers.application import application_ramdisk, command_and_environment
from coattest_build.containers.daemon import STORES
from coattest_build.containers.inspection import Inspection, inspect_container
from coattest_build.containers.manifests import Platform
from coattest_build.formats.registers import extend

PIPE_WIDTH = 240
"""Columns of a table that does not go to a terminal."""


@click.group("container")
def container_command() -> None:
    """Container images without Docker: what is in one, and what nitro-cli makes of it.

    IMAGE is an OCI layout (a folder or an archive), or an archive of `docker save` or `docker export`.
    """


container_command.add_command(check_command)


@container_command.command("inspect")
@IMAGE
@image_options
@json_option
def inspect_command(
    *, image: Path, ref: str | None, platform: Platform | None, max_size: int, as_json: bool
) -> None:
    """Show what is in a container image, and what becomes of it in an enclave of nitro-cli.

    Prints digests, platform, layers and sizes, what runs, which folders Docker decides by time or store with
    the way to avoid each, and what the image asks for that an enclave does not give. Everything is checked by
    digest first. Exit 1 when a digest does not hold; 2 when the image cannot be read or no Docker loads it.
    """
    with opened_tree(image, ref, platform, max_size) as tree:
        found = inspect_container(tree)
    if as_json:
        emit_json(found.to_json())
    else:
        _show(image, found)


@container_command.command("ramdisk")
@IMAGE
@click.option(
    "--style",
    type=click.Choice(["nitro-cli"]),
    required=True,
    help="Whose ramdisk: nitro-cli's, versions 1.3.4 to 1.5.0.",
)
@click.option(
    "--out", "target", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write."
)
@image_options
@click.option(
    "--time",
    "times",
    multiple=True,
    callback=parse_times,
    metavar="N=SECONDS",
    help="When layer N was extracted (0: when the container was made), where that decides folders' times.",
)
@click.option(
    "--store",
    type=click.Choice(STORES),
    help="Where that Docker kept layers (with --time; default: overlay2).",
)
@click.option(
    "--docker",
    type=click.Choice(["20", "29"]),
    help="Whose `docker inspect` nitro-cli asked, for an image with an empty Cmd.",
)
@click.option(
    "--cmd", "command", multiple=True, metavar="WORD", help="For `docker export`: what runs, word by word."
)
@click.option(
    "--env", "environment", multiple=True, metavar="NAME=VALUE", help="For `docker export`: its environment."
)
@json_option
def ramdisk_command(
    *,
    image: Path,
    style: str,
    target: Path,
    ref: str | None,
    platform: Platform | None,
    max_size: int,
    times: dict[int, int],
    store: str | None,
    docker: str | None,
    command: tuple[str, ...],
    environment: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the application ramdisk of a container image, byte for byte as nitro-cli makes it.

    Prints its SHA-256 and PCR2, which is a digest of it alone. Where Docker decides bytes by time or store,
    nothing is written: exit 3 (`undecidable`) with the paths, until --time says what it was. Exit 1 when a
    digest does not hold; 2 when the image cannot be read, or neither Docker nor nitro-cli takes it.
    """
    del style
    with opened_tree(image, ref, platform, max_size) as tree:
        config = tree.image.config
        if config is None:
            refuse_ignored(("docker",), "for a file system, which has no Cmd")
            if not command:
                raise UsageError("a file system does not say what runs", hint="give it with --cmd, and --env")
        else:
            refuse_ignored(("command", "environment"), "for an image with a configuration")
            if config.cmd != ():
                refuse_ignored(("docker",), "for an image whose Cmd is not empty")
        unused = sorted(set(times) - {item.layer for item in tree.undecided})
        if unused:
            raise UsageError(
                f"--time {unused[0]} would do nothing: that decides no folder", hint="leave it out"
            )
        files = command_and_environment(
            tree.image, docker=int(docker) if docker else None, command=command, environment=environment
        )
        if not tree.undecided:
            refuse_ignored(("store",), "for an image that decides everything")
        blocks = application_ramdisk(tree, *files, times=times, store=store or STORES[0])
        digest, measured, size = hashlib.sha256(), hashlib.sha384(), 0
        with atomic_file(target) as temporary, temporary.open("wb") as file:
            for block in blocks:
                digest.update(block)
                measured.update(block)
                size += file.write(block)
    if tree.undecided:
        err().print(
            f"note: {len(tree.undecided)} folders are as {store or STORES[0]} makes them at the times given; "
            "other stores of Docker give some of them another mode or owner",
            style="yellow",
            markup=False,
        )
    pcr2 = extend(measured.digest())
    if as_json:
        emit_json({"ramdisk": str(target), "sha256": digest.hexdigest(), "size": size, "PCR2": pcr2})
    else:
        out().print(f"{target}: {size} bytes, sha256 {digest.hexdigest()}", markup=False, soft_wrap=True)
        out().print(f"PCR2 of nitro-cli's image: {pcr2}", markup=False, soft_wrap=True)


def _show(image: Path, found: Inspection) -> None:
    console = out()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    opened, config = found.image, found.image.config
    facts = Table(show_header=False, title="Image", title_justify="left")
    rows = [
        ("file", str(image)),
        ("form", opened.form),
        ("names", ", ".join(opened.names)),
        ("manifest", f"sha256:{opened.manifest}" if opened.manifest else ""),
        ("config", f"sha256:{opened.config_sha256}" if opened.config_sha256 else ""),
        ("platform", str(config.platform) if config else ""),
        ("size", f"{found.entries} entries, {found.content} bytes of files"),
        ("memory", f"an enclave of nitro-cli needs {found.memory} bytes, and more for its kernel"),
        ("runs", " ".join(map(ascii, found.runs)) if found.runs is not None else "undecided"),
        ("", found.why),
        ("environment", " ".join(map(ascii, config.env)) if config else ""),
    ]
    for name, value in rows:
        if value:
            facts.add_row(name, Text(printable(value), overflow="fold"))
    console.print(facts)
    layers = Table(
        "#",
        Column("diff_id (sha256)", overflow="fold"),
        "compression",
        "bytes",
        title="Layers",
        title_justify="left",
    )
    for number, layer in enumerate(opened.layers, 1):
        layers.add_row(str(number), layer.diff_id, layer.compression or "none", str(layer.content.size))
    console.print(layers)
    for title, lines in (
        ("Docker decides", [f"{finding.where}: {finding.detail}" for finding in found.undecided]),
        ("An enclave does not give", found.not_given),
    ):
        if lines:
            console.print(Text(title, style="italic"))
            for line in lines:
                console.print(Text(f"  {printable(line)}"), soft_wrap=True)
