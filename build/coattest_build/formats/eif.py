"""The Enclave Image Format, version 4: a strict reader and a streaming writer.

The format is AWS's (``aws-nitro-enclaves-image-format``, ``src/defs/mod.rs``). AWS's reader walks the
sections to the end of the file and ignores the table in the header; QEMU follows the table. An image that the
two read differently would have two measurements, so this reader accepts an image only when both views agree
and cover every byte. It holds one block in memory, never a section.
"""

from __future__ import annotations

import enum
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from coattest.errors import FoundFalse, UsageError
from coattest.files import atomic_file

MAGIC = b".eif"
VERSION = 4
FLAG_AARCH64 = 0x1
MAX_SECTIONS = 32
"""Slots in the header's table (``MAX_NUM_SECTIONS``)."""
HEADER_SIZE = 548
CRC_OFFSET = 544
"""Everything before it is in the CRC-32; the field itself is not."""
SECTION_HEADER_SIZE = 12
BLOCK = 1 << 20
"""Bytes per read: large enough that a read costs nothing, small enough to stay in the cache."""

DEFAULT_MEMORY = 1 << 30
"""Bytes, as AWS's writer puts them into the header; the hypervisor ignores them."""
DEFAULT_CPUS = 2

MAX_CMDLINE = 2048
"""``COMMAND_LINE_SIZE`` of Linux on x86_64 and arm64; Linux would not use the rest of a longer one."""
MAX_METADATA = 1 << 20
MAX_SIGNATURE = 32768
"""One certificate and one COSE_Sign1 with two bytes for most of their bytes need about 3 KiB."""

MAX_IMAGE = 16 << 30
"""Bytes of a file, twice the largest ramdisk that is read: a hole of a terabyte would be hashed for hours."""

HEADER = struct.Struct(">4sHHQQHH32Q32QII")
SECTION = struct.Struct(">HHQ")


class ImageError(FoundFalse):
    """The strict reader refuses the image; ``code`` names the rule that was broken."""

    default_code = "eif-malformed"


def _refused(what: str, where: str | None, code: str) -> ImageError:
    return ImageError(what, where=where, code=code)


_CONTAINER = "a container image is shown by `eif container inspect`, and made one by `eif container build`"
_OTHERS = (
    (257, b"ustar", "a tar archive", _CONTAINER),
    (0, b"\x1f\x8b", "compressed with gzip", _CONTAINER),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", _CONTAINER),
    (0, b"\xfd7zXZ\0", "compressed with xz", None),
    (0, b"{", "JSON, or another text", None),
    (0, b"\x7fELF", "a program", None),
)
"""What is taken for an EIF: where which bytes are, what it is, and what to do with it."""


def check_magic(raw: bytes, where: str | None) -> None:
    """Raise ImageError where a file's first bytes are not an EIF's; with what they are, if that is known."""
    if raw and raw[:4] == MAGIC[: len(raw)]:
        return
    if not raw:
        raise ImageError("not an EIF: it is empty", where=where, code="eif-truncated")
    what, hint = "does not begin with .eif", None
    for offset, first, name, remedy in _OTHERS:
        if raw[offset : offset + len(first)] == first:
            what, hint = f"is {name}", remedy
            break
    raise ImageError(f"not an EIF: it {what}", where=where, hint=hint, code="eif-magic")


class SectionType(enum.IntEnum):
    """Section types (``EifSectionType``)."""

    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5

    @property
    def label(self) -> str:
        """The lower-case name used in output and statements."""
        return self.name.lower()


LIMITS = {
    SectionType.CMDLINE: MAX_CMDLINE,
    SectionType.METADATA: MAX_METADATA,
    SectionType.SIGNATURE: MAX_SIGNATURE,
}


@dataclass(frozen=True, slots=True)
class EifSection:
    """One section; ``offset`` is where its data begins in the file, ``size`` its data in bytes."""

    type: SectionType
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A header and its sections, in file order."""

    flags: int
    default_memory: int
    default_cpus: int
    crc32: int
    sections: tuple[EifSection, ...]
    file_size: int

    @property
    def architecture(self) -> str:
        """``x86_64`` or ``aarch64``."""
        return "aarch64" if self.flags & FLAG_AARCH64 else "x86_64"

    def of_type(self, kind: SectionType) -> tuple[EifSection, ...]:
        """Every section of one type, in file order."""
        return tuple(section for section in self.sections if section.type is kind)


def read_structure(file: BinaryIO) -> Layout:
    """Read and check an image's structure; its CRC-32 is for those who read all of it (``check_crc``).

    Raises ImageError when the file is not an image, or when a rule of ADR 10 is broken.
    """
    where = name_of(file)
    file_size = size_of(file)
    raw = file.read(HEADER_SIZE)
    check_magic(raw, where)
    if len(raw) < HEADER_SIZE:
        raise _refused(
            f"too short for an EIF header: {len(raw)} of {HEADER_SIZE} bytes", where, "eif-truncated"
        )
    _, version, flags, memory, cpus, reserved, count, *table = HEADER.unpack(raw)
    offsets, sizes, (unused, crc) = table[:32], table[32:64], table[64:]
    spare = any(offsets[count:]) or any(sizes[count:])
    for code, broken, what in (
        ("eif-version", version != VERSION, f"EIF version {version}; only {VERSION} is supported"),
        ("eif-flags", flags & ~FLAG_AARCH64, f"unknown header flags {flags:#06x}"),
        ("eif-reserved", reserved or unused, "reserved header fields are not zero"),
        ("eif-limit", not 0 < count <= MAX_SECTIONS, f"{count} sections; 1 to {MAX_SECTIONS} are allowed"),
        ("eif-reserved", spare, "unused slots of the section table are not zero"),
    ):
        if broken:
            raise _refused(what, where, code)
    sections = tuple(_walk(file, list(zip(offsets[:count], sizes[:count], strict=True)), file_size, where))
    for code, what in order_faults(sections):
        raise _refused(what, where, code)
    return Layout(flags, memory, cpus, crc, sections, file_size)


def size_of(file: BinaryIO) -> int:
    """The bytes of an image's file, of which the first is the next to be read. Raises ImageError."""
    size = file.seek(0, os.SEEK_END)
    if size > MAX_IMAGE:
        raise _refused(f"more than {MAX_IMAGE} bytes", name_of(file), "eif-limit")
    file.seek(0)
    return size


def _walk(
    file: BinaryIO, table: Sequence[tuple[int, int]], file_size: int, where: str | None
) -> Iterator[EifSection]:
    position = HEADER_SIZE
    for index, (offset, size) in enumerate(table):
        at = f"section {index}"
        if offset != position:
            fault = "overlaps what is before it" if offset < position else "leaves a gap"
            raise _refused(
                f"{at} {fault}: it begins at {offset} by the table and at {position} by the sizes",
                where,
                "eif-overlap" if offset < position else "eif-gap",
            )
        file.seek(position)
        raw = file.read(SECTION_HEADER_SIZE)
        if len(raw) < SECTION_HEADER_SIZE:
            raise _refused(f"the file ends inside the header of {at}", where, "eif-truncated")
        kind, flags, header_size = SECTION.unpack(raw)
        try:
            section_type = SectionType(kind)
        except ValueError:
            raise _refused(f"{at} has unknown type {kind}", where, "eif-section-type") from None
        if flags:
            raise _refused(f"{at} has flags {flags:#06x}", where, "eif-section-flags")
        if header_size != size:
            raise _refused(
                f"{at} has {header_size} bytes by its header and {size} by the table", where, "eif-table"
            )
        start = position + SECTION_HEADER_SIZE
        position = start + size
        if position > file_size:
            raise _refused(f"{at} ends at {position}, the file at {file_size}", where, "eif-truncated")
        if not 0 < size <= LIMITS.get(section_type, size):
            raise _refused(f"{at} ({section_type.label}) has {size} bytes", where, "eif-section-size")
        yield EifSection(section_type, start, size)
    if position != file_size:
        raise _refused(f"{file_size - position} bytes after the last section", where, "eif-trailing")


_ORDER = (SectionType.KERNEL, SectionType.CMDLINE, SectionType.RAMDISK)


def order_faults(sections: Sequence[EifSection]) -> Iterator[tuple[str, str]]:
    """Code and description of every rule about their number and order that sections break.

    Kernel, cmdline and ramdisks are in the order of measurement, and a signature is last.
    """
    kinds = [section.type for section in sections]
    for kind in (SectionType.KERNEL, SectionType.CMDLINE, SectionType.METADATA):
        if kinds.count(kind) != 1:
            yield "eif-section-count", f"{kinds.count(kind)} {kind.label} sections; there must be one"
    if SectionType.RAMDISK not in kinds:
        yield "eif-section-count", "there is no ramdisk"
    measured = [_ORDER.index(kind) for kind in kinds if kind in _ORDER]
    if measured != sorted(measured):
        yield "eif-section-order", "kernel, cmdline and ramdisks are not in this order"
    if SectionType.SIGNATURE in kinds[:-1]:
        yield "eif-section-order", "a signature section that is not the last section"


def check_crc(layout: Layout, crc: int, *, where: str | None = None) -> None:
    """Raise ImageError when ``crc`` is not the one in the header."""
    if layout.crc32 != crc:
        raise _refused(f"CRC-32 is {crc:08x}, the header says {layout.crc32:08x}", where, "eif-crc")


def section_blocks(file: BinaryIO, section: EifSection) -> Iterator[bytes]:
    """The section's data in blocks of at most 1 MiB; seeks before each read.

    Raises ImageError when the file ends early.
    """
    position, end = section.offset, section.offset + section.size
    while position < end:
        file.seek(position)
        block = file.read(min(BLOCK, end - position))
        if not block:
            raise ImageError(
                "the file became shorter while it was read", where=name_of(file), code="eif-truncated"
            )
        position += len(block)
        yield block


def section_content(file: BinaryIO, section: EifSection) -> bytes:
    """The whole content of a section whose type has a size limit: cmdline, metadata, signature.

    Raises ImageError as section_blocks does, ValueError for a type without a limit.
    """
    if section.type not in LIMITS:
        raise ValueError(f"{section.type.label} sections are read in blocks")
    return b"".join(section_blocks(file, section))


@dataclass(frozen=True, slots=True)
class Part:
    """A section to write: its type, its size, and a function that yields exactly that many bytes."""

    type: SectionType
    size: int
    blocks: Callable[[], Iterable[bytes]]

    @classmethod
    def of_bytes(cls, kind: SectionType, content: bytes) -> Part:
        """A section from memory."""
        return cls(kind, len(content), lambda: (content,))

    @classmethod
    def of_file(cls, kind: SectionType, path: Path) -> Part:
        """A section from a file."""
        return cls(kind, path.stat().st_size, lambda: _file_blocks(path))

    @classmethod
    def of_section(cls, file: BinaryIO, section: EifSection) -> Part:
        """A section of another image."""
        return cls(section.type, section.size, lambda: section_blocks(file, section))


def write_image(
    destination: Path,
    *,
    kernel: Path,
    cmdline: bytes,
    metadata: bytes,
    ramdisks: Sequence[Path],
    signature: bytes | None = None,
    aarch64: bool = False,
) -> None:
    """Write an image in the order of AWS's writer: kernel, cmdline, metadata, ramdisks, signature.

    The same input gives the same bytes. The file gets its name only when it is whole. Raises UsageError when
    the reader would refuse the image.
    """
    parts = [
        Part.of_file(SectionType.KERNEL, kernel),
        Part.of_bytes(SectionType.CMDLINE, cmdline),
        Part.of_bytes(SectionType.METADATA, metadata),
        *(Part.of_file(SectionType.RAMDISK, ramdisk) for ramdisk in ramdisks),
    ]
    if signature is not None:
        parts.append(Part.of_bytes(SectionType.SIGNATURE, signature))
    write_parts(destination, parts, flags=FLAG_AARCH64 if aarch64 else 0)


def write_parts(
    destination: Path,
    parts: Sequence[Part],
    *,
    flags: int,
    default_memory: int = DEFAULT_MEMORY,
    default_cpus: int = DEFAULT_CPUS,
) -> None:
    """Write an image from parts, in their order, in blocks; see write_image."""
    sections = _place(parts, str(destination))
    offsets = [section.offset - SECTION_HEADER_SIZE for section in sections]
    spare = [0] * (MAX_SECTIONS - len(sections))
    header = HEADER.pack(
        *(MAGIC, VERSION, flags, default_memory, default_cpus, 0, len(sections)),
        *(*offsets, *spare),
        *(*(section.size for section in sections), *spare),
        *(0, 0),
    )[:CRC_OFFSET]
    with atomic_file(destination) as temporary, temporary.open("wb") as file:
        crc = zlib.crc32(header)
        file.write(header + bytes(4))
        for part in parts:
            raw = SECTION.pack(part.type, 0, part.size)
            crc = zlib.crc32(raw, crc)
            file.write(raw)
            written = 0
            for block in part.blocks():
                crc = zlib.crc32(block, crc)
                written += file.write(block)
            if written != part.size:
                raise UsageError(
                    f"the {part.type.label} changed while it was read",
                    where=str(destination),
                    code="eif-source-changed",
                )
        file.seek(CRC_OFFSET)
        file.write(struct.pack(">I", crc))


def _place(parts: Sequence[Part], where: str) -> list[EifSection]:
    """Give each part its offset, and check the reader's rules."""
    if len(parts) > MAX_SECTIONS:
        raise UsageError(
            f"{len(parts)} sections; at most {MAX_SECTIONS} are allowed", where=where, code="eif-limit"
        )
    sections = []
    position = HEADER_SIZE
    for part in parts:
        if not 0 < part.size <= LIMITS.get(part.type, part.size):
            raise UsageError(
                f"the {part.type.label} has {part.size} bytes", where=where, code="eif-section-size"
            )
        sections.append(EifSection(part.type, position + SECTION_HEADER_SIZE, part.size))
        position += SECTION_HEADER_SIZE + part.size
    for code, what in order_faults(sections):
        raise UsageError(what, where=where, code=code)
    return sections


def _file_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def name_of(file: BinaryIO) -> str | None:
    """The path a file was opened by, for error messages; None when it has none."""
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else None
