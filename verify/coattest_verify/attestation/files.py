"""File formats of documents, measurements and archive indexes. Bytes in, values out."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from coattest.errors import UsageError
from coattest_verify.attestation.expectations import (
    Expectation,
    ExpectDocument,
    ExpectPcrs,
    MaxAge,
    UnsafeExpectDebug,
)
from coattest_verify.attestation.limits import DOCUMENT_MAX, PCR_SIZE_SHA384, SHA256_SIZE

FILE_MAX: Final = 4 * DOCUMENT_MAX
"""Bytes of a file that can hold a document: hex is twice as long, and there may be line breaks."""

INDEX_NAME: Final = "INDEX.tsv"
"""The index of an archive: tab-separated; the columns filename, sha256, doc_time_utc and mode are read."""

INDEX_SIZE_MAX: Final = 8 << 20
"""Bytes of an index: INDEX_COUNT_MAX lines of some 800 each, twice as long as any known one."""

INDEX_COUNT_MAX: Final = 10_000
"""Documents of an archive. About a hundred are publicly known."""

_FIRST_BYTES: Final = (0x84, 0xD2)
_REGISTER: Final = re.compile(r"PCR(0|[1-9]|[12][0-9]|3[01])")
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
    """The document in a file's bytes: as it is, or in hex, or in base64 (either alphabet); white space is
    ignored.

    Anything else comes back as it is, for the verifier to refuse.
    """
    if data[:1] and data[0] in _FIRST_BYTES:
        return data
    text = bytes(data).translate(None, b" \t\r\n")
    try:
        return binascii.unhexlify(text)
    except binascii.Error:
        pass
    try:
        return base64.b64decode(text.translate(bytes.maketrans(b"-_", b"+/")), validate=True)
    except binascii.Error:
        return data


def read_measurements(text: str) -> ExpectPcrs:
    """The registers of a measurements file, as nitro-cli and ``eif measure`` print them.

    ``{"Measurements": {"HashAlgorithm": .., "PCR0": "<hex>", ..}}``, or the inner object alone. Raises
    UsageError for anything else in it, and for a name twice.
    """
    try:
        document = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise bad_file(f"not JSON: {error}", where="measurements") from None
    if isinstance(document, dict) and list(document) == ["Measurements"]:
        document = document["Measurements"]
    if not isinstance(document, dict):
        raise bad_file("not an object", where="measurements", hint="use what `eif measure` prints")
    algorithm = document.pop("HashAlgorithm", "Sha384")
    if not isinstance(algorithm, str) or not algorithm.lower().startswith("sha384"):
        raise bad_file("not SHA-384", where="measurements HashAlgorithm")
    return ExpectPcrs({_index(name): _register(name, value) for name, value in document.items()})


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


def _index(name: str) -> int:
    match = _REGISTER.fullmatch(name)
    if match is None:
        raise bad_file(f"{name!r:.60} is not a register", where="measurements", hint="PCR0 to PCR31")
    return int(match[1])


def _register(name: str, value: Any) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{2 * PCR_SIZE_SHA384}}}", value):
        raise bad_file("not 96 hex digits", where=f"measurements {name}")
    return bytes.fromhex(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name is there twice")
    return names
