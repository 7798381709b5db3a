"""What a file measures: an attestation document, an image, or measurements as any tool writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from coattest.errors import FoundFalse, Rejected, UsageError
from coattest.files import open_plain, read_bounded
from coattest_build.cli.options import given_image
from coattest_build.explain.describe import crc_findings
from coattest_build.formats.lenient.layout import read_found_layout
from coattest_build.formats.measure import measure_found
from coattest_verify.attestation import Root, UnsafeAnyMeasurement, parse_unverified, verify_document
from coattest_verify.attestation.files import FILE_MAX, decode_document, parse_time
from coattest_verify.attestation.measurements import (
    MEASUREMENTS_MAX,
    choose_set,
    missing_registers,
    read_measurements,
)

AT_DOCUMENT = "document"
DOCUMENT, IMAGE, MEASUREMENTS = "document", "image", "measurements"

_IMAGE_MAGIC = b".eif"
_REGISTERS = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Measured:
    """One set of registers: index to value in lower-case hex, PCR0 to PCR2 as far as they are known.

    ``name`` is what the file calls the set, or the enclave of a document. ``sha384`` is that of an image's
    file (hex), None for the others. ``notes`` are lines for a person.
    """

    kind: str
    name: str
    pcrs: Mapping[int, str]
    sha384: str | None = None
    notes: tuple[str, ...] = ()


def read_measured(
    path: Path, *, set_name: str | None, at: str | None, root: Root, now: datetime
) -> tuple[Measured, ...]:
    """What the file at ``path`` measures; several sets only for a measurements file.

    A document is verified against ``root`` at ``now``, or at the time ``at`` (``document``: the one that it
    claims). Raises UsageError for a file of none of the forms, and for ``set_name`` and ``at`` where they
    say nothing; NotVerified for a document that does not pass; FoundFalse for an image whose checksum is
    wrong or that can be read in two ways; OSError.
    """
    data = read_bounded(path, max(FILE_MAX, MEASUREMENTS_MAX))
    image = data.startswith(_IMAGE_MAGIC)
    document, why = (None, "") if image else _document(data)
    if set_name is not None and (image or document is not None):
        raise UsageError("--set is for a measurements file", where=str(path))
    if at is not None and document is None:
        raise UsageError("--at is for an attestation document", where=str(path))
    if image:
        return (_of_image(path),)
    if document is not None:
        return (_of_document(document, at, root, now),)
    return _of_measurements(data, str(path), set_name, why)


def _document(data: bytes) -> tuple[bytes | None, str]:
    """The document in a file's bytes; or None, and why it is none."""
    try:
        document = decode_document(data)
    except Rejected as refused:
        return None, refused.what
    # What is no text comes back as it is. Text in UTF-16 is a measurements file of PowerShell's.
    utf16 = document is data and data.startswith((b"\xff\xfe", b"\xfe\xff"))
    return (None, "text in UTF-16") if utf16 or not data.strip() else (document, "")


def _of_document(document: bytes, at: str | None, root: Root, now: datetime) -> Measured:
    notes: tuple[str, ...] = ()
    if at == AT_DOCUMENT:
        now = parse_unverified(document).timestamp
        notes = ("judged at the time that it claims: it was genuine once, and says nothing about today",)
    elif at is not None:
        now = parse_time(at)
    found = verify_document(document, [UnsafeAnyMeasurement()], now=now, root=root).document
    pcrs = {index: found.pcrs[index].hex() for index in _REGISTERS}
    return Measured(DOCUMENT, found.module_id, pcrs, notes=notes)


def _of_image(path: Path) -> Measured:
    with given_image(path), open_plain(path) as file:
        found = read_found_layout(file)
        measured = measure_found(file, found.layout)
    findings = (*found.findings, *crc_findings(found.layout, measured.crc32))
    if findings:
        raise FoundFalse(
            "; ".join(finding.detail for finding in findings),
            where=str(path),
            hint="eif describe shows the whole image",
            code=findings[0].code,
            findings=findings,
        )
    pcrs = dict(enumerate((measured.pcr0, measured.pcr1, measured.pcr2)))
    return Measured(IMAGE, "", pcrs, measured.sha384)


def _of_measurements(data: bytes, where: str, name: str | None, why: str) -> tuple[Measured, ...]:
    try:
        sets = read_measurements(data, where=where)
    except UsageError as error:
        hint = f"nor is it an attestation document ({why}) or an image" if why else error.hint
        raise UsageError(error.what, where=error.where, hint=hint, code=error.code) from None
    if name is not None:
        sets = choose_set(sets, name, where=where)
    found = []
    for each in sets:
        pcrs = {index: each.pcrs[index].hex() for index in _REGISTERS if index in each.pcrs}
        if 0 not in pcrs and len(pcrs) < len(_REGISTERS) - 1:
            raise UsageError(
                f"{missing_registers(each.pcrs, _REGISTERS)}, and these name no release",
                where=f"{where}: {each.name}" if each.name else where,
                hint="PCR0, or PCR1 and PCR2 do",
                code="bad-expectation",
            )
        found.append(Measured(MEASUREMENTS, each.name, pcrs, notes=each.notes))
    return tuple(found)
