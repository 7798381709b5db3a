"""File formats of documents and archive indexes. Bytes in, values out."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from coattest.errors import Rejected, UsageError
from coattest.jsontext import unique_names
from coattest.strictjson import MAX_DEPTH, shown, too_deep
from coattest_verify.attestation.expectations import (
    Expectation,
    ExpectDocument,
    MaxAge,
    UnsafeExpectDebug,
)
from coattest_verify.attestation.limits import DOCUMENT_MAX, SHA256_SIZE

FILE_MAX: Final = 16 * DOCUMENT_MAX
"""Bytes of a file that can hold a document: a JSON array has up to 12 for each, on lines of their own."""

DOCUMENT_SUFFIXES: Final = (".bin", ".cbor", ".cose", ".b64", ".base64", ".hex")
"""What names of files with documents end in."""

DOCUMENT_FIELDS: Final = (
    *("attestation", "attestation_document", "attestationDocument", "attestation_doc", "attestationDoc"),
    *("AttestationDocument", "Attestation", "attestation_report", "document", "doc", "nitro_attestation"),
)
"""Names under which endpoints send a document; one object may have one of them."""

NESTED_MAX: Final = 4
"""JSON objects inside each other down to the document."""

INDEX_NAME: Final = "INDEX.tsv"
"""The index of an archive: tab-separated; the columns filename, sha256, doc_time_utc and mode are read."""

INDEX_SIZE_MAX: Final = 8 << 20
"""Bytes of an index: INDEX_COUNT_MAX lines of some 800 each, twice as long as any known one."""

INDEX_COUNT_MAX: Final = 10_000
"""Documents of an archive. About a hundred are publicly known."""

_FIRST_BYTES: Final = (0x84, 0xD2)
_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_BASE64: Final = re.compile(r"([A-Za-z0-9+/_-]+)={0,2}")
_STANDARD: Final = str.maketrans("-_", "+/")
_NAME: Final = re.compile(r"[^/\x00-\x1f\x7f]+")
_SHA256: Final = re.compile(rf"[0-9a-f]{{{2 * SHA256_SIZE}}}")
_MODES: Final = {"debug": True, "prod": False}
# An index has whole seconds, a document milliseconds: take the last millisecond of that second.
_REST_OF_SECOND_MS: Final = 999


def bad_file(what: str, *, where: str | None = None, hint: str | None = None) -> UsageError:
    """The error for a file or an option with expectations or a time that does not parse."""
    return UsageError(what, where=where, hint=hint, code="bad-file")


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What an index says of one file; None where it does not say.

    ``sha256`` is that of the file's bytes; ``at`` the end of the second in which the document was made;
    ``debug`` whether it is from an enclave in debug mode.
    """

    sha256: bytes | None
    at: datetime | None
    debug: bool | None


def decode_document(data: bytes) -> bytes:
    """The document in a file's bytes, however an endpoint sent it.

    As it is; in hex, with ``0x`` or without; in base64 of either alphabet, padded or not; white space is
    ignored. A JSON text of any of these, an array of byte values, or an object with one field of
    DOCUMENT_FIELDS, at most NESTED_MAX objects deep. Other binary data comes back as it is, for the verifier
    to refuse. Raises Rejected (``not-a-document``) for text that is none of these, saying what it is.
    """
    if data[:1] and data[0] in _FIRST_BYTES:
        return data
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return data
    if (
        len(data) > FILE_MAX
        or not text
        or not all(character.isprintable() or character.isspace() for character in text)
    ):
        return data
    if text[0] in '{["':
        return _from_json(text)
    return _from_text(text)


def _from_text(text: str) -> bytes:
    packed = "".join(text.split())
    digits = packed[2:] if packed[:2] in ("0x", "0X") else packed
    decoded = b""
    if len(digits) % 2 == 0 and _HEX.fullmatch(digits):
        decoded = bytes.fromhex(digits)
    elif match := _BASE64.fullmatch(packed):
        body = match[1].translate(_STANDARD)
        if len(body) % 4 != 1:
            decoded = base64.b64decode(body + "=" * (-len(body) % 4))
    if decoded[:1] and decoded[0] in _FIRST_BYTES:
        return decoded
    raise _not_a_document(f"text that is not a document in hex, base64 or JSON: {shown(text, 40)}")


def _from_json(text: str) -> bytes:
    if too_deep(text.encode()):
        raise _not_a_document(f"JSON that nests deeper than {MAX_DEPTH}")
    try:
        value = json.loads(text, object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        raise _not_a_document(f"not JSON that can be read: {str(error)[:200]}") from None
    return _from_value(value, 0)


def _from_value(value: Any, depth: int) -> bytes:
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, list):
        if value and all(type(each) is int and 0 <= each < 256 for each in value):
            return bytes(value)
        raise _not_a_document("a JSON array of something else than byte values")
    if not isinstance(value, dict):
        raise _not_a_document(f"JSON of type {type(value).__name__}")
    fields = [name for name in value if name in DOCUMENT_FIELDS]
    if not fields:
        # {"response": {"attestation": ..}, "signature": ".."}: the one object inside has it.
        inside = [each for each in value.values() if isinstance(each, dict)]
        if len(inside) == 1 and depth < NESTED_MAX:
            return _from_value(inside[0], depth + 1)
        raise _not_a_document(f"a JSON object without a field named {', '.join(DOCUMENT_FIELDS)}")
    if len(fields) > 1:
        raise _not_a_document(f"a JSON object with several documents: {', '.join(fields)}")
    if depth >= NESTED_MAX:
        raise _not_a_document(f"a JSON object that nests deeper than {NESTED_MAX}")
    return _from_value(value[fields[0]], depth + 1)


def _not_a_document(what: str) -> Rejected:
    return Rejected(
        what,
        where="attestation document",
        hint="a document is binary, hex, base64, or JSON with one of these",
        code="not-a-document",
    )


def read_archive_index(lines: Iterable[str]) -> Mapping[str, IndexEntry]:
    """What an archive's INDEX.tsv says, by file name; raises UsageError when it does not parse.

    Every line has as many cells as the heading, and names are plain file names, each there once.
    """
    heading, *rows = [line.rstrip("\r\n").split("\t") for line in lines] or [[]]
    if heading.count("filename") != 1 or len(set(heading)) != len(heading):
        raise bad_file("the heading needs one column 'filename', and no column twice", where=INDEX_NAME)
    if len(rows) > INDEX_COUNT_MAX:
        raise bad_file(f"more than {INDEX_COUNT_MAX} documents", where=INDEX_NAME)
    entries: dict[str, IndexEntry] = {}
    for number, row in enumerate(rows, start=2):
        where = f"{INDEX_NAME} line {number}"
        if len(row) != len(heading):
            raise bad_file(f"{len(row)} cells where the heading has {len(heading)}", where=where)
        cells = dict(zip(heading, row, strict=True))
        name = cells["filename"]
        if not _NAME.fullmatch(name) or name in (".", "..", INDEX_NAME) or name in entries:
            raise bad_file("not a plain file name, or listed twice", where=where)
        entries[name] = _entry(cells, where)
    return entries


def archive_expectations(entry: IndexEntry) -> list[Expectation]:
    """What an archive's index demands of one document, to be judged at the index's time.

    The exact bytes; made in that second, where it gives one; debug mode exactly where it says so. No
    measurement is judged. Raises UsageError when the index has no digest: then it demands nothing.
    """
    if entry.sha256 is None:
        raise bad_file("a document without 'sha256': any document would match", where=INDEX_NAME)
    expectations: list[Expectation] = [ExpectDocument(entry.sha256)]
    if entry.at is not None:
        expectations.append(MaxAge(_REST_OF_SECOND_MS))
    if entry.debug:
        expectations.append(UnsafeExpectDebug())
    return expectations


def parse_time(text: str) -> datetime:
    """An ISO 8601 time with its zone ("Z" or an offset), aware; raises UsageError otherwise."""
    try:
        # Python 3.10 does not know "Z".
        time = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        raise bad_file(
            f"{text!r:.60} is not an ISO 8601 time", hint="for instance 2026-01-15T12:00:00Z"
        ) from None
    if time.utcoffset() is None:
        raise bad_file(f"{text!r:.60} has no zone", hint="for instance 2026-01-15T12:00:00Z")
    try:
        return time.astimezone(timezone.utc)
    except OverflowError:
        raise bad_file(f"{text!r:.60} is outside of the years 1 to 9999 in UTC") from None


def _entry(cells: Mapping[str, str], where: str) -> IndexEntry:
    """What one line says; an empty cell says nothing."""
    digest, time, mode = (cells.get(column) or None for column in ("sha256", "doc_time_utc", "mode"))
    if digest is not None and not _SHA256.fullmatch(digest):
        raise bad_file("the digest is not 64 digits of lower-case hex", where=where)
    if mode is not None and mode not in _MODES:
        raise bad_file(f"{mode!r:.40} is not a mode", where=where, hint="prod or debug")
    try:
        at = parse_time(time) + timedelta(milliseconds=_REST_OF_SECOND_MS) if time else None
    except OverflowError:
        raise bad_file("the time is beyond the year 9999", where=where) from None
    return IndexEntry(bytes.fromhex(digest) if digest else None, at, _MODES[mode] if mode else None)
