"""`eif container`: container images without Docker."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from coattest.files import atomic_file
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE, refuse_ignored
from coattest.shell import json_option, out
from coattest_build.cli.container_build import container_build_command
from coattest_build.cli.container_check import check_command
from coattest_build.cli.container_options import (
    IMAGE,
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
from coattest_build.containers.application import ContainerTree
from coattest_build.containers.inspection import Inspection, inspect_container
from coattest_build.containers.registry.reference import ImagePlace
from coattest_build.formats.registers import extend


@click.group("container")
def container_command() -> None:
    """Container images without Docker: what is in one, and what nitro-cli makes of it.

    IMAGE is an OCI layout (a folder or an archive), an archive of `docker save` or `docker export`, or an
    image of a registry by its digest: docker://HOST/NAME@sha256:...
    """


container_command.add_command(container_build_command)
container_command.add_command(check_command)


@container_command.command("inspect")
@IMAGE
@image_options
@json_option
def inspect_command(*, image: ImagePlace, as_json: bool, **given: Any) -> None:
    """Show what is in a container image, and what becomes of it in an enclave of nitro-cli or coattest.

    Prints digests, platform, layers and sizes, what runs, which folders Docker decides by time or store with
    the way to avoid each, and what the image asks for that an enclave does not give. Everything is checked by
    digest first. Exit 1 when a digest does not match; 2 when the image cannot be read or no Docker loads it.
    """
    with opened_tree(image, **given) as tree:
        found = inspect_container(tree)
    if as_json:
        emit_json(found.to_json())
    else:
        _show(image, found)


@container_command.command("ramdisk")
@IMAGE
@style_option
@nsm_option
@network_options
@click.option("--out", "target", type=NEW_FILE, required=True, help="File to write.")
@image_options
@decided_options
@click.option(
    "--cmd", "command", multiple=True, metavar="WORD", help="For `docker export`: what runs, word by word."
)
@click.option(
    "--env", "environment", multiple=True, metavar="NAME=VALUE", help="For `docker export`: its environment."
)
@json_option
def ramdisk_command(*, image: ImagePlace, style: str, target: Path, as_json: bool, **given: Any) -> None:
    """Write the application ramdisk of a container image, byte for byte as nitro-cli or coattest makes it.

    Prints its SHA-256 and PCR2, which is a digest of it alone. Where Docker decides bytes by time or store,
    and with them nitro-cli's, nothing is written: exit 3 (`undecidable`) with the paths, until --time says
    what it was. Exit 1 when a digest does not match; 2 when the image cannot be read, or neither Docker nor
    nitro-cli takes it.
    """
    digest, measured, size = hashlib.sha256(), hashlib.sha384(), 0
    tree: ContainerTree | None = None
    with ExitStack() as stack:
        if style == "coattest":
            refuse_ignored(("times", "store", "docker", "command", "environment"), "for style coattest")
            blocks = opened_own(stack.enter_context(opened_image(image, **given)), **given).blocks()
        else:
            refuse_ignored(("nsm", "listen", "connect"), "for style nitro-cli")
            tree = stack.enter_context(opened_tree(image, **given))
            blocks = decided_blocks(tree, **given)
        temporary = stack.enter_context(atomic_file(target))
        with temporary.open("wb") as file:
            for block in blocks:
                digest.update(block)
                measured.update(block)
                size += file.write(block)
    if tree is not None:
        note_decided(tree, given["store"])
        note_start(tree, given["docker"])
    pcr2 = extend(measured.digest())
    if as_json:
        emit_json({"ramdisk": str(target), "sha256": digest.hexdigest(), "size": size, "PCR2": pcr2})
    else:
        out().print(f"{target}: {size} bytes, sha256 {digest.hexdigest()}")
        out().print(f"PCR2 of {style}'s image: {pcr2}")


def _show(image: ImagePlace, found: Inspection) -> None:
    console = out()
    opened, config = found.image, found.image.config
    facts = [
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
    console.show_facts(facts, title="Image")
    console.show_rows(
        ("#", "diff_id (sha256)", "compression", "bytes"),
        [
            (str(number), layer.diff_id, layer.compression or "none", str(layer.content.size))
            for number, layer in enumerate(opened.layers, 1)
        ],
        title="Layers",
    )
    for title, lines in (
        ("Docker decides", [f"{finding.where}: {finding.detail}" for finding in found.undecided]),
        ("An enclave does not give", found.not_given),
        ("In an enclave of coattest (--style coattest)", _own_lines(found)),
    ):
        if lines:
            console.print(title, style="italic")
            for line in lines:
                console.print(f"  {line}")


def _own_lines(found: Inspection) -> list[str]:
    plan = found.plan
    if isinstance(plan, str):
        return [f"nothing runs: {plan}"]
    user = f"uid {plan.user.uid}, gid {plan.user.gid}, groups {', '.join(map(str, plan.user.groups))}"
    return [
        f"runs {' '.join(map(ascii, plan.words))} in {plan.folder!a} as {user}",
        *(f"does not give {line}" for line in found.own_not_given),
    ]
