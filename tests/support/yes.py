"""Somebody who reads what a command would sign, and says yes by its digest."""

from __future__ import annotations

import re

_ASKED = re.compile(r"nothing was signed: there is no terminal to ask on .*--expect (sha256:[0-9a-f]{64})")


def the_yes_to(errors: str) -> tuple[str, ...]:
    """The option with which the refused command would sign what it showed; empty when it asked nothing."""
    found = _ASKED.search(errors)
    return ("--expect", found[1]) if found else ()
