"""``eif describe``: what is in an image, checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from coattest.console import Cell
from coattest.jsontext import emit_json
from coattest.shell import err, out, utc_now
from coattest.text import printable
from coattest_build.cli.options import FILE, given_image
from coattest_build.explain.describe import (
    Description,
    SignatureReport,
    TreeRow,
    describe_image,
    start_file,
)
from coattest_build.formats.eif import SectionType


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
    coattest's own that the image breaks are notes. Exit 1 when the CRC-32 or the signature is wrong, the
    metadata is not JSON, the sections can be read in two ways, or, with --files, something in the ramdisks is
    not what it seems; 2 when the file is no image.
    """
    with given_image(image):
        description = describe_image(image, now=utc_now(), files=files or as_json)
    if as_json:
        emit_json(description.to_json())
    else:
        _show(image, description)
    findings = list(description.findings)
    if files:
        findings += description.unpacked.findings
    elif not as_json:
        for finding in description.unpacked.findings:
            err().print(f"note: {printable(str(finding))}", style="yellow")
    for finding in findings:
        err().print(f"eif: {image}: {printable(str(finding))}", style="red")
    return 1 if findings else 0


def _show(image: Path, description: Description) -> None:
    console = out()
    measured, layout = description.measurements, description.layout
    console.show_facts(_facts(image, description), title="Image")
    console.show_rows(
        ("#", "section", "offset", "size", "sha384"),
        [
            (str(index), digest.type, str(section.offset), str(digest.size), digest.sha384)
            for index, (section, digest) in enumerate(zip(layout.sections, measured.sections, strict=True))
        ],
        title="Sections",
    )
    registers = measured.nitro_json()["Measurements"]
    console.show_facts(
        [(name, value) for name, value in registers.items() if name.startswith("PCR")], title="Measurements"
    )
    console.print("Metadata (not measured)", style="italic")
    console.print(_metadata(description))
    if description.signature is not None and description.signature.certificate is not None:
        console.show_facts(_signature(description.signature), title="Signature")
    if description.tree is not None:
        console.print("Files that the enclave sees", style="italic")
        console.show_lines(_files(description.tree))
    for note in (*description.notes, *map(str, description.breaches)):
        err().print(f"note: {printable(note)}", style="yellow")


def _metadata(description: Description) -> str:
    if description.metadata_error is not None:
        return description.metadata_error.detail
    if not description.layout.of_type(SectionType.METADATA):
        return "none"
    return json.dumps(description.metadata, indent=2, ensure_ascii=True)


def _facts(image: Path, description: Description) -> list[tuple[str, Cell]]:
    layout, measured = description.layout, description.measurements
    return [
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
        ("kernel profile", _PROFILES[start_file(description.unpacked)]),
        *([("network", str(description.plan.network))] if description.plan else []),
    ]


_PROFILES = {
    "run": "container (init starts what /run says)",
    "cmd": "minimal, or AWS's kernel (init starts what /cmd says)",
    None: "unknown: neither /run nor /cmd says what to start",
}


def _signature(report: SignatureReport) -> list[tuple[str, Cell]]:
    facts = report.facts()
    return [
        ("check", ("invalid", "red") if report.findings else ("valid", "green")),
        *[(finding.code, (finding.detail, "red")) for finding in report.findings],
        ("subject", facts["subject"]),
        ("issuer", facts["issuer"] + " (not checked: PCR8 pins the certificate itself)"),
        ("valid", f"{facts['not_before']} to {facts['not_after']}".replace("T", " ")),
        ("sha256", facts["sha256"]),
    ]


def _files(rows: Sequence[TreeRow]) -> Iterator[tuple[str, ...]]:
    """A line for each file, for tools that read lines: an image has thousands."""
    yield "mode", "owner", "size", "ramdisk", "sha256", "path"
    for row in rows:
        node = row.node
        name = row.path
        if node.kind == "symlink":
            name += f" -> {node.target.decode(errors='backslashreplace')}"
        if row.hidden is not None:
            name += f" (hidden by the mount on {row.hidden})"
        mode = f"{_LETTERS[node.kind]}{node.mode & 0o7777:04o}"
        owner = f"{node.uid}:{node.gid}"
        yield mode, owner, str(node.body.length), str(row.ramdisk), row.sha256 or "-", name


_LETTERS = {
    "file": "-", "directory": "d", "symlink": "l", "char": "c", "block": "b", "fifo": "p", "socket": "s"
}  # fmt: skip
