"""One record of CloudTrail as an event of a key. Pure.

Sources: CloudTrail User Guide, "CloudTrail record contents" and "userIdentity element"; KMS Developer Guide,
"Monitoring requests for Nitro enclaves" (additionalEventData.recipient). Registers are in base64 there; older
examples of AWS have hex. 48 bytes are 64 characters of the one and 96 of the other, so both are read.

Any field may be missing, null, or JSON in a string (event data stores and queries give maps as text). An
event of the key is never dropped for that: what is missing is one of its ``flaws``.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from coattest.errors import UsageError
from coattest.strictjson import shown
from coattest_verify.audit.operations import ALIASES, CHANGES, DECRYPT, KEYLESS, KNOWN

PCR_SIZE = 48
MAX_SHOWN = 4096
"""Characters of a change's parameters that are kept; longer ones are told by their length."""

_PREFIX = "attestationDocumentEnclave"
_KEY_ID = r"(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})"
_KEY_ARN = re.compile(rf"arn:(aws[a-z-]*):kms:([a-z0-9-]+):([0-9]{{12}}):key/({_KEY_ID})")
_SOME_KEY = re.compile(rf"(?<![0-9A-Za-z-]){_KEY_ID}(?![0-9A-Za-z-])", re.IGNORECASE)
_NAMED_KEY = re.compile(rf"(?:\A|\Akey/|:key/){_KEY_ID}\Z", re.IGNORECASE)
_ALIAS = re.compile(r"(?:\A|:)(alias/[A-Za-z0-9/_-]{1,250})\Z")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(?:Z|([+-])(\d\d):?(\d\d))", re.IGNORECASE | re.ASCII
)
_CONTENT = frozenset(
    {"constraints", "description", "encryptioncontext", "policy", "tags"}
    | {f"{side}encryptioncontext" for side in ("source", "destination")}
)
"""Request parameters, in lower case, that are content and do not say which key is meant."""


_ERROR = re.compile(
    r"(?!(?:null|none|nil|nan|undefined|false|true)\Z)[A-Za-z][A-Za-z0-9_.:-]{3,199}", re.IGNORECASE
)
"""An error code, such as AccessDenied or Client.UnauthorizedOperation. What queries export for "no error" is
none.
"""


@dataclass(frozen=True, slots=True)
class KeyName:
    """A KMS key's ARN in its parts. ``id`` is a UUID, or ``mrk-`` and 32 hex digits."""

    arn: str
    region: str
    account: str
    id: str

    @classmethod
    def parse(cls, arn: str) -> KeyName:
        """Raises UsageError for anything but the full ARN of a key: an audit of it would look at nothing."""
        found = _KEY_ARN.fullmatch(arn)
        if not found:
            raise UsageError(
                f"{arn!r} is not the ARN of a key",
                where="--key",
                hint="arn:aws:kms:REGION:ACCOUNT:key/ID, as `aws kms describe-key` shows it",
            )
        return cls(arn, found[2], found[3], found[4])


class NotOfKey(enum.Enum):
    """Why a record is no event of the key."""

    ANOTHER_SERVICE = "of another service"
    INSIGHT = "an Insights event"
    ANOTHER_KEY = "of another key"
    NO_KEY = "of no key"


class Names(enum.Enum):
    """What an event says about which key it is of."""

    THIS = "this key"
    ANOTHER = "another key"
    NONE = "no key"


@dataclass(frozen=True, slots=True)
class EventCaller:
    """Who called. Another account's caller can have an account and a unique id only."""

    shown: str
    role: str | None
    """The ARN of the role (or user) behind a session."""
    arn: str | None
    unique_id: str
    account: str


@dataclass(frozen=True, slots=True)
class Event:
    """One event of KMS. ``registers`` are those that KMS recorded of the attestation document, None without
    one. ``flaws`` are what of it cannot be read; ``time`` is None when that is among them.
    """

    name: str
    names: Names
    time: datetime | None
    region: str
    account: str
    caller: EventCaller
    source: str
    error: str | None
    module_id: str | None
    registers: Mapping[int, bytes] | None = field(hash=False)
    context: Mapping[str, str] = field(hash=False)
    identity: str
    shared: frozenset[str]
    """``shared_ids``: what every account's record of one call has."""
    network: bool
    """Whether a VPC endpoint recorded it: a network activity event, which is a second record of a call."""
    aliases: frozenset[str]
    parameters: str
    flaws: tuple[str, ...]
    fingerprint: bytes
    """SHA-256 of the record: two events are one when they are equal in every field."""
    by_alias: bool = False
    """Whether it names an alias of the key's account and Region by its ARN."""


def parse_event(raw: Mapping[str, Any], key: KeyName) -> Event | NotOfKey:
    """The event, or why it is not one that the audit of ``key`` needs. Raises Unreadable."""
    service = raw.get("eventSource")
    if not isinstance(service, str) or not service.strip():
        if "insightDetails" in raw and "eventName" not in raw and not _has_key(_named_in(raw), key):
            return NotOfKey.INSIGHT
        raise Unreadable("a record without eventSource")
    name = plain_text(raw.get("eventName"))
    if not service.strip().lower().startswith("kms"):
        if name in KNOWN and _has_key(raw.get("resources"), key):
            raise Unreadable("an operation of KMS on this key, by an eventSource that is not KMS")
        return NotOfKey.ANOTHER_SERVICE
    names = _names(raw, key)
    if names is Names.ANOTHER and name not in ALIASES:
        return NotOfKey.ANOTHER_KEY
    if names is Names.NONE and name in KEYLESS:
        return NotOfKey.NO_KEY
    return _event(raw, names, key)


class Unreadable(ValueError):
    """A record of which nobody can tell whether it is of the key."""


def _event(raw: Mapping[str, Any], names: Names, key: KeyName) -> Event:
    flaws: list[str] = []
    name = plain_text(raw.get("eventName"))
    if not name:
        flaws.append("no eventName")
    time = moment_of(raw.get("eventTime"))
    if time is None:
        flaws.append("no eventTime that can be read")
    parameters = json_object(raw.get("requestParameters"))
    recipient: Mapping[str, Any] | None = None
    context: dict[str, str] = {}
    registers: dict[int, bytes] | None = None
    if name == DECRYPT:
        extra = _readable(raw, "additionalEventData", flaws)
        recipient = _readable(extra, "recipient", flaws) or None
        registers = _registers(recipient, flaws) if recipient is not None else None
        given = _readable(_readable(raw, "requestParameters", flaws), "encryptionContext", flaws)
        context = {str(key): str(value) for key, value in given.items()}
    written, error = plain_text(raw.get("errorCode")), error_of(raw)
    if written.strip() and error is None:
        flaws.append(f"errorCode {shown(written)} is none of AWS's, so the call counts as one that succeeded")
    named = list(_strings([raw.get("resources"), raw.get("requestParameters")]))
    return Event(
        name=name or "an operation without a name",
        names=names,
        time=time,
        region=plain_text(raw.get("awsRegion")),
        account=plain_text(raw.get("recipientAccountId")),
        caller=_caller(json_object(raw.get("userIdentity")) or {}),
        source=plain_text(raw.get("sourceIPAddress")),
        error=error,
        module_id=plain_text(recipient.get("attestationDocumentModuleId")) or None if recipient else None,
        registers=registers,
        context=context,
        identity=plain_text(raw.get("eventID")) or "without an id",
        shared=shared_ids(raw),
        network=raw.get("eventCategory") == "NetworkActivity",
        aliases=frozenset(found[1] for text in named if (found := _ALIAS.search(text))),
        parameters=_shown(parameters) if name in CHANGES else "",
        flaws=tuple(flaws),
        fingerprint=hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).digest(),
        by_alias=any(f":kms:{key.region}:{key.account}:alias/" in text for text in named),
    )


def error_of(raw: Mapping[str, Any]) -> str | None:
    """The code of the error with which a call was refused; None for one that succeeded, or may have."""
    found = plain_text(raw.get("errorCode")).strip()
    return found if _ERROR.fullmatch(found) else None


def shared_ids(raw: Mapping[str, Any]) -> frozenset[str]:
    """What every account's record of one call has: sharedEventID and requestID, each with the operation and
    whether it succeeded. A success is no second record of a refusal.
    """
    kind = f"{plain_text(raw.get('eventName'))} {error_of(raw) is not None}"
    ids = (plain_text(raw.get(field)) for field in ("sharedEventID", "requestID"))
    return frozenset(f"{kind} {name}" for name in ids if name)


def _names(raw: Mapping[str, Any], key: KeyName) -> Names:
    """Which key the record names, in its resources, parameters or answer."""
    asked: Any = raw.get("requestParameters")
    if (parameters := json_object(asked)) is not None:
        asked = [value for name, value in parameters.items() if name.lower() not in _CONTENT]
    resources, answer, details = _named_in(raw)
    if _has_key([resources, asked, answer, details], key):
        return Names.THIS
    # A parameter of the caller's choice (a grant's name) or an id somewhere in a longer text does not say
    # that the call was for another key; nor does one of two keys that it was for, beside an alias.
    asked_for = [value for name, value in (parameters or {}).items() if name.lower().endswith("keyid")]
    others = [_NAMED_KEY.search(text) is not None for text in _strings(asked_for)]
    another = any(_NAMED_KEY.search(text) for text in _strings([resources, answer, details]))
    return Names.ANOTHER if another or (others and all(others)) else Names.NONE


def _named_in(raw: Mapping[str, Any]) -> list[Any]:
    """Where a record says what it is about, its parameters left out."""
    return [raw.get(name) for name in ("resources", "responseElements", "serviceEventDetails")]


def _has_key(value: Any, key: KeyName) -> bool:
    """Whether a text in a JSON value has the key's id."""
    return any(found[0].lower() == key.id for text in _strings(value) for found in _SOME_KEY.finditer(text))


def _strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value. A loop, since the value may be as deep as the reader allows."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            waiting.extend(item.values())
            waiting.extend(item)
        elif isinstance(item, list):
            waiting.extend(item)


def json_object(value: Any) -> Mapping[str, Any] | None:
    """The JSON object, also one that stands in a string; empty for null. None for anything else."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "n"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if value is None:
        return {}
    return value if isinstance(value, dict) else None


def _readable(outer: Mapping[str, Any], name: str, flaws: list[str]) -> Mapping[str, Any]:
    """An object of which a Decrypt's judgement depends."""
    found = json_object(outer.get(name))
    if found is None:
        flaws.append(f"{name} is not an object")
    return found or {}


def plain_text(value: Any) -> str:
    """The value if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""


def moment_of(value: Any) -> datetime | None:
    """A time of RFC 3339, with or without fractions of a second and an offset."""
    found = _TIME.fullmatch(plain_text(value))
    if not found:
        return None
    try:
        moment = datetime.strptime(found[1].upper(), "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
        moment += timedelta(microseconds=int((found[2] or ".0")[1:].ljust(6, "0")[:6]))
        ahead = timedelta(hours=int(found[4] or 0), minutes=int(found[5] or 0))
        return moment + ahead if found[3] == "-" else moment - ahead
    except (ValueError, OverflowError):
        return None


def in_window(time: datetime | None, since: datetime | None, until: datetime | None) -> bool:
    """Whether a time is from ``since`` on and before ``until``; one that cannot be read may be."""
    return time is None or ((since is None or time >= since) and (until is None or time < until))


def _caller(identity: Mapping[str, Any]) -> EventCaller:
    issuer = json_object((json_object(identity.get("sessionContext")) or {}).get("sessionIssuer")) or {}
    arn, account = plain_text(identity.get("arn")) or None, plain_text(identity.get("accountId"))
    unique_id = (
        plain_text(issuer.get("principalId")) or plain_text(identity.get("principalId")).partition(":")[0]
    )
    kind = plain_text(identity.get("type")) or "an unknown caller"
    named = " ".join(filter(None, (kind, account, plain_text(identity.get("principalId")))))
    return EventCaller(
        shown=arn or plain_text(identity.get("invokedBy")) or named,
        role=plain_text(issuer.get("arn")) or None,
        arn=arn,
        unique_id=unique_id,
        account=account or plain_text(issuer.get("accountId")),
    )


def _registers(recipient: Mapping[str, Any], flaws: list[str]) -> dict[int, bytes]:
    names = {f"{_PREFIX}ImageDigest": 0, **{f"{_PREFIX}PCR{index}": index for index in range(32)}}
    found: dict[int, bytes] = {}
    for name, index in names.items():
        if name not in recipient:
            continue
        value = _register(recipient[name])
        if value is None or found.get(index, value) != value:
            flaws.append(f"{name} is not the value of a register")
        else:
            found[index] = value
    return found


def _register(value: Any) -> bytes | None:
    text = plain_text(value)
    try:
        found = bytes.fromhex(text) if len(text) == 2 * PCR_SIZE else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return found if len(found) == PCR_SIZE else None


def _shown(parameters: Mapping[str, Any] | None) -> str:
    """A change's parameters as text. A policy is told by its length: it is in the log, and is 32 kB."""
    given = dict(parameters or {})
    if isinstance(given.get("policy"), str):
        given["policy"] = f"({len(given['policy'])} characters)"
    text = json.dumps(given, sort_keys=True) if given else ""
    return text if len(text) <= MAX_SHOWN else f"({len(text)} characters of parameters)"
