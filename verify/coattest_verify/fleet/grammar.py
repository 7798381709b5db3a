"""The grammar of FLEET.toml's fields that several of its parts have."""

from __future__ import annotations

import re
from typing import Final

from coattest.errors import Rejected
from coattest.strictjson import Fields
from coattest_verify.quorum.statements.claim import RELEASE

MAX_DURATION_MS: Final = 30 * 24 * 3600 * 1000

MAX_EXPECTED_RELEASES: Final = 16
"""Releases that one source, or one key, may have at a time; during an upgrade there are two."""

ROLE = re.compile(r"arn:aws[a-z-]{0,16}:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_-]{1,64}")
PATH = re.compile(r"[^\x00-\x1f\x7f]{1,1000}")
_DURATION = re.compile(r"(0|[1-9][0-9]{0,6})(s|m|h|)")
_UNITS: Final = {"": 1000, "s": 1000, "m": 60_000, "h": 3_600_000}


def duration_ms(text: str) -> int:
    """Milliseconds of ``90``, ``90s``, ``2m`` or ``1h``. Raises Rejected."""
    found = _DURATION.fullmatch(text)
    if found is None or int(found[1]) * _UNITS[found[2]] > MAX_DURATION_MS:
        raise Rejected(f"{ascii(text)[:40]} is not a time such as 90s, 2m or 1h, of 30 days at most")
    return int(found[1]) * _UNITS[found[2]]


def texts_of(fields: Fields, name: str, pattern: re.Pattern[str], high: int) -> tuple[str, ...]:
    """The texts of an optional array, each once. Raises Rejected."""
    values = fields.optional(name, fields.items, low=1, high=high) or []
    for value in values:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise Rejected(f"{fields.at(name)}: {ascii(value)[:80]} does not have the form {pattern.pattern}")
    if len(set(values)) != len(values):
        raise Rejected(f"{fields.at(name)}: one appears twice")
    return tuple(values)


def duration_of(fields: Fields, name: str, default: str) -> int:
    """Milliseconds of an optional time. Raises Rejected."""
    text = fields.optional(name, fields.text, limit=16) or default
    try:
        return duration_ms(text)
    except Rejected as error:
        raise Rejected(f"{fields.at(name)}: {error.what}") from None


def releases_of(fields: Fields) -> tuple[str, ...]:
    """The releases that are named, one at least. Raises Rejected."""
    releases = texts_of(fields, "releases", RELEASE, MAX_EXPECTED_RELEASES)
    if not releases:
        raise Rejected(f"{fields.at('releases')}: missing")
    return releases
