"""Why two images differ: header, sections, ramdisk entries, and the first differing bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from coattest.files import open_plain
from coattest.findings import Finding
from coattest.text import printable
from coattest_build.explain.excerpt import Excerpt, Span, excerpt, first_difference
from coattest_build.formats import cpio, eif
from coattest_build.formats.cpio import RamdiskEntry, RamdiskError
from coattest_build.formats.eif import EifSection, Layout, SectionType

MAX_DIFFERENCES = 1000
"""Findings reported at most: a hostile or unrelated image should not fill the screen or the memory."""

DETAILS: Mapping[str, str] = MappingProxyType(
    {
        "archive-bytes": "the same entries in different bytes",
        "cmdline": "different command line",
        "entry-added": "added",
        "entry-content": "different content",
        "entry-mode": "different mode",
        "entry-mtime": "different time",
        "entry-order": "the entries are in a different order",
        "entry-owner": "different owner",
        "entry-removed": "removed",
        "entry-size": "different size",
        "entry-target": "different target",
        "entry-type": "different type",
        "header": "different value",
        "metadata": "different value",
        "ramdisk-unreadable": "not an archive that the strict reader accepts, so compared as bytes",
        "section-content": "different content",
        "section-missing": "in one image only",
        "section-order": "the sections are in a different order",
        "section-size": "different size",
    }
)
"""What a finding of each code says; ``expected`` is image A's value, ``found`` image B's."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where two contents first differ: the byte's ``offset`` in them, and an excerpt around it."""

    offset: int
    excerpt: Excerpt | None = None

    def to_json(self) -> dict[str, Any]:
        """``offset``, and ``excerpt`` where there is one."""
        if self.excerpt is None:
            return {"offset": self.offset}
        shown = self.excerpt
        return {
            "offset": self.offset,
            "excerpt": {"kind": shown.kind, "place": shown.place, "a": shown.a, "b": shown.b},
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every finding, in the order of the file; ``truncated`` when there were more than are listed.

    ``places`` has the place of those findings for which contents were compared.
    """

    findings: tuple[Finding, ...]
    places: Mapping[Finding, Place]
    truncated: bool

    @property
    def identical(self) -> bool:
        """Whether the two files have the same bytes."""
        return not self.findings

    def line(self, finding: Finding) -> str:
        """One of the findings as a line for a person, without its code."""
        values = ""
        if finding.expected or finding.found:
            values = f": {finding.expected or '(nothing)'} -> {finding.found or '(nothing)'}"
        place, at, inside = self.places.get(finding), "", ""
        if place is not None:
            at = f" at byte {place.offset}"
            if place.excerpt and place.excerpt.kind != "bytes":
                inside = f" ({place.excerpt.place})"
        return printable(f"{finding.where}: {finding.detail}{at}{inside}{values}")

    def to_json(self) -> dict[str, Any]:
        """The document that ``eif diff --json`` prints: each finding's keys, and its place's."""
        return {
            "identical": self.identical,
            "findings": [
                finding.to_json() | (self.places[finding].to_json() if finding in self.places else {})
                for finding in self.findings
            ],
            "truncated": self.truncated,
        }


_Found = tuple[Finding, "Place | None"]


def compare(a: Path, b: Path) -> Comparison:
    """Compare two images. Raises eif.ImageError when one is not an image, OSError when one cannot be read."""
    with open_plain(a) as left, open_plain(b) as right:
        findings: list[Finding] = []
        places: dict[Finding, Place] = {}
        for finding, place in _compare(left, right):
            if len(findings) == MAX_DIFFERENCES:
                return Comparison(tuple(findings), places, truncated=True)
            findings.append(finding)
            if place is not None:
                places[finding] = place
        return Comparison(tuple(findings), places, truncated=False)


def _differs(code: str, where: str, a: str | None = None, b: str | None = None) -> _Found:
    """A finding without a byte offset."""
    return Finding(code, where, DETAILS[code], a, b), None


def _compare(left: BinaryIO, right: BinaryIO) -> Iterator[_Found]:
    one, other = eif.read_layout(left), eif.read_layout(right)
    for name in ("flags", "default_memory", "default_cpus"):
        values = getattr(one, name), getattr(other, name)
        if values[0] != values[1]:
            yield _differs("header", name.replace("_", " "), str(values[0]), str(values[1]))
    ours, theirs = _named(one), _named(other)
    for name, section in ours.items():
        if name not in theirs:
            yield _differs("section-missing", name, f"{section.size} bytes", None)
        else:
            yield from _section(left, section, right, theirs[name], name)
    for name, section in theirs.items():
        if name not in ours:
            yield _differs("section-missing", name, None, f"{section.size} bytes")
    orders = [name for name in ours if name in theirs], [name for name in theirs if name in ours]
    if orders[0] != orders[1]:
        yield _differs("section-order", "sections", ", ".join(orders[0]), ", ".join(orders[1]))


def _named(layout: Layout) -> dict[str, EifSection]:
    """Sections by name; ramdisks are numbered."""
    named: dict[str, EifSection] = {}
    for section in layout.sections:
        if section.type is SectionType.RAMDISK:
            named[f"ramdisk {sum(name.startswith('ramdisk') for name in named)}"] = section
        else:
            named[section.type.label] = section
    return named


def _section(left: BinaryIO, a: EifSection, right: BinaryIO, b: EifSection, name: str) -> Iterator[_Found]:
    one, other = Span(left, a.offset, a.size), Span(right, b.offset, b.size)
    offset = first_difference(one.blocks(), other.blocks())
    if offset is None:
        return
    if a.type is SectionType.CMDLINE:
        found = Finding("cmdline", name, DETAILS["cmdline"], _text(one), _text(other))
        yield found, Place(offset)
    elif a.type is SectionType.METADATA:
        yield from _metadata(eif.section_content(left, a), eif.section_content(right, b), one, other, offset)
    elif a.type is SectionType.RAMDISK:
        yield from _ramdisk(one, other, name, offset)
    else:
        yield _content("section", name, one, other, offset)


def _content(what: str, name: str, one: Span, other: Span, offset: int) -> _Found:
    """A difference in content; when the sizes differ they are its values."""
    place = Place(offset, excerpt(one, other, offset))
    if one.size == other.size:
        code = f"{what}-content"
        return Finding(code, name, DETAILS[code]), place
    code = f"{what}-size"
    return Finding(code, name, DETAILS[code], f"{one.size} bytes", f"{other.size} bytes"), place


def _text(span: Span) -> str:
    """All of a short span: a command line, a symlink's target."""
    return span.read(0, span.size).decode(errors="backslashreplace")


def _metadata(a: bytes, b: bytes, one: Span, other: Span, offset: int) -> Iterator[_Found]:
    try:
        ours, theirs = dict(_leaves(json.loads(a), "metadata")), dict(_leaves(json.loads(b), "metadata"))
    except (ValueError, RecursionError):
        ours = theirs = {}
    changed = [key for key in (ours | theirs) if ours.get(key) != theirs.get(key)]
    for key in changed:
        yield _differs("metadata", key, ours.get(key), theirs.get(key))
    if not changed:
        yield _content("section", "metadata", one, other, offset)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves(below, f"{name}.{key}")
    else:
        yield name, json.dumps(value)


def _ramdisk(one: Span, other: Span, name: str, offset: int) -> Iterator[_Found]:
    try:
        ours, theirs = (
            {entry.name: entry for entry in cpio.read_entries(span.file, span.offset, span.size)}
            for span in (one, other)
        )
    except RamdiskError as error:
        yield _differs("ramdisk-unreadable", name, error.what, None)
        yield _content("section", name, one, other, offset)
        return
    reported = False
    for entry in sorted(ours.keys() | theirs.keys()):
        for found in _entry(one, ours.get(entry), other, theirs.get(entry), f"{name}: {entry}"):
            reported = True
            yield found
    if reported:
        return
    if list(ours) != list(theirs):
        first = next(pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1])
        yield _differs("entry-order", name, first[0], first[1])
    code = "archive-bytes"
    yield Finding(code, name, DETAILS[code]), Place(offset, excerpt(one, other, offset))


def _entry(
    left: Span, a: RamdiskEntry | None, right: Span, b: RamdiskEntry | None, where: str
) -> Iterator[_Found]:
    if a is None or b is None:
        known = a or b
        assert known is not None
        shown = f"{known.kind}, mode {known.mode & 0o7777:04o}, {known.size} bytes"
        if a is None:
            yield _differs("entry-added", where, None, shown)
        else:
            yield _differs("entry-removed", where, shown, None)
        return
    if a.kind != b.kind:
        yield _differs("entry-type", where, a.kind, b.kind)
        return
    if a.mode != b.mode:
        yield _differs("entry-mode", where, f"{a.mode & 0o7777:04o}", f"{b.mode & 0o7777:04o}")
    one, other = Span(left.file, a.data_offset, a.size), Span(right.file, b.data_offset, b.size)
    if a.kind == "symlink":
        if _text(one) != _text(other):
            yield _differs("entry-target", where, _text(one), _text(other))
    else:
        offset = first_difference(one.blocks(), other.blocks())
        if offset is not None:
            yield _content("entry", where, one, other, offset)
    if (a.uid, a.gid) != (b.uid, b.gid):
        yield _differs("entry-owner", where, f"{a.uid}:{a.gid}", f"{b.uid}:{b.gid}")
    if a.mtime != b.mtime:
        yield _differs("entry-mtime", where, str(a.mtime), str(b.mtime))
