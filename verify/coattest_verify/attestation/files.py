"""The forms in which documents, measurements and archives of documents lie in files. Bytes in, values out."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from coattest_build.errors import UsageError
from coattest_verify.attestation.expectations import ExpectPcrs
from coattest_verify.attestation.limits import DOCUMENT_MAX, PCR_SIZE_SHA384

FILE_MAX: Final = 4 * DOCUMENT_MAX
"""Bytes of a file that can hold a document: hex is twice as long, and there may be line breaks."""

INDEX_NAME: Final = "INDEX.tsv"
"""The index of an archive: tab-separated; the columns filename, sha256 and doc_time_utc are read."""

_FIRST_BYTES: Final = (0x84, 0xD2)
_REGISTER: Final = re.compile(r"PCR(0|[1-9]|[12][0-9]|3[01])")
_INDEX_MAX: Final = 100_000
# An index has whole seconds, a document milliseconds: the last one of that second is meant.
_REST_OF_SECOND: Final = timedelta(milliseconds=999)


class BadFile(UsageError):
    """A file that says what to expect, or when, does not parse."""

    default_reason = "bad-file"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What an index says of one file; None where it does not say."""

    sha256: str | None
    at: datetime | None


def decode_document(data: bytes) -> bytes:
    """The document in a file's bytes: as it is, or in hex, or in base64 (either alphabet); white space is
    ignored.

    What is none of these comes back as it is, for the verifier to refuse.
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
    BadFile for anything else in it, and for a name twice.
    """
    try:
        document = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"not JSON: {error}", where="measurements") from None
    if isinstance(document, dict) and list(document) == ["Measurements"]:
        document = document["Measurements"]
    if not isinstance(document, dict):
        raise BadFile("not an object", where="measurements", hint="use what `eif measure` prints")
    algorithm = document.pop("HashAlgorithm", "Sha384")
    if not isinstance(algorithm, str) or not algorithm.lower().startswith("sha384"):
        raise BadFile("not SHA-384", where="measurements HashAlgorithm")
    return ExpectPcrs({_index(name): _register(name, value) for name, value in document.items()})


def read_index(lines: Iterable[str]) -> Mapping[str, IndexEntry]:
    """What an archive's INDEX.tsv says, by file name; raises BadFile when it does not parse."""
    rows = [line.rstrip("\r\n").split("\t") for line in lines]
    if not rows or "filename" not in rows[0] or len(rows) > _INDEX_MAX:
        raise BadFile("no heading with a column 'filename'", where=INDEX_NAME)
    heading = rows[0]
    entries: dict[str, IndexEntry] = {}
    for number, row in enumerate(rows[1:], start=2):
        cells = dict(zip(heading, row, strict=False))
        name = cells.get("filename", "")
        if not name or "/" in name or name in entries:
            raise BadFile(
                "no file name, one with a slash, or one that was there", where=f"{INDEX_NAME} line {number}"
            )
        time = cells.get("doc_time_utc")
        at = parse_time(time) + _REST_OF_SECOND if time else None
        entries[name] = IndexEntry(cells.get("sha256"), at)
    return entries


def parse_time(text: str) -> datetime:
    """An ISO 8601 time with its zone ("Z" or an offset), aware; raises BadFile otherwise."""
    try:
        # Python 3.10 does not know "Z".
        time = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        raise BadFile(f"{text!r:.60} is no ISO 8601 time", hint="for instance 2026-01-15T12:00:00Z") from None
    if time.utcoffset() is None:
        raise BadFile(f"{text!r:.60} has no zone", hint="for instance 2026-01-15T12:00:00Z")
    return time.astimezone(timezone.utc)


def _index(name: str) -> int:
    match = _REGISTER.fullmatch(name)
    if match is None:
        raise BadFile(f"{name!r:.60} is no register", where="measurements", hint="PCR0 to PCR31")
    return int(match[1])


def _register(name: str, value: Any) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{2 * PCR_SIZE_SHA384}}}", value):
        raise BadFile("not 96 hex digits", where=f"measurements {name}")
    return bytes.fromhex(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name twice in one object")
    return names
