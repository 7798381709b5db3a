"""The page of the library: what it names is there, and what the packages export is on it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

from support.guides.blocks import ROOT

ROOMS = (
    "coattest",
    "coattest_build",
    "coattest_enclave",
    "coattest_local",
    "coattest_parent",
    "coattest_verify",
)
PAGE = (ROOT / "docs" / "library.md").read_text()


def exports() -> dict[str, list[str]]:
    """The ``__all__`` of every package that has one; commands are no library."""
    found = {}
    for name in packages():
        names = getattr(importlib.import_module(name), "__all__", None)
        if names:
            found[name] = sorted(names)
    return found


def packages() -> Iterator[str]:
    """Every package of the six rooms, without those of commands."""
    for room in ROOMS:
        yield room
        path = importlib.import_module(room).__path__
        for module in pkgutil.walk_packages(path, f"{room}."):
            if module.ispkg and ".cli" not in module.name:
                yield module.name


def test_the_page_has_what_the_packages_export() -> None:
    """A name that was added to an ``__init__``, renamed or removed is noticed."""
    table = PAGE[PAGE.index("## What the packages export") : PAGE.index("## What they share")]
    rows = re.findall(r"^\| `(coattest[\w.]*)` \| (.*) \|$", table, re.MULTILINE)
    assert len(rows) > 3
    assert {name: sorted(re.findall(r"`(\w+)`", cell)) for name, cell in rows} == exports()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(coattest\w*(?:\.\w+)+)`", PAGE))))
def test_each_name_on_the_page_is_there(name: str) -> None:
    """A module, or what one has."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)
