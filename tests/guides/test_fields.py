"""docs/fields.md names every field of the files that the repository itself has."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from support.guides import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = ROOT / "docs" / "fields.md"
NAMED_BY_DATA = {"profiles", "environment", "links", "files"}
"""Objects whose keys are data: their values are looked at, their keys are not fields."""


def fields(value: Any, *, named: bool = True) -> Iterator[str]:
    """Every field's name in a document."""
    if isinstance(value, dict):
        for key, below in value.items():
            if named:
                yield key
            yield from fields(below, named=key not in NAMED_BY_DATA)
    elif isinstance(value, list):
        for item in value:
            yield from fields(item)


def section(title: str) -> str:
    """One section of the page."""
    return re.split(rf"^## {re.escape(title)}$", PAGE.read_text(), flags=re.MULTILINE)[1].split("\n## ")[0]


@pytest.mark.parametrize(
    ("title", "path"),
    [
        ("image.toml", "build/image.toml"),
        ("image.lock", "build/image.lock"),
        ("claim.json", "attestations/claim.json"),
    ],
)
def test_every_field_is_on_the_page(title: str, path: str) -> None:
    """A field that was added to a format, or renamed, is noticed."""
    text = (ROOT / path).read_text()
    document = json.loads(text) if path.endswith(".json") else tomllib.loads(text)
    words = set(re.findall(r"\w+", section(title)))
    # PCR1 stands between PCR0 and PCR2.
    assert set(fields(document)) - words <= {"PCR1"}


def test_the_reader_of_fields_reads() -> None:
    """It goes into objects and lists, and leaves out keys that are data."""
    document = {"a": [{"b": 1}], "profiles": {"aws": {"c": {"d": 2}}}, "files": {"x": "y"}}
    assert sorted(fields(document)) == ["a", "b", "c", "d", "files", "profiles"]
