"""``eif diff``: why two images differ."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from coattest.errors import UsageError
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, out
from coattest.text import printable
from coattest_build.cli.options import FILE
from coattest_build.explain.diff import Comparison, Difference, compare
from coattest_build.formats.eif import ImageError

MAX_SHOWN = 40
"""Differences shown to a person; ``--json`` has them all."""


@click.command()
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@json_option
def diff(a: Path, b: Path, as_json: bool) -> int:
    """Explain how image B differs from image A: sections, then files, then the first differing bytes.

    Exit 0 when the files are identical, 1 when they differ (the first difference is one line on stderr), 2
    when one of them is not an image.
    """
    try:
        comparison = compare(a, b)
    except ImageError as error:
        raise UsageError(error.what, where=error.where, hint=error.hint, code=error.code) from None
    if as_json:
        emit_json(comparison.to_json())
    else:
        _show(comparison)
    if comparison.identical:
        return 0
    err().print(f"eif: first difference: {comparison.differences[0]}", style="red", markup=False)
    return 1


def _show(comparison: Comparison) -> None:
    console = out()
    if comparison.identical:
        console.print("identical")
    for difference in comparison.differences[:MAX_SHOWN]:
        console.print(Text(str(difference)))
        for line in _excerpt(difference):
            console.print(line)
    rest = len(comparison.differences) - MAX_SHOWN
    if rest > 0:
        more = " or more" if comparison.truncated else ""
        console.print(Text(f"and {rest}{more} further differences (--json lists them)"))


def _excerpt(difference: Difference) -> list[Text]:
    if difference.excerpt is None:
        return []
    removed = [Text(f"  - {printable(line)}", style="red") for line in difference.excerpt.a.split("\n")]
    added = [Text(f"  + {printable(line)}", style="green") for line in difference.excerpt.b.split("\n")]
    return removed + added
