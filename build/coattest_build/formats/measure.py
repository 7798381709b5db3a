"""Measurements of an image: the values that Nitro puts into PCR0, 1, 2 and 8.

``PCRn = SHA384(48 zero bytes || SHA384(content))``, where content is section data only, concatenated
(``aws-nitro-enclaves-image-format``, ``src/defs/eif_hasher.rs``). PCR3 and PCR4 have no inner digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from coattest.files import open_plain
from coattest_build.formats import eif
from coattest_build.formats.eif import EifSection, SectionType
from coattest_build.formats.hashing import Consumer, Crc32, Feeder
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
    """Digests of a whole image in lower-case hex; ``pcr8`` is None when the image is unsigned."""

    size: int
    sha256: str
    sha384: str
    pcr0: str
    pcr1: str
    pcr2: str
    pcr8: str | None
    sections: tuple[SectionDigest, ...]

    def nitro_json(self) -> dict[str, dict[str, str]]:
        """The document that ``nitro-cli build-enclave`` prints."""
        return _nitro_json(self.pcr0, self.pcr1, self.pcr2, self.pcr8)


def measure(path: Path) -> ImageMeasurements:
    """Measure the image at ``path`` in one pass, and check its structure and CRC-32 on the way.

    Raises eif.ImageError when the file is not an image, OSError when it cannot be read.
    """
    with open_plain(path) as raw:
        return measure_file(raw)


def measure_file(file: BinaryIO) -> ImageMeasurements:
    """As measure, for an open file (unbuffered is best: blocks are 1 MiB)."""
    whole = (hashlib.sha256(), hashlib.sha384())
    registers, sections, size = _pass(file, eif.read_structure(file), whole, every_section=True)
    return ImageMeasurements(
        size, whole[0].hexdigest(), whole[1].hexdigest(), *registers, sections=tuple(sections)
    )


def measure_registers(path: Path) -> dict[str, dict[str, str]]:
    """The registers alone, in nitro-cli's JSON shape; the image is checked as in measure."""
    with open_plain(path) as file:
        registers, _, _ = _pass(file, eif.read_structure(file), (), every_section=False)
    return _nitro_json(*registers)


@dataclass(frozen=True, slots=True)
class FoundMeasurements:
    """What an image of any builder measures, whatever its CRC-32 and its signature say.

    ``measured.pcr8`` is None here: what the signature section says is the caller's to judge. ``crc32`` is the
    one of the bytes.
    """

    measured: ImageMeasurements
    crc32: int


def measure_found(file: BinaryIO, layout: eif.Layout, *, whole: bool = True) -> FoundMeasurements:
    """Measure the sections of ``layout``, which a lenient reader found, in their order.

    ``whole`` computes the digests of the file and of each section too. Raises eif.ImageError when the file
    shrinks.
    """
    digests = (hashlib.sha256(), hashlib.sha384()) if whole else ()
    crc = Crc32()
    registers, sections, size = _pass(file, layout, digests, every_section=whole, found=crc)
    sha256, sha384 = [digest.hexdigest() for digest in digests] or ("", "")
    measured = ImageMeasurements(size, sha256, sha384, *registers, sections=tuple(sections))
    return FoundMeasurements(measured, crc.value)


_Registers = tuple[str, str, str, "str | None"]


def _pass(  # noqa: PLR0912 (one pass over every byte, whichever hashers it goes to)
    file: BinaryIO,
    layout: eif.Layout,
    whole: tuple[Consumer, ...],
    *,
    every_section: bool,
    found: Crc32 | None = None,
) -> tuple[_Registers, list[SectionDigest], int]:
    """One pass: every byte goes to ``whole``, each section's data to the hashers of its registers.

    Hashers are shared where contents are equal so far: PCR1's is a copy of PCR0's after the first ramdisk,
    and a section's digest is a copy of PCR0's or PCR2's hasher where that begins with the section. ``found``
    gets the CRC-32 of an image whose own may be wrong, and whose signature is not looked at.
    """
    crc = found or Crc32()
    image, boot, application = hashlib.sha384(), hashlib.sha384(), hashlib.sha384()
    certificate: bytes | None = None
    ramdisks, begun = 0, False
    position = eif.HEADER_SIZE
    digests: list[SectionDigest] = []
    with Feeder(file) as feeder:
        feeder.feed(0, eif.CRC_OFFSET, (crc, *whole))
        feeder.feed(eif.CRC_OFFSET, 4, whole)
        for section in layout.sections:
            start = section.offset - eif.SECTION_HEADER_SIZE
            feeder.feed(position, start - position, whole)
            feeder.feed(start, eif.SECTION_HEADER_SIZE, (crc, *whole))
            position = section.offset + section.size
            consumers: list[Consumer] = [crc, *whole]
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
            if every_section and not covered:
                consumers.append(own)
            if feeder.feed(section.offset, section.size, consumers) != section.size:
                raise eif.ImageError("the file became shorter while it was read", code="eif-truncated")
            if covered:
                own = (application if ramdisks == 2 else image).copy()
            if section.type is SectionType.RAMDISK and ramdisks == 1:
                boot = image.copy()
            if section.type is SectionType.SIGNATURE and found is None:
                certificate = _certificate(file, section)
            if every_section:
                digests.append(SectionDigest(section.type.label, section.size, own.hexdigest()))
        feeder.feed(position, layout.file_size - position, whole)
    if not ramdisks:
        boot = image.copy()
    if found is None:
        eif.check_crc(layout, crc.value, where=eif.name_of(file))
    registers = (
        extend(image.digest()),
        extend(boot.digest()),
        extend(application.digest()),
        None if certificate is None else extend(hashlib.sha384(certificate).digest()),
    )
    return registers, digests, layout.file_size


def _certificate(file: BinaryIO, section: EifSection) -> bytes:
    # Imported here: most images are unsigned, and X.509 costs as much as measuring 20 MB.
    from coattest_build.formats import signature  # noqa: PLC0415

    return signature.parse_signature(eif.section_content(file, section)).certificate_der


def _nitro_json(pcr0: str, pcr1: str, pcr2: str, pcr8: str | None) -> dict[str, dict[str, str]]:
    values = {"HashAlgorithm": HASH_ALGORITHM, "PCR0": pcr0, "PCR1": pcr1, "PCR2": pcr2}
    if pcr8 is not None:
        values["PCR8"] = pcr8
    return {"Measurements": values}


def pcr3(role_arn: str) -> str:
    """PCR3 of an enclave whose parent instance has this IAM role: no inner digest."""
    return extend(role_arn.encode())


def pcr4(instance_id: str) -> str:
    """PCR4 of an enclave on this parent instance: no inner digest."""
    return extend(instance_id.encode())
