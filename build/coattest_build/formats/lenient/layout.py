"""The sections of an EIF of version 3 or 4, and every rule of ADR 10 that it breaks, as notes.

AWS's reader walks the sections to the end of the file; QEMU follows the table. Here the walk is what counts,
and the table where that reader refuses the file; an image that the two read differently is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from coattest.findings import Finding
from coattest_build.formats import eif
from coattest_build.formats.eif import EifSection, ImageError, Layout, SectionType

VERSIONS = (3, 4)
"""Version 3 has the same header and sections as 4, without metadata (``EIF_VERSION`` of the AWS crate)."""

MAX_SECTIONS_WALKED = 256
"""AWS's reader has no limit, so a file with more is refused; the header's table has room for 32."""

_WHERE = "image"


@dataclass(frozen=True, slots=True)
class FoundLayout:
    """An image's sections; ``notes`` are the rules of ours that it breaks, ``findings`` what is false."""

    layout: Layout
    version: int
    notes: tuple[Finding, ...]
    findings: tuple[Finding, ...]


def read_found_layout(file: BinaryIO) -> FoundLayout:
    """The sections of an image that anybody made; its CRC-32 is not checked here.

    Raises ImageError when the file is no EIF of version 3 or 4, or has too many sections or none that can be
    read.
    """
    where = eif.name_of(file)
    file_size = eif.size_of(file)
    raw = file.read(eif.HEADER_SIZE)
    eif.check_magic(raw, where)
    if len(raw) < eif.HEADER_SIZE:
        raise ImageError(
            f"too short for an EIF header: {len(raw)} of {eif.HEADER_SIZE} bytes",
            where=where,
            code="eif-truncated",
        )
    _, version, flags, memory, cpus, reserved, count, *table = eif.HEADER.unpack(raw)
    offsets, sizes, (unused, crc) = table[:32], table[32:64], table[64:]
    if version not in VERSIONS:
        raise ImageError(f"EIF version {version}; 3 and 4 are read", where=where, code="eif-version")
    shown = min(count, eif.MAX_SECTIONS)
    spare = any(offsets[shown:]) or any(sizes[shown:])
    limit = f"{count} sections by the header; 1 to {eif.MAX_SECTIONS} are allowed"
    rules = (
        ("eif-version", version != eif.VERSION, f"version {version}; coattest writes {eif.VERSION}"),
        ("eif-flags", flags & ~eif.FLAG_AARCH64, f"unknown header flags {flags:#06x}"),
        ("eif-reserved", reserved or unused or spare, "reserved fields of the header are not zero"),
        ("eif-limit", not 0 < count <= eif.MAX_SECTIONS, limit),
    )
    notes = [Finding(code, _WHERE, detail) for code, broken, detail in rules if broken]
    walked, fault = _walk(file, file_size)
    by_table = _table(file, list(zip(offsets[:shown], sizes[:shown], strict=True)), file_size)
    if fault is not None:
        if by_table is None and (fault.code == "eif-truncated" or not _bootable(walked)):
            raise ImageError(fault.detail, where=where, code=fault.code)
        notes.append(fault)
    sections, whose = walked, "AWS's"
    if fault is not None and by_table is not None:
        sections, whose = by_table, "QEMU's"
    findings = []
    if by_table != walked:
        findings.append(
            Finding(
                "eif-two-readings",
                _WHERE,
                f"AWS's reader and QEMU see different sections, so it has two measurements; {whose} is shown",
                _told(walked),
                _told(by_table or ()),
            )
        )
    notes += _section_notes(file, sections, file_size if fault is None else 0)
    layout = Layout(flags, memory, cpus, crc, sections, file_size)
    return FoundLayout(layout, version, tuple(notes), tuple(findings))


def _walk(file: BinaryIO, file_size: int) -> tuple[tuple[EifSection, ...], Finding | None]:
    """The sections as AWS's reader sees them, and why it refuses the file where it does.

    Fewer bytes than a section's header has end its loop without an error. Raises ImageError beyond the limit.
    """
    sections: list[EifSection] = []
    position = eif.HEADER_SIZE
    while file_size - position >= eif.SECTION_HEADER_SIZE:
        at = f"section {len(sections)}"
        if len(sections) == MAX_SECTIONS_WALKED:
            detail = f"more than {MAX_SECTIONS_WALKED} sections"
            raise ImageError(detail, where=eif.name_of(file), code="eif-limit")
        file.seek(position)
        kind, _, size = eif.SECTION.unpack(file.read(eif.SECTION_HEADER_SIZE).ljust(12, b"\0"))
        if kind not in {each.value for each in SectionType}:
            return tuple(sections), Finding(
                "eif-section-type", at, f"{at} has unknown type {kind}, at byte {position}"
            )
        end = position + eif.SECTION_HEADER_SIZE + size
        if end > file_size:
            detail = f"{at} ends at byte {end}, the file at {file_size}"
            return tuple(sections), Finding("eif-truncated", at, detail)
        sections.append(EifSection(SectionType(kind), position + eif.SECTION_HEADER_SIZE, size))
        position = end
    if position < file_size and not _bootable(sections):
        at = f"section {len(sections)}"
        detail = f"{file_size - position} bytes where {at} would begin"
        return tuple(sections), Finding("eif-truncated", at, detail)
    if not sections:
        return (), Finding("eif-truncated", _WHERE, "the file ends after the header: it has no sections")
    return tuple(sections), None


def _table(file: BinaryIO, table: list[tuple[int, int]], file_size: int) -> tuple[EifSection, ...] | None:
    """The sections as QEMU sees them; None when it refuses them."""
    sections = []
    before = eif.HEADER_SIZE
    for offset, size in table:
        if offset < before or offset + eif.SECTION_HEADER_SIZE + size > file_size:
            return None
        file.seek(offset)
        kind, flags, own = eif.SECTION.unpack(file.read(eif.SECTION_HEADER_SIZE).ljust(12, b"\0"))
        if own != size or flags or kind not in {each.value for each in SectionType}:
            return None
        sections.append(EifSection(SectionType(kind), offset + eif.SECTION_HEADER_SIZE, size))
        before = offset + eif.SECTION_HEADER_SIZE + size
    return tuple(sections) or None


def _bootable(sections: tuple[EifSection, ...] | list[EifSection]) -> bool:
    return {SectionType.KERNEL, SectionType.CMDLINE, SectionType.RAMDISK} <= {each.type for each in sections}


def _told(sections: tuple[EifSection, ...]) -> str:
    return ", ".join(f"{each.type.label} {each.size} bytes at {each.offset}" for each in sections) or "none"


def _section_notes(file: BinaryIO, sections: tuple[EifSection, ...], file_size: int) -> Iterator[Finding]:
    """The rules about single sections, their number and their order, and what follows the last one."""
    position = eif.HEADER_SIZE
    for index, section in enumerate(sections):
        at = f"section {index} ({section.type.label})"
        start = section.offset - eif.SECTION_HEADER_SIZE
        if start != position:
            code = "eif-overlap" if start < position else "eif-gap"
            yield Finding(code, at, f"it begins at byte {start}, what is before it ends at {position}")
        position = section.offset + section.size
        file.seek(start)
        _, flags, _ = eif.SECTION.unpack(file.read(eif.SECTION_HEADER_SIZE))
        if flags:
            yield Finding("eif-section-flags", at, f"flags {flags:#06x}")
        limit = eif.LIMITS.get(section.type, section.size)
        if not 0 < section.size <= limit:
            detail = (
                "it is empty" if not section.size else f"{section.size} bytes; at most {limit} are allowed"
            )
            yield Finding("eif-section-size", at, detail)
    if position < file_size:
        yield Finding("eif-trailing", _WHERE, f"{file_size - position} bytes after the last section")
    for code, what in eif.order_faults(sections):
        yield Finding(code, _WHERE, what)
