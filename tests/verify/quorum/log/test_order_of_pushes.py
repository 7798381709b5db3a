"""Honest members push at the same time: whose push was first never decides anything."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coattest.files import Held
from coattest_verify.quorum.cosigning import appended
from coattest_verify.quorum.decision import decide_from
from coattest_verify.quorum.log.checkpoint import cosign
from coattest_verify.quorum.log.examine import cosignature_file
from coattest_verify.quorum.releases import ReleaseFiles
from coattest_verify.quorum.statements.signed import read_statements
from coattest_verify.quorum.statements.votes import (
    EXCUSE,
    REVOKE,
    UNREVOKE,
    WITHDRAW,
    make_vote,
    sign_vote,
    vote_name,
)
from support.verify.members import NOW, Members, report_json

NAMES = ("ann", "ben", "cat", "dan")


class Work:
    """What four members sign about a release: a wrong dissent, its withdrawal, an excuse, a new version."""

    def __init__(self, folder: Path) -> None:
        self.quorum = quorum = Members.make(folder, NAMES, threshold=2, dissent="block", kinds=("ed25519",))
        quorum.claim(report_json())
        self.base = self.files()
        for name in NAMES[:2]:
            quorum.sign(name, report_json())
        quorum.sign("cat", report_json(), outcome="dissent", reason="a flaky disk")
        (dissent,) = [
            item
            for item in read_statements(ReleaseFiles(Held(self.files()), "0.1.0"), quorum.file)[0]
            if item.statement.outcome == "dissent"
        ]
        quorum.sign("cat", report_json(), name="rebuild.cat.again.intoto.json", age=NOW - NOW)
        self.vote(WITHDRAW, "cat", undoes=dissent.signed_sha256)
        for name in NAMES[:3]:
            self.vote(EXCUSE, name, excused="dan")
        revocation = self.vote(REVOKE, "ben")
        self.vote(UNREVOKE, "ben", undoes=revocation)
        for name in NAMES[:3]:
            quorum.countersign(quorum.file.successor(max_age_days=60), name)
        self.pushed = {name: data for name, data in self.files().items() if name not in self.base}

    def vote(self, kind: str, name: str, **values: Any) -> str:
        """A member's vote, and the digest of what it signs."""
        assert self.quorum.claimed is not None
        vote = make_vote(
            kind, name, root=self.quorum.root, claim=self.quorum.claimed, note="why", now=NOW, **values
        )
        self.quorum.write(vote_name(vote), sign_vote(vote, self.quorum.signers[name]))
        return vote.signed_sha256

    def files(self) -> dict[str, bytes]:
        """Everything in the folder."""
        top = self.quorum.attestations
        return {
            path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*") if path.is_file()
        }

    def outcome(self, order: list[str], appends: set[int]) -> dict[str, Any]:
        """What is decided when the files came in this order, with an append after some of them."""
        files, root = dict(self.base), self.quorum.root
        for index, name in enumerate(order):
            files[name] = self.pushed[name]
            if index in appends or index == len(order) - 1:
                done = appended(Held(files), root, seen=None)
                files |= done.files
        for name in NAMES[:3]:
            note = cosign(done.checkpoint, name, self.quorum.signers[name], NOW)
            files[cosignature_file(name)] = note.encode()
        found = decide_from(Held(files), root=root, seen=None, profile="aws", now=NOW)
        return {name: value for name, value in found.to_json().items() if name != "log"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(tmp_path_factory.mktemp("work"))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), appends=st.sets(st.integers(0, 15)))
def test_the_order_of_pushes_decides_nothing(work: Work, seed: int, appends: set[int]) -> None:
    """A withdrawn dissent, excuses, an undone revocation, a version: the same outcome at the end."""
    order = sorted(work.pushed)
    expected = work.outcome(order, set())
    assert expected["decided"]
    assert expected["quorum"]["version"] == 2
    random.Random(seed).shuffle(order)
    assert work.outcome(order, appends) == expected
