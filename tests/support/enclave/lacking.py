"""What a program in an enclave tries of a kernel (lacking.c), and how its console says each ended."""

from __future__ import annotations

import re
from collections.abc import Iterable

from coattest_build.sandbox import Lack


def words(lacks: Iterable[Lack]) -> list[str]:
    """The program's arguments that try all of these."""
    return [
        *(f"call:{number}" for lack in lacks for number in lack.calls),
        *(f"family:{number}" for lack in lacks for number in lack.families),
    ]


def results(console: str) -> dict[str, int]:
    """The errno of each, 0 where it worked."""
    found = re.findall(r"^((?:call|family):[0-9]+) ([0-9]+)\r?$", console, re.MULTILINE)
    return {word: int(number) for word, number in found}
