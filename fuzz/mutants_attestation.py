"""Mutation testing of the attestation verifier: change one thing in its source, and some test must notice.

python fuzz/mutants_attestation.py [--module chain] [--json FILE] [--list]

Comparisons, boolean operators, negations, integer constants, arithmetic, returned values and whole
statements are changed, one at a time. Every mutant runs in a forked child against the tests of its module
first and then the others; hypothesis runs few examples. What survives is printed with its line;
docs/attestation.md explains each. Texts of messages, annotations and named tuples of numbers for people
are not mutated.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "coattest_verify.attestation"
SOURCE = ROOT / "verify" / "coattest_verify" / "attestation"
TESTS = ROOT / "tests" / "verify" / "attestation"
ORDER = {
    "encoding.cbor": ["cbor", "envelope", "fields", "properties"],
    "encoding.cose": ["envelope", "properties"],
    "encoding.payload": ["fields"],
    "encoding.certificates": ["der", "chain"],
    "encoding.der": ["der", "chain"],
    "chain": ["chain", "verdict", "oracles"],
    "expectations": ["expectations"],
    "verify": ["expectations", "envelope", "fields", "verdict"],
    "batch": ["verdict"],
    "verdict": ["verdict"],
    "document": ["verdict", "fields"],
    "root": ["chain"],
    "files": ["files"],
    "limits": ["library", "fields", "envelope"],
    "rules": ["verdict"],
}
EVERY = ["expectations", "der", "chain", "fields", "envelope", "cbor", "verdict", "files", "properties"]
TIMEOUT = 240
TEST_TIMEOUT = 20  # one test; a loop that never ends is noticed by it
# Slow, and of no other kind than the rest.
SKIPPED = "not changed_bit and not order_of_keys and not threads_share"
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.RShift: ast.LShift,
    ast.LShift: ast.RShift,
    ast.BitAnd: ast.BitOr,
}


class Mutator(ast.NodeTransformer):
    """Applies the n-th possible change to a module; counts them all on the way."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.count = -1
        self.applied: tuple[int, str] | None = None

    def _hit(self, node: ast.AST, what: str) -> bool:
        self.count += 1
        if self.count != self.wanted:
            return False
        self.applied = (getattr(node, "lineno", 0), what)
        return True

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """Messages stay as they are."""
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """The value of an annotated name is mutated, its annotation is not."""
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """The body is mutated; annotations and decorators are not."""
        node.body = [self.visit(statement) for statement in node.body]
        node.args.kw_defaults = [self.visit(d) if d is not None else None for d in node.args.kw_defaults]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """The body is mutated; bases and decorators are not."""
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Each comparison to its neighbour or opposite."""
        self.generic_visit(node)
        for index, operator in enumerate(node.ops):
            new = COMPARISONS[type(operator)]
            if self._hit(node, f"{type(operator).__name__} -> {new.__name__}"):
                node.ops[index] = new()
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """and <-> or, and each operand left out."""
        self.generic_visit(node)
        new = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        if self._hit(node, f"-> {type(new).__name__}"):
            node.op = new
        for index in range(len(node.values)):
            if self._hit(node, f"operand {index} left out"):
                kept = node.values[:index] + node.values[index + 1 :]
                return kept[0] if len(kept) == 1 else ast.BoolOp(node.op, kept)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """not X -> X."""
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and self._hit(node, "not left out"):
            return node.operand
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Arithmetic to its opposite."""
        self.generic_visit(node)
        new = ARITHMETIC.get(type(node.op))
        if new is not None and self._hit(node, f"{type(node.op).__name__} -> {new.__name__}"):
            node.op = new()
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Integers by one, booleans to the other."""
        if isinstance(node.value, bool):
            if self._hit(node, f"{node.value} -> {not node.value}"):
                return ast.Constant(not node.value)
        elif isinstance(node.value, int) and self._hit(node, f"{node.value} -> {node.value + 1}"):
            return ast.Constant(node.value + 1)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        """A condition that is always true, and one that never is."""
        self.generic_visit(node)
        for value in (True, False):
            if self._hit(node, f"if {value}"):
                node.test = ast.Constant(value)
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        """A returned value -> None."""
        self.generic_visit(node)
        constant = isinstance(node.value, ast.Constant) and node.value.value is None
        if node.value is not None and not constant and self._hit(node, "return None"):
            node.value = ast.Constant(None)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """A statement left out: calls, yields."""
        if isinstance(node.value, ast.Constant):
            return node  # a docstring
        self.generic_visit(node)
        return ast.Pass() if self._hit(node, "statement left out") else node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """A raise left out."""
        self.generic_visit(node)
        return ast.Pass() if self._hit(node, "raise left out") else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        """An addition in place left out."""
        self.generic_visit(node)
        return ast.Pass() if self._hit(node, "statement left out") else node


def source_of(module: str) -> str:
    """The source of a module, which is named as below the package (``encoding.cbor``)."""
    return (SOURCE / f"{module.replace('.', '/')}.py").read_text()


def mutants(module: str) -> Iterator[tuple[int, str, str]]:
    """Line, change and source of every mutant of a module."""
    tree = ast.parse(source_of(module))
    number = 0
    while True:
        mutator = Mutator(number)
        changed = ast.fix_missing_locations(mutator.visit(copy.deepcopy(tree)))
        if mutator.applied is None:
            return
        yield (*mutator.applied, ast.unparse(changed))
        number += 1


class Replaced(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed source."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source

    def find_spec(
        self, name: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The changed module's spec; nothing for others."""
        return importlib.machinery.ModuleSpec(name, self) if name == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed source."""
        exec(compile(self.source, f"<mutant of {self.name}>", "exec"), module.__dict__)  # noqa: S102


def run(module: str, source: str) -> str:
    """Whether a mutant is killed, survives, or runs out of time."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.meta_path.insert(0, Replaced(f"{PACKAGE}.{module}", source))
        import pytest  # noqa: PLC0415 - loaded already, by main

        first = ORDER.get(module, [])
        options = [
            "-x",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore::pytest.PytestAssertRewriteWarning",
            f"--confcutdir={TESTS}",
            "--rootdir",
            str(ROOT),
            "-k",
            SKIPPED,
            "-o",
            f"timeout={TEST_TIMEOUT}",
        ]
        for names in (first, [name for name in EVERY if name not in first]):
            files = [str(TESTS / f"test_attestation_{name}.py") for name in names]
            if status := int(pytest.main([*options, *files])):
                os._exit(status)
        os._exit(0)
    deadline = time.monotonic() + TIMEOUT
    while not (waited := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timeout"
        time.sleep(0.02)
    status = waited[1]
    return "survived" if os.WEXITSTATUS(status) == 0 else "killed"


def main() -> None:
    """Run every mutant; print those that survive, and the score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", action="append")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT / folder) for folder in ("common", "verify", "tests")]
    import cbor2  # noqa: F401, PLC0415 - loaded once, for all children
    import hypothesis  # noqa: PLC0415
    import pytest  # noqa: F401, PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: F401, PLC0415

    hypothesis.settings.register_profile(
        "mutants", max_examples=8, database=None, deadline=None, derandomize=True
    )
    hypothesis.settings.load_profile("mutants")
    modules = options.module or list(ORDER)
    if not options.list and run(modules[0], source_of(modules[0])) != "survived":
        sys.exit("the tests fail without any change: nothing can be said of mutants")
    results: list[dict[str, object]] = []
    begun = time.monotonic()
    for module in modules:
        for line, change, source in mutants(module):
            outcome = "listed" if options.list else run(module, source)
            results.append({"module": module, "line": line, "change": change, "outcome": outcome})
            if outcome != "killed":
                print(f"{outcome}: {module}:{line}: {change}", flush=True)
        done = [result for result in results if result["module"] == module]
        killed = sum(result["outcome"] in ("killed", "timeout") for result in done)
        print(f"{module}: {killed} of {len(done)} killed, {time.monotonic() - begun:.0f} s", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
