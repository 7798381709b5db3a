"""A revoked release is refused by every command that uses a decision, because each recomputes it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from coattest.errors import FoundFalse
from coattest_parent.cli.auction.looking import grounds
from coattest_verify.cli.options import decisions_from
from coattest_verify.quorum.authority import authority_from
from coattest_verify.quorum.statements.votes import REVOKE, make_vote, sign_vote, vote_name
from support.auction.auctions import manifest
from support.verify.members import NOW, Members

REPOSITORY = Path(__file__).parents[3]
COMMANDS = sorted(
    path
    for folder in ("verify/coattest_verify/cli", "parent/coattest_parent/cli")
    for path in (REPOSITORY / folder).rglob("*.py")
    if re.search(r"@(?:\w+_)?decisions?_options", path.read_text(encoding="utf-8"))
)
RECOMPUTE = {"decide", "decisions_from", "make_policy", "outcome_from", "authority_from"}


def called(function: ast.AST) -> set[str]:
    """The plain names that a piece of code calls."""
    return {
        node.func.id
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def called_by(path: Path) -> set[str]:
    """The plain names that a command's module calls, and those that the functions call which it shares with
    other commands.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = called(tree)
    shared: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and ".cli." in (node.module or ""):
            module = ast.parse(inspect.getsource(importlib.import_module(node.module or "")))
            wanted = names & {alias.name for alias in node.names if alias.asname is None}
            for function in module.body:
                if isinstance(function, ast.FunctionDef) and function.name in wanted:
                    shared |= called(function)
    return names | shared


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_command_with_the_options_of_a_decision_recomputes_it(path: Path) -> None:
    """Each takes the decision from the statements, by one of these functions, and from nowhere else."""
    assert called_by(path) & RECOMPUTE


def test_the_commands_are_found() -> None:
    """The search for commands has not lost any of those that bind a buyer or the service."""
    assert {name for path in COMMANDS for name in (path.stem, path.parent.name)} >= {
        "audit", "bid", "deploy", "links", "policy", "quorum", "receipt", "report", "seal"
    }  # fmt: skip


def test_those_functions_refuse_a_revoked_release(three: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one member's revocation none of them gives a decision, and the reason is its own words."""
    monkeypatch.setenv("COATTEST_CONFIG", str(three.folder / "config"))
    options = {
        "attestations": three.attestations,
        "root": three.root,
        "profile": "aws",
        "releases": ("0.1.0",),
    }
    (before,) = decisions_from(options, now=NOW)
    assert authority_from(options, NOW).decision.digest == before.digest
    assert three.claimed is not None
    vote = make_vote(REVOKE, "buyer-3", root=three.root, claim=three.claimed, note="CVE-2026-1", now=NOW)
    three.write(vote_name(vote), sign_vote(vote, three.signers["buyer-3"]))
    record = three.folder / "none"  # a revoked release is refused before anything else is read
    for recompute in (
        lambda: decisions_from(options, now=NOW),
        lambda: authority_from(options, NOW),
        lambda: grounds(options, manifest(), name="buyer-1", seal_key=b"", record=record, now=NOW),
    ):
        with pytest.raises(FoundFalse, match="buyer-3: revoked this release: CVE-2026-1") as caught:
            recompute()
        assert caught.value.code == "no-decision"
