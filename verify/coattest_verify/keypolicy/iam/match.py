"""Wildcards, ARNs and policy variables.

Sources, all in the IAM User Guide: "IAM JSON policy elements: Resource" (wildcards, incomplete ARNs),
"Condition operators", sections "String" and "ARN", and "IAM policy elements: Variables and tags".

A pattern is read once into its parts. A match looks at each character of the value once.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Context = Mapping[str, tuple[str, ...]]

LITERALS = frozenset("*?$")
"""``${*}``, ``${?}`` and ``${$}`` stand for the characters themselves."""


class Wild(enum.Enum):
    """A wildcard of a pattern."""

    ANY = "*"
    ONE = "?"


@dataclass(frozen=True, slots=True)
class Variable:
    """``${key}`` or ``${key, 'default'}``; ``key`` is in lower case."""

    key: str
    default: str | None = None


Part = str | Wild | Variable


_WILDCARDS = re.compile(r"([*?])")
_WITH_VARIABLES = re.compile(r"(\$\{[^}]*\}?|[*?])")


class BadVariable(ValueError):
    """``${`` without a variable behind it."""


@functools.lru_cache(maxsize=4096)
def parts_of(pattern: str, variables: bool, wildcards: bool = True) -> tuple[Part, ...]:
    """The pattern's parts in order: text, wildcards, variables. Raises BadVariable."""
    found: list[Part] = []
    for token in (_WITH_VARIABLES if variables else _WILDCARDS).split(pattern):
        part: Part = token
        if variables and token.startswith("${"):
            if not token.endswith("}"):
                raise BadVariable(token[:40])
            part = _variable(token[2:-1])
        elif wildcards and token in ("*", "?"):
            part = Wild(token)
        before = found[-1] if found else None
        if isinstance(part, str) and isinstance(before, str):
            found[-1] = before + part
        elif part and not (part is Wild.ANY and before is Wild.ANY):
            found.append(part)
    return tuple(found)


def _variable(text: str) -> str | Variable:
    """A variable's name, or the character that it stands for."""
    key, comma, rest = text.partition(",")
    key, rest = key.strip(), rest.strip()
    if key in LITERALS and not comma:
        return key
    quoted = len(rest) >= 2 and rest[0] == rest[-1] == "'" and "'" not in rest[1:-1]
    if not key or "$" in key or "{" in key or (comma and not quoted):
        raise BadVariable(text[:40])
    return Variable(ascii_lower(key), rest[1:-1] if comma else None)


def resolve(parts: Sequence[Part], context: Context) -> tuple[str | Wild, ...] | None:
    """The parts with values for variables; None when one has no single value and no default.

    A value is text: a wildcard character in it stays a character.
    """
    found: list[str | Wild] = []
    for part in parts:
        if not isinstance(part, Variable):
            found.append(part)
            continue
        values = context.get(part.key, ())
        value = values[0] if len(values) == 1 else part.default
        if value is None:
            return None
        found.append(value)
    return tuple(found)


def without_variables(parts: Iterable[Part]) -> tuple[str | Wild, ...]:
    """The parts that are text or wildcards."""
    return tuple(part for part in parts if not isinstance(part, Variable))


def glob(parts: Sequence[str | Wild], value: str) -> bool:
    """Whether ``value`` matches, where ``*`` is any run of characters and ``?`` any one.

    All ways through the pattern are followed at once, a bit for each.
    """
    if all(isinstance(part, str) for part in parts):
        return "".join(str(part) for part in parts) == value
    return _follow(parts, value, colons=True)


def _follow(parts: Sequence[str | Wild], value: str, *, colons: bool) -> bool:
    """Whether ``value`` matches; without ``colons`` only a ``*`` at the end of a part stands for a colon."""
    flat: list[str | Wild] = []
    for part in parts:
        flat += [part] if isinstance(part, Wild) else list(part)
    stars = ends = ones = at = 0
    where: dict[str, int] = {}
    for index, part in enumerate(flat):
        if part is Wild.ANY:
            stars |= 1 << at
            if index + 1 == len(flat) or flat[index + 1] == ":":
                ends |= 1 << at
            continue
        if part is Wild.ONE:
            ones |= 1 << at
        else:
            where[str(part)] = where.get(str(part), 0) | 1 << at
        at += 1
    states = 1
    for character in value:
        wild, stay = (ones, stars) if colons or character != ":" else (0, ends)
        states = ((states & (where.get(character, 0) | wild)) << 1) | (states & stay)
        if not states:
            return False
    return bool(states >> at & 1)


def ascii_lower(text: str) -> str:
    """ASCII letters in lower case, the rest as it is: AWS does not say what the case of others is.

    For names of condition keys and actions as well as for values: the Kelvin sign, which Unicode lowers to k,
    does not begin a key of KMS.
    """
    return text.translate(_LOWER)


_LOWER = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}

OTHER_CASES = {"k": "\u212a", "s": "\u017f", "i": "\u0130\u0131"}
"""Characters outside ASCII whose other case is an ASCII letter (Unicode, CaseFolding and SpecialCasing)."""

_FOLDED = {ord(other): letter for letter, others in OTHER_CASES.items() for other in others}


def same_but_case(pattern: str, value: str) -> bool:
    """Equal but for the case of ASCII letters."""
    return ascii_lower(pattern) == ascii_lower(value)


def perhaps_same_but_case(pattern: str, value: str) -> bool:
    """Whether some reading of "ignoring case" makes these equal: always for text outside ASCII, whose case
    AWS does not describe.
    """
    if not pattern.isascii():
        return True
    return ascii_lower(pattern) == ascii_lower(value.translate(_FOLDED))


@functools.lru_cache(maxsize=65536)
def action(pattern: str, value: str) -> bool:
    """Whether an action matches. Actions are not case-sensitive ("IAM JSON policy elements: Action")."""
    return glob(without_variables(parts_of(ascii_lower(pattern), False)), ascii_lower(value))


def segments(parts: Sequence[str | Wild]) -> list[tuple[str | Wild, ...]]:
    """The pattern's parts between colons, at most six: the sixth has the rest."""
    found: list[list[str | Wild]] = [[]]
    for part in parts:
        pieces = [part] if isinstance(part, Wild) else part.split(":", 6 - len(found))
        found[-1].append(pieces[0])
        found += [[piece] for piece in pieces[1:]]
    return [tuple(filter(None, item)) for item in found]


def by_segments(parts: Sequence[str | Wild], value: str) -> bool:
    """Whether an ARN matches part by part; missing parts of the pattern count as ``*``."""
    have = value.split(":", 5)
    if len(have) != 6:
        return False
    want = segments(parts)
    return all(glob(pattern, text) for pattern, text in zip(want, have, strict=False))


def completed(parts: Sequence[str | Wild]) -> tuple[str | Wild, ...]:
    """The pattern of an incomplete ARN with ``*`` for each missing part ("IAM JSON policy elements:
    Resource", "Incomplete ARNs").
    """
    return (*parts, *(":", Wild.ANY) * (6 - len(segments(parts))))


def crosses_at_ends(parts: Sequence[str | Wild], value: str) -> bool:
    """Whether an ARN matches where a ``*`` at the end of a part may also stand for colons, and no other
    wildcard may.

    A part's end is a colon of the pattern, or the pattern's end.
    """
    return _follow(parts, value, colons=False)
