"""Writes the JSON documents of every command, and refuses duplicate names when JSON is read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class _Stdout:
    """Whether this program has begun a document on stdout: there is one at most."""

    begun = False


class Rows(list[Any]):
    """A JSON array of ``row`` of each of ``items``, made as it is written: a million of them take no memory.

    It is a list because the encoder knows those; only ``len`` and iteration work.
    """

    def __init__(self, items: Sequence[T], row: Callable[[T], Any]) -> None:
        super().__init__()
        self._items, self._row = items, row

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return map(self._row, self._items)


class RepeatedName(ValueError):
    """An object has a name twice: two readers could read it differently (RFC 8259, section 4)."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} appears twice")
        self.name = name


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``object_pairs_hook``: the object, made in one pass. Raises RepeatedName."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise RepeatedName(name)
        found[name] = value
    return found


def emit_json(document: Any) -> None:
    """Print one JSON document on stdout: sorted keys, two spaces, a final newline.

    Control characters and lone surrogates (from file names) are escaped.
    """
    # Written as it is encoded: a million lots as one text would be the larger part of a gigabyte.
    _Stdout.begun = True
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    encoder = json.JSONEncoder(indent=2, sort_keys=True, ensure_ascii=plain)
    for piece in encoder.iterencode(document):
        sys.stdout.write(piece if piece.isascii() else _visible(piece))
    sys.stdout.write("\n")
    sys.stdout.flush()


def json_printed() -> bool:
    """Whether ``emit_json`` has been called since the program began (``forget_json``)."""
    return _Stdout.begun


def forget_json() -> None:
    """Start over, at the beginning of a program: nothing has been printed yet."""
    _Stdout.begun = False


def _visible(piece: str) -> str:
    # Non-ASCII characters occur in strings only, where an escape means the same (RFC 8259, 7).
    return "".join(
        character if character.isascii() or character.isprintable() else json.dumps(character)[1:-1]
        for character in piece
    )
