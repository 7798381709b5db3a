"""What stops CloudTrail from recording calls of KMS, by the trail's own records. Pure.

A log that was not written leaves no mark in the logs beside it, and CloudTrail's digest files list what was
delivered, not what was selected. Source: CloudTrail API Reference, StopLogging, StartLogging, DeleteTrail,
UpdateTrail, PutEventSelectors, EventSelector ("it can filter out AWS Key Management Service .. events") and
AdvancedFieldSelector.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from coattest.findings import Finding
from coattest.strictjson import shown
from coattest_verify.audit.events import error_of, json_object, moment_of, plain_text

CODE: Final = "trail-changed"
_DELETES: Final = "DeleteTrail"
_ENDS: Final = "StopLogging"
_SELECTS: Final = "PutEventSelectors"
_UPDATES: Final = "UpdateTrail"
_CALLS: Final = (_DELETES, _ENDS, "StartLogging", _SELECTS, _UPDATES)
_ELSEWHERE: Final = ("s3BucketName", "s3KeyPrefix")
_BUCKET, _DIGESTS, _SELECTORS = "bucket", "digests", "selectors"
_SWITCHES: Final = {
    "isMultiRegionTrail": ("Regions", "leaves it to one Region"),
    "enableLogFileValidation": (_DIGESTS, "ends its digests, so that logs can be removed"),
}
_HOUR: Final = 3600


@dataclass(frozen=True, slots=True)
class TrailChange:
    """A change after which a trail lacks calls of KMS, or may; without a ``finding`` one that undoes such a
    change of the same ``part``: Region and name of the trail, and what of it. ``time`` is None where it
    cannot be read. After a ``lasting`` one calls are missing until it is undone.
    """

    time: datetime | None
    part: tuple[str, str, str]
    finding: Finding | None
    lasting: bool = True


def trail_changes(raw: Mapping[str, Any], account: str) -> list[TrailChange]:
    """The changes of an account's trail that a record is of; none for one of anything else."""
    service, name = plain_text(raw.get("eventSource")).strip().lower(), plain_text(raw.get("eventName"))
    if not service.startswith("cloudtrail.") or name not in _CALLS:
        return []
    if error_of(raw) is not None or raw.get("recipientAccountId") not in (None, "", account):
        return []
    parameters = json_object(raw.get("requestParameters")) or {}
    named = parameters.get("trailName") or parameters.get("name")
    # By its name or its ARN; a trail is changed in its home Region only.
    place, trail = plain_text(raw.get("awsRegion")), plain_text(named).rpartition("/")[2]
    where, time = f"event {shown(json.dumps(raw.get('eventID')))}", moment_of(raw.get("eventTime"))
    found = []
    for what, does in _effects(name, parameters):
        detail = f"{name} of trail {shown(json.dumps(named))} {does}: what was called after it may be missing"
        finding = Finding(CODE, where, detail) if does else None
        found.append(TrailChange(time, (place, trail, what), finding, what != _BUCKET))
    return found


def _effects(name: str, parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What of a trail a call changes, and what that does to its records: nothing where it sees to them."""
    if name == _UPDATES:
        for each, (what, does) in _SWITCHES.items():
            if (value := parameters.get(each)) is not None:
                yield what, "" if value is True else does
        if any(parameters.get(each) is not None for each in _ELSEWHERE):
            yield _BUCKET, "says where its logs go"
    elif name == _SELECTS:
        yield _SELECTORS, "" if records_kms(parameters) else "selects events, and perhaps none of KMS"
    elif name == _DELETES:
        yield "trail", "ends the recording"  # one that is made again under its name may be another one
    else:
        yield "recording", "ends the recording" if name == _ENDS else ""


def hour_of(raw: Mapping[str, Any], account: str, region: str) -> int | None:
    """The hour since the epoch of a call of KMS that only reads, as Decrypt does; None for any other record.

    A trail that records one, and of which nothing was left out by selectors, records them all.
    """
    if raw.get("readOnly") is not True or raw.get("eventCategory") not in (None, "Management"):
        return None
    time = moment_of(raw.get("eventTime"))
    if time is None or (raw.get("recipientAccountId"), raw.get("awsRegion")) != (account, region):
        return None
    return int(time.timestamp()) // _HOUR


def with_digests(change: TrailChange) -> bool:
    """Whether a change matters only to whoever has digests: a trail without any may say so in each update."""
    return change.part[2] == _DIGESTS


def missing_after(
    changes: Sequence[TrailChange], hours: Collection[int], since: datetime | None, until: datetime | None
) -> tuple[Finding, ...]:
    """Changes in the window, and those before it that nothing undid before it began.

    Where a whole one of the ``hours`` (``hour_of``) is between, a trail goes on: that one, or another.
    """
    begin = since.timestamp() // _HOUR if since else 0.0
    recorded = max((hour for hour in hours if hour < begin), default=0) * _HOUR
    undone: dict[tuple[str, str, str], datetime] = {}
    for item in changes:
        if item.finding is None and item.time is not None and since is not None and item.time <= since:
            undone[item.part] = max(item.time, undone.get(item.part, item.time))

    def counts(item: TrailChange) -> bool:
        time = item.time
        if time is None or since is None or time >= since:
            return time is None or until is None or time < until
        goes_on = item.part[2] not in (_DIGESTS, _SELECTORS) and recorded > time.timestamp()
        return item.lasting and not goes_on and undone.get(item.part, time) <= time

    return tuple(item.finding for item in changes if item.finding is not None and counts(item))


def records_kms(parameters: Mapping[str, Any]) -> bool:
    """Whether the parameters of PutEventSelectors surely select every call of KMS."""
    plain = parameters.get("eventSelectors")
    advanced = parameters.get("advancedEventSelectors")
    return any(map(_plain, plain if isinstance(plain, list) else ())) or any(
        map(_advanced, advanced if isinstance(advanced, list) else ())
    )


def _plain(selector: Any) -> bool:
    """All management events, those that read too, of all services."""
    if not isinstance(selector, dict):
        return False
    kinds, excluded = selector.get("readWriteType", "All"), selector.get("excludeManagementEventSources")
    return kinds == "All" and selector.get("includeManagementEvents", True) is True and excluded in (None, [])


def _advanced(selector: Any) -> bool:
    """All management events, without a further condition."""
    fields = selector.get("fieldSelectors") if isinstance(selector, dict) else None
    if not isinstance(fields, list) or len(fields) != 1 or not isinstance(fields[0], dict):
        return False
    given = {name: value for name, value in fields[0].items() if value not in (None, [])}
    return given == {"field": "eventCategory", "equals": ["Management"]}
