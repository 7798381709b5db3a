"""Takes the content of files in, and keeps what the audit of one key needs of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from coattest.errors import Rejected, UsageError
from coattest.findings import Finding
from coattest.strictjson import shown
from coattest_verify.audit.coverage import Coverage
from coattest_verify.audit.digests import DigestFile, is_digest
from coattest_verify.audit.events import (
    Event,
    KeyName,
    Names,
    NotOfKey,
    Unreadable,
    parse_event,
    shared_ids,
)
from coattest_verify.audit.records import GZIP, Flaw, Page, Record, inflate, records_of, salvaged
from coattest_verify.audit.trails import TrailChange, hour_of, missing_after, trail_changes, with_digests

MAX_EVENTS: Final = 500_000
"""Events of the key that one run holds in memory, about 2 kB each."""

MAX_TOTAL: Final = 64 * 1024**3
"""Bytes of all files of one run, unpacked: the better part of an hour of reading."""

MAX_HELD: Final = 256 * 1024**2
"""Characters of the events' variable parts that one run holds in memory."""

MAX_CALLS: Final = 8_000_000
"""Ids of calls that one run remembers, 70 bytes each."""

MAX_FLAWS: Final = 200_000
"""Places that cannot be read before a run is given up."""

MAX_CHANGES: Final = 10_000
"""Changes of trails that one run remembers: whoever makes more of them hides none among them."""

MAX_HOURS: Final = 100_000
"""Hours of which one run remembers that calls of KMS were recorded: eleven years."""

MAX_DIGEST: Final = 8 * 1024**2
MAX_DIGESTS: Final = 512 * 1024**2
"""Bytes of a digest file, and of all of them, unpacked: a busy Region's has 100 kB an hour."""

MAX_UNREADABLE: Final = 1000
"""Findings about what cannot be read; the rest is counted in one more."""


@dataclass(slots=True)
class Collected:
    """What was read for the audit of ``key``.

    ``logs`` maps each log's path to the SHA-256 of its unpacked content, for the digests. ``calls`` are the
    ids of all the calls that the key's account recorded, hashed: a second record of one of them is known by
    them.
    """

    key: KeyName
    coverage: Coverage = field(default_factory=Coverage)
    events: list[Event] = field(default_factory=list)
    digests: list[DigestFile] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    unreadable: list[Finding] = field(default_factory=list)
    trails: list[TrailChange] = field(default_factory=list)
    hours: set[int] = field(default_factory=set)
    pages: list[str] = field(default_factory=list)
    whole: int = 0
    """Files whose last page is the last one of an answer."""
    calls: set[int] = field(default_factory=set)
    _held: int = 0
    _digests: int = 0

    def log(self, data: bytes, where: str, path: str) -> None:
        """Add a log file, or a digest file by its content. ``path`` is its name in the bucket."""
        self.coverage.files += 1
        try:
            content, damage = salvaged(data)
        except Rejected as error:
            self.flaw(where, error.what)
            return
        self.coverage.size += len(content)
        _limit(self.coverage.size, MAX_TOTAL, "bytes when unpacked")
        self.logs[path] = hashlib.sha256(content).hexdigest()
        if damage:
            self.flaw(where, damage)
        if content.startswith(GZIP):
            self.flaw(where, "gzip within gzip: unpack it once")
        else:
            self.text(content, where)

    def digest(self, data: bytes, signature: str, where: str) -> None:
        """Add a digest file with the signature of its object's metadata (hex).

        What lies among the digests and is none, by its content, is a log.
        """
        try:
            content = inflate(data)
        except Rejected:
            content = b""
        if len(content) > MAX_DIGEST or not is_digest(content):
            self.log(data, where, where)
            return
        self.coverage.files += 1
        self.coverage.digests += 1
        self._digests += len(content)
        _limit(self._digests, MAX_DIGESTS, "bytes of digest files")
        self.digests.append(DigestFile(content, signature, where))

    def text(self, content: bytes, where: str) -> None:
        """Add the records of an unpacked file."""
        page: Page | None = None
        for found in records_of(content, where):
            if isinstance(found, Page):
                page = found
            elif isinstance(found, Flaw):
                self.flaw(found.where, found.detail)
            else:
                self._take(found)
        if page is not None:
            # Pages one after the other are one answer: its last one says whether it is whole.
            self.whole += page.last
            self.pages += [] if page.last else [page.where]
            self.coverage.pages = len(self.pages) if self.whole == 1 else 0

    def flaw(self, where: str, detail: str) -> None:
        """Something that could not be read."""
        self.coverage.unreadable += 1
        _limit(self.coverage.unreadable, MAX_FLAWS, "places that cannot be read")
        if len(self.unreadable) < MAX_UNREADABLE:
            self.unreadable.append(Finding("bad-event", where, detail))

    def _take(self, record: Record) -> None:
        self.coverage.saw(record.raw)
        try:
            event = parse_event(record.raw, self.key)
        except (Unreadable, RecursionError) as error:
            detail = str(error) if isinstance(error, Unreadable) else "nested too deep"
            self.flaw(f"{record.where}, id {shown(json.dumps(record.raw.get('eventID')))}", detail)
            return
        if event not in (NotOfKey.ANOTHER_SERVICE, NotOfKey.INSIGHT):
            self.coverage.of_kms += 1
            self._remember(record)
        if event is NotOfKey.ANOTHER_SERVICE:
            self.trails += trail_changes(record.raw, self.key.account)
            _limit(len(self.trails), MAX_CHANGES, "changes of trails")
        if isinstance(event, NotOfKey):
            self.coverage.not_of_key[event.value] += 1
            return
        # Of another key, and kept only since it may take an alias away from this one.
        if event.names is Names.ANOTHER and not event.aliases:
            self.coverage.not_of_key[NotOfKey.ANOTHER_KEY.value] += 1
            return
        self.events.append(event)
        _limit(len(self.events), MAX_EVENTS, "events of the key")
        self._held += _size(event)
        _limit(self._held, MAX_HELD, "characters of the key's events")

    def _remember(self, record: Record) -> None:
        hour = hour_of(record.raw, self.key.account, self.key.region)
        if hour is not None and len(self.hours) < MAX_HOURS:
            self.hours.add(hour)
        if record.raw.get("eventCategory") == "NetworkActivity":
            return
        if record.raw.get("recipientAccountId") not in (None, self.key.account):
            return
        self.calls.update(map(hash, shared_ids(record.raw)))
        _limit(len(self.calls), MAX_CALLS, "calls of KMS")

    @property
    def unfinished(self) -> tuple[Finding, ...]:
        """Files that end with a page which says that a next one exists: nobody knows what it has.

        The pages of one answer may be files of their own. Then one of them is the last; with several last
        ones nobody can tell which answer the others belong to.
        """
        if self.whole == 1:
            return ()
        detail = "another page follows, and nothing shows that it is here: put an answer's pages in one file"
        return tuple(Finding("pages-missing", where, detail) for where in self.pages[:MAX_UNREADABLE])

    def changed(self, since: datetime | None, until: datetime | None) -> tuple[Finding, ...]:
        """Changes of trails after which calls of the window may be missing."""
        changes = [item for item in self.trails if self.digests or not with_digests(item)]
        return missing_after(changes, self.hours, since, until)[:MAX_UNREADABLE]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All that could not be read."""
        more = self.coverage.unreadable - len(self.unreadable)
        if not more:
            return tuple(self.unreadable)
        rest = Finding("bad-event", self.coverage.source, f"{more} more place(s) cannot be read")
        return (*self.unreadable, rest)


def _limit(count: int, most: int, what: str) -> None:
    """Raise UsageError when one run takes in more than it can hold, or finish."""
    if count > most:
        raise UsageError(f"more than {most} {what}", hint="take a smaller folder or prefix at a time")


def _size(event: Event) -> int:
    """Characters of an event that its sender chooses."""
    context = sum(len(name) + len(value) for name, value in event.context.items())
    return context + sum(map(len, (event.parameters, event.identity, *event.aliases, *event.flaws)))
