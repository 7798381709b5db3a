"""A console that prints everything as plain text: names come from other people's files.

Rich's markup and emoji codes are printed as they are unless a caller asks for markup. Control characters,
those that change the direction of writing, and what the stream's encoding does not have are shown as escapes
(``\\x1b``).
"""

from __future__ import annotations

import io
import re
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from coattest.text import printable

_LINES = re.compile(r"([\n\t])")


class PlainConsole(Console):
    """rich's Console for results and prose; styles, tables and progress are as usual."""

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")
        super().__init__(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text of a string, for every string that rich is given, cells of tables included."""
        parts = (part if part in ("\n", "\t") else printable(part) for part in _LINES.split(text))
        return super().render_str("".join(parts), **options)
