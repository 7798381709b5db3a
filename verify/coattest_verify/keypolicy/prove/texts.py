"""Expressions of the solver for texts and patterns: the twins of ``iam.match``."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import z3  # type: ignore[import-untyped,unused-ignore]

from coattest_verify.keypolicy.iam.conditions import REGISTER
from coattest_verify.keypolicy.iam.match import OTHER_CASES, Wild, completed, segments

Pattern = Sequence[str | Wild]

CHARACTER = z3.AllChar(z3.ReSort(z3.StringSort()))
NO_COLON = z3.Intersect(CHARACTER, z3.Complement(z3.Re(":")))
ANYTHING = z3.Star(CHARACTER)
NOTHING = z3.Empty(z3.ReSort(z3.StringSort()))
PRINTABLE = z3.Star(z3.Range("!", "~"))
"""What a person reads without guessing; only a wish for counterexamples."""

REGISTER_VALUE = z3.Loop(z3.Union(z3.Range("0", "9"), z3.Range("a", "f")), REGISTER, REGISTER)
_LAST = 0x2FFFF
_ESCAPE = re.compile(r"\\u\{([0-9a-f]+)\}")


class Unsupported(Exception):
    """Something in the policy that has no sound formula here; the answer is then "unknown"."""


def constant(text: str) -> Any:
    """A text as it stands. Raises Unsupported.

    The solver reads a backslash followed by u as an escape.
    """
    if any(ord(character) > _LAST for character in text):
        raise Unsupported(f"{text!r} has characters that the solver does not know")
    return z3.StringVal(
        "".join(
            character if " " <= character <= "~" and character != "\\" else f"\\u{{{ord(character):x}}}"
            for character in text
        )
    )


def text_in(value: Any) -> str:
    """The text of one of the solver's constants."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), value.as_string())


def model_text(model: Any, symbol: Any) -> str:
    """A symbol's text in a model."""
    return text_in(model.eval(symbol, model_completion=True))


def literal(text: str) -> Any:
    """The expression of one text."""
    return z3.Re(constant(text))


@functools.lru_cache(maxsize=4096)
def case_regex(text: str) -> Any:
    """The texts that are equal but for the case of ASCII letters."""
    return sequence([_cases(character) for character in text])


@functools.lru_cache(maxsize=4096)
def open_case_regex(text: str) -> Any:
    """The texts that some reading calls equal but for their case."""
    if not text.isascii():
        return ANYTHING
    return sequence(
        [
            z3.Union([_cases(character), *map(literal, OTHER_CASES.get(character.lower(), ""))])
            for character in text
        ]
    )


def _cases(character: str) -> Any:
    if not (character.isascii() and character.isalpha()):
        return literal(character)
    return z3.Union(z3.Re(character.lower()), z3.Re(character.upper()))


def glob_regex(parts: Pattern, *, any_character: Any = CHARACTER) -> Any:
    """The texts that a pattern matches, with ``any_character`` for its wildcards."""
    return sequence(
        [
            part if isinstance(part, str) else z3.Star(any_character) if part is Wild.ANY else any_character
            for part in parts
        ]
    )


def segments_regex(parts: Pattern) -> Any:
    """The ARNs that match part by part; missing parts of the pattern count as ``*``."""
    want = segments(completed(parts))
    joined: list[Any] = []
    for index, segment in enumerate(want):
        joined += [":"] if index else []
        joined.append(glob_regex(segment, any_character=CHARACTER if index == 5 else NO_COLON))
    return sequence(joined)


def crossing_regex(parts: Pattern) -> Any:
    """The texts that match where a ``*`` at the end of a part may stand for colons too."""
    made: list[Any] = []
    for index, part in enumerate(parts):
        after = parts[index + 1] if index + 1 < len(parts) else ":"
        ends = isinstance(after, str) and after.startswith(":")
        character = CHARACTER if ends and part is Wild.ANY else NO_COLON
        made.append(part if isinstance(part, str) else z3.Star(character) if part is Wild.ANY else character)
    return sequence(made)


def sequence(items: Sequence[Any]) -> Any:
    """One expression, or text, after the other."""
    made = [literal(item) if isinstance(item, str) else item for item in items] or [z3.Re("")]
    return made[0] if len(made) == 1 else z3.Concat(*made)
