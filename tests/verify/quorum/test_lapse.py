"""When a decision ends: the earliest of all that it rests on, to the second, and a warning before."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coattest_verify.quorum.lapse import WARN_BEFORE
from support.verify.logs import sign_log
from support.verify.members import EXPIRES, NOW, Members, report_json

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)


def ends(quorum: Members, **options: str) -> datetime:
    """The decision's end, at which it really ends: a moment before it is one, a moment after it is none."""
    end = quorum.decide(**options).require().expires
    assert quorum.decide(now=end - SECOND, **options).require().expires == end
    assert quorum.decide(now=end + SECOND, **options).decision is None
    return end


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Members]:
    """A quorum of three for each rule on dissent."""
    made = {}
    for dissent in ("block", "report"):
        folder = tmp_path_factory.mktemp(dissent)
        names = ["buyer-1", "buyer-2", "buyer-3"]
        made[dissent] = Members.make(folder, names, threshold=2, dissent=dissent, kinds=("ed25519",))
        made[dissent].claim(report_json())
    return made


@settings(max_examples=25, deadline=None)
@given(
    dissent=st.sampled_from(["block", "report"]), ages=st.lists(st.integers(0, 89), min_size=3, max_size=3)
)
def test_a_decision_ends_when_too_few_statements_are_young_enough(
    bench: dict[str, Members], dissent: str, ages: list[int]
) -> None:
    """Under "block" with the oldest statement, under "report" with the one that leaves fewer than needed."""
    quorum = bench[dissent]
    for name, days in zip(quorum.signers, ages, strict=True):
        quorum.sign(name, report_json(), age=days * DAY)
    oldest = sorted(ages, reverse=True)
    lasting = oldest[0] if dissent == "block" else oldest[1]
    assert ends(quorum) == NOW + (90 - lasting) * DAY


def test_an_own_statement_ends_the_owners_decision(three: Members) -> None:
    """What binds one member ends with that member's statement, though the others' would be enough."""
    three.sign("buyer-3", report_json(), age=80 * DAY)
    assert ends(three, own="buyer-3") == NOW + 10 * DAY
    assert ends(three) == NOW + 90 * DAY - timedelta(hours=1)


def test_an_excuse_ends_too(blocking: Members) -> None:
    """Under "block" a decision that needs an excused silence ends with the excuse."""
    (blocking.released / "rebuild.buyer-3.intoto.json").unlink()
    for name in blocking.signers:
        when = NOW - 30 * DAY if name == "buyer-3" else NOW
        signer = blocking.signers[name]
        sign_log(
            blocking.attestations, blocking.root, name, signer, seen=None, now=when, append=name == "buyer-1"
        )
        if name == "buyer-1":
            continue
    assert ends(blocking) == NOW + 60 * DAY


def test_no_decision_outlives_its_members_file(tmp_path: Path) -> None:
    """Where statements count for longer, the members file's expiry is the end."""
    quorum = Members.make(tmp_path, max_age_days=3650)
    quorum.claim(report_json())
    for name in quorum.signers:
        quorum.sign(name, report_json())
    assert ends(quorum) == EXPIRES


def test_a_decision_that_ends_soon_warns(three: Members) -> None:
    """From two weeks before its end on, every outcome says when and what to do."""
    end = three.decide().require().expires
    assert three.decide(now=end - WARN_BEFORE).warnings == ()
    (warning,) = three.decide(now=end - WARN_BEFORE + SECOND).warnings
    assert warning.code == "ends-soon"
    assert "in 13 days: members sign again, or renew quorum.toml" in warning.detail
