"""The threat model: every row and every point names the tests that show it, or says that none can."""

from __future__ import annotations

import ast
import re
from collections import Counter

from support.guides.blocks import ROOT

TEXT = (ROOT / "docs" / "threat-model.md").read_text()
NO_TEST = "**no test**"


def section(heading: str) -> str:
    """The text below a heading, to the next one."""
    return TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(heading: str) -> dict[str, str]:
    """The rows of a section's table, by their first cell."""
    lines = [line for line in section(heading).splitlines() if line.startswith("| ")][1:]
    cells = [line.strip("| ").split(" | ", 1) for line in lines if not line.startswith("| |")]
    found = dict(cell for cell in cells if len(cell) == 2)
    assert len(found) == len(cells)
    return found


def points(heading: str) -> dict[str, str]:
    """The points of a section, by the words that they begin with."""
    return dict(
        re.findall(r"^- \*\*(.+?)[.,]?\*\*(.*?)(?=^- |\Z)", section(heading), re.MULTILINE | re.DOTALL)
    )


def counted() -> Counter[str]:
    """How often each name is a test's, in all files of tests."""
    return Counter(
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def test_every_row_names_its_tests_or_says_that_there_is_none() -> None:
    """Rows and points on one side, the list of tests on the other: nothing is missing on either."""
    claims = rows("What each party can do") | points("What is not prevented")
    claims |= rows("What a buyer without AWS can do")
    listed = rows("The tests")
    assert len(claims) >= 20
    numbers = [int(name) for name in rows("What each party can do") if name.isdecimal()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert set(listed) <= set(claims)
    for name, text in claims.items():
        if name not in listed:
            assert NO_TEST in text, name
        else:
            assert re.search(r"`test_\w+`", listed[name]) or NO_TEST in listed[name], name
    assert NO_TEST in section("What has to be trusted")


def test_every_test_that_is_named_is_one() -> None:
    """One function of that name in tests/, so that a reader finds it and a renamed one is noticed."""
    names = re.findall(r"`(test_\w+)`", section("The tests"))
    found = counted()
    assert len(names) > 30
    assert {name: found[name] for name in names if found[name] != 1} == {}
