"""Whether a text tells an amount."""

from __future__ import annotations

import re


def amounts_in(text: str, *amounts: int) -> set[int]:
    """Those of the amounts that the text has as numbers: a digest has any digits now and then."""
    return {int(each) for each in re.findall(r"(?<![0-9A-Fa-f])[0-9]+(?![0-9A-Fa-f])", text)} & set(amounts)
