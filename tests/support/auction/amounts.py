"""Whether a text tells an amount."""

from __future__ import annotations

import re


def amounts_in(text: str, *amounts: int) -> set[int]:
    """Those of the amounts that the text has as numbers, beside long runs of hex: a digest has any digits now
    and then.
    """
    rest = re.sub(r"[0-9A-Fa-f]{12,}", " ", text)
    return {int(each) for each in re.findall(r"[0-9]+", rest)} & set(amounts)
