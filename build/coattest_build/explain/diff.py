"""Why two images differ: header, sections, ramdisk entries, and the first differing bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from coattest.text import printable
from coattest_build.explain.excerpt import Excerpt, Span, excerpt, first_difference
from coattest_build.formats import cpio, eif
from coattest_build.formats.cpio import RamdiskEntry, RamdiskError
from coattest_build.formats.eif import Layout, Section, SectionType

MAX_DIFFERENCES = 1000
"""Reported at most; a hostile or unrelated image should not fill the screen or the memory."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. ``code`` is stable; ``where`` names the place; ``a`` and ``b`` are the two values.

    ``offset`` is that of the first differing byte within the place, where contents were compared.
    """

    code: str
    where: str
    a: str | None = None
    b: str | None = None
    offset: int | None = None
    excerpt: Excerpt | None = None

    def __str__(self) -> str:
        values = f": {self.a or '(nothing)'} -> {self.b or '(nothing)'}" if self.a or self.b else ""
        at = "" if self.offset is None else f" at byte {self.offset}"
        inside = f" ({self.excerpt.place})" if self.excerpt and self.excerpt.kind != "bytes" else ""
        return printable(f"{self.where}: {_WORDS[self.code]}{at}{inside}{values}")

    def to_json(self) -> dict[str, Any]:
        """A JSON object; absent values are left out."""
        document: dict[str, Any] = {"code": self.code, "where": self.where}
        for name in ("a", "b", "offset"):
            if getattr(self, name) is not None:
                document[name] = getattr(self, name)
        if self.excerpt is not None:
            shown = self.excerpt
            document["excerpt"] = {"kind": shown.kind, "place": shown.place, "a": shown.a, "b": shown.b}
        return document


_WORDS = {
    "header": "differs",
    "section-order": "sections are in another order",
    "section-missing": "is in one image only",
    "section-size": "another size",
    "section-content": "other content",
    "cmdline": "other command line",
    "metadata": "other value",
    "ramdisk-unreadable": "not an archive, compared as bytes",
    "entry-added": "added",
    "entry-removed": "removed",
    "entry-type": "another type",
    "entry-mode": "another mode",
    "entry-target": "another target",
    "entry-size": "another size",
    "entry-content": "other content",
    "entry-owner": "another owner",
    "entry-mtime": "another time",
    "entry-order": "entries are in another order",
    "archive-bytes": "same entries, other bytes",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every difference, in the order of the file; ``truncated`` when there were more than are listed."""

    differences: tuple[Difference, ...]
    truncated: bool

    @property
    def identical(self) -> bool:
        """Whether the two files have the same bytes."""
        return not self.differences

    def to_json(self) -> dict[str, Any]:
        """The document that ``eif diff --json`` prints."""
        return {
            "identical": self.identical,
            "differences": [difference.to_json() for difference in self.differences],
            "truncated": self.truncated,
        }


def compare(a: Path, b: Path) -> Comparison:
    """Compare two images. Raises eif.ImageError when one is not an image, OSError when one cannot be read."""
    with a.open("rb", buffering=0) as left, b.open("rb", buffering=0) as right:
        found: list[Difference] = []
        for difference in _compare(left, right):
            if len(found) == MAX_DIFFERENCES:
                return Comparison(tuple(found), truncated=True)
            found.append(difference)
        return Comparison(tuple(found), truncated=False)


def _compare(left: BinaryIO, right: BinaryIO) -> Iterator[Difference]:
    one, other = eif.read_layout(left), eif.read_layout(right)
    for name in ("flags", "default_memory", "default_cpus"):
        values = getattr(one, name), getattr(other, name)
        if values[0] != values[1]:
            yield Difference("header", name.replace("_", " "), str(values[0]), str(values[1]))
    ours, theirs = _named(one), _named(other)
    for name, section in ours.items():
        if name not in theirs:
            yield Difference("section-missing", name, f"{section.size} bytes", None)
        else:
            yield from _section(left, section, right, theirs[name], name)
    for name, section in theirs.items():
        if name not in ours:
            yield Difference("section-missing", name, None, f"{section.size} bytes")
    orders = [name for name in ours if name in theirs], [name for name in theirs if name in ours]
    if orders[0] != orders[1]:
        yield Difference("section-order", "sections", ", ".join(orders[0]), ", ".join(orders[1]))


def _named(layout: Layout) -> dict[str, Section]:
    """Sections by name; ramdisks are numbered."""
    named: dict[str, Section] = {}
    for section in layout.sections:
        if section.type is SectionType.RAMDISK:
            named[f"ramdisk {sum(name.startswith('ramdisk') for name in named)}"] = section
        else:
            named[section.type.label] = section
    return named


def _section(left: BinaryIO, a: Section, right: BinaryIO, b: Section, name: str) -> Iterator[Difference]:
    one, other = Span(left, a.offset, a.size), Span(right, b.offset, b.size)
    offset = first_difference(one.blocks(), other.blocks())
    if offset is None:
        return
    if a.type is SectionType.CMDLINE:
        yield Difference("cmdline", name, _text(one), _text(other), offset)
    elif a.type is SectionType.METADATA:
        yield from _metadata(eif.section_content(left, a), eif.section_content(right, b), one, other, offset)
    elif a.type is SectionType.RAMDISK:
        yield from _ramdisk(one, other, name, offset)
    else:
        yield _content("section", name, one, other, offset)


def _content(what: str, name: str, one: Span, other: Span, offset: int) -> Difference:
    """A difference in content; the sizes are its values when they differ."""
    shown = excerpt(one, other, offset)
    if one.size == other.size:
        return Difference(f"{what}-content", name, offset=offset, excerpt=shown)
    return Difference(f"{what}-size", name, f"{one.size} bytes", f"{other.size} bytes", offset, shown)


def _text(span: Span) -> str:
    """All of a short span: a command line, a symlink's target."""
    return span.read(0, span.size).decode(errors="backslashreplace")


def _metadata(a: bytes, b: bytes, one: Span, other: Span, offset: int) -> Iterator[Difference]:
    try:
        ours, theirs = dict(_leaves(json.loads(a), "metadata")), dict(_leaves(json.loads(b), "metadata"))
    except (ValueError, RecursionError):
        ours = theirs = {}
    changed = [key for key in (ours | theirs) if ours.get(key) != theirs.get(key)]
    for key in changed:
        yield Difference("metadata", key, ours.get(key), theirs.get(key))
    if not changed:
        yield _content("section", "metadata", one, other, offset)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves(below, f"{name}.{key}")
    else:
        yield name, json.dumps(value)


def _ramdisk(one: Span, other: Span, name: str, offset: int) -> Iterator[Difference]:
    try:
        ours, theirs = (
            {entry.name: entry for entry in cpio.read_entries(span.file, span.offset, span.size)}
            for span in (one, other)
        )
    except RamdiskError as error:
        yield Difference("ramdisk-unreadable", name, error.what, None)
        yield _content("section", name, one, other, offset)
        return
    told = False
    for entry in sorted(ours.keys() | theirs.keys()):
        for difference in _entry(one, ours.get(entry), other, theirs.get(entry), f"{name}: {entry}"):
            told = True
            yield difference
    if told:
        return
    if list(ours) != list(theirs):
        first = next(pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1])
        yield Difference("entry-order", name, first[0], first[1])
    yield Difference("archive-bytes", name, offset=offset, excerpt=excerpt(one, other, offset))


def _entry(
    left: Span, a: RamdiskEntry | None, right: Span, b: RamdiskEntry | None, where: str
) -> Iterator[Difference]:
    if a is None or b is None:
        known = a or b
        assert known is not None
        shown = f"{known.kind}, mode {known.mode & 0o7777:04o}, {known.size} bytes"
        yield (
            Difference("entry-added", where, None, shown)
            if a is None
            else Difference("entry-removed", where, shown, None)
        )
        return
    if a.kind != b.kind:
        yield Difference("entry-type", where, a.kind, b.kind)
        return
    if a.mode != b.mode:
        yield Difference("entry-mode", where, f"{a.mode & 0o7777:04o}", f"{b.mode & 0o7777:04o}")
    one, other = Span(left.file, a.data_offset, a.size), Span(right.file, b.data_offset, b.size)
    if a.kind == "symlink":
        if _text(one) != _text(other):
            yield Difference("entry-target", where, _text(one), _text(other))
    else:
        offset = first_difference(one.blocks(), other.blocks())
        if offset is not None:
            yield _content("entry", where, one, other, offset)
    if (a.uid, a.gid) != (b.uid, b.gid):
        yield Difference("entry-owner", where, f"{a.uid}:{a.gid}", f"{b.uid}:{b.gid}")
    if a.mtime != b.mtime:
        yield Difference("entry-mtime", where, str(a.mtime), str(b.mtime))
