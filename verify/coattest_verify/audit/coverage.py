"""What an audit looked at: files, Regions, hours, digests. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

MAX_NAMES: Final = 1000
"""Regions, hours and file names of each kind that are kept; a year has 8,760 hours."""

_HOUR = re.compile(r"\d{4}-\d\d-\d\dT\d\d", re.ASCII)
_MAX_HOURS = 10 * 8784


@dataclass(slots=True)
class Coverage:
    """Counts of what was read. ``hours`` are those, like 2026-11-23T10, that any record is of."""

    source: str = ""
    files: int = 0
    size: int = 0
    """Bytes, unpacked."""
    records: int = 0
    of_kms: int = 0
    unreadable: int = 0
    not_of_key: Counter[str] = field(default_factory=Counter)
    regions: set[str] = field(default_factory=set)
    hours: set[str] = field(default_factory=set)
    skipped: list[str] = field(default_factory=list)
    """Names of files that are no logs by their content, as many as are kept."""
    skipped_count: int = 0
    pages: int = 0
    """Pages in files of their own that the one last page of the source was taken to end."""
    digests: int = 0
    digests_checked: bool = False
    digests_of: tuple[datetime, datetime] | None = None
    """From when to when the digests of the key's Region show that the logs are complete."""

    def saw(self, raw: Mapping[str, Any]) -> None:
        """Count a record."""
        self.records += 1
        region, time = raw.get("awsRegion"), raw.get("eventTime")
        if isinstance(region, str) and len(region) < 40 and len(self.regions) < MAX_NAMES:
            self.regions.add(region)
        hour = _HOUR.match(time) if isinstance(time, str) else None
        if hour and len(self.hours) < _MAX_HOURS:
            self.hours.add(hour[0])

    def skip(self, name: str) -> None:
        """Remember a file that was not read."""
        self.skipped_count += 1
        if len(self.skipped) < MAX_NAMES:
            self.skipped.append(name)

    @property
    def told(self) -> str:
        """In words: how much was read."""
        of = f"{self.files} file(s)" if self.files else "the event history"
        if not self.hours:
            return f"{self.records} record(s) of {of}"
        where = ", ".join(sorted(self.regions)) or "no Region"
        return (
            f"{self.records} record(s) of {of}, {len(self.hours)} hour(s) between "
            f"{min(self.hours)}h and {max(self.hours)}h UTC, in {where}"
        )

    @property
    def complete(self) -> str:
        """In words: what shows that the logs are complete."""
        if not self.digests_checked or self.digests_of is None:
            return "no digest files, so nothing shows that the logs are complete"
        first, last = map(_stamp, self.digests_of)
        return f"complete by CloudTrail's digest files from {first} to {last}, and by nothing at other times"

    def to_json(self) -> dict[str, Any]:
        """As one object."""
        return {
            "source": self.source,
            "files": self.files,
            "bytes": self.size,
            "records": self.records,
            "kms_records": self.of_kms,
            "unreadable": self.unreadable,
            "not_of_key": dict(self.not_of_key),
            "regions": sorted(self.regions),
            "hours": {
                "count": len(self.hours),
                "first": min(self.hours, default=None),
                "last": max(self.hours, default=None),
            },
            "pages": self.pages,
            "skipped": self.skipped,
            "skipped_count": self.skipped_count,
            "digests": {
                "files": self.digests,
                "checked": self.digests_checked,
                "first": _stamp(self.digests_of[0]) if self.digests_of else None,
                "last": _stamp(self.digests_of[1]) if self.digests_of else None,
            },
        }


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
