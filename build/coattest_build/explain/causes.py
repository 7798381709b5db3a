"""Why two images have different measurements: their differences by cause, the most telling first.

What differs in content is what a person looks for; times, owners and order are what builders leave to chance.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

from coattest.findings import Finding
from coattest_build.explain.details import Place

CAUSES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "content": (
            *("entry-content", "entry-size", "entry-target", "entry-type", "entry-added", "entry-removed"),
        ),
        "mode": ("entry-mode",),
        "time": ("entry-mtime",),
        "owner": ("entry-owner",),
        "order": ("entry-order", "section-order"),
        "compression": ("ramdisk-compression",),
        "kernel": (),
        "cmdline": ("cmdline",),
        "encoding": (
            "archive-bytes",
            "ramdisk-unreadable",
            "section-content",
            "section-size",
            "section-missing",
        ),
        "not measured": ("header", "metadata", "image-bytes"),
        "signature": (),
    }
)
"""Causes in the order in which they are shown, and the codes of their differences."""

_BY_CODE = {code: cause for cause, codes in CAUSES.items() for code in codes}
_RAMDISKS = re.compile(r"ramdisk (\d+)(?: -> (\d+))?(?=:|$)")


def cause_of(finding: Finding) -> str:
    """The cause that a difference belongs to."""
    section = finding.where.partition(" ")[0]  # a second kernel is "kernel 1"
    if section in ("kernel", "signature"):
        return section
    return "not measured" if section == "metadata" else _BY_CODE[finding.code]


def ramdisks_of(finding: Finding) -> set[int]:
    """The ramdisks that a difference names; two where an entry is another's in the other image."""
    match = _RAMDISKS.match(finding.where)
    return {int(number) for number in match.groups() if number} if match else set()


def registers_of(finding: Finding) -> frozenset[str]:
    """The registers that a difference can change."""
    section = finding.where.partition(" ")[0]
    if section in ("kernel", "cmdline"):
        return frozenset({"PCR0", "PCR1"})
    if section == "signature":
        return frozenset({"PCR8"})
    if section in ("ramdisks", "sections"):  # of all of them
        return frozenset({"PCR0", "PCR1", "PCR2"})
    inner = {"PCR2" if number else "PCR1" for number in ramdisks_of(finding)}
    return frozenset({"PCR0", *inner} if inner else ())


@dataclass(slots=True)
class Cause:
    """One cause: how many differences it has, the first of them, and for times the earliest and latest.

    ``apart`` are the registers in which the images differ; ``registers`` those of them that it changes.
    """

    name: str
    apart: frozenset[str]
    count: int = 0
    registers: set[str] = field(default_factory=set)
    first: Finding | None = None
    place: Place | None = None
    times: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))

    def add(self, finding: Finding, place: Place | None) -> None:
        """Count one more difference."""
        self.count += 1
        self.registers |= registers_of(finding) & self.apart
        if self.first is None:
            self.first, self.place = finding, place
        if finding.code == "entry-mtime":
            for known, value in zip(self.times, (finding.expected, finding.found), strict=True):
                seconds = int(value or 0)
                known[:] = [min([*known, seconds]), max([*known, seconds])]

    def line(self) -> str:
        """The cause in one line: which registers, how many, the first and where in it."""
        assert self.first is not None
        registers = " ".join(sorted(self.registers)) or "no register"
        text = f"{self.name} ({registers}): {self.count} x: {self.first.where}"
        if self.place is not None and self.place.excerpt is not None:
            text += f", {self.place.excerpt.place}"
        if self.name == "time":
            was, now = (" to ".join(dict.fromkeys(_time(each) for each in side)) for side in self.times)
            return f"{text}: {was} -> {now}"
        if self.first.expected or self.first.found:
            return f"{text}: {self.first.expected or '(nothing)'} -> {self.first.found or '(nothing)'}"
        return f"{text}: {self.first.detail}"

    def to_json(self) -> dict[str, Any]:
        """One object; ``times`` (earliest and latest of A and of B, Unix seconds) for the cause time only."""
        assert self.first is not None
        document: dict[str, Any] = {
            "cause": self.name,
            "registers": sorted(self.registers),
            "count": self.count,
            "first": self.first.to_json() | (self.place.to_json() if self.place else {}),
        }
        if self.name == "time":
            document["times"] = {"a": self.times[0], "b": self.times[1]}
        return document


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
