"""Everything an image says about itself, checked: structure, measurements, signature, files."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from coattest.files import open_plain
from coattest.findings import Finding
from coattest.jsontext import unique_names
from coattest.strictjson import MAX_DEPTH, too_deep
from coattest_build.formats import cpio, eif, signature
from coattest_build.formats.cpio import RamdiskEntry, RamdiskError
from coattest_build.formats.eif import EifSection, Layout, SectionType
from coattest_build.formats.measure import ImageMeasurements, measure_file
from coattest_build.formats.registers import EMPTY_PCR2


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file of a ramdisk; ``sha256`` is set for files, ``target`` for symlinks."""

    name: str
    kind: str
    mode: int
    size: int
    sha256: str | None
    target: str | None

    def to_json(self) -> dict[str, Any]:
        """A JSON object; the mode is four octal digits."""
        row: dict[str, Any] = {"name": self.name, "type": self.kind, "mode": f"{stat.S_IMODE(self.mode):04o}"}
        if self.kind == "file":
            row |= {"size": self.size, "sha256": self.sha256}
        if self.kind == "symlink":
            row["target"] = self.target
        return row


@dataclass(frozen=True, slots=True)
class Ramdisk:
    """A ramdisk's files; when the strict reader refused it, ``refused`` says why and ``files`` is empty."""

    index: int
    files: tuple[FileRow, ...]
    refused: Finding | None

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``files`` is null in a refused ramdisk, whose ``refused`` is the finding."""
        if self.refused is not None:
            return {"index": self.index, "files": None, "refused": self.refused.to_json()}
        return {"index": self.index, "files": [row.to_json() for row in self.files]}


@dataclass(frozen=True, slots=True)
class SignatureReport:
    """The signing certificate, and everything that is wrong with the signature (nothing when it holds)."""

    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    certificate_sha256: str
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object: ``ok``, the findings, and the certificate."""
        return {
            "ok": not self.findings,
            "findings": [finding.to_json() for finding in self.findings],
            "certificate": {
                "subject": self.subject,
                "issuer": self.issuer,
                "not_before": self.not_before.isoformat(),
                "not_after": self.not_after.isoformat(),
                "sha256": self.certificate_sha256,
            },
        }


@dataclass(frozen=True, slots=True)
class Description:
    """What ``eif describe`` shows. ``ramdisks`` is None when files were not asked for.

    ``metadata`` is a JSON value, None when ``metadata_error`` says why it does not parse.
    """

    layout: Layout
    measurements: ImageMeasurements
    cmdline: str
    metadata: Any
    metadata_error: Finding | None
    signature: SignatureReport | None
    ramdisks: tuple[Ramdisk, ...] | None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that was checked and found false; a refused ramdisk carries its own finding."""
        found = self.signature.findings if self.signature else ()
        return (*found, self.metadata_error) if self.metadata_error else found

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know although nothing is wrong, a line each."""
        notes = []
        if self.measurements.pcr2 == EMPTY_PCR2:
            notes.append(
                "one ramdisk only: PCR2 is the same for every such image, so pinning it pins nothing"
            )
        if self.signature is None:
            notes.append("not signed: PCR8 will be zero")
        return tuple(notes)

    def to_json(self) -> dict[str, Any]:
        """The document that ``eif describe --json`` prints."""
        measured = self.measurements
        sections = [
            {"type": digest.type, "offset": section.offset, "size": digest.size, "sha384": digest.sha384}
            for section, digest in zip(self.layout.sections, measured.sections, strict=True)
        ]
        document: dict[str, Any] = {
            "version": eif.VERSION,
            "architecture": self.layout.architecture,
            "flags": self.layout.flags,
            "default_memory": self.layout.default_memory,
            "default_cpus": self.layout.default_cpus,
            "crc32": f"{self.layout.crc32:08x}",
            "image": {"size": measured.size, "sha256": measured.sha256, "sha384": measured.sha384},
            "sections": sections,
            "cmdline": self.cmdline,
            "metadata": self.metadata,
            "signature": self.signature.to_json() if self.signature else None,
            "findings": [finding.to_json() for finding in self.findings],
            "notes": list(self.notes),
            **measured.nitro_json(),
        }
        if self.ramdisks is not None:
            document["ramdisks"] = [ramdisk.to_json() for ramdisk in self.ramdisks]
        return document


def describe_image(path: Path, *, now: datetime, files: bool) -> Description:
    """Describe the image at ``path``; ``files`` reads every ramdisk too.

    ``now`` is aware and decides whether a signing certificate is in date. Raises eif.ImageError when the file
    is not an image. A signature that does not hold, metadata that is not JSON and a ramdisk that the strict
    reader refuses are part of the description.
    """
    with open_plain(path) as file:
        measurements = measure_file(file)
        layout = eif.read_structure(file)
        (cmdline,) = layout.of_type(SectionType.CMDLINE)
        (raw_metadata,) = layout.of_type(SectionType.METADATA)
        metadata, metadata_error = _metadata(eif.section_content(file, raw_metadata))
        return Description(
            layout,
            measurements,
            eif.section_content(file, cmdline).decode(errors="backslashreplace"),
            metadata,
            metadata_error,
            _signature(file, layout, bytes.fromhex(measurements.pcr0), now),
            tuple(_ramdisks(file, layout)) if files else None,
        )


def _metadata(raw: bytes) -> tuple[Any, Finding | None]:
    if too_deep(raw):  # it could be read, but not printed
        return None, Finding(
            "metadata-malformed", "metadata", f"not JSON that can be shown: nested deeper than {MAX_DEPTH}"
        )
    try:
        return json.loads(raw, object_pairs_hook=unique_names, parse_constant=_no_constant), None
    except (ValueError, RecursionError) as error:
        return None, Finding("metadata-malformed", "metadata", f"not JSON: {error}", rule="RFC 8259")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _signature(file: BinaryIO, layout: Layout, pcr0: bytes, now: datetime) -> SignatureReport | None:
    sections = layout.of_type(SectionType.SIGNATURE)
    if not sections:
        return None
    parsed = signature.parse_signature(eif.section_content(file, sections[0]))
    certificate = parsed.certificate
    return SignatureReport(
        certificate.subject.rfc4514_string(),
        certificate.issuer.rfc4514_string(),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        hashlib.sha256(parsed.certificate_der).hexdigest(),
        signature.check_signature(parsed, pcr0, now),
    )


def signature_findings(path: Path, pcr0: bytes, now: datetime) -> tuple[Finding, ...]:
    """Everything that is wrong with an image's signature; nothing when it holds, or where there is none.

    Raises eif.ImageError when the file is not an image.
    """
    with path.open("rb", buffering=0) as file:
        report = _signature(file, eif.read_structure(file), pcr0, now)
    return report.findings if report else ()


def _ramdisks(file: BinaryIO, layout: Layout) -> Iterator[Ramdisk]:
    for index, section in enumerate(layout.of_type(SectionType.RAMDISK)):
        try:
            yield Ramdisk(index, tuple(file_rows(file, section)), None)
        except RamdiskError as error:
            yield Ramdisk(index, (), Finding(error.code, f"ramdisk {index}", error.what))


def file_rows(file: BinaryIO, section: EifSection) -> Iterator[FileRow]:
    """Every entry of a ramdisk with its digest, in the archive's order. Raises RamdiskError."""
    for entry in cpio.read_entries(file, section.offset, section.size):
        sha256 = _sha256(file, entry) if entry.kind == "file" else None
        target = (
            cpio.link_target(file, entry).decode(errors="backslashreplace")
            if entry.kind == "symlink"
            else None
        )
        yield FileRow(entry.name, entry.kind, entry.mode, entry.size, sha256, target)


def _sha256(file: BinaryIO, entry: RamdiskEntry) -> str:
    digest = hashlib.sha256()
    for block in cpio.content_blocks(file, entry):
        digest.update(block)
    return digest.hexdigest()
