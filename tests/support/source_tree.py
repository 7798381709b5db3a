"""The source as a tree of modules: what each is called and which of ours it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = {
    "coattest": ROOT / "common" / "coattest",
    "coattest_build": ROOT / "build" / "coattest_build",
    "coattest_enclave": ROOT / "enclave" / "coattest_enclave",
    "coattest_local": ROOT / "local" / "coattest_local",
    "coattest_parent": ROOT / "parent" / "coattest_parent",
    "coattest_verify": ROOT / "verify" / "coattest_verify",
}


def modules() -> dict[str, Path]:
    """Every module of the six packages by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def imports(source: str, known: Mapping[str, object]) -> set[str]:
    """The modules in ``known`` that a source imports at any depth, but those for type checkers only.

    Raises ValueError for an import that is relative: it could not be followed from the source alone.
    """
    found = set()
    for node in _running(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {nearest(alias.name, known) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise ValueError(f"a relative import: {ast.unparse(node)}")
            found |= {nearest(f"{node.module}.{alias.name}", known) for alias in node.names}
    return found - {""}


def nearest(name: str, known: Mapping[str, object]) -> str:
    """The module in ``known`` that a dotted name is or lies in; empty when there is none."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def with_packages(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The graph with what Python runs besides: the packages that an imported module lies in.

    Those that the importer lies in too were there before it.
    """
    return {
        name: below
        | {
            package
            for module in below
            for package in _packages(module)
            if package in graph and package not in (name, *_packages(name))
        }
        for name, below in graph.items()
    }


def _packages(module: str) -> list[str]:
    """The packages that a module lies in."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that can run: all but the bodies of ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components), each sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for below in sorted(graph.get(name, ())):
            if below not in index:
                visit(below)
                low[name] = min(low[name], low[below])
            elif below in stack:
                low[name] = min(low[name], index[below])
        if low[name] == index[name]:
            group = []
            while name not in group:
                group.append(stack.pop())
            if len(group) > 1 or name in graph.get(name, ()):
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found
