"""Who can make the next version of the members file: more than half, whatever the threshold is."""

from __future__ import annotations

from pathlib import Path

import pytest

from coattest.errors import Rejected
from coattest_verify.quorum.members.file import Member, MembersFile
from support.verify.members import Members, report_json

FIVE = ("ann", "ben", "cat", "dan", "eve")


@pytest.fixture
def five(tmp_path: Path) -> Members:
    """Five members of whom two decide."""
    quorum = Members.make(tmp_path, FIVE, threshold=2, dissent="report", kinds=("ed25519",))
    quorum.claim(report_json())
    return quorum


@pytest.mark.parametrize(("members", "change"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3)])
def test_change_too_low_is_refused_by_the_parser(five: Members, members: int, change: int) -> None:
    """Half of the members or fewer never make a version: two such sets need not share anybody."""
    party = (*five.file.members, Member("fay", five.file.members[0].keys))[:members]
    if members == 6:
        party = (
            *party[:5],
            Member("fay", (Members.make(five.folder / "fay", ["fay"]).signers["fay"].public,)),
        )
    if change == 0:
        assert five.file.successor(members=party, threshold=1).changing == 1
        return
    with pytest.raises(Rejected, match="not more than half") as caught:
        five.file.successor(members=party, threshold=1, change=change)
    assert caught.value.code == "members-change-too-low"


@pytest.mark.parametrize(
    ("threshold", "change", "wanted"), [(1, 0, 3), (2, 0, 3), (4, 0, 4), (5, 0, 5), (5, 3, 3), (1, 4, 4)]
)
def test_by_default_it_is_the_threshold_or_more_than_half(
    five: Members, threshold: int, change: int, wanted: int
) -> None:
    """What is not written follows from the threshold, and is never half or less."""
    file = five.file.successor(threshold=threshold, change=change)
    assert file.changing == wanted
    assert MembersFile.decode(file.raw) == file


def test_two_disjoint_sets_do_not_each_complete_a_version(five: Members) -> None:
    """Two pairs of five, each enough to decide, sign a version 2 of their own: neither is in force."""
    for names, round_ in ((("ann", "ben"), "theirs"), (("cat", "dan"), "ours")):
        following = five.file.successor(round=round_)
        for name in names:
            five.write(f"quorum.2.{name}.x.dsse.json", b"{}")
            five.countersign(following, name)
    outcome = five.decide()
    assert outcome.members is not None
    assert outcome.members.version == 1


def test_removed_members_do_not_lead_a_fresh_verifier_elsewhere(five: Members) -> None:
    """The old keys of two removed members sign a version 2 of their own, and on to version 99."""
    stay = tuple(member for member in five.file.members if member.name not in {"dan", "eve"})
    first, second = five.file, five.file.successor(members=stay)
    five.install(second, ["ann", "ben", "cat"])
    gone = tuple(member for member in first.members if member.name in {"dan", "eve"})
    theirs = first.successor(members=gone, threshold=1)
    for _ in range(2, 100):
        for name in ("dan", "eve"):
            five.countersign(theirs, name)
        theirs = theirs.successor()
    for name in ("ann", "ben"):
        five.sign(name, report_json())
    decision = five.decide().require()
    assert decision.quorum_sha256 == second.sha256


def test_three_of_five_make_a_version(five: Members) -> None:
    """More than half of the old and of the new version sign, and it is in force."""
    following = five.file.successor(round="2")
    for name in ("ann", "ben"):
        five.countersign(following, name)
    assert five.decide().members == five.file
    five.countersign(following, "eve")
    assert five.decide().members == following


def test_the_new_members_must_be_more_than_half_too(five: Members) -> None:
    """Who replaces most members needs signatures of more than half of those who come."""
    made = Members.make(five.folder / "others", ["fay", "gus", "hal"], kinds=("ed25519",))
    five.signers |= made.signers
    following = five.file.successor(members=(*five.file.members[:1], *made.file.members))
    for name in ("ann", "ben", "cat"):
        five.countersign(following, name)
    assert five.decide().members == five.file
    for name in ("fay", "gus"):
        five.countersign(following, name)
    assert five.decide().members == following
