"""Takes the content of files in, and keeps what the audit of one key needs of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
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
from coattest_verify.audit.records import Flaw, Page, Record, inflate, records_of, salvaged

MAX_EVENTS: Final = 500_000
"""Events of the key that one run holds in memory, about 2 kB each."""

MAX_TOTAL: Final = 64 * 1024**3
"""Bytes of all files of one run, unpacked: the better part of an hour of reading."""

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
    pages: list[str] = field(default_factory=list)
    whole: int = 0
    """Files whose last page is the last one of an answer."""
    calls: set[int] = field(default_factory=set)

    def log(self, data: bytes, where: str, path: str) -> None:
        """Add a log file, or a digest file by its content. ``path`` is its name in the bucket."""
        self.coverage.files += 1
        try:
            content, damage = salvaged(data)
        except Rejected as error:
            self.flaw(where, error.what)
            return
        if damage:
            self.flaw(where, damage)
        self.coverage.size += len(content)
        if self.coverage.size > MAX_TOTAL:
            raise UsageError(
                f"more than {MAX_TOTAL} bytes when unpacked", hint="take a smaller folder or prefix at a time"
            )
        self.logs[path] = hashlib.sha256(content).hexdigest()
        self.text(content, where)

    def digest(self, data: bytes, signature: str, where: str) -> None:
        """Add a digest file with the signature of its object's metadata (hex).

        What lies among the digests and is none, by its content, is a log.
        """
        try:
            content = inflate(data)
        except Rejected:
            content = b""
        if not is_digest(content):
            self.log(data, where, where)
            return
        self.coverage.files += 1
        self.coverage.digests += 1
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

    def flaw(self, where: str, detail: str) -> None:
        """Something that could not be read."""
        self.coverage.unreadable += 1
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
        if isinstance(event, NotOfKey):
            self.coverage.not_of_key[event.value] += 1
            return
        # Of another key, and kept only since it may take an alias away from this one.
        if event.names is Names.ANOTHER and not event.aliases:
            self.coverage.not_of_key[NotOfKey.ANOTHER_KEY.value] += 1
            return
        self.events.append(event)
        if len(self.events) > MAX_EVENTS:
            raise UsageError(
                f"more than {MAX_EVENTS} events of the key", hint="take a smaller folder or prefix at a time"
            )

    def _remember(self, record: Record) -> None:
        if record.raw.get("eventCategory") == "NetworkActivity":
            return
        if record.raw.get("recipientAccountId") not in (None, self.key.account):
            return
        self.calls.update(map(hash, shared_ids(record.raw)))

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

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All that could not be read."""
        more = self.coverage.unreadable - len(self.unreadable)
        if not more:
            return tuple(self.unreadable)
        rest = Finding("bad-event", self.coverage.source, f"{more} more place(s) cannot be read")
        return (*self.unreadable, rest)
