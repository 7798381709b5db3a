"""``eif describe``: what is in an image, checked."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import click
from rich.table import Column, Table
from rich.text import Text

from coattest.jsontext import emit_json
from coattest.shell import err, out, utc_now
from coattest.text import printable
from coattest_build.cli.options import FILE
from coattest_build.explain.describe import Description, Ramdisk
from coattest_build.explain.describe import describe as describe_image

PIPE_WIDTH = 240
"""Columns of a table that does not go to a terminal: wide enough for a SHA-384 and a long path."""


@click.command()
@click.argument("image", type=FILE)
@click.option("--files", is_flag=True, help="List the files of each ramdisk.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout, files and digests included."
)
def describe(image: Path, files: bool, as_json: bool) -> int:
    """Show an image's header, sections, measurements, command line, metadata, signature and files.

    Exit 1 when the signature does not hold or the metadata is not JSON, or, with --files, when a ramdisk is
    not an archive that the strict reader accepts.
    """
    description = describe_image(image, now=utc_now(), files=files or as_json)
    refused = [ramdisk for ramdisk in description.ramdisks or () if ramdisk.refused]
    if as_json:
        emit_json(description.to_json())
    else:
        _show(image, description)
    problems = [
        *description.problems,
        *(f"ramdisk {disk.index}: {disk.refused}" for disk in refused if files),
    ]
    for problem in problems:
        err().print(f"eif: {image}: {printable(problem)}", style="red", markup=False)
    return 1 if problems else 0


def _show(image: Path, description: Description) -> None:
    console = out()
    # Digests are never cut: they fold on a terminal and stay on their line in a pipe or file.
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    show = functools.partial(console.print, soft_wrap=False)
    measured, layout = description.measurements, description.layout
    show(_facts(image, description))
    sections = Table(
        "#",
        "section",
        "offset",
        "size",
        Column("sha384", overflow="fold"),
        title="Sections",
        title_justify="left",
    )
    for index, (section, digest) in enumerate(zip(layout.sections, measured.sections, strict=True)):
        sections.add_row(str(index), digest.type, str(section.offset), str(digest.size), digest.sha384)
    show(sections)
    registers = Table(
        "register", Column("value", overflow="fold"), title="Measurements", title_justify="left"
    )
    for name, value in measured.nitro_json()["Measurements"].items():
        if name.startswith("PCR"):
            registers.add_row(name, value)
    show(registers)
    metadata = json.dumps(description.metadata, indent=2, ensure_ascii=True)
    show(Text("Metadata (not measured)", style="italic"))
    show(Text(description.metadata_error or metadata))
    if description.signature is not None:
        show(_signature(description))
    for ramdisk in description.ramdisks or ():
        if ramdisk.refused is None:
            show(_files(ramdisk))
    for note in description.notes:
        err().print(f"note: {note}", style="yellow", markup=False)


def _facts(image: Path, description: Description) -> Table:
    layout, measured = description.layout, description.measurements
    table = Table(show_header=False, title="Image", title_justify="left")
    for name, value in (
        ("file", str(image)),
        ("size", f"{measured.size} bytes"),
        ("sha256", measured.sha256),
        ("sha384", measured.sha384),
        ("format", f"EIF version 4, {layout.architecture}, flags {layout.flags:#06x}"),
        ("defaults", f"{layout.default_memory} bytes of memory, {layout.default_cpus} CPUs"),
        ("crc32", f"{layout.crc32:08x}"),
        ("cmdline", description.cmdline),
    ):
        table.add_row(name, Text(printable(value), overflow="fold"))
    return table


def _signature(description: Description) -> Table:
    report = description.signature
    assert report is not None
    table = Table(show_header=False, title="Signature", title_justify="left")
    verdict = Text("holds", style="green") if not report.failures else Text("does not hold", style="red")
    table.add_row("check", verdict)
    for failure in report.failures:
        table.add_row(failure.code, Text(printable(failure.detail), style="red"))
    for name, value in (
        ("subject", report.subject),
        ("issuer", report.issuer + " (not checked: PCR8 pins the certificate itself)"),
        ("valid", f"{report.not_before} to {report.not_after}"),
        ("sha256", report.certificate_sha256),
    ):
        table.add_row(name, Text(printable(value)))
    return table


def _files(ramdisk: Ramdisk) -> Table:
    table = Table(
        "mode",
        "size",
        "name",
        Column("sha256", overflow="fold"),
        title=f"Ramdisk {ramdisk.index}",
        title_justify="left",
    )
    kinds = {"file": "-", "directory": "d", "symlink": "l"}
    for row in ramdisk.files:
        name = row.name if row.target is None else f"{row.name} -> {row.target}"
        table.add_row(
            f"{kinds[row.kind]}{row.mode & 0o7777:04o}",
            str(row.size),
            Text(printable(name)),
            row.sha256 or "",
        )
    return table
