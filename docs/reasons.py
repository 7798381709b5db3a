"""Every reason code that a command can print, read from the source: error classes, findings, and their calls.

A code is written where an error or a finding is made. Where it is made from something else than a word in the
source, ``PASSED_ON`` says from which other codes; an expression that is neither is refused (``Unknown``), so
that the list is whole.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeGuard

from coattest.errors import CoattestError

PACKAGES = ("coattest_build", "coattest_enclave", "coattest_verify", "coattest_parent", "coattest_local")
SIMULATED = "coattest_local.aws"  # speaks AWS's codes to its clients, and has none of its own
FINDINGS = {
    "coattest_build.explain.diff.Difference": "eif diff",
    "coattest_build.formats.signature.SignatureFailure": "an image's signature",
    "coattest_verify.audit.judge.Problem": "verify audit",
    "coattest_verify.keypolicy.compare.Drift": "verify policy",
    "coattest_verify.quorum.members.chain.Refused": "a file that the quorum does not count",
    "coattest_verify.auction.receipt.Failure": "verify receipt",
    "coattest_verify.attestation.failures.Failure": "an attestation document",
    "coattest_verify.rebuild.inputs.problems.Problem": "verify inputs",
    "coattest_enclave.protocol.errors.EnclaveError": "the enclave's answer",
}
"""Classes whose values carry a code in a list, and what the list is about."""

CHOSEN = {
    ("coattest_build.formats.cpio", "self._failure"): ("RamdiskError", "UsageError"),
    ("coattest_parent.link.enclave", "kind"): ("EnclaveRefused", "EnclaveFailed"),
    ("coattest_verify.keypolicy.live", "super().__init__"): ("PreflightFailed",),
    ("coattest_verify.auction.sealing", "super().__init__"): ("SealRefused",),
}
"""Calls that make an error of a class that is not named there: the classes."""

NO_CODE = {"event", "exactly", "Statement", "statement_for", "answer", "must_fail", "no_result", "Finding"}
"""Functions with a ``reason`` that makes no error: a text, what the demo expects, a parameter (exactly)."""


class Reason(NamedTuple):
    """A code, the exit codes that can go with it (none: it stands in lists only), and what it means."""

    code: str
    exit_codes: tuple[int, ...]
    meanings: tuple[str, ...]


class Unknown(Exception):
    """A code that is made in a way that this page does not know."""


@dataclass
class Source:
    """A module with its tree, and for each node the functions around it, innermost last."""

    name: str
    module: ModuleType
    tree: ast.Module
    around: dict[ast.AST, tuple[ast.FunctionDef, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def visit(node: ast.AST, stack: tuple[ast.FunctionDef, ...]) -> None:
            self.around[node] = stack
            inner = (*stack, node) if isinstance(node, ast.FunctionDef) else stack
            for child in ast.iter_child_nodes(node):
                visit(child, inner)

        visit(self.tree, ())

    def named(self, node: ast.expr) -> object:
        """What a name or a dotted name stands for in the module, or None."""
        if isinstance(node, ast.Name):
            return vars(self.module).get(node.id)
        if isinstance(node, ast.Attribute):
            return getattr(self.named(node.value), node.attr, None)
        return None


def sources() -> list[Source]:
    """Every module of ours but the programs' entries, which only start others."""
    found = []
    for package in PACKAGES:
        root = Path(importlib.import_module(package).__path__[0])
        for file in sorted(root.rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            if parts[-1] not in ("__main__", "sandbox_entry") and not name.startswith(SIMULATED):
                found.append(Source(name, importlib.import_module(name), ast.parse(file.read_text("utf-8"))))
    return found


def full_name(kind: type) -> str:
    """A class with its module."""
    return f"{kind.__module__}.{kind.__qualname__}"


def finding_of(kind: object) -> str | None:
    """Which of FINDINGS a class is or extends."""
    bases = kind.__mro__ if isinstance(kind, type) else ()
    return next((name for base in bases if (name := full_name(base)) in FINDINGS), None)


def first_line(kind: type) -> str:
    """The first paragraph of a class's docstring."""
    return " ".join(inspect.cleandoc(kind.__doc__ or "").replace("``", "").split("\n\n")[0].split())


def text_of(node: ast.expr | None) -> str:
    """A message as its source says it; what is filled in is shown as ``..``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else ".." for part in node.values)
    return ""


class Codes:
    """The codes of all sources, by the class that carries them."""

    def __init__(self) -> None:
        self._sources = sources()
        self._by_class: dict[str, dict[str, set[str]]] = {}  # class, code, meanings
        self._kinds: dict[str, type] = {}
        self._later: list[tuple[Rule, str]] = []
        for source in self._sources:
            for value in vars(source.module).values():
                if isinstance(value, type):
                    self._declared(value)
        for source in self._sources:
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Call):
                    self._call(source, node)
                elif written_by_hand(node) and source.name != "coattest.errors":
                    raise Unknown(f"{source.name}, line {node.lineno}: {ast.unparse(node)}")
        while self._settle():
            pass

    def of(self, name: str) -> set[str]:
        """The codes of a class of errors, or of the findings of a kind, by its name with module."""
        kinds = [each for each in self._by_class if each == name or finding_of(self._kinds[each]) == name]
        return {code for each in kinds for code in self._by_class[each]}

    def pairs(self, module: str, function: str, index: int = 0) -> set[str]:
        """The codes in the tuples (code, text) of a function, at ``index``."""
        (source,) = (each for each in self._sources if each.name == module)
        return {
            item.value
            for node, around in source.around.items()
            if isinstance(node, ast.Tuple)
            and function in [each.name for each in around]
            and len(node.elts) > index + 1
            and isinstance(item := node.elts[index], ast.Constant)
            and isinstance(item.value, str)
        }

    def reasons(self) -> list[Reason]:
        """Every code once, in order."""
        exits: dict[str, set[int]] = {}
        meanings: dict[str, set[str]] = {}
        for name, codes in self._by_class.items():
            kind = self._kinds[name]
            about = FINDINGS.get(finding_of(kind) or "")
            for code, texts in codes.items():
                exits.setdefault(code, set()).update(
                    [kind.exit_code] if issubclass(kind, CoattestError) else []
                )
                said = {f"{about}: {text}" if about else text for text in texts if text}
                said |= {about} if about and not said else set()
                meanings.setdefault(code, set()).update(said)
        return [
            Reason(code, tuple(sorted(exits[code])), tuple(sorted(meanings[code]))) for code in sorted(exits)
        ]

    def _add(self, kind: type, code: str, meaning: str) -> None:
        self._kinds[full_name(kind)] = kind
        self._by_class.setdefault(full_name(kind), {}).setdefault(code, set()).add(meaning)

    def _declared(self, kind: type) -> None:
        if issubclass(kind, CoattestError):
            self._add(kind, kind.default_reason, first_line(kind))
        elif finding_of(kind) and isinstance(code := kind.__dict__.get("code"), str) and code:
            self._add(kind, code, first_line(kind))

    def _call(self, source: Source, node: ast.Call) -> None:
        kind = source.named(node.func)
        given = {word.arg: word.value for word in node.keywords}
        if isinstance(kind, type) and issubclass(kind, CoattestError):
            self._made(source, kind, given.get("reason"), text_of(node.args[0]) if node.args else "")
        elif isinstance(kind, type) and finding_of(kind) and not isinstance(kind.__dict__.get("code"), str):
            names = list(inspect.signature(kind).parameters)
            plain = [each for each in node.args if not isinstance(each, ast.Starred)]
            values = dict(zip(names, plain, strict=False)) | given
            for name in ("code", "reason"):
                if name in names:
                    about = text_of(values.get("detail"))
                    self._made(source, kind, values.get(name) or starred(node), about)
        elif "reason" in given:
            called = ast.unparse(node.func)
            if (source.name, called) not in CHOSEN and called.rpartition(".")[2] not in NO_CODE:
                raise Unknown(f"{source.name}, line {node.lineno}: {called} is given a reason")
            for name in CHOSEN.get((source.name, called), ()):
                error = source.named(ast.Name(name))
                assert isinstance(error, type)
                self._made(source, error, given["reason"], "")

    def _made(self, source: Source, kind: type, node: ast.expr | None, meaning: str) -> None:
        for code, text in self._resolve(source, kind, node, meaning) if node is not None else ():
            self._add(kind, code, text)

    def _resolve(self, source: Source, kind: type, node: ast.expr, meaning: str) -> set[tuple[str, str]]:
        """The codes that an expression can be, with what they mean there."""
        written = ast.unparse(node)
        if (rule := PASSED_ON.get((source.name, written))) is not None:
            self._later.append((rule, full_name(kind)))
            self._kinds[full_name(kind)] = kind
            return set()
        if isinstance(node, ast.Constant):
            return {(node.value, meaning)} if isinstance(node.value, str) else set()
        if isinstance(node, ast.IfExp):
            both = (node.body, node.orelse)
            return set().union(*(self._resolve(source, kind, each, meaning) for each in both))
        if isinstance(node, ast.JoinedStr):
            parts = [
                self._resolve(source, kind, each.value if isinstance(each, ast.FormattedValue) else each, "")
                for each in node.values
            ]
            return {("".join(code for code, _ in chosen), meaning) for chosen in itertools.product(*parts)}
        if isinstance(node, ast.Name):
            if isinstance(value := source.named(node), str):
                return {(value, meaning)}
            function = source.around[node][-1] if source.around[node] else None
            if function and node.id in parameters(function, named=True):
                return self._arguments(source, function, node.id, kind)
        raise Unknown(f"{source.name}, line {node.lineno}: {written}")

    def _arguments(
        self, own: Source, function: ast.FunctionDef, name: str, kind: type
    ) -> set[tuple[str, str]]:
        """What a parameter is given wherever a function or a method of that name is called."""
        found: set[tuple[str, str]] = set()
        for source, node in self._calls(own, function.name):
            values = dict(zip(parameters(function), node.args, strict=False))
            values |= {word.arg: word.value for word in node.keywords if word.arg}
            if name in values:
                said = next((values[each] for each in ("what", "detail") if each in values), None)
                found |= self._resolve(source, kind, values[name], text_of(said))
        return found

    def _calls(self, own: Source, function: str) -> Iterator[tuple[Source, ast.Call]]:
        for source in [own] if function.startswith("_") else self._sources:
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == function:
                    yield source, node

    def _settle(self) -> bool:
        """Add what is passed on from other codes; whether anything was new."""
        grown = False
        for rule, kind in self._later:
            for code in rule(self) - set(self._by_class.get(kind, {})):
                self._add(self._kinds[kind], code, "")
                grown = True
        return grown


def written_by_hand(node: ast.AST) -> TypeGuard[ast.expr | ast.stmt]:
    """Whether a code is put into a document or an error without the class that carries it."""
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return any(
            isinstance(key, ast.Constant)
            and key.value == "reason"
            and isinstance(value, (ast.Constant, ast.JoinedStr))
            for key, value in pairs
        )
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Attribute) and target.attr in ("reason", "code") for target in node.targets
    )


def parameters(function: ast.FunctionDef, *, named: bool = False) -> list[str]:
    """A function's positional parameters without self; with ``named`` all of them."""
    names = [each.arg for each in function.args.args]
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    return names + [each.arg for each in function.args.kwonlyargs] if named else names


def starred(node: ast.Call) -> ast.expr | None:
    """What a call unpacks for its last parameters."""
    return next((each.value for each in node.args if isinstance(each, ast.Starred)), None)


Rule = Callable[[Codes], "set[str]"]
REJECTED = "coattest_verify.quorum.errors.Rejected"


def also(name: str) -> Rule:
    """The codes of another class."""
    return lambda codes: codes.of(name)


def policy_codes(codes: Codes) -> set[str]:
    """What is wrong with a file, said of quorum.toml; a key in it that is none has the code of its class."""
    keys = codes.of("coattest_verify.signatures.keys.BadKey")
    return {f"policy-{code}" for code in codes.of(REJECTED) | keys}


OUTSIDE = (
    "Other codes come from outside, as they are there: the name of an error of the operating system in small "
    "letters (enospc), and AWS's own codes (SlowDown; verify policy prints them in small letters). "
    "A code that begins with policy- says of quorum.toml what the rest says of a file."
)
"""What no list can have."""

PASSED_ON: dict[tuple[str, str], Rule] = {
    ("coattest_build.cli.diff", "error.reason"): also("coattest_build.formats.eif.ImageError"),
    ("coattest_build.formats.eif", "error.reason"): also("coattest_build.formats.eif.ImageError"),
    ("coattest_build.formats.signature", "error.reason"): also(
        "coattest_build.formats.signature.SigningError"
    ),
    ("coattest_build.formats.signature", "failures[0].code"): also(
        "coattest_build.formats.signature.SignatureFailure"
    ),
    # From outside: the names of errno and AWS's own codes are not listed, see OUTSIDE.
    ("coattest.shell", "errno.errorcode.get(error.errno or 0, 'os-error').lower()"): lambda _: {"os-error"},
    ("coattest_verify.keypolicy.live", "code.lower()"): lambda _: {"error"},
    ("coattest_parent.link.aws", "code"): lambda _: {"Unknown"},
    ("coattest_parent.link.enclave", "code"): also("coattest_enclave.protocol.errors.EnclaveError"),
    ("coattest_verify.keypolicy.live", "code"): lambda codes: codes.pairs(
        "coattest_verify.keypolicy.live", "unfit", 1
    ),
    ("coattest_verify.keypolicy.live", "drifts[0].code"): also("coattest_verify.keypolicy.compare.Drift"),
    ("coattest_verify.quorum.members.chain", "f'policy-{error.reason}'"): policy_codes,
    ("coattest_verify.quorum.members.file", "f'policy-{error.reason}'"): policy_codes,
    ("coattest_verify.quorum.members.chain", "error.reason"): also(REJECTED),
    ("coattest_verify.quorum.tally", "error.reason"): also(REJECTED),
    ("coattest_verify.quorum.statements.votes", "error.reason"): also(REJECTED),
    ("coattest_verify.quorum.tally", "problem"): lambda codes: (
        codes.pairs("coattest_verify.quorum.tally", "_elsewhere")
        | codes.pairs("coattest_verify.quorum.tally", "_unfit")
    ),
    ("coattest_verify.auction.receipt", "failure.code"): also("coattest_verify.attestation.failures.Failure"),
    ("coattest_verify.auction.sealing", "problems[0][0]"): lambda codes: codes.pairs(
        "coattest_verify.auction.sealing", "plan_seal"
    ),
}
"""Codes that are made from others, by module and expression."""
