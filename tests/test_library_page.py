"""docs/library.md names functions that are there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "library.md").read_text()
NAMES = sorted(set(re.findall(r"`(coattest[a-z_]*(?:\.\w+)+)`", PAGE)))


def test_the_page_names_functions() -> None:
    """The search finds them: a table of a dozen at least."""
    assert len(NAMES) > 12


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_page_is_there_and_says_what_it_is(name: str) -> None:
    """It can be imported as the page says, and is documented."""
    module, _, attribute = name.rpartition(".")
    thing = getattr(importlib.import_module(module), attribute)
    assert not callable(thing) or thing.__doc__
