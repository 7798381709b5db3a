"""Text of unknown origin, made safe to show."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with everything escaped that could move a terminal's cursor or hide something."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
