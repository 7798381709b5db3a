"""A look at a whole fleet: every source is asked and judged, and compared with the last look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from coattest.files import write_atomic
from coattest_verify.attestation import ChainCache, Root
from coattest_verify.fleet.changes import Change, LastLook, changes, load_state, save_state
from coattest_verify.fleet.file import MAX_ENCLAVES, FleetSource
from coattest_verify.fleet.judge import (
    VERIFIED,
    ExpectedRelease,
    Judged,
    SourceJudge,
    exit_code,
    judge_source,
    settled,
)
from coattest_verify.fleet.metrics import metrics
from coattest_verify.fleet.reach import Clients, ask_all


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found."""

    at: datetime
    sources: tuple[FleetSource, ...]
    rows: tuple[Judged, ...]
    releases: tuple[ExpectedRelease, ...]
    changes: tuple[Change, ...]

    @property
    def code(self) -> int:
        """The exit code: 0 all verified; 1 something found false; 3 something silent or undecided."""
        return exit_code(self.rows, self.releases)

    def to_json(self) -> dict[str, Any]:
        """Releases, sources with their enclaves, and changes."""
        return {
            "ok": self.code == 0,
            "looked_at": self.at.isoformat(timespec="seconds"),
            "releases": [each.to_json() for each in self.releases],
            "sources": [
                {
                    "name": source.name,
                    "kind": source.reach.kind,
                    "expected": source.count,
                    "verified": sum(row.status == VERIFIED for row in self.of(source)),
                    "enclaves": [row.to_json() for row in self.of(source)],
                }
                for source in self.sources
            ],
            "changes": [change.to_json() for change in self.changes],
        }

    def of(self, source: FleetSource) -> list[Judged]:
        """What was found in one source."""
        return [row for row in self.rows if row.source == source.name]


@dataclass(slots=True)
class Watcher:
    """What stays from look to look: the chains that were verified, and what the last look saw.

    ``decide`` says what is decided of each release that a source names; ``clients`` makes a boto3 client of a
    service in a Region. ``again``: there will be another look
    by this value; with it, or with a ``state``, a silent enclave is waited for while it may boot.
    """

    sources: tuple[FleetSource, ...]
    decide: Callable[[datetime], Mapping[str, ExpectedRelease]]
    root: Root
    clock: Callable[[], datetime]
    clients: Clients
    state: Path | None = None
    prometheus: Path | None = None
    again: bool = False
    last: LastLook | None = None
    cache: ChainCache = field(default_factory=lambda: ChainCache(MAX_ENCLAVES))

    def look(self) -> Look:
        """Look at every enclave once, and write state and figures. Raises CoattestError, OSError."""
        if self.state is not None:
            self.last = load_state(self.state)
        decided = self.decide(self.clock())
        looked = [self._of(source, decided) for source in self.sources]
        sources = tuple(source for source, _ in looked)
        rows = [row for _, found in looked for row in found]
        at, releases = self.clock(), tuple(decided.values())
        made = Look(at, sources, tuple(rows), releases, tuple(changes(self.last, rows, releases)))
        if self.prometheus is not None:
            text = metrics(sources, rows, releases, code=made.code, now=at)
            write_atomic(self.prometheus, text.encode())
        self.last = LastLook.of(rows, releases, self.last)
        if self.state is not None:
            save_state(self.state, self.last)
        return made

    def _of(
        self, source: FleetSource, decided: Mapping[str, ExpectedRelease]
    ) -> tuple[FleetSource, list[Judged]]:
        """What was found in a source, and the source with what must be there now."""
        expected = [decided[name] for name in source.releases]
        asked = ask_all(
            source,
            SourceJudge(source, expected, self.root, self.cache),
            self.clock,
            self.clients,
        )
        found, now = [*judge_source(asked.source, asked.answers), *asked.strays], self.clock()
        if self.state is not None or self.again:
            last = self.last or LastLook()
            found = [
                settled(row, last.silent_since(row.source, row.key), now=now, source=source) for row in found
            ]
        return asked.source, found
