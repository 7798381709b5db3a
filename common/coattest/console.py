"""A console that prints everything as plain text: names come from other people's files.

Rich's markup and emoji codes are printed as they are unless a caller asks for markup. Control characters,
those that change the direction of writing, and what the stream's encoding does not have are shown as escapes
(``\\x1b``). Rows are a table only where every cell fits on its line: what people compare or copy is
neither cut nor folded.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coattest.text import printable

Cell = str | tuple[str, str] | list[str]
"""A line, or a line and its style, or several lines: all plain text, in which a line feed is shown as one."""

_LINES = re.compile(r"([\n\t])")
_LONGEST = 100_000
"""Columns within which a table is measured: more than any has."""


class PlainConsole(Console):
    """rich's Console for results and prose; styles and progress are as usual."""

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")
        super().__init__(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Nobody reads: BrokenPipeError, for which ``shell.run`` exits 3. Rich's own exits 1: found false."""
        self.quiet = True
        raise  # noqa: PLE0704 (rich calls this where it caught the error)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text of a string, for every string that rich is given, cells of tables included."""
        parts = (part if part in ("\n", "\t") else printable(part) for part in _LINES.split(text))
        return super().render_str("".join(parts), **options)

    def show_rows(
        self, headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, title: str = "", more: str = ""
    ) -> None:
        """Print a table where the widest row fits this console's width, and otherwise a block for each row.

        A block has a line for each cell that is not empty, and an empty line after it. A row of two cells is
        one line. ``title`` comes first and ``more`` last, each on its own line. No rows, no table.
        """
        if title:
            self.print(Text(title, style="italic"))
        if not rows:
            return
        table = Table(*headings)
        for row in rows:
            table.add_row(*map(self._cell, row))
        if self._measured(table) <= self.width:
            self.print(table)
        elif len(headings) == 2:
            self.show_lines([headings, *rows])
        else:
            for row in rows:
                self.show_facts(zip(headings, row, strict=True))
                self.print()
        if more:
            self.print(more)

    def show_facts(self, facts: Iterable[tuple[Cell, Cell]], *, title: str = "") -> None:
        """Print a line for each name and its value, neither cut nor folded; empty values are left out.

        A value of several lines goes on under its first one, so that it cannot look like a name.
        """
        if title:
            self.print(Text(title, style="italic"))
        self.show_lines((name, value) for name, value in facts if self._cell(value).plain)

    def show_lines(self, rows: Iterable[Sequence[Cell]]) -> None:
        """Print a line for each row, its columns under one another, whatever the width."""
        cells = [[self._cell(cell) for cell in row] for row in rows]
        widths = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
        for *first, last in cells:
            start = Text()
            for cell, width in zip(first, widths, strict=False):
                start.append_text(cell).append(" " * (width + 2 - cell.cell_len))
            for number, line in enumerate(last.split("\n")):
                self.print((start if number == 0 else Text(" " * start.cell_len)) + line)

    def _cell(self, cell: Cell) -> Text:
        if isinstance(cell, list):
            return Text("\n".join(map(printable, cell)))
        text, style = (cell, "") if isinstance(cell, str) else cell
        return Text(printable(text), style=style)

    def _measured(self, table: Table) -> int:
        """The columns that a table takes when no cell is folded."""
        return table.__rich_measure__(self, self.options.update(width=_LONGEST)).maximum
