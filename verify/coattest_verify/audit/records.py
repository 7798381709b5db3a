"""CloudTrail's records out of every form that they are stored in. Pure, one record at a time.

Forms: log files ({"Records": [..]}, gzipped or not, several gzip members after each other), the output of
lookup-events ({"Events": [..]}, also page after page), CloudWatch Logs' events ({"events": [..]},
{"logEvents": [..]}), EventBridge's envelope ({"detail-type": .., "detail": ..}), arrays of any of these, and
JSON lines. Sources: CloudTrail User Guide, "CloudTrail log file examples"; CloudTrail and CloudWatch Logs API
references; EventBridge User Guide, "AWS service events delivered via CloudTrail".

What cannot be read is a ``Flaw``, and what stands after it is read as far as it can be found.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from coattest.errors import Rejected
from coattest.jsontext import RepeatedName, unique_names

MAX_FILE: Final = 64 * 1024 * 1024
"""Bytes of one file, uncompressed. CloudTrail delivers about every five minutes; its files are a few MB."""

MAX_RATIO: Final = 200
"""How many times larger than its gzip a file of more than 16 MiB may be; CloudTrail's are about 15."""

MAX_MEMBERS: Final = 4096
"""gzip members of one file: an empty one takes 20 bytes, and as long to open as any."""

MAX_RECORD: Final = 2 * 1024 * 1024
"""Characters of one record. CloudTrail's largest have 1 MB; as objects, brackets take 20 times their text."""

MAX_FLAWS: Final = 100
"""Places of one file that cannot be read before the rest of it is given up, with a flaw that says so."""

GZIP: Final = b"\x1f\x8b"
_WITH_HEADER = 31
"""zlib's window bits for gzip with its header and checksum."""

_PIECE = 1 << 16
"""Bytes unpacked at a time: so many are lost in front of damage."""

_SMALL = 16 * 1024 * 1024
_WINDOW = 16 * 1024
"""Characters in which a value is looked for first; most records have 2,000."""

_MAX_NESTING = 4
"""Lists and envelopes around a record: an array of pages of events whose record is text has 3."""

_LISTS: Final[Mapping[str, str | None]] = {
    "Records": None,
    "Events": "CloudTrailEvent",
    "events": "message",
    "logEvents": "message",
}
_PAGED = ("Events", "events")
"""A list of records by its name, and the field of an item that has the record as text."""

_DIGITS = 4000
"""Digits of a whole number; longer ones stay text, since Python makes no number of them."""


def _whole(digits: str) -> int | str:
    return int(digits) if len(digits) <= _DIGITS else digits


_DECODER = json.JSONDecoder(object_pairs_hook=unique_names, parse_int=_whole)
_ANY_NAMES = json.JSONDecoder(parse_int=_whole)
_NEXT = ("NextToken", "nextToken", "nextForwardToken")
"""Names by which a page of lookup-events or of CloudWatch Logs says that another one follows."""

_BLANKS = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that cannot be read: where, and why."""

    where: str
    detail: str


@dataclass(frozen=True, slots=True)
class Page:
    """A page of an answer has been read; the last one has no token of a next."""

    where: str
    last: bool


@dataclass(frozen=True, slots=True)
class Record:
    """One raw record: a JSON object."""

    where: str
    raw: Mapping[str, Any]


PACKED: Final[Mapping[bytes, str]] = {
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x04\x22\x4d\x18": "lz4",
    b"PAR1": "Parquet",
    b"ORC": "ORC",
    b"Obj\x01": "Avro",
}
"""How files begin that may hold logs and are not unpacked here."""


def packed_as(beginning: bytes) -> str | None:
    """The name of the form that a file is in, by its first bytes, where it is one that is not read here."""
    return next((name for magic, name in PACKED.items() if beginning.startswith(magic)), None)


def inflate(data: bytes) -> bytes:
    """The content of a gzipped file, or the data as it is. Raises Rejected, also for what is damaged."""
    content, damage = salvaged(data)
    if damage:
        raise Rejected(damage)
    return content


def salvaged(data: bytes) -> tuple[bytes, str | None]:
    """The content of a file as far as it can be unpacked, all members of it, and what is wrong with the rest.

    Raises Rejected (``too-large``).
    """
    if len(data) > MAX_FILE:
        raise Rejected(f"larger than {MAX_FILE} bytes", code="too-large")
    if form := packed_as(data[:8]):
        raise Rejected(f"{form}, which is not read here: unpack it to JSON")
    if not data.startswith(GZIP):
        return data, None
    found, member, left = bytearray(), zlib.decompressobj(_WITH_HEADER), memoryview(data)
    members = 1
    while left:
        piece, left = left[:_PIECE], left[_PIECE:]
        try:
            found += member.decompress(piece, MAX_FILE + 1 - len(found))
        except zlib.error:
            return bytes(found), "the gzip data is damaged: what stands behind it was not read"
        if len(found) > MAX_FILE or member.unconsumed_tail:
            raise Rejected(f"larger than {MAX_FILE} bytes when unpacked", code="too-large")
        if len(found) > max(_SMALL, MAX_RATIO * len(data)):
            raise Rejected(f"more than {MAX_RATIO} times larger when unpacked", code="too-large")
        if member.eof:
            members += 1
            if members > MAX_MEMBERS:
                raise Rejected(f"more than {MAX_MEMBERS} gzip members", code="too-large")
            left = memoryview(data)[len(data) - len(left) - len(member.unused_data) :]
            if not any(left):
                return bytes(found), None
            member = zlib.decompressobj(_WITH_HEADER)
    return bytes(found), "the gzip data is cut off"


def records_of(content: bytes, where: str) -> Iterator[Record | Flaw | Page]:
    """Every record of an unpacked file, in its order, and every place that cannot be read."""
    encoding = json.detect_encoding(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        yield Flaw(where, f"not {encoding.upper()} at byte {error.start}")
        text = content.decode(encoding, "replace")
    text = text.removeprefix("\ufeff")
    position, number, flaws = _skip(text, 0), 0, 0
    while position < len(text):
        number += 1
        reader = _Reader(text, position, f"{where}, document {number}" if number > 1 else where)
        for found in reader.document():
            flaws += isinstance(found, Flaw)
            yield found
        position = _skip(text, reader.position)
        if flaws > MAX_FLAWS and position < len(text):
            yield Flaw(where, f"more than {MAX_FLAWS} places cannot be read: the rest was given up")
            return
    if number == 0:
        yield Flaw(where, "empty")


def _skip(text: str, position: int) -> int:
    found = _BLANKS.match(text, position)
    return found.end() if found else position


class _Reader:
    """Reads one JSON document and hands its records out one by one: a file is never held as objects."""

    def __init__(self, text: str, position: int, where: str) -> None:
        self.text, self.position, self.where = text, position, where
        self._count = 0
        self._repeated: str | None = None

    def document(self) -> Iterator[Record | Flaw | Page]:
        """The records of the document at the position, which is then behind it."""
        start = self.position
        try:
            yield from self._value(0)
        except (ValueError, RecursionError) as error:
            detail = f"not JSON: {error.msg}" if isinstance(error, json.JSONDecodeError) else _reason(error)
            yield Flaw(self.where, f"{detail}, at character {self.position}")
            # The next line may be a record of its own: JSON lines.
            line = self.text.find("\n", max(start, self.position))
            self.position = len(self.text) if line < 0 else line + 1

    def _value(self, depth: int) -> Iterator[Record | Flaw | Page]:
        if self._at("[") and depth < _MAX_NESTING:
            yield from self._items(None, depth)
        elif self._at("{"):
            yield from self._object(depth)
        else:
            value = self._plain()
            self._count += 1
            yield Flaw(self._place(), f"{type(value).__name__} instead of an event")

    def _object(self, depth: int) -> Iterator[Record | Flaw | Page]:
        """An object: a list of records by name, or a record. Its other fields say whether a page follows."""
        fields: list[tuple[str, Any]] = []
        listed = paged = False
        size = 0
        outer, self._repeated = self._repeated, None
        self._over("{")
        while not self._at("}"):
            before = self.position
            name = self._plain()
            if not isinstance(name, str):
                raise ValueError("a name that is not text")
            self._over(":")
            if name in _LISTS and self._at("[") and depth < _MAX_NESTING:
                listed, paged = True, paged or name in _PAGED
                yield from self._items(_LISTS[name], depth)
            else:
                fields.append((name, self._plain()))
                size += self.position - before
                if size > MAX_RECORD:
                    raise ValueError(f"a record of more than {MAX_RECORD} characters")
            if not self._at("}"):
                self._over(",")
        self._over("}")
        found, repeated = self._unique(fields), self._repeated
        self._repeated = outer
        if not listed or "eventSource" in found or "detail-type" in found:
            self._count += 1
            if repeated:
                yield Flaw(self._place(), repeated)
            else:
                yield from unwrapped(found, self._place())
        elif repeated:
            yield Flaw(self.where, repeated)
        if paged:
            yield Page(self.where, last=not any(found.get(name) for name in _NEXT))

    def _unique(self, fields: list[tuple[str, Any]]) -> dict[str, Any]:
        try:
            return unique_names(fields)
        except RepeatedName as error:
            self._repeated = str(error)
            return dict(fields)

    def _items(self, text_field: str | None, depth: int) -> Iterator[Record | Flaw | Page]:
        self._over("[")
        while not self._at("]"):
            if text_field is None:
                yield from self._value(depth + 1)
            else:
                self._count += 1
                item, repeated, self._repeated = self._plain(), self._repeated, None
                if repeated:
                    yield Flaw(self._place(), repeated)
                else:
                    yield from self._item(item, text_field)
            if not self._at("]"):
                self._over(",")
        self._over("]")

    def _item(self, item: Any, text_field: str) -> Iterator[Record | Flaw | Page]:
        """A record that stands as text in a field of an item."""
        value = item.get(text_field) if isinstance(item, dict) else None
        if isinstance(value, str):
            try:
                value = _DECODER.decode(value)
            except (ValueError, RecursionError):
                value = None
        if isinstance(value, dict):
            yield from unwrapped(value, self._place())
        else:
            yield Flaw(self._place(), f"an event without a readable {text_field}")

    def _plain(self) -> Any:
        self.position = _skip(self.text, self.position)
        size = _WINDOW
        while True:
            piece = self.text[self.position : self.position + size]
            last = size >= MAX_RECORD or len(piece) < size
            try:
                value, end, repeated = _decoded(piece)
            except ValueError:
                # Its end may lie behind the window, which grows only so far: brackets are dear as objects.
                if last and len(piece) == size:
                    raise ValueError(f"not JSON, or more than {MAX_RECORD} characters") from None
                if last:
                    raise
            else:
                if end < len(piece) or last:  # the first digits of a number are a number, too
                    self.position += end
                    self._repeated = repeated or self._repeated
                    return value
            size *= 8

    def _at(self, sign: str) -> bool:
        self.position = _skip(self.text, self.position)
        return self.text.startswith(sign, self.position)

    def _over(self, sign: str) -> None:
        if not self._at(sign):
            raise ValueError(f"{sign!r} is missing")
        self.position += 1

    def _place(self) -> str:
        return f"{self.where}, event {self._count}"


def _decoded(piece: str) -> tuple[Any, int, str | None]:
    """The value with which a text begins, where it ends, and which name in it appears twice."""
    try:
        return *_DECODER.raw_decode(piece), None
    except RepeatedName as error:
        # Two readers could read it differently: it is not judged, and hides nothing that stands behind.
        return *_ANY_NAMES.raw_decode(piece), str(error)


def _reason(error: BaseException) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


def unwrapped(raw: Mapping[str, Any], where: str) -> Iterator[Record | Flaw | Page]:
    """The record inside EventBridge's envelope, or the record itself.

    KMS's own events of EventBridge (rotation, expiry of material, deletion) have a detail that is no record:
    they become a service event with the envelope's type as name ("Monitoring KMS keys with Amazon
    EventBridge").
    """
    if "detail-type" not in raw:
        yield Record(where, raw)
        return
    detail = raw.get("detail")
    if not isinstance(detail, dict):
        yield Flaw(where, "an envelope of EventBridge without a detail")
    elif "eventSource" in raw:
        yield Flaw(where, "a record and an envelope of EventBridge in one")
    elif "eventName" in detail or raw.get("source") != "aws.kms":
        yield Record(where, detail)
    else:
        yield Record(
            where,
            {
                "eventSource": "kms.amazonaws.com",
                "eventName": raw["detail-type"],
                "eventTime": raw.get("time"),
                "awsRegion": raw.get("region"),
                "recipientAccountId": raw.get("account"),
                "resources": raw.get("resources"),
                "eventID": raw.get("id"),
                "eventType": "AwsServiceEvent",
                "serviceEventDetails": detail,
                "userIdentity": {"invokedBy": "AWS Internal"},
            },
        )
