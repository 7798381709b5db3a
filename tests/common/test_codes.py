"""The registry of codes and the source agree, and each code says what it means."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from coattest.codes import CODES, GROUPS
from coattest.shell import OS_ERRORS

ROOT = Path(__file__).parents[2]
REGISTRY = ROOT / "common" / "coattest" / "codes.py"
SIMULATED = ROOT / "local" / "coattest_local" / "aws"
"""Speaks AWS's codes to its clients, and has none of its own."""


def source_files() -> list[Path]:
    """Every module of the six packages but the registry itself, and the QEMU compiler's scripts."""
    folders = ("build", "common", "enclave", "local", "parent", "verify")
    found = [path for folder in folders for path in sorted((ROOT / folder).glob("coattest*/**/*.py"))]
    assert len(found) > 200
    found += sorted((ROOT / "local" / "qemu-compiler").glob("*.py"))
    return [path for path in found if path != REGISTRY]


def stated_codes(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Codes that a module gives to an error or a finding as a literal, with their lines."""
    for node in ast.walk(tree):
        values: list[ast.expr] = []
        match node:
            case ast.keyword(arg="code", value=value):
                values = [value]
            case ast.Assign(targets=[ast.Name("default_code")], value=value):
                values = [value]
            case ast.Call(func=ast.Name("Finding") | ast.Attribute(attr="Finding"), args=args):
                values = args[:1]
        for value in values:
            for part in (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value, part.lineno


def test_every_code_in_the_source_is_registered() -> None:
    """Also those on paths that no test takes: an unregistered code would be a bug when it is met."""
    unknown = [
        f"{path.relative_to(ROOT)}:{line}: {code}"
        for path in source_files()
        if SIMULATED not in path.parents
        for code, line in stated_codes(ast.parse(path.read_text()))
        if code not in CODES
    ]
    assert unknown == []


def test_every_registered_code_is_in_some_source_file() -> None:
    """A code that nothing can print is not on the page."""
    used = set(OS_ERRORS.values())
    for path in source_files():
        used |= {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
    assert sorted(set(CODES) - used) == []


def test_no_code_stands_in_two_groups() -> None:
    """One code has one meaning."""
    assert sum(map(len, GROUPS.values())) == len(CODES)


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_every_code_has_a_meaning_that_reads_as_a_sentence(group: str) -> None:
    """It has words and no holes, and no full stop at the end: pages put one there."""
    unclear = [
        code
        for code, meaning in GROUPS[group].items()
        if not meaning or ".." in meaning or meaning.rstrip() != meaning or meaning.endswith((".", ",", ":"))
    ]
    assert unclear == []


def test_the_search_notices_every_spelling() -> None:
    """Keyword, default, first argument, and either side of a condition."""
    tree = ast.parse(
        "E('x', code='a')\nclass E: default_code = 'b'\nf.Finding('c', w)\nE(code='d' if x else 'e')"
    )
    assert {code for code, _ in stated_codes(tree)} == set("abcde")
