"""What a difference of two images is called, and where two contents first differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from coattest.findings import Finding
from coattest_build.explain.excerpt import Excerpt

DETAILS: Mapping[str, str] = MappingProxyType(
    {
        "archive-bytes": "the same entries in different bytes",
        "cmdline": "different command line",
        "entry-added": "added",
        "entry-content": "different content",
        "entry-mode": "different mode",
        "entry-mtime": "different time",
        "entry-order": "the entries are in a different order",
        "entry-owner": "different owner",
        "entry-removed": "removed",
        "entry-size": "different size",
        "entry-target": "different target",
        "entry-type": "different type",
        "header": "different value",
        "image-bytes": "the files differ where no section is",
        "metadata": "different value",
        "ramdisk-compression": "different compression",
        "ramdisk-unreadable": "not an archive that is read to its end, so compared as bytes",
        "section-content": "different content",
        "section-missing": "in one image only",
        "section-order": "the sections are in a different order",
        "section-size": "different size",
    }
)
"""What a finding of each code says; ``expected`` is image A's value, ``found`` image B's."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where two contents first differ: the byte's ``offset`` in them, and an excerpt around it."""

    offset: int
    excerpt: Excerpt | None = None

    def to_json(self) -> dict[str, Any]:
        """``offset``, and ``excerpt`` where there is one."""
        return {"offset": self.offset} | ({"excerpt": asdict(self.excerpt)} if self.excerpt else {})


Found = tuple[Finding, "Place | None"]
"""A difference, and its place where contents were compared."""


def differs(
    code: str, where: str, a: str | None = None, b: str | None = None, *, place: Place | None = None
) -> Found:
    """A difference."""
    return Finding(code, where, DETAILS[code], a, b), place
