"""Why two images differ: header, sections, ramdisk entries, and the first differing bytes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from coattest.files import open_plain
from coattest.findings import Finding
from coattest.text import printable
from coattest_build.explain.causes import CAUSES, Cause, cause_of
from coattest_build.explain.details import DETAILS, Found, Place, differs
from coattest_build.explain.excerpt import Span, excerpt, first_difference
from coattest_build.explain.trees import compare_trees
from coattest_build.formats import cpio
from coattest_build.formats.cpio import RamdiskEntry, RamdiskError
from coattest_build.formats.eif import EifSection, Layout, SectionType
from coattest_build.formats.lenient.initramfs import Unpacking, unpack_ramdisks
from coattest_build.formats.lenient.layout import read_found_layout
from coattest_build.formats.measure import measure_found

MAX_READ = 1 << 20
"""Bytes of a command line, of metadata or of a symlink's target that are compared as what they are."""

MAX_DIFFERENCES = 1000
"""Findings reported at most: a hostile or unrelated image should not fill the screen or the memory."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every finding, in the order of the file; ``truncated`` when there were more than are listed.

    ``places`` has the place of those findings for which contents were compared, ``causes`` all differences by
    cause, also those beyond the list, ``registers`` PCR0, 1 and 2 of A and of B where the images differ.
    """

    findings: tuple[Finding, ...]
    places: Mapping[Finding, Place]
    truncated: bool
    causes: tuple[Cause, ...] = ()
    registers: Mapping[str, tuple[str, str]] = field(default_factory=dict)

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
            "causes": [cause.to_json() for cause in self.causes],
            "registers": {name: {"a": a, "b": b} for name, (a, b) in self.registers.items()},
        }


def compare(a: Path, b: Path) -> Comparison:
    """Compare two images of any builders.

    Raises eif.ImageError when one is not an image or beyond a limit, EnvironmentFailure for zstd where it
    cannot be read, OSError when one cannot be read.
    """
    with open_plain(a) as left, open_plain(b) as right:
        one, other = read_found_layout(left).layout, read_found_layout(right).layout
        causes: dict[str, Cause] = {}
        telling: list[Found] = []
        rest: list[Found] = []
        for finding, place in _compare(left, one, right, other):
            name = cause_of(finding)
            causes.setdefault(name, Cause(name)).add(finding, place)
            # Where there are too many, times and owners are the first to go: they are summed up by cause.
            kept = rest if finding.code in _BY_THE_THOUSAND else telling
            if len(kept) < MAX_DIFFERENCES:
                kept.append((finding, place))
        if not causes:
            return Comparison((), {}, truncated=False)
        total = sum(cause.count for cause in causes.values())
        found = (telling + rest)[:MAX_DIFFERENCES]
        ranked = tuple(causes[name] for name in CAUSES if name in causes)
        registers = [
            measure_found(file, layout, whole=False).measured
            for file, layout in ((left, one), (right, other))
        ]
    return Comparison(
        tuple(finding for finding, _ in found),
        {finding: place for finding, place in found if place is not None},
        total > len(found),
        ranked,
        MappingProxyType(
            {f"PCR{n}": tuple(getattr(each, f"pcr{n}") for each in registers) for n in (0, 1, 2)}
        ),
    )


_BY_THE_THOUSAND = ("entry-mtime", "entry-owner")


def _compare(left: BinaryIO, one: Layout, right: BinaryIO, other: Layout) -> Iterator[Found]:
    different = False
    for found in _known_differences(left, one, right, other):
        different = True
        yield found
    if not different:
        # Bytes of no section, or which the kernel does not look at.
        spans = Span(left, 0, one.file_size), Span(right, 0, other.file_size)
        offset = first_difference(*(span.blocks() for span in spans))
        if offset is not None:
            code = "image-bytes"
            yield Finding(code, "image", DETAILS[code]), Place(offset, excerpt(*spans, offset))


def _known_differences(left: BinaryIO, one: Layout, right: BinaryIO, other: Layout) -> Iterator[Found]:
    for name in ("flags", "default_memory", "default_cpus"):
        values = getattr(one, name), getattr(other, name)
        if values[0] != values[1]:
            yield differs("header", name.replace("_", " "), str(values[0]), str(values[1]))
    ours, theirs = _named(one), _named(other)
    unpacked = None if _ours(left, ours, right, theirs) else _unpacked(left, one, right, other)
    for name, section in ours.items():
        if name not in theirs:
            yield differs("section-missing", name, f"{section.size} bytes", None)
        elif section.type is not SectionType.RAMDISK or unpacked is None:
            yield from _section(left, section, right, theirs[name], name)
    for name, section in theirs.items():
        if name not in ours:
            yield differs("section-missing", name, None, f"{section.size} bytes")
    if unpacked is not None:
        yield from _trees(unpacked, (left, one), (right, other))
    orders = [name for name in ours if name in theirs], [name for name in theirs if name in ours]
    if orders[0] != orders[1]:
        yield differs("section-order", "sections", ", ".join(orders[0]), ", ".join(orders[1]))


def _ours(
    left: BinaryIO, ours: Mapping[str, EifSection], right: BinaryIO, theirs: Mapping[str, EifSection]
) -> bool:
    """Whether the strict reader takes every ramdisk that differs, so that they are compared one by one."""
    for name in sorted(name for name in ours.keys() | theirs.keys() if name.startswith("ramdisk")):
        spans = [
            Span(file, side[name].offset, side[name].size)
            for file, side in ((left, ours), (right, theirs))
            if name in side
        ]
        if len(spans) > 1 and first_difference(*(span.blocks() for span in spans)) is None:
            continue
        try:
            for span in spans:
                for _ in cpio.read_entries(span.file, span.offset, span.size):
                    pass
        except RamdiskError:
            return False
    return True


def _unpacked(
    left: BinaryIO, one: Layout, right: BinaryIO, other: Layout
) -> tuple[Unpacking, Unpacking] | None:
    """What Linux makes of all ramdisks of both; None where it stops early in one."""
    pair = unpack_ramdisks(left, one), unpack_ramdisks(right, other)
    if any(each.stopped for each in pair):
        return None
    if any(each.streams.packed for each in pair):
        return unpack_ramdisks(left, one, digests=True), unpack_ramdisks(right, other, digests=True)
    return pair


def _trees(
    unpacked: tuple[Unpacking, Unpacking], a: tuple[BinaryIO, Layout], b: tuple[BinaryIO, Layout]
) -> Iterator[Found]:
    """What Linux makes of the ramdisks, compared; where that is the same, the ramdisks' bytes."""
    reported = False
    for found in compare_trees(*unpacked):
        reported = True
        yield found
    if reported:
        return
    sections = (layout.of_type(SectionType.RAMDISK) for _, layout in (a, b))
    for number, (one, other) in enumerate(zip(*sections, strict=False)):
        spans = Span(a[0], one.offset, one.size), Span(b[0], other.offset, other.size)
        offset = first_difference(*(span.blocks() for span in spans))
        if offset is not None:
            code = "archive-bytes"
            yield Finding(code, f"ramdisk {number}", DETAILS[code]), Place(offset, excerpt(*spans, offset))


def _named(layout: Layout) -> dict[str, EifSection]:
    """Sections by name; ramdisks are numbered from 0, others from the second of a type on."""
    named: dict[str, EifSection] = {}
    counts: Counter[SectionType] = Counter()
    for section in layout.sections:
        number = counts[section.type]
        counts[section.type] += 1
        plain = section.type is not SectionType.RAMDISK and not number
        named[section.type.label if plain else f"{section.type.label} {number}"] = section
    return named


def _section(left: BinaryIO, a: EifSection, right: BinaryIO, b: EifSection, name: str) -> Iterator[Found]:
    one, other = Span(left, a.offset, a.size), Span(right, b.offset, b.size)
    offset = first_difference(one.blocks(), other.blocks())
    if offset is None:
        return
    if a.type is SectionType.CMDLINE:
        found = Finding("cmdline", name, DETAILS["cmdline"], _text(one), _text(other))
        yield found, Place(offset)
    elif a.type is SectionType.METADATA:
        yield from _metadata(one.read(0, MAX_READ), other.read(0, MAX_READ), one, other, offset)
    elif a.type is SectionType.RAMDISK:
        yield from _ramdisk(one, other, name, offset)
    else:
        yield _content("section", name, one, other, offset)


def _content(what: str, name: str, one: Span, other: Span, offset: int) -> Found:
    """A difference in content; when the sizes differ they are its values."""
    place = Place(offset, excerpt(one, other, offset))
    if one.size == other.size:
        code = f"{what}-content"
        return Finding(code, name, DETAILS[code]), place
    code = f"{what}-size"
    return Finding(code, name, DETAILS[code], f"{one.size} bytes", f"{other.size} bytes"), place


def _text(span: Span) -> str:
    """All of a short span: a command line, a symlink's target."""
    return span.read(0, MAX_READ).decode(errors="backslashreplace")


def _metadata(a: bytes, b: bytes, one: Span, other: Span, offset: int) -> Iterator[Found]:
    try:
        ours, theirs = dict(_leaves(json.loads(a), "metadata")), dict(_leaves(json.loads(b), "metadata"))
    except (ValueError, RecursionError):
        ours = theirs = {}
    changed = [key for key in (ours | theirs) if ours.get(key) != theirs.get(key)]
    for key in changed:
        yield differs("metadata", key, ours.get(key), theirs.get(key))
    if not changed:
        yield _content("section", "metadata", one, other, offset)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves(below, f"{name}.{key}")
    else:
        yield name, json.dumps(value)


def _ramdisk(one: Span, other: Span, name: str, offset: int) -> Iterator[Found]:
    try:
        ours, theirs = (
            {entry.name: entry for entry in cpio.read_entries(span.file, span.offset, span.size)}
            for span in (one, other)
        )
    except RamdiskError as error:
        yield differs("ramdisk-unreadable", name, error.what, None)
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
        yield differs("entry-order", name, first[0], first[1])
    code = "archive-bytes"
    yield Finding(code, name, DETAILS[code]), Place(offset, excerpt(one, other, offset))


def _entry(
    left: Span, a: RamdiskEntry | None, right: Span, b: RamdiskEntry | None, where: str
) -> Iterator[Found]:
    if a is None or b is None:
        known = a or b
        assert known is not None
        shown = f"{known.kind}, mode {known.mode & 0o7777:04o}, {known.size} bytes"
        if a is None:
            yield differs("entry-added", where, None, shown)
        else:
            yield differs("entry-removed", where, shown, None)
        return
    if a.kind != b.kind:
        yield differs("entry-type", where, a.kind, b.kind)
        return
    if a.mode != b.mode:
        yield differs("entry-mode", where, f"{a.mode & 0o7777:04o}", f"{b.mode & 0o7777:04o}")
    one, other = Span(left.file, a.data_offset, a.size), Span(right.file, b.data_offset, b.size)
    if a.kind == "symlink":
        if _text(one) != _text(other):
            yield differs("entry-target", where, _text(one), _text(other))
    else:
        offset = first_difference(one.blocks(), other.blocks())
        if offset is not None:
            yield _content("entry", where, one, other, offset)
    if (a.uid, a.gid) != (b.uid, b.gid):
        yield differs("entry-owner", where, f"{a.uid}:{a.gid}", f"{b.uid}:{b.gid}")
    if a.mtime != b.mtime:
        yield differs("entry-mtime", where, str(a.mtime), str(b.mtime))
