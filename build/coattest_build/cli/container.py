"""`eif container`: container images without Docker."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
from rich.table import Column, Table
from rich.text import Text

from coattest.errors import UsageError
from coattest.files import atomic_file
from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.shell import Decorator, err, json_option, option_group, out
from coattest.text import printable
from coattest_build.containers.application import (
    ContainerTree,
    application_ramdisk,
    command_and_environment,
    container_tree,
)
from coattest_build.containers.image import DEFAULT_SIZE, Choice, open_container_image
from coattest_build.containers.inspection import Inspection, inspect_container
from coattest_build.containers.manifests import Platform
from coattest_build.formats.registers import extend

PIPE_WIDTH = 240
"""Columns of a table that does not go to a terminal."""

_PLATFORM = re.compile(r"[a-z0-9]{1,16}(/[a-z0-9]{1,16}){1,2}")
_TIME = re.compile(r"(0|[1-9][0-9]{0,2})=(0|[1-9][0-9]{0,9})")


def _platform(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Platform | None:
    if value is None:
        return None
    if not _PLATFORM.fullmatch(value):
        raise UsageError(f"--platform {value[:40]!r}", hint="such as linux/amd64 or linux/arm64/v8")
    return Platform(*value.split("/"))


def _times(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[int, int]:
    found: dict[int, int] = {}
    for value in values:
        match = _TIME.fullmatch(value)
        if match is None or int(match[2]) >= 1 << 32 or int(match[1]) in found:
            raise UsageError(
                f"--time {value[:40]!r}",
                hint="a layer's number, 0 for the container, and seconds since 1970, each once: 3=1700000000",
            )
        found[int(match[1])] = int(match[2])
    return found


image_options: Decorator = option_group(
    click.option("--ref", metavar="NAME", help="Which image of several: its reference or tag."),
    click.option(
        "--platform", callback=_platform, metavar="OS/ARCH", help="Which image of several: its platform."
    ),
    click.option(
        "--max-size",
        type=click.IntRange(min=1),
        default=DEFAULT_SIZE,
        show_default=True,
        metavar="BYTES",
        help="Bytes that the image may unpack to.",
    ),
    heading="Which image",
)
IMAGE = click.argument("image", type=click.Path(exists=True, path_type=Path))


@click.group("container")
def container_command() -> None:
    """Container images without Docker: what is in one, and what nitro-cli makes of it.

    IMAGE is an OCI layout (a folder or an archive), or an archive of `docker save` or `docker export`.
    """


@contextlib.contextmanager
def _opened(
    image: Path, ref: str | None, platform: Platform | None, max_size: int
) -> Iterator[ContainerTree]:
    with open_container_image(image, Choice(ref, platform), max_size=max_size) as opened:
        yield container_tree(opened)


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
    with _opened(image, ref, platform, max_size) as tree:
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
    callback=_times,
    metavar="N=SECONDS",
    help="When layer N was extracted (0: when the container was made), where that decides folders' times;"
    " their mode and owner are then overlay2's.",
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
    with _opened(image, ref, platform, max_size) as tree:
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
        blocks = application_ramdisk(tree, *files, times=times)
        digest, measured, size = hashlib.sha256(), hashlib.sha384(), 0
        with atomic_file(target) as temporary, temporary.open("wb") as file:
            for block in blocks:
                digest.update(block)
                measured.update(block)
                size += file.write(block)
    if tree.undecided:
        err().print(
            f"note: {len(tree.undecided)} folders are as overlay2 makes them at the times given; other "
            "stores of Docker give some of them another mode or owner",
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
