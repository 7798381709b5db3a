"""Text of unknown origin: made safe to show, or read as TOML in bounded time and memory."""

from __future__ import annotations

import sys
from typing import Any

from coattest.errors import Rejected

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_DOTS = 64
"""Dots on one line: tomllib takes hours for a key of 500,000 parts. A round's name may have as many."""

MAX_ALL_DOTS = 50_000
"""Dots in one TOML file, as each may cost about a kilobyte of memory; the lock has about 3,000."""


def printable(text: str) -> str:
    """``text`` with everything escaped that could move a terminal's cursor or hide something."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def parse_toml(data: bytes, *, max_size: int) -> dict[str, Any]:
    """The table of a TOML document. Raises Rejected, for everything that tomllib raises too.

    tomllib's time grows with the square of the parts of a dotted key, so these have limits.
    """
    if len(data) > max_size:
        raise Rejected(f"larger than {max_size} bytes", code="too-large")
    if any(line.count(b".") > MAX_DOTS for line in data.splitlines()):
        raise Rejected(f"a line with more than {MAX_DOTS} dots", code="too-deep")
    if data.count(b".") > MAX_ALL_DOTS:
        raise Rejected(f"more than {MAX_ALL_DOTS} dots", code="too-deep")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise Rejected("not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise Rejected(f"not TOML: {str(error)[:200]}") from None
    except RecursionError:
        raise Rejected("nested too deep", code="too-deep") from None
    except (ValueError, OverflowError):
        # An integer of 10,000 digits, or a date that does not exist.
        raise Rejected("not TOML that can be read") from None
