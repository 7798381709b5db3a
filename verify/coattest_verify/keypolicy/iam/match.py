"""Wildcards, ARNs and policy variables.

Sources, all in the IAM User Guide: "IAM JSON policy elements: Resource" (wildcards per ARN segment,
incomplete ARNs), "Condition operators", section "String" and "ARN", and "IAM policy elements: Variables and
tags".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

VARIABLE = re.compile(r"\$\{(?P<key>[^},]+?)(?:\s*,\s*'(?P<default>[^']*)')?\s*\}")
"""A variable: ``${key}`` or ``${key, 'default'}``. ``${*}``, ``${?}`` and ``${$}`` stand for the characters
themselves."""

LITERALS = {"*": "*", "?": "?", "$": "$"}

_ESCAPES = {"*": "\ue000", "?": "\ue001"}
"""Placed around substituted text, so that a wildcard character in it stays a character. Not valid in a
policy."""

ESCAPES = frozenset(_ESCAPES.values())
_UNESCAPE = {escape: character for character, escape in _ESCAPES.items()}

Context = Mapping[str, tuple[str, ...]]


def substitute(pattern: str, context: Context, enabled: bool) -> str | None:
    """The pattern with its variables replaced; None when a variable has no single value and no default."""
    if not enabled or "${" not in pattern:
        return pattern
    missing = False

    def replace(match: re.Match[str]) -> str:
        nonlocal missing
        key = match["key"].strip()
        if key in LITERALS:
            return escape(key)
        values = context.get(key.lower(), ())
        if len(values) == 1:
            return escape(values[0])
        if match["default"] is not None:
            return escape(match["default"])
        missing = True
        return ""

    replaced = VARIABLE.sub(replace, pattern)
    return None if missing else replaced


def escape(text: str) -> str:
    """Text whose wildcard characters stand for themselves."""
    for character, replacement in _ESCAPES.items():
        text = text.replace(character, replacement)
    return text


def plain(text: str) -> str:
    """The opposite of ``escape``: for operators that know no wildcards."""
    for replacement, character in _UNESCAPE.items():
        text = text.replace(replacement, character)
    return text


@functools.lru_cache(maxsize=4096)
def _glob(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    parts = [
        ".*" if character == "*" else "." if character == "?" else re.escape(plain(character))
        for character in pattern
    ]
    return re.compile("".join(parts), re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def glob(pattern: str, value: str, *, ignore_case: bool = False) -> bool:
    """Whether ``value`` matches ``pattern``, where ``*`` is any run of characters and ``?`` any one."""
    return _glob(pattern, ignore_case).fullmatch(value) is not None


def action(pattern: str, value: str) -> bool:
    """Whether an action matches. Actions are not case-sensitive ("IAM JSON policy elements: Action")."""
    return glob(pattern, value, ignore_case=True)


def arn(pattern: str, value: str) -> bool:
    """Whether an ARN matches, segment by segment; a pattern with fewer segments is filled up with ``*``."""
    if pattern == "*":
        return True
    wanted = pattern.split(":", 5)
    found = value.split(":", 5)
    if len(found) != 6:
        return False
    wanted += ["*"] * (6 - len(wanted))
    return all(glob(want, have) for want, have in zip(wanted, found, strict=True))
