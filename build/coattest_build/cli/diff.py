"""``eif diff``: why two images differ."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from coattest.jsontext import emit_json
from coattest.shell import err, json_option, out
from coattest.text import printable
from coattest_build.cli.options import FILE, given_image
from coattest_build.explain.details import Place
from coattest_build.explain.diff import Comparison, compare

MAX_SHOWN = 40
"""Findings shown to a person; ``--json`` has them all."""


@click.command("diff")
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@json_option
def diff_command(a: Path, b: Path, as_json: bool) -> int:
    """Explain how image B differs from image A, and why their measurements do.

    Says by cause what differs (content, mode, time, owner, order, compression, kernel, cmdline ..), then
    lists the differences of header, sections and files. Ramdisks of other builders are compared as what Linux
    makes of them. Exit 0 when the images are identical; 1 when they differ (the first difference is one line
    on stderr), or when one has a wrong CRC-32 or sections that can be read in two ways; 2 when one is not an
    image.
    """
    with given_image(a):
        comparison = compare(a, b)
    if as_json:
        emit_json(comparison.to_json())
    else:
        _show(comparison)
    for fault in comparison.faults:
        err().print(f"eif: {comparison.line(fault)}", style="red")
    if comparison.identical:
        return 1 if comparison.faults else 0
    first = comparison.line(comparison.findings[0])
    err().print(f"eif: first difference: {first}", style="red")
    return 1


def _show(comparison: Comparison) -> None:
    console = out()
    if comparison.identical:
        console.print("identical")
        return
    apart = comparison.apart
    console.print(
        Text(f"{', '.join(apart) or 'No measurement'} {'differ' if len(apart) > 1 else 'differs'}, by cause:")
    )
    for cause in comparison.causes:
        console.print(Text(f"  {printable(cause.line())}"))
        if cause.name == "content":
            for line in _excerpt(cause.place):
                console.print(Text("  ").append(line))
    console.print(Text("All differences:"))
    for finding in comparison.findings[:MAX_SHOWN]:
        console.print(Text(comparison.line(finding)))
        for line in _excerpt(comparison.places.get(finding)):
            console.print(line)
    rest = len(comparison.findings) - MAX_SHOWN
    if rest > 0:
        least = "at least " if comparison.truncated else ""
        console.print(Text(f"and {least}{rest} more differences (--json lists them)"))


def _excerpt(place: Place | None) -> list[Text]:
    if place is None or place.excerpt is None:
        return []
    removed = [Text(f"  - {printable(line)}", style="red") for line in place.excerpt.a.split("\n")]
    added = [Text(f"  + {printable(line)}", style="green") for line in place.excerpt.b.split("\n")]
    return removed + added
