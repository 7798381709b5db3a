"""JSON from possible attackers: limits first, exactly one reading, typed access.

A document with a duplicate key, a float, a NaN, an escaped surrogate or a byte order mark has more than one
reading (RFC 8259, sections 4, 6 and 8), so it is refused instead of read in one of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from coattest.errors import Rejected
from coattest.jsontext import RepeatedName, unique_names

T = TypeVar("T")

MAX_SIZE = 4 * 1024 * 1024
"""Bytes of one document. A statement over two profiles and 400 locked inputs has about 150 kB."""

MAX_DEPTH = 32
"""Nested arrays and objects; SLSA provenance as written here reaches 7."""

MAX_INTEGER = 2**53 - 1
"""Largest integer that every JSON reader represents exactly (RFC 8259, section 6)."""

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
# Matches from any quote on, closed or not: a match that failed would be tried again from every later quote.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)


def canonical(value: Any) -> bytes:
    """The one serialisation of ``value`` that digests are made of: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse(data: bytes, *, max_size: int = MAX_SIZE) -> Any:
    """The value of a JSON document. Raises Rejected unless it has exactly one reading."""
    if len(data) > max_size:
        raise Rejected(f"larger than {max_size} bytes", code="too-large")
    if too_deep(data):
        raise Rejected(f"nested deeper than {MAX_DEPTH}", code="too-deep")
    if b"\\" in data and b"\\ud" in data.lower():
        raise Rejected("escaped surrogate")
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique_names,
            parse_int=_integer,
            parse_float=_no_float,
            parse_constant=_no_float,
        )
    except RepeatedName as error:
        raise Rejected(f"duplicate key {shown(error.name)}", code="duplicate-key") from None
    except UnicodeDecodeError as error:
        raise Rejected(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise Rejected(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise Rejected(f"nested deeper than {MAX_DEPTH}", code="too-deep") from None


def more_than(limit: int, data: bytes, *signs: bytes) -> bool:
    """Whether ``data`` has more of the signs than ``limit``. Long strings pass faster than with count()."""
    count = 0
    for sign in signs:
        at = data.find(sign)
        while at >= 0:
            count += 1
            if count > limit:
                return True
            at = data.find(sign, at + 1)
    return False


def too_deep(data: bytes) -> bool:
    """Whether the nesting exceeds the limit. Strings are cut out first: a bracket in one closes nothing."""
    if not more_than(MAX_DEPTH, data, b"[", b"{"):
        return False
    # Without escapes every other piece between quotes is a string; cutting them so is several times faster.
    if b"\\" in data:
        outside = _STRING.sub(b"", data)
    else:
        outside = b"".join(data.translate(None, _NOT_STRUCTURE).split(b'"')[::2])
    depth = 0
    for byte in outside.translate(None, _NOT_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_INTEGER:
        raise Rejected("integer out of range")
    return int(text)


def _no_float(text: str) -> NoReturn:
    raise Rejected(f"number {shown(text)} is not an integer")


def shown(text: str, limit: int = 60) -> str:
    """Text of unknown origin for a message: quoted, control characters escaped, cut."""
    cut = text if len(text) <= limit else text[:limit] + "..."
    return ascii(cut)


class Fields:
    """Typed access to a JSON object and those in it; whatever is not taken by the end is an unknown field."""

    __slots__ = ("_inside", "_taken", "path", "values")

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise Rejected(f"{path or 'document'}: not an object")
        self.values: Mapping[str, Any] = value
        self.path = path
        self._taken: set[str] = set()
        self._inside: dict[str | tuple[str, int], Fields] = {}

    def _get(self, name: str) -> Any:
        self._taken.add(name)
        if name not in self.values:
            raise Rejected(f"{self.at(name)}: missing")
        return self.values[name]

    def at(self, name: str) -> str:
        """The path of a field, for messages."""
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        """Whether the field is there."""
        return name in self.values

    def text(self, name: str, pattern: re.Pattern[str] | None = None, *, limit: int = 1024) -> str:
        """A non-empty string of at most ``limit`` characters, of ``pattern`` where given. Raises Rejected."""
        value = self._get(name)
        if not isinstance(value, str) or not value or len(value) > limit:
            raise Rejected(f"{self.at(name)}: not a text of 1 to {limit} characters")
        if pattern is not None and not pattern.fullmatch(value):
            raise Rejected(f"{self.at(name)}: {shown(value, 120)} does not have the form {pattern.pattern}")
        return value

    def exactly(self, name: str, expected: str, *, code: str | None = None) -> None:
        """Require the one value that this version knows."""
        value = self._get(name)
        if value != expected or not isinstance(value, str):
            found = shown(value) if isinstance(value, str) else type(value).__name__
            raise Rejected(f"{self.at(name)}: {found} instead of {expected!r}", code=code)

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """One of the allowed strings."""
        value = self._get(name)
        if not isinstance(value, str) or value not in allowed:
            raise Rejected(f"{self.at(name)}: not one of {', '.join(allowed)}")
        return value

    def integer(self, name: str, low: int = 0, high: int = MAX_INTEGER) -> int:
        """An integer from ``low`` to ``high``; true and false are not integers."""
        value = self._get(name)
        if type(value) is not int or not low <= value <= high:
            raise Rejected(f"{self.at(name)}: not an integer from {low} to {high}")
        return value

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self._get(name)
        if not isinstance(value, bool):
            raise Rejected(f"{self.at(name)}: not true or false")
        return value

    def items(self, name: str, *, low: int = 0, high: int) -> list[Any]:
        """An array of ``low`` to ``high`` items."""
        value = self._get(name)
        if not isinstance(value, list) or not low <= len(value) <= high:
            raise Rejected(f"{self.at(name)}: not an array of {low} to {high} items")
        return value

    def fields(self, name: str) -> Fields:
        """The object in a field: the same one at each call, and ``done`` looks into it."""
        value = self._get(name)
        if name not in self._inside:
            self._inside[name] = Fields(value, self.at(name))
        return self._inside[name]

    def each(self, name: str, *, low: int = 0, high: int) -> Iterator[Fields]:
        """The objects of an array of ``low`` to ``high`` items; ``done`` looks into them."""
        for index, item in enumerate(self.items(name, low=low, high=high)):
            entry = self._inside[name, index] = Fields(item, self.at(f"{name}[{index}]"))
            yield entry

    def mapping(self, name: str, *, low: int = 1, high: int) -> Mapping[str, Any]:
        """An object whose keys are data, with ``low`` to ``high`` members."""
        value = self._get(name)
        if not isinstance(value, dict) or not low <= len(value) <= high:
            raise Rejected(f"{self.at(name)}: not an object of {low} to {high} members")
        return value

    def anything(self, name: str) -> Any:
        """A field that is carried but not interpreted."""
        return self._get(name)

    def optional(self, name: str, read: Callable[..., T], *form: Any, **limits: int) -> T | None:
        """``read(name, *form, **limits)`` where the field is there and not null, else None."""
        self._taken.add(name)
        return read(name, *form, **limits) if self.values.get(name) is not None else None

    def done(self) -> None:
        """Refuse fields that were not read, here or in an object inside. Raises Rejected."""
        for inside in self._inside.values():
            inside.done()
        unknown = sorted(set(self.values) - self._taken)
        if unknown:
            raise Rejected(f"{self.at(shown(unknown[0]))}: unknown field", code="unknown-field")
