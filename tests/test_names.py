"""A name stands for one thing in the whole tree."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping

from support.source_tree import modules

TWICE = {
    "cli": "each program's group of verbs, found by this name",
    "main": "each program's entry point",
}
"""Names that may be defined more than once, each with the reason; five at most."""

EMPTY = {"about", "early", "kept", "problem", "problems", "standing"}
"""Names that do not say what they hold, and a word that stands for a finding."""
ROOMS = ("coattest.", "coattest_build.", "coattest_verify.")


def bound(source: str) -> set[str]:
    """Every name that a module gives to a class, a function, a parameter, a variable or a field."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.arg(arg=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                found.add(name)
    return found


def test_names_say_what_they_hold() -> None:
    """In the rooms that members and buyers read, with or without an underscore before it."""
    found = {
        (module, name)
        for module, path in modules().items()
        if module.startswith(ROOMS)
        for name in bound(path.read_text())
        if name.strip("_") in EMPTY
    }
    assert found == set()


def test_every_kind_of_name_is_looked_at() -> None:
    """Functions, parameters, variables, fields; not words in texts."""
    source = "class A:\n    b: int\n    def c(self, d): self.e = [f for f in 'g']"
    assert bound(source) == {"A", "b", "c", "d", "e", "f", "self"}


def definitions(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Public classes and module-level functions, with the modules that define them."""
    found = defaultdict(list)
    for module, source in sources.items():
        for node in ast.parse(source).body:
            named = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if named and not node.name.startswith("_"):
                found[node.name].append(module)
    return found


def test_no_name_is_defined_twice() -> None:
    """Classes and functions over all six packages, but for those that are listed."""
    sources = {name: path.read_text() for name, path in modules().items()}
    twice = {
        name: places for name, places in definitions(sources).items() if len(places) > 1 and name not in TWICE
    }
    assert twice == {}


def test_the_list_of_exceptions_is_short_and_needed() -> None:
    """Each has a reason, and is there more than once."""
    found = definitions({name: path.read_text() for name, path in modules().items()})
    assert len(TWICE) <= 5
    assert all(TWICE.values())
    assert [name for name in TWICE if len(found[name]) < 2] == []


def test_the_search_notices_a_second_definition() -> None:
    """A class and a function of one name are two things; what is private or nested is not counted."""
    found = definitions({"a": "class X: ...\ndef _y(): ...", "b": "def X():\n    def z(): ..."})
    assert found == {"X": ["a", "b"]}
