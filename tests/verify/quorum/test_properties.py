"""Properties of the decision over arbitrary sets of statements."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coattest.errors import Rejected
from coattest.files import Held
from coattest.strictjson import parse
from coattest_verify.quorum.decision import Outcome, decide_from
from coattest_verify.quorum.statements.provenance import sign_statement
from support.verify.members import NOW, Members, report_json

NAMES = ("buyer-1", "buyer-2", "buyer-3", "buyer-4")
KINDS = ("agree", "old", "other", "dissent", "unable", "cached", "garbage")

Item = tuple[str, str, int]
"""Member, kind of statement, age in hours."""


class Bench:
    """A quorum whose statements are made once and combined at will."""

    def __init__(self, folder: Path, dissent: str) -> None:
        self.quorum = Members.make(folder, NAMES, threshold=2, dissent=dissent, kinds=("ed25519",))
        self.quorum.claim(report_json())
        self.base = {
            path.relative_to(self.quorum.attestations).as_posix(): path.read_bytes()
            for path in self.quorum.attestations.rglob("*")
            if path.is_file()
        }
        self.made: dict[Item, bytes] = {}

    def statement(self, item: Item) -> bytes:
        if item not in self.made:
            self.made[item] = self._make(item)
        return self.made[item]

    def _make(self, item: Item) -> bytes:
        member, kind, hours = item
        if kind == "garbage":
            return b"{" * hours
        report = {"other": report_json("other"), "unable": None, "cached": report_json(compiled=False)}
        outcome = {"dissent": "dissent", "unable": "could-not-build"}.get(kind, "agree")
        age = timedelta(days=100 if kind == "old" else 0, hours=hours)
        made = self.quorum.statement(member, report.get(kind, report_json()), outcome=outcome, age=age)
        return sign_statement(made, self.quorum.signers[member])

    def decide(self, items: Sequence[Item]) -> Outcome:
        files = dict(self.base)
        for item in items:
            files[f"rebuild.{item[0]}.{item[1]}-{item[2]}.intoto.json"] = self.statement(item)
        return decide_from(Held(files), root=self.quorum.root, seen=None, profile="aws", now=NOW)


@pytest.fixture(scope="module", params=["block", "report"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), request.param)


items = st.tuples(st.sampled_from(NAMES), st.sampled_from(KINDS), st.integers(1, 3))
sets = st.lists(items, unique=True, max_size=8)


@settings(max_examples=40, deadline=None)
@given(found=sets, name=st.sampled_from(NAMES), hours=st.integers(1, 3))
def test_an_agreeing_statement_never_turns_yes_into_no(
    bench: Bench, found: list[Item], name: str, hours: int
) -> None:
    """Adding a valid agreeing statement keeps a decision, and removing one never makes a decision."""
    more = bench.decide([*found, (name, "agree", hours)])
    less = bench.decide(found)
    if less.decision is not None:
        assert more.decision is not None
        assert more.decision.digest == less.decision.digest
    assert set(less.agree) <= set(more.agree)


@settings(max_examples=40, deadline=None)
@given(found=sets, seed=st.integers(0, 1000))
def test_the_order_of_files_does_not_matter(bench: Bench, found: list[Item], seed: int) -> None:
    """The outcome, refusals included, is a function of the set of files."""
    shuffled = list(found)
    random.Random(seed).shuffle(shuffled)
    assert bench.decide(found).to_json() == bench.decide(shuffled).to_json()


@settings(max_examples=40, deadline=None)
@given(found=sets)
def test_a_decision_is_what_its_definition_says(bench: Bench, found: list[Item]) -> None:
    """Yes means: enough members agree with the claim, and under "block" everybody does."""
    by_name = {name: {kind for member, kind, _ in found if member == name} for name in NAMES}
    outcome = bench.decide(found)
    for name, kinds in by_name.items():
        if name in outcome.agree:
            assert "agree" in kinds
            assert not kinds & {"other", "dissent"}
    expected = len(outcome.agree) >= (4 if bench.quorum.file.dissent == "block" else 2)
    assert (outcome.decision is not None) == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_crash_the_parser(data: bytes) -> None:
    """Arbitrary bytes are a value or a refusal, nothing else."""
    with contextlib.suppress(Rejected):
        parse(data)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_mutation_of_a_file_is_ever_accepted_as_something_else(bench: Bench, data: st.DataObject) -> None:
    """A statement with bytes changed, inserted or removed is refused or says exactly what it said."""
    whole = bench.statement(("buyer-3", "agree", 1))
    position = data.draw(st.integers(0, len(whole) - 1))
    replacement = data.draw(st.binary(max_size=3))
    length = data.draw(st.integers(0, 3))
    changed = whole[:position] + replacement + whole[position + length :]
    files = {**bench.base, "rebuild.buyer-3.intoto.json": changed}
    outcome = decide_from(Held(files), root=bench.quorum.root, seen=None, profile="aws", now=NOW)
    assert outcome.dissent == ()
    assert len(outcome.agree) + len(outcome.refused) == 1
