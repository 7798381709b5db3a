"""What stops CloudTrail from recording calls of KMS, by the trail's own records. Pure.

A log that was not written leaves no mark in the logs beside it, and CloudTrail's digest files list what was
delivered, not what was selected. Source: CloudTrail API Reference, StopLogging, DeleteTrail,
PutEventSelectors, EventSelector ("it can filter out AWS Key Management Service .. events") and
AdvancedFieldSelector.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from coattest.findings import Finding
from coattest.strictjson import shown
from coattest_verify.audit.events import error_of, json_object, moment_of, plain_text

CODE: Final = "trail-changed"
_ENDS: Final = frozenset({"DeleteTrail", "StopLogging"})
_SELECTS: Final = "PutEventSelectors"


@dataclass(frozen=True, slots=True)
class TrailChange:
    """A change after which a trail lacks calls of KMS, or may. ``time`` is None where it cannot be read."""

    time: datetime | None
    finding: Finding


def trail_change(raw: Mapping[str, Any], account: str) -> TrailChange | None:
    """The change of an account's trail that a record is of; None for one of anything else."""
    service, name = plain_text(raw.get("eventSource")).strip().lower(), plain_text(raw.get("eventName"))
    if not service.startswith("cloudtrail.") or name not in (*_ENDS, _SELECTS):
        return None
    if error_of(raw) is not None or raw.get("recipientAccountId") not in (None, "", account):
        return None
    parameters = json_object(raw.get("requestParameters")) or {}
    if name == _SELECTS and records_kms(parameters):
        return None
    trail = shown(json.dumps(parameters.get("trailName") or parameters.get("name")))
    does = "selects events, and perhaps none of KMS" if name == _SELECTS else "ends the recording"
    detail = f"{name} of trail {trail} {does}: what was called after it may be missing"
    return TrailChange(
        moment_of(raw.get("eventTime")),
        Finding(CODE, f"event {shown(json.dumps(raw.get('eventID')))}", detail),
    )


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
