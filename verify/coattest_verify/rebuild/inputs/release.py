"""A Release file: which suite it is, its dates, and the digests of its indexes. Pure.

Source: wiki.debian.org/DebianRepository/Format, "Release files".
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from coattest.findings import Finding
from coattest_build.inputs.debian import IndexMalformed, stanzas

MAX_INDEX_PACKED = 64 * 1024 * 1024
"""Bytes of a Packages.xz; bookworm's main for amd64 has 9 MB."""

FUTURE = timedelta(hours=1)
"""How far ahead of ours an archive's clock may be."""

DATE = re.compile(r"[A-Za-z]{3}, [0-9]{1,2} [A-Za-z]{3} [0-9]{4} [0-9:]{5,8} [A-Za-z0-9+-]{1,8}")
"""A date as archives write it (RFC 5322, 3.3)."""

LISTED = re.compile(r" ([0-9a-f]{64}) +([0-9]{1,12}) (\S+)")


@dataclass(frozen=True, slots=True)
class Listed:
    """One index: SHA-256 (hex) and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Release:
    """What a signed Release file says. ``valid_until`` is None where the archive sets no end."""

    codename: str
    suite: str
    date: datetime
    valid_until: datetime | None
    by_hash: bool
    files: Mapping[str, Listed] = field(repr=False)


def parse_release(text: bytes, where: str) -> Release | Finding:
    """The Release file in a verified text, or what is wrong with it."""
    try:
        found = list(stanzas(text.decode()))
    except (UnicodeDecodeError, IndexMalformed) as error:
        return Finding("bad-release", where, f"not a control file: {error}"[:200])
    if len(found) != 1:
        return Finding("bad-release", where, f"{len(found)} stanzas instead of one")
    fields = found[0]
    try:
        date = _time(fields["Date"])
        until = _time(fields["Valid-Until"]) if "Valid-Until" in fields else None
        files = _files(fields["SHA256"])
    except (KeyError, ValueError, OverflowError) as error:
        return Finding("bad-release", where, f"has a missing or malformed {error}"[:200])
    return Release(
        codename=fields.get("Codename", ""),
        suite=fields.get("Suite", ""),
        date=date,
        valid_until=until,
        by_hash=fields.get("Acquire-By-Hash", "").lower() == "yes",
        files=files,
    )


def judge_release(release: Release, suite: str, *, now: datetime) -> tuple[Finding, ...]:
    """Whether this is ``suite``, and current at ``now`` (aware).

    One archive key signs every suite, so a mirror could answer with another one's file, or an old one.
    """
    found: list[Finding] = []
    if suite not in (release.codename, release.suite):
        found.append(
            Finding("wrong-suite", suite, f"the signed file is for {release.codename or release.suite!r}")
        )
    if release.date > now + FUTURE:
        found.append(
            Finding("from-the-future", suite, f"dated {release.date:%Y-%m-%d %H:%M} UTC; check the clock")
        )
    if release.valid_until and release.valid_until < now:
        found.append(Finding("expired", suite, f"valid until {release.valid_until:%Y-%m-%d %H:%M} UTC"))
    return tuple(found)


def _time(text: str) -> datetime:
    if not DATE.fullmatch(text):
        raise ValueError(f"not a date: {text[:40]!r}")
    parsed = email.utils.parsedate_to_datetime(text.replace("UTC", "GMT"))
    if parsed.tzinfo is None:
        raise ValueError(f"a time without a zone: {text[:40]!r}")
    return parsed.astimezone(timezone.utc)


def _files(text: str) -> dict[str, Listed]:
    files: dict[str, Listed] = {}
    for line in filter(None, text.split("\n")):
        match = LISTED.fullmatch(line)
        if match is None or match[3] in files:
            raise ValueError(f"the list of files: {line[:80]!r}")
        files[match[3]] = Listed(match[1], int(match[2]))
    return files
