"""The mirrors that the system's apt is configured with (sources.list(5): one-line and deb822 formats)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from coattest.errors import EnvironmentFailure, UsageError
from coattest_build.inputs.debian import IndexMalformed, stanzas

MIRROR_VARIABLE = "COATTEST_DEBIAN_MIRROR"
APT_FOLDER = Path("/etc/apt")
SCHEMES = ("http", "https", "file")
HINT = f"name a Debian mirror with --mirror or {MIRROR_VARIABLE}"
DEBIAN_SUITE = re.compile(
    r"(bullseye|bookworm|trixie|forky|duke|sid|(old){0,2}stable|testing|unstable)(-updates|-backports)?"
)
"""A mirror that serves one Debian suite serves bookworm too; other vendors' archives do not."""


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One line or stanza: base addresses, and the suites and components to take from them."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]


def parse_one_line(text: str) -> list[SourceEntry]:
    """The ``deb`` lines of a .list file."""
    entries = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match:
            entries.append(SourceEntry((match[1],), (match[2],), tuple(match[3].split())))
    return entries


def parse_deb822(text: str) -> list[SourceEntry]:
    """The enabled binary stanzas of a .sources file; a malformed file counts as empty."""
    try:
        found = [{key.lower(): value for key, value in stanza.items()} for stanza in stanzas(text)]
    except IndexMalformed:
        return []
    return [
        SourceEntry(*(tuple(fields.get(key, "").split()) for key in ("uris", "suites", "components")))
        for fields in found
        if "deb" in fields.get("types", "").split()
        and fields.get("enabled", "yes").lower() in ("yes", "true")
    ]


def choose(entries: Iterable[SourceEntry], suites: Sequence[str], component: str) -> tuple[str, ...]:
    """The base addresses that serve Debian, those configured for one of ``suites`` first, without repeats."""
    ranked: list[tuple[int, str]] = []
    for entry in entries:
        debian = [suite for suite in entry.suites if DEBIAN_SUITE.fullmatch(suite)]
        if component not in entry.components or not debian:
            continue
        rank = 0 if set(debian) & set(suites) else 1
        ranked += [(rank, uri.rstrip("/")) for uri in entry.uris if urlsplit(uri).scheme in SCHEMES]
    return tuple(dict.fromkeys(uri for _, uri in sorted(ranked, key=lambda item: item[0])))


def configured(folder: Path = APT_FOLDER) -> list[SourceEntry]:
    """Every entry of sources.list and sources.list.d, in apt's order."""
    entries: list[SourceEntry] = []
    parts = folder / "sources.list.d"
    for path in [folder / "sources.list", *(sorted(parts.iterdir()) if parts.is_dir() else ())]:
        if path.suffix in (".list", ".sources") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            entries += parse_one_line(text) if path.suffix == ".list" else parse_deb822(text)
    return entries


def mirrors(
    suites: Sequence[str], component: str, *, mirror: str | None = None, folder: Path = APT_FOLDER
) -> tuple[str, ...]:
    """The mirrors to try, in order: ``mirror``, else the environment's, else what apt is configured with.

    Raises UsageError for something that is not an address, EnvironmentFailure (``no-mirror``) when nothing is
    configured.
    """
    named = mirror or os.environ.get(MIRROR_VARIABLE)
    if named:
        if urlsplit(named).scheme not in SCHEMES:
            raise UsageError(f"not an http, https or file address: {named}", hint=HINT)
        return (named.rstrip("/"),)
    found = choose(configured(folder), suites, component)
    if not found:
        raise EnvironmentFailure(
            "apt is not configured with a Debian mirror", where=str(folder), hint=HINT, code="no-mirror"
        )
    return found
