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
from coattest_build.explain.describe import Description, Ramdisk, SignatureReport, describe_image

PIPE_WIDTH = 240
"""Columns of a table that does not go to a terminal: wide enough for a SHA-384 and a long path."""


@click.command("describe")
@click.argument("image", type=FILE)
@click.option("--files", is_flag=True, help="List the files of each ramdisk.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout, files and digests included."
)
def describe_command(image: Path, files: bool, as_json: bool) -> int:
    """Show what is in an image.

    Prints the header, sections, measurements, kernel command line, metadata and signature, and with --files
    the files of every ramdisk. Exit 1 when the signature does not hold, when the metadata is not JSON, or
    when --files meets a ramdisk that the strict reader refuses.
    """
    description = describe_image(image, now=utc_now(), files=files or as_json)
    if as_json:
        emit_json(description.to_json())
    else:
        _show(image, description)
    findings = list(description.findings)
    if files:
        findings += [disk.refused for disk in description.ramdisks or () if disk.refused]
    for finding in findings:
        err().print(f"eif: {image}: {printable(str(finding))}", style="red", markup=False)
    return 1 if findings else 0


def _show(image: Path, description: Description) -> None:
    console = out()
    # Digests are never cut: on a terminal they wrap, in a pipe or file they stay on one line.
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
    show(Text(description.metadata_error.detail if description.metadata_error else metadata))
    if description.signature is not None:
        show(_signature(description.signature))
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


def _signature(report: SignatureReport) -> Table:
    table = Table(show_header=False, title="Signature", title_justify="left")
    verdict = Text("does not hold", style="red") if report.findings else Text("holds", style="green")
    table.add_row("check", verdict)
    for finding in report.findings:
        table.add_row(finding.code, Text(printable(finding.detail), style="red"))
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
