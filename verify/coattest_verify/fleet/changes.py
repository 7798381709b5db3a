"""What changed between two looks at a fleet, and the file that remembers the last one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from coattest.errors import EnvironmentFailure, Rejected, UsageError
from coattest.files import read_bounded, write_atomic
from coattest.strictjson import Fields, canonical, parse
from coattest_verify.fleet.file import MAX_ENCLAVES, MAX_SOURCES
from coattest_verify.fleet.judge import (
    ANSWERS,
    DECIDED,
    MISSING,
    STATUSES,
    VERIFIED,
    WAITING,
    ExpectedRelease,
    Judged,
)
from coattest_verify.quorum.members.file import parse_utc, utc

STATE_FORMAT: Final = "coattest-fleet-state/v1"
MAX_STATE: Final = 32 * 1024 * 1024
"""Bytes: some 400 for each of the enclaves, and as many again that were there before."""

ALARM, NEWS = "alarm", "news"

_PLAIN_ID = re.compile(r"[!-\[\]-~]{0,200}")


def remembered_id(module_id: str) -> str:
    """A module id as it is remembered and told: itself, or the SHA-256 of one that is long or strange."""
    if _PLAIN_ID.fullmatch(module_id):
        return module_id
    return f"sha256:{hashlib.sha256(module_id.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class LastSeen:
    """What the last look saw of one enclave; ``since`` is when it fell silent."""

    status: str
    module_id: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class LastLook:
    """What the last look saw: each release's answer, and by source and key each enclave."""

    releases: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, Mapping[str, LastSeen]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, rows: Sequence[Judged], releases: Iterable[ExpectedRelease], last: LastLook | None = None
    ) -> LastLook:
        """What a look saw; of a source that could not be looked at, what the ``last`` one saw."""
        before = last.sources if last else {}
        sources = {name: dict(before.get(name, {})) for name in _unseen(rows)}
        for row in rows:
            sources.setdefault(row.source, {})[row.key] = LastSeen(
                row.status, remembered_id(row.module_id), row.since
            )
        return cls({each.name: each.answer for each in releases}, sources)

    def seen(self, row: Judged) -> LastSeen | None:
        """What the last look saw where a row is."""
        return self.sources.get(row.source, {}).get(row.key)


def _unseen(rows: Sequence[Judged]) -> set[str]:
    """The sources in which no place was found: their folder, or group, cannot be listed, or is empty."""
    return {row.source for row in rows} - {row.source for row in rows if row.key != MISSING}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not as the last look saw it: an ``alarm``, or ``news``."""

    kind: str
    source: str
    what: str
    key: str
    detail: str

    def __str__(self) -> str:
        place = " ".join(part for part in (self.source, self.key) if part)
        return f"{self.kind}: {place}: {self.detail}"

    def to_json(self) -> dict[str, str]:
        """One flat object."""
        return asdict(self)


def changes(
    last: LastLook | None, rows: Sequence[Judged], releases: Sequence[ExpectedRelease]
) -> list[Change]:
    """What changed since the last look. At the first one that is whatever is not well.

    What begins to be wrong is an alarm; what is new, well again, replaced or gone is news, and so is an
    enclave that is waited for.
    """
    before = last or LastLook()
    found = [
        Change(
            NEWS if each.answer == DECIDED else ALARM,
            "",
            ANSWERS.get(each.answer, each.answer),
            f"release {each.name}",
            f"is {each.answer}" + "".join(f"; {reason}" for reason in each.reasons[:4]),
        )
        for each in releases
        if before.releases.get(each.name, DECIDED) != each.answer
    ]
    for row in rows:
        if (change := _changed(before.seen(row), row, first=last is None)) is not None:
            found.append(change)
    now = LastLook.of(rows, (), last)
    for source, earlier in before.sources.items():
        for key in earlier.keys() - now.sources.get(source, {}).keys():
            if earlier[key].status == VERIFIED:
                found.append(
                    Change(NEWS, source, "gone", key, f"is gone: {earlier[key].module_id}".removesuffix(": "))
                )
    return found


def _changed(seen: LastSeen | None, row: Judged, *, first: bool) -> Change | None:
    was, module_id = seen.status if seen else "", remembered_id(row.module_id)
    now = f": {module_id}, release {row.release}" if module_id else ""
    if row.status == VERIFIED:
        if seen is None:
            text = None if first else ("new", f"is new{now}")
        elif was != VERIFIED:
            text = ("verified", f"is verified again{now}")
        elif seen.module_id != module_id:
            text = ("replaced", f"{seen.module_id} was replaced by {module_id}")
        else:
            text = None
        return Change(NEWS, row.source, text[0], row.key, text[1]) if text else None
    if row.status == was:
        return None
    why = "; ".join(map(str, row.findings[:4]))
    name = f" ({module_id})" if row.module_id and row.place else ""
    kind = NEWS if row.status == WAITING else ALARM
    return Change(kind, row.source, row.status, row.key, f"is {row.status}{name}: {why}")


def load_state(path: Path) -> LastLook | None:
    """What the last look wrote; None when there is no file yet. Raises EnvironmentFailure, and OSError."""
    try:
        return _decode(read_bounded(path, MAX_STATE))
    except FileNotFoundError:
        return None
    except (Rejected, UsageError) as error:
        # Not read as empty: that would turn every alarm on again, and every wait back to its beginning.
        raise EnvironmentFailure(
            error.what, where=str(path), hint="restore it, or remove it: the next look is then a first one"
        ) from None


def save_state(path: Path, look: LastLook) -> None:
    """Write what a look saw, whole or not at all. Raises OSError."""
    sources = {
        source: {key: _entry(seen) for key, seen in entries.items()}
        for source, entries in look.sources.items()
    }
    document = {"format": STATE_FORMAT, "releases": dict(look.releases), "sources": sources}
    write_atomic(path, canonical(document) + b"\n", 0o600)


def _entry(seen: LastSeen) -> dict[str, Any]:
    return {
        "status": seen.status,
        **({"id": seen.module_id} if seen.module_id else {}),
        **({"since": utc(seen.since)} if seen.since else {}),
    }


def _decode(data: bytes) -> LastLook:
    fields = Fields(parse(data, max_size=MAX_STATE), "")
    fields.exactly("format", STATE_FORMAT)
    releases = fields.fields("releases")
    answers = {name: releases.choice(name, tuple(ANSWERS)) for name in releases.values}
    sources = {}
    for source, entries in fields.mapping("sources", low=0, high=3 * MAX_SOURCES).items():
        below = Fields(entries, source[:80])
        if len(below.values) > 2 * MAX_ENCLAVES:
            raise Rejected(f"{below.path}: more than {2 * MAX_ENCLAVES} enclaves")
        sources[source] = {key: _seen(below.fields(key)) for key in below.values}
    fields.done()
    return LastLook(answers, sources)


def _seen(entry: Fields) -> LastSeen:
    seen = LastSeen(
        entry.choice("status", STATUSES),
        entry.optional("id", entry.text) or "",
        entry.optional("since", lambda name: parse_utc(entry.text(name))),
    )
    entry.done()
    return seen
