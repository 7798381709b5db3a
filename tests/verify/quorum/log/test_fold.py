"""What the log puts in force: properties over arbitrary orders of signatures."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coattest.errors import Rejected
from coattest_verify.quorum.log.entries import LogEntry, members_entry, parse_entry
from coattest_verify.quorum.log.fold import Candidate, LogState, fold
from coattest_verify.quorum.members.file import Member, MembersFile
from coattest_verify.signatures import keys
from support.raises import raises_code
from support.verify.members import EXPIRES

NAMES = ("ann", "ben", "cat", "dan", "eve")
SIBLINGS = ("one", "two", "three")
STEPS = (*SIBLINGS, "after one", "after two")

Signing = tuple[str, str]
"""A member, and the version that it signs."""


class Ballot:
    """Version 1 of five members, three versions 2 and a version 3 after two of them; change is three."""

    def __init__(self, folder: Path) -> None:
        self.members = tuple(
            Member(name, (keys.generate_key(folder / name, "ed25519"),)) for name in (*NAMES, "fay")
        )
        self.first = MembersFile.make(
            version=1,
            previous=None,
            expires=EXPIRES,
            round="1",
            threshold=3,
            dissent="report",
            members=self.members[:5],
        )
        self.versions = {
            "one": self.first.successor(round="one"),
            "two": self.first.successor(round="two", members=self.members[1:]),
            "three": self.first.successor(round="three"),
        }
        for name in ("one", "two"):
            self.versions[f"after {name}"] = self.versions[name].successor(round="after")

    def fingerprint(self, name: str) -> str:
        """The fingerprint of a member's one key."""
        return next(member.keys[0].fingerprint for member in self.members if member.name == name)

    def entry(self, signing: Signing) -> LogEntry:
        """The log's entry of a signature."""
        name, version = signing
        return parse_entry(members_entry(self.versions[version], name, self.fingerprint(name)))

    def state(
        self,
        logged: Sequence[Signing],
        filed: Sequence[Signing] | None = None,
        *,
        agreed: int | None = None,
        remembered: Sequence[str] = (),
    ) -> LogState:
        """The state when these signatures are in the log in this order, and in the files."""
        signed: dict[str, dict[str, frozenset[str]]] = {}
        for name, version in logged if filed is None else filed:
            signed.setdefault(version, {})[name] = frozenset({self.fingerprint(name)})

        def successors(base: MembersFile) -> list[Candidate]:
            return [
                Candidate(file, signed.get(version, {}))
                for version, file in self.versions.items()
                if file.previous == f"sha256:{base.sha256}"
            ]

        entries = [self.entry(signing) for signing in logged]
        size = len(entries) if agreed is None else agreed
        return fold(self.first, entries, successors, lambda *_: size, remembered)

    def names(self, versions: Sequence[MembersFile]) -> list[str]:
        """What the versions after the first are called here."""
        called = {file.sha256: name for name, file in self.versions.items()}
        return [called[file.sha256] for file in versions[1:]]


@pytest.fixture(scope="module")
def ballot(tmp_path_factory: pytest.TempPathFactory) -> Ballot:
    return Ballot(tmp_path_factory.mktemp("ballot"))


signings = st.tuples(st.sampled_from((*NAMES, "fay")), st.sampled_from(STEPS))
histories = st.lists(signings, unique=True, max_size=20)


def undisputed(ballot: Ballot, history: Sequence[Signing], size: int) -> LogState | None:
    """The state when ``size`` entries are agreed, unless two versions stand side by side in the files."""
    try:
        return ballot.state(history, agreed=size)
    except Rejected:
        return None


@settings(max_examples=200, deadline=None)
@given(history=histories, data=st.data())
def test_more_entries_never_take_back_what_was_in_force(
    ballot: Ballot, history: list[Signing], data: st.DataObject
) -> None:
    """What a beginning of the log settled, at which entry too, the whole log has settled alike."""
    size = data.draw(st.integers(0, len(history)))
    earlier = undisputed(ballot, history, size)
    assume(earlier is not None)
    assert earlier is not None
    later = ballot.state(history)
    count = len(earlier.settled)
    assert later.settled[:count] == earlier.settled
    assert later.since[:count] == earlier.since[:count]
    assert later.entries[:size] == earlier.entries[:size]


@settings(max_examples=200, deadline=None)
@given(
    choices=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(SIBLINGS)),
    seed=st.integers(0, 1000),
)
def test_the_order_of_pushes_by_honest_members_never_decides(
    ballot: Ballot, choices: dict[str, str], seed: int
) -> None:
    """Where each member signs one version, the same one is in force whoever pushes first."""
    history = sorted(choices.items())
    shuffled = list(history)
    random.Random(seed).shuffle(shuffled)
    assert ballot.state(history).versions == ballot.state(shuffled).versions


@settings(max_examples=200, deadline=None)
@given(history=histories)
def test_what_is_in_force_has_a_majority_behind_it(ballot: Ballot, history: list[Signing]) -> None:
    """At the entry that completed a version, `change` members of both versions stood behind it."""
    state = ballot.state(history)
    for base, version, since in zip(state.versions, state.versions[1:], state.since[1:], strict=False):
        assert since is not None
        name = ballot.names([base, version])[-1]
        stands = {
            member: choice
            for member, choice in history[: since + 1]
            if ballot.versions[choice].previous == f"sha256:{base.sha256}"
        }
        behind = {member for member, choice in stands.items() if choice == name}
        for file in (base, version):
            assert len(behind & set(file.names)) >= 3


def test_a_withdrawn_signature_does_not_complete(ballot: Ballot) -> None:
    """Whoever signs another version gives the first up, although its signature is still in the files."""
    history = [("ann", "one"), ("ben", "one"), ("ann", "three"), ("cat", "one")]
    state = ballot.state(history, [*history, ("dan", "two")])
    assert ballot.names(state.versions) == []
    state = ballot.state([*history, ("dan", "three"), ("eve", "three"), ("dan", "one")])
    assert ballot.names(state.settled) == ["three"]


def test_a_version_of_the_files_alone_counts_while_nothing_stands_beside_it(ballot: Ballot) -> None:
    """Removing a stolen key does not wait for the log, and is not settled before it is there."""
    filed = [(name, "one") for name in NAMES[:3]]
    state = ballot.state([], filed)
    assert ballot.names(state.versions) == ["one"]
    assert state.settled == (ballot.first,)
    both = [*filed, *((name, "three") for name in NAMES[2:])]
    with raises_code(Rejected, "members-fork"):
        ballot.state([], both)
    known = ballot.state([], both, remembered=[ballot.versions["three"].sha256])
    assert ballot.names(known.versions) == ["three"]
    assert ballot.names(ballot.state(both[3:], both).versions) == ["three"]


def test_the_signatures_that_completed_a_version_have_to_be_here(ballot: Ballot) -> None:
    """Removing their files brings no older version back, and no other one into force."""
    history = [(name, "one") for name in NAMES[:3]] + [(name, "three") for name in NAMES[2:]]
    for filed in ([], history[:2], history[3:]):
        with raises_code(Rejected, "removed-entry"):
            ballot.state(history, filed)
    assert ballot.names(ballot.state(history).versions) == ["one"]
