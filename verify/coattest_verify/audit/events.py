"""CloudTrail's events as values. Pure.

Sources: CloudTrail User Guide, "CloudTrail record contents" and "CloudTrail log file examples" ({"Records":
[..]}); KMS Developer Guide, "Monitoring requests for Nitro enclaves" (additionalEventData.recipient).
Registers are in base64 there; older examples of AWS have hex. 48 bytes are 64 characters of the one and 96
of the other, so both are read.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from coattest.errors import UsageError

MAX_FILE = 32 * 1024 * 1024
"""Bytes of one log file, uncompressed; parsed it may take twenty times as much. CloudTrail's have a few."""

PCR_SIZE = 48
_PREFIX = "attestationDocumentEnclave"


def bad_event(what: str, *, where: str) -> UsageError:
    """Not a CloudTrail log, or an event that cannot be read: never skipped, since it could be a Decrypt."""
    return UsageError(what, where=where, code="bad-event")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of KMS. ``registers`` are those that KMS recorded of the attestation document, None without
    one.
    """

    name: str
    time: datetime
    region: str
    account: str
    keys: tuple[str, ...]
    principal: str
    role: str | None
    source: str
    error: str | None
    module_id: str | None
    registers: Mapping[int, bytes] | None = field(hash=False)
    context: Mapping[str, str] = field(hash=False)
    identity: str = ""


def read_events(data: bytes, where: str) -> Iterator[Mapping[str, Any]]:
    """The raw events of a log file (gzipped or not), of lookup-events' output, or of JSON lines.

    Raises UsageError.
    """
    text = inflate(data, where)
    try:
        document = json.loads(text)
    except ValueError:
        yield from _lines(text, where)
        return
    except RecursionError as error:
        raise bad_event("nested too deep", where=where) from error
    if isinstance(document, dict) and isinstance(document.get("Records"), list):
        yield from (_mapping(record, where) for record in document["Records"])
    elif isinstance(document, dict) and isinstance(document.get("Events"), list):
        for item in document["Events"]:
            yield _mapping(_parsed(_mapping(item, where).get("CloudTrailEvent", ""), where), where)
    else:
        yield _mapping(document, where)


def inflate(data: bytes, where: str) -> bytes:
    """The content of a gzipped file, or the data as it is. Raises UsageError."""
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        text = inflater.decompress(data, MAX_FILE)
    except zlib.error as error:
        raise bad_event("the gzip data is damaged", where=where) from error
    if inflater.unconsumed_tail or not inflater.eof:
        raise bad_event(f"truncated, or longer than {MAX_FILE} bytes", where=where)
    return text


def _lines(text: bytes, where: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield _mapping(_parsed(line, f"{where}:{number}"), f"{where}:{number}")


def _parsed(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError, TypeError) as error:
        raise bad_event("not JSON", where=where) from error


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise bad_event("an event must be a JSON object", where=where)
    return value


def parse_event(raw: Mapping[str, Any], where: str) -> Event | None:
    """The event, or None when it is not one of KMS. Raises UsageError."""
    try:
        if raw["eventSource"] != "kms.amazonaws.com":
            return None
        identity = raw.get("userIdentity") or {}
        issuer = (identity.get("sessionContext") or {}).get("sessionIssuer") or {}
        parameters = raw.get("requestParameters") or {}
        recipient = (raw.get("additionalEventData") or {}).get("recipient")
        return Event(
            name=_text(raw["eventName"]),
            time=_time(raw["eventTime"]),
            region=_text(raw["awsRegion"]),
            account=_text(raw.get("recipientAccountId") or ""),
            keys=tuple(_text(item["ARN"]) for item in raw.get("resources") or () if "ARN" in item),
            principal=_text(
                identity.get("arn") or identity.get("invokedBy") or identity.get("type") or "unknown"
            ),
            role=issuer.get("arn"),
            source=_text(raw.get("sourceIPAddress") or ""),
            error=raw.get("errorCode"),
            module_id=recipient.get("attestationDocumentModuleId") if recipient else None,
            registers=_registers(recipient) if recipient else None,
            context={
                str(key): str(value) for key, value in (parameters.get("encryptionContext") or {}).items()
            },
            identity=_text(raw.get("sharedEventID") or raw["eventID"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise bad_event(f"cannot read an event of KMS: {error!r}", where=where) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _time(value: str) -> datetime:
    return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


def _registers(recipient: Mapping[str, Any]) -> dict[int, bytes]:
    names = {f"{_PREFIX}ImageDigest": 0, **{f"{_PREFIX}PCR{index}": index for index in range(32)}}
    return {index: _register(recipient[name]) for name, index in names.items() if name in recipient}


def _register(value: Any) -> bytes:
    text = _text(value)
    try:
        found = bytes.fromhex(text) if len(text) == 2 * PCR_SIZE else base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("a register is neither base64 nor hex") from error
    if len(found) != PCR_SIZE:
        raise ValueError(f"a register has {len(found)} bytes")
    return found
