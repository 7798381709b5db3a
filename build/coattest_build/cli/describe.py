"""``eif describe``: what is in an image, checked."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.table import Column, Table
from rich.text import Text

from coattest.jsontext import emit_json
from coattest.shell import err, out, utc_now
from coattest.text import printable
from coattest_build.cli.options import FILE, unreadable
from coattest_build.explain.describe import Description, SignatureReport, TreeRow, describe_image
from coattest_build.formats.eif import ImageError, SectionType

PIPE_WIDTH = 240
"""Columns of a table that does not go to a terminal: wide enough for a SHA-384 and a long path."""


@click.command("describe")
@click.argument("image", type=FILE)
@click.option("--files", is_flag=True, help="List the files that the enclave sees, and judge the ramdisks.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout, files and digests included."
)
def describe_command(image: Path, files: bool, as_json: bool) -> int:
    """Show what is in an image of any builder.

    Prints the header, sections, measurements, kernel command line, metadata and signature, what Linux drops
    or replaces when it unpacks the ramdisks, and with --files the tree that the enclave sees. Rules of
    coattest's own that the image breaks are notes. Exit 1 when the CRC-32 or the signature does not hold, the
    metadata is not JSON, the sections can be read in two ways, or, with --files, something in the ramdisks is
    not what it seems; 2 when the file is no image.
    """
    try:
        description = describe_image(image, now=utc_now(), files=files or as_json)
    except ImageError as error:
        raise unreadable(image, error) from None
    if as_json:
        emit_json(description.to_json())
    else:
        _show(image, description)
    findings = list(description.findings)
    if files:
        findings += description.unpacked.findings
    elif not as_json:
        for finding in description.unpacked.findings:
            err().print(f"note: {printable(str(finding))}", style="yellow", markup=False)
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
    show(Text("Metadata (not measured)", style="italic"))
    show(Text(_metadata(description)))
    if description.signature is not None:
        show(_signature(description.signature))
    if description.tree is not None:
        show(_files(description.tree))
    for note in (*description.notes, *map(str, description.breaches)):
        err().print(f"note: {printable(note)}", style="yellow", markup=False)


def _metadata(description: Description) -> str:
    if description.metadata_error is not None:
        return description.metadata_error.detail
    if not description.layout.of_type(SectionType.METADATA):
        return "none"
    return json.dumps(description.metadata, indent=2, ensure_ascii=True)


def _facts(image: Path, description: Description) -> Table:
    layout, measured = description.layout, description.measurements
    table = Table(show_header=False, title="Image", title_justify="left")
    for name, value in (
        ("file", str(image)),
        ("size", f"{measured.size} bytes"),
        ("sha256", measured.sha256),
        ("sha384", measured.sha384),
        (
            "format",
            f"EIF version {description.found.version}, {layout.architecture}, flags {layout.flags:#06x}",
        ),
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


def _files(rows: Sequence[TreeRow]) -> Table:
    table = Table(
        "mode",
        "owner",
        "size",
        "ramdisk",
        "path",
        Column("sha256", overflow="fold"),
        title="Files that the enclave sees",
        title_justify="left",
    )
    for row in rows:
        node = row.node
        name = row.path
        if node.kind == "symlink":
            name += f" -> {node.target.decode(errors='backslashreplace')}"
        if row.hidden is not None:
            name += f" (hidden by the mount on {row.hidden})"
        table.add_row(
            f"{_LETTERS[node.kind]}{node.mode & 0o7777:04o}",
            f"{node.uid}:{node.gid}",
            str(node.body.length),
            str(row.ramdisk),
            Text(printable(name)),
            row.sha256 or "",
        )
    return table


_LETTERS = {
    "file": "-", "directory": "d", "symlink": "l", "char": "c", "block": "b", "fifo": "p", "socket": "s"
}  # fmt: skip
