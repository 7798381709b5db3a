"""How ``verify fleet`` shows a look: a table for each source, and lines of what changed."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from coattest.console import Cell
from coattest.shell import err, out
from coattest_verify.fleet.changes import ALARM
from coattest_verify.fleet.judge import DECIDED, STATUSES, VERIFIED, WAITING, Judged
from coattest_verify.fleet.look import Look
from coattest_verify.quorum.members.file import utc

KEY_HEADINGS = ("key of", "status", "release", "covered until")
HEADINGS = ("enclave", "status", "release", "age")
STYLES = {VERIFIED: "green", WAITING: "yellow"}


def show_look(look: Look, *, compared: bool) -> None:
    """The tables and each release on stdout; findings on stderr, and what changed if it was ``compared``."""
    for source in look.sources:
        rows = look.of(source)
        verified = sum(row.status == VERIFIED for row in rows)
        title = f"{source.name}: {verified} verified, {source.count} expected"
        # What fits into 80 columns with a whole id; places are named where something is not well.
        out().show_rows(HEADINGS, [_row(row, look.at) for row in rows], title=title)
    for title, keys in (("key policies", look.policies), ("audits", look.audits)):
        if keys:
            verified = sum(row.status == VERIFIED for row in keys)
            heading = f"{title}: {verified} of {len(keys)} as decided"
            out().show_rows(KEY_HEADINGS, [_key_row(row) for row in keys], title=heading)
    for release in look.releases:
        until = f", until {utc(release.expires)}" if release.expires else ""
        style = "green" if release.answer == DECIDED else "red"
        out().print(f"release {release.name}: {release.answer}{until}", style=style)
    out().print(counted_in_words(look))
    for row in (*look.rows, *look.policies, *look.audits):
        for finding in row.findings:
            err().print(f"{row.source} {row.key}: {row.status}: {finding}", style="red")
    if compared:
        _changes(look)


def show_changes(look: Look) -> None:
    """One line for the look, and one for everything that changed: what a journal should have."""
    out().print(f"{utc(look.at)} {counted_in_words(look)}")
    _changes(look)


def counted_in_words(look: Look) -> str:
    """How many enclaves are what."""
    count = Counter(row.status for row in look.rows)
    found = ", ".join(f"{count[status]} {status}" for status in STATUSES if count[status])
    words = f"{found or 'no enclaves'}; {sum(source.count for source in look.sources)} expected"
    for name, rows in (("key policies", look.policies), ("audits", look.audits)):
        if rows:
            words += f"; {sum(row.status == VERIFIED for row in rows)} of {len(rows)} {name} as decided"
    return words


def _changes(look: Look) -> None:
    for change in look.changes:
        err().print(str(change), style="red" if change.kind == ALARM else "yellow")


def _key_row(row: Judged) -> tuple[Cell, ...]:
    until = utc(row.time) if row.time else ""
    return row.source.partition(":")[2], (row.status, STYLES.get(row.status, "red")), row.release, until


def _row(row: Judged, now: datetime) -> tuple[Cell, ...]:
    age = f"{max(0.0, (now - row.time).total_seconds()):.0f} s" if row.time else ""
    status = (row.status, STYLES.get(row.status, "red"))
    return (row.module_id or row.place or "none", status, row.release, age)
