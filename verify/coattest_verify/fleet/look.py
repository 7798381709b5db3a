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
from coattest_verify.fleet.file import MAX_ENCLAVES, FleetFile, FleetSource
from coattest_verify.fleet.judge import (
    SILENT,
    UNEXPECTED,
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
    policies: tuple[Judged, ...] = ()
    audits: tuple[Judged, ...] = ()

    @property
    def code(self) -> int:
        """The exit code: 0 all verified; 1 something found false; 3 something silent or undecided."""
        return exit_code((*self.rows, *self.policies, *self.audits), self.releases)

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
            "policies": [_key_json(row) for row in self.policies],
            "audits": [{**_key_json(row), "covered_until": _iso(row.time)} for row in self.audits],
            "changes": [change.to_json() for change in self.changes],
        }

    def of(self, source: FleetSource) -> list[Judged]:
        """What was found in one source."""
        return [row for row in self.rows if row.source == source.name]


def _key_json(row: Judged) -> dict[str, Any]:
    """A policy or an audit: its name, the key or the file, and what was found."""
    shown = row.to_json()
    name = row.source.partition(":")[2]
    return {"name": name, "key": row.place, **{part: shown[part] for part in ("status", "since", "findings")}}


def _iso(time: datetime | None) -> str | None:
    return time.isoformat(timespec="seconds") if time else None


def no_keys(now: datetime, decided: Mapping[str, ExpectedRelease]) -> tuple[list[Judged], list[Judged]]:
    """The policies and audits of a fleet whose keys are not watched."""
    del now, decided
    return [], []


@dataclass(slots=True)
class Watcher:
    """What stays from look to look: the chains that were verified, and what the last look saw.

    ``decide`` says what is decided of each release that a source names; ``clients`` makes a boto3 client of a
    service in a Region; ``keys`` looks at policies and audits. ``again``: there will be another look
    by this value; with it, or with a ``state``, a silent enclave is waited for while it may boot.
    """

    fleet: FleetFile
    decide: Callable[[datetime], Mapping[str, ExpectedRelease]]
    root: Root
    clock: Callable[[], datetime]
    clients: Clients
    state: Path | None = None
    prometheus: Path | None = None
    again: bool = False
    keys: Callable[[datetime, Mapping[str, ExpectedRelease]], tuple[list[Judged], list[Judged]]] = no_keys
    last: LastLook | None = None
    cache: ChainCache = field(default_factory=lambda: ChainCache(MAX_ENCLAVES))

    def look(self) -> Look:
        """Look at every enclave once, and write state and figures. Raises CoattestError, OSError."""
        if self.state is not None:
            self.last = load_state(self.state)
        decided = self.decide(self.clock())
        looked = [self._of(source, decided) for source in self.fleet.sources]
        rows = [row for _, found in looked for row in found]
        policies, audits = (self._waited(found) for found in self.keys(self.clock(), decided))
        every, at, releases = [*rows, *policies, *audits], self.clock(), tuple(decided.values())
        made = Look(
            at,
            tuple(source for source, _ in looked),
            tuple(rows),
            releases,
            tuple(changes(self.last, every, releases)),
            tuple(policies),
            tuple(audits),
        )
        if self.prometheus is not None:
            write_atomic(self.prometheus, metrics(made).encode())
        self.last = LastLook.of(every, releases, self.last)
        if self.state is not None:
            save_state(self.state, self.last)
        return made

    def _waited(self, rows: list[Judged]) -> list[Judged]:
        """Policies or audits, waited for while nothing can be read."""
        waits = {
            f"{kind}:{each.name}": each.boot_ms
            for kind, watched in (("policy", self.fleet.policies), ("audit", self.fleet.audits))
            for each in watched
        }
        return [self._settled(row, {SILENT: waits[row.source]}) for row in rows]

    def _settled(self, row: Judged, wait: Mapping[str, int]) -> Judged:
        if self.state is None and not self.again:
            return row
        seen = self.last.seen(row) if self.last else None
        return settled(row, seen.since if seen else None, now=self.clock(), wait=wait)

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
        wait = {SILENT: source.boot_ms}
        found = [self._settled(row, wait) for row in judge_source(asked.source, asked.answers)]
        # An instance that its group no longer names: as long as its last document may be there. One that no
        # look has seen in its group was never of it.
        wait = {UNEXPECTED: source.max_age_ms}
        for row in asked.strays:
            seen = self.last.seen(row) if self.last else None
            known = self.last is None or (seen is not None and seen.status != UNEXPECTED)
            found.append(self._settled(row, wait) if row.module_id and known else row)
        return asked.source, found
