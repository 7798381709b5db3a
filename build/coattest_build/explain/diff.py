"""Why two images differ: header, sections, ramdisk entries, and the first differing bytes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from coattest.errors import PATHS, require_kind
from coattest.files import open_plain
from coattest.findings import Finding
from coattest.text import printable
from coattest_build.containers.sources import FilePart, plain_blocks
from coattest_build.explain.causes import CAUSES, Cause, cause_of, ramdisks_of
from coattest_build.explain.describe import crc_findings, read_signature
from coattest_build.explain.details import Found, Place, differs
from coattest_build.explain.excerpt import excerpt, first_difference
from coattest_build.explain.trees import compare_trees
from coattest_build.formats.eif import EifSection, ImageError, Layout, SectionType
from coattest_build.formats.lenient.initramfs import unpack_ramdisks
from coattest_build.formats.lenient.layout import read_found_layout
from coattest_build.formats.measure import measure_found
from coattest_build.formats.registers import ZERO_REGISTER

MAX_READ = 1 << 20
"""Bytes of a command line or of metadata that are compared as what they are."""

MAX_LEAVES = 16 << 20
"""Characters of metadata's values, each with all names above it: what is below a long one repeats it."""

MAX_DIFFERENCES = 1000
"""Findings reported at most: a hostile or unrelated image should not fill the screen or the memory."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every difference, in the order of the file; ``truncated`` when there were more than are listed.

    ``places`` has the place of those findings for which contents were compared, ``causes`` all differences by
    cause, also those beyond the list, ``registers`` PCR0, 1, 2 and 8 of A and of B where the images differ:
    PCR8 is zero without a signature, and None where that cannot be read.
    ``faults`` are what is false about A or B alone: it can be read in two ways, or its CRC-32 is wrong.
    """

    findings: tuple[Finding, ...]
    places: Mapping[Finding, Place]
    truncated: bool
    faults: tuple[Finding, ...]
    causes: tuple[Cause, ...] = ()
    registers: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)

    @property
    def apart(self) -> tuple[str, ...]:
        """The registers in which the images differ."""
        return _apart(self.registers)

    @property
    def identical(self) -> bool:
        """Whether the two files have the same bytes."""
        return not self.findings

    def __bool__(self) -> bool:
        """True only if the files are the same, and nothing is false about them."""
        return self.identical and not self.faults

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
        """The document of ``eif diff --json``: each finding's keys, and its place's; faults first."""
        return {
            "identical": self.identical,
            "findings": [
                finding.to_json() | (self.places[finding].to_json() if finding in self.places else {})
                for finding in (*self.faults, *self.findings)
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
    require_kind(a, PATHS, "a")
    require_kind(b, PATHS, "b")
    with open_plain(a) as left, open_plain(b) as right:
        images = (left, read_found_layout(left)), (right, read_found_layout(right))
        measured = [measure_found(file, found.layout, whole=False) for file, found in images]
        faults = tuple(
            replace(fault, where=f"image {name}")
            for name, (_, found), whole in zip("AB", images, measured, strict=True)
            for fault in (*found.findings, *crc_findings(found.layout, whole.crc32))
        )
        one, other = (found.layout for _, found in images)
        registers = {
            **{f"PCR{n}": tuple(getattr(each, f"pcr{n}") for each in measured) for n in (0, 1, 2)},
            "PCR8": tuple(_pcr8(file, found.layout) for file, found in images),
        }
        apart = frozenset(_apart(registers))
        causes: dict[str, Cause] = {}
        telling: list[Found] = []
        rest: list[Found] = []
        for finding, place in _compare(left, one, right, other):
            name = cause_of(finding)
            causes.setdefault(name, Cause(name, apart)).add(finding, place)
            # Where there are too many, times and owners are the first to go: they are summed up by cause.
            listed = rest if finding.code in _BY_THE_THOUSAND else telling
            if len(listed) < MAX_DIFFERENCES:
                listed.append((finding, place))
        if not causes:
            return Comparison((), {}, truncated=False, faults=faults)
        total = sum(cause.count for cause in causes.values())
        found = (telling + rest)[:MAX_DIFFERENCES]
        ranked = tuple(causes[name] for name in CAUSES if name in causes)
    return Comparison(
        tuple(finding for finding, _ in found),
        {finding: place for finding, place in found if place is not None},
        total > len(found),
        faults,
        ranked,
        MappingProxyType(registers),
    )


def _apart(registers: Mapping[str, tuple[str | None, str | None]]) -> tuple[str, ...]:
    return tuple(name for name, (a, b) in registers.items() if a != b)


def _pcr8(file: BinaryIO, layout: Layout) -> str | None:
    try:
        signed = read_signature(file, layout)
    except ImageError:
        return None
    return signed[0].pcr8 if signed else ZERO_REGISTER.hex()


_BY_THE_THOUSAND = ("entry-mtime", "entry-owner")


def _compare(left: BinaryIO, one: Layout, right: BinaryIO, other: Layout) -> Iterator[Found]:
    different = False
    for found in _known_differences(left, one, right, other):
        different = True
        yield found
    if not different:
        # Bytes of no section, or which the kernel does not look at.
        spans = FilePart(left, 0, one.file_size), FilePart(right, 0, other.file_size)
        offset = first_difference(*map(plain_blocks, spans))
        if offset is not None:
            yield differs("image-bytes", "image", place=Place(offset, excerpt(*spans, offset)))


def _known_differences(left: BinaryIO, one: Layout, right: BinaryIO, other: Layout) -> Iterator[Found]:
    for name in ("flags", "default_memory", "default_cpus"):
        values = getattr(one, name), getattr(other, name)
        if values[0] != values[1]:
            yield differs("header", name.replace("_", " "), str(values[0]), str(values[1]))
    ours, theirs = _named(one), _named(other)
    for name, section in ours.items():
        if name not in theirs:
            yield differs("section-missing", name, f"{section.size} bytes", None)
        elif section.type is not SectionType.RAMDISK:
            yield from _section(left, section, right, theirs[name], name)
    for name, section in theirs.items():
        if name not in ours:
            yield differs("section-missing", name, None, f"{section.size} bytes")
    yield from _ramdisks((left, one), (right, other))
    orders = [name for name in ours if name in theirs], [name for name in theirs if name in ours]
    if orders[0] != orders[1]:
        yield differs("section-order", "sections", ", ".join(orders[0]), ", ".join(orders[1]))


def _ramdisks(a: tuple[BinaryIO, Layout], b: tuple[BinaryIO, Layout]) -> Iterator[Found]:
    """What Linux makes of the ramdisks, compared; of a ramdisk in which that is the same, its bytes."""
    different = list(_different_ramdisks(a, b))
    counts = [len(layout.of_type(SectionType.RAMDISK)) for _, layout in (a, b)]
    if not different and counts[0] == counts[1]:
        return
    unpacked = unpack_ramdisks(*a), unpack_ramdisks(*b)
    stopped = [each.stopped for each in unpacked]
    if any(stopped):
        yield differs("ramdisk-unreadable", "ramdisks", *stopped)
        for name, spans, offset in different:
            yield _content(name, *spans, offset)
        return
    if any(each.streams.packed for each in unpacked):
        unpacked = unpack_ramdisks(*a, digests=True), unpack_ramdisks(*b, digests=True)
    explained: set[int] = set()
    for found in compare_trees(*unpacked):
        explained |= ramdisks_of(found[0]) or set(range(max(counts)))
        yield found
    for name, spans, offset in different:  # an entry that a later one replaces, or the same in other bytes
        if int(name.split()[1]) not in explained:
            yield differs("archive-bytes", name, place=Place(offset, excerpt(*spans, offset)))


def _different_ramdisks(
    a: tuple[BinaryIO, Layout], b: tuple[BinaryIO, Layout]
) -> Iterator[tuple[str, tuple[FilePart, FilePart], int]]:
    """Name, contents and first difference of each pair of ramdisks whose bytes differ."""
    sections = (layout.of_type(SectionType.RAMDISK) for _, layout in (a, b))
    for number, (one, other) in enumerate(zip(*sections, strict=False)):
        spans = FilePart(a[0], one.offset, one.size), FilePart(b[0], other.offset, other.size)
        offset = first_difference(*map(plain_blocks, spans))
        if offset is not None:
            yield f"ramdisk {number}", spans, offset


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
    one, other = FilePart(left, a.offset, a.size), FilePart(right, b.offset, b.size)
    offset = first_difference(plain_blocks(one), plain_blocks(other))
    if offset is None:
        return
    if a.type is SectionType.CMDLINE:
        texts = (span.read(0, MAX_READ).decode(errors="backslashreplace") for span in (one, other))
        yield differs("cmdline", name, *texts, place=Place(offset))
    elif a.type is SectionType.METADATA:
        yield from _metadata(one.read(0, MAX_READ), other.read(0, MAX_READ), one, other, offset)
    else:
        yield _content(name, one, other, offset)


def _content(name: str, one: FilePart, other: FilePart, offset: int) -> Found:
    """A difference in a section's content; when the sizes differ they are its values."""
    place = Place(offset, excerpt(one, other, offset))
    if one.size == other.size:
        return differs("section-content", name, place=place)
    return differs("section-size", name, f"{one.size} bytes", f"{other.size} bytes", place=place)


def _metadata(a: bytes, b: bytes, one: FilePart, other: FilePart, offset: int) -> Iterator[Found]:
    try:
        ours, theirs = _named_leaves(a), _named_leaves(b)
    except (ValueError, RecursionError):
        ours = theirs = {}
    changed = [key for key in (ours | theirs) if ours.get(key) != theirs.get(key)]
    for key in changed:
        yield differs("metadata", key, ours.get(key), theirs.get(key))
    if not changed:
        yield _content("metadata", one, other, offset)


def _named_leaves(metadata: bytes) -> dict[str, str]:
    """The values of JSON by name. Raises ValueError, RecursionError."""
    found, left = {}, MAX_LEAVES
    for name, value in _leaves(json.loads(metadata), "metadata"):
        left -= len(name) + len(value)
        if left < 0:
            raise ValueError("too much to be named")
        found[name] = value
    return found


def _leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves(below, f"{name}.{key}")
    else:
        yield name, json.dumps(value)
