"""Measurements of an image: the values that Nitro puts into PCR0, 1, 2 and 8.

``PCRn = SHA384(48 zero bytes || SHA384(content))``, where content is section data only, concatenated
(``aws-nitro-enclaves-image-format``, ``src/defs/eif_hasher.rs``). PCR3 and PCR4 have no inner digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from coattest.errors import PATHS, require_kind
from coattest.files import open_plain
from coattest_build.formats import eif
from coattest_build.formats.eif import SectionType
from coattest_build.formats.hashing import Consumer, Crc32, feed
from coattest_build.formats.registers import extend

HASH_ALGORITHM = "Sha384 { ... }"
"""What nitro-cli prints for the algorithm (Rust's debug form of the hasher)."""


@dataclass(frozen=True, slots=True)
class SectionDigest:
    """A section's type (``kernel``, ``cmdline``, ..), size in bytes, and SHA-384 of its data in hex."""

    type: str
    size: int
    sha384: str


@dataclass(frozen=True, slots=True)
class ImageMeasurements:
    """Digests of a whole image in lower-case hex; ``pcr8`` is None when the image is unsigned.

    ``crc32`` is the one of the bytes, whatever the header says.
    """

    size: int
    sha256: str
    sha384: str
    pcr0: str
    pcr1: str
    pcr2: str
    pcr8: str | None
    sections: tuple[SectionDigest, ...]
    crc32: int

    def nitro_json(self) -> dict[str, dict[str, str]]:
        """The document that ``nitro-cli build-enclave`` prints."""
        values = {"HashAlgorithm": HASH_ALGORITHM, "PCR0": self.pcr0, "PCR1": self.pcr1, "PCR2": self.pcr2}
        if self.pcr8 is not None:
            values["PCR8"] = self.pcr8
        return {"Measurements": values}


def measure(path: Path) -> ImageMeasurements:
    """Measure the image at ``path`` in one pass, and check its structure and CRC-32 on the way.

    Raises eif.ImageError when the file is not an image, OSError when it cannot be read.
    """
    require_kind(path, PATHS, "path")
    with open_plain(path) as raw:
        return measure_file(raw)


def measure_file(file: BinaryIO, *, whole: bool = True) -> ImageMeasurements:
    """As measure, for an open file (unbuffered is best: blocks are 1 MiB).

    Without ``whole`` the digests of the file and of each section are left out.
    """
    layout = eif.read_structure(file)
    found = measure_found(file, layout, whole=whole)
    eif.check_crc(layout, found.crc32, where=eif.name_of(file))
    signed = layout.of_type(SectionType.SIGNATURE)
    if not signed:
        return found
    # Imported here: most images are unsigned, and X.509 costs as much as measuring 20 MB.
    from coattest_build.formats import signature  # noqa: PLC0415

    parsed = signature.parse_signature(eif.section_content(file, signed[0]))
    return replace(found, pcr8=parsed.pcr8)


def measure_registers(path: Path) -> dict[str, dict[str, str]]:
    """The registers alone, in nitro-cli's JSON shape; the image is checked as in measure."""
    with open_plain(path) as file:
        return measure_file(file, whole=False).nitro_json()


def measure_found(file: BinaryIO, layout: eif.Layout, *, whole: bool = True) -> ImageMeasurements:
    """Measure the sections of ``layout``, whichever reader found them, in their order.

    CRC-32 and signature are the caller's to judge: ``pcr8`` is None here. ``whole`` computes the digests of
    the file and of each section too. Hashers are shared where contents are equal so far: PCR1's is a copy of
    PCR0's after the first ramdisk, and a section's digest is a copy of PCR0's or PCR2's hasher where that
    begins with the section. Raises eif.ImageError when the file shrinks.
    """
    crc = Crc32()
    digests = (hashlib.sha256(), hashlib.sha384()) if whole else ()
    image, boot, application = hashlib.sha384(), hashlib.sha384(), hashlib.sha384()
    ramdisks, begun = 0, False
    position = eif.HEADER_SIZE
    sections: list[SectionDigest] = []
    feed(file, 0, eif.CRC_OFFSET, (crc, *digests))
    feed(file, eif.CRC_OFFSET, 4, digests)
    for section in layout.sections:
        start = section.offset - eif.SECTION_HEADER_SIZE
        feed(file, position, start - position, digests)
        feed(file, start, eif.SECTION_HEADER_SIZE, (crc, *digests))
        position = section.offset + section.size
        consumers: list[Consumer] = [crc, *digests]
        own = hashlib.sha384()
        covered = False
        if section.type in (SectionType.KERNEL, SectionType.CMDLINE, SectionType.RAMDISK):
            consumers.append(image)
            covered, begun = not begun, True
            if ramdisks and section.type is not SectionType.RAMDISK:
                consumers.append(boot)  # not in our order, and in PCR1 all the same
        if section.type is SectionType.RAMDISK:
            ramdisks += 1
            if ramdisks > 1:
                consumers.append(application)
            covered = covered or ramdisks == 2
        if whole and not covered:
            consumers.append(own)
        if feed(file, section.offset, section.size, consumers) != section.size:
            raise eif.ImageError("the file became shorter while it was read", code="eif-truncated")
        if covered:
            own = (application if ramdisks == 2 else image).copy()
        if section.type is SectionType.RAMDISK and ramdisks == 1:
            boot = image.copy()
        if whole:
            sections.append(SectionDigest(section.type.label, section.size, own.hexdigest()))
    feed(file, position, layout.file_size - position, digests)
    if not ramdisks:
        boot = image.copy()
    sha256, sha384 = [digest.hexdigest() for digest in digests] or ("", "")
    pcr0, pcr1, pcr2 = (extend(each.digest()) for each in (image, boot, application))
    return ImageMeasurements(
        layout.file_size, sha256, sha384, pcr0, pcr1, pcr2, None, tuple(sections), crc.value
    )


def pcr3(role_arn: str) -> str:
    """PCR3 of an enclave whose parent instance has this IAM role: no inner digest."""
    return extend(role_arn.encode())


def pcr4(instance_id: str) -> str:
    """PCR4 of an enclave on this parent instance: no inner digest."""
    return extend(instance_id.encode())
