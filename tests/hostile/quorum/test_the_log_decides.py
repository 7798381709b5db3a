"""Attacks on the order of members-file versions: what came first in the agreed log stays first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from coattest.files import Folder
from coattest_verify.quorum.decision import Outcome, decide_from
from coattest_verify.quorum.log.examine import read_quorum_log
from coattest_verify.quorum.members.file import MEMBERS_TYPE, MembersFile
from coattest_verify.signatures import dsse
from support.verify.logs import sign_log_as, write_log
from support.verify.members import EXPIRES, NOW, Members, report_json

THREE = ("ann", "ben", "cat")


@pytest.fixture
def quorum(tmp_path: Path) -> Members:
    """Three members, of whom two decide and change."""
    return Members.make(tmp_path / "desk", THREE, threshold=2, dissent="report", kinds=("ed25519",))


def sign(quorum: Members, version: MembersFile, *names: str, word: str = "") -> None:
    """Signatures on a version; under a word of their own they stand in no other's place."""
    for name in names:
        envelope = dsse.sign_envelope(quorum.signers[name], MEMBERS_TYPE, version.raw)
        quorum.write(f"quorum.{version.version}.{name}{word}.dsse.json", envelope.encode())


def log(quorum: Members, names: Sequence[str] = THREE) -> None:
    """One appends, and each of them cosigns."""
    for name in names:
        sign_log_as(quorum, name)


def fresh(quorum: Members) -> Outcome:
    """What a verifier decides that remembers nothing."""
    with Folder(quorum.attestations) as folder:
        return decide_from(
            folder, root=quorum.root, seen=None, profile="aws", now=NOW, release=quorum.released.name
        )


def agree(quorum: Members, version: MembersFile, *names: str) -> None:
    """A release that members agree on under a version."""
    quorum.file = version
    quorum.claim(report_json())
    for name in names:
        quorum.sign(name, report_json())


def in_force(outcome: Outcome) -> str:
    """The digest of the version that an outcome was decided under."""
    assert outcome.members is not None, outcome.reasons
    return outcome.members.sha256


def test_late_signatures_on_a_sibling_change_nothing_after_version_3(quorum: Members) -> None:
    """policy_fork.py: old signatures on another version 2 appear when the quorum has gone on."""
    second = quorum.file.successor(round="2")
    sibling = quorum.file.successor(expires=EXPIRES + timedelta(days=1))
    quorum.install(second, ["ann", "ben"])
    log(quorum)
    third = second.successor(round="3")
    quorum.install(third, THREE)
    log(quorum)
    agree(quorum, third, *THREE)
    assert fresh(quorum).decision is not None
    sign(quorum, sibling, "ann", "cat", word=".late")
    assert fresh(quorum).decision is not None
    assert quorum.decide().decision is not None
    log(quorum)
    assert fresh(quorum).decision is not None
    quorum.write("quorum.toml", sibling.raw)
    assert in_force(fresh(quorum)) == third.sha256


def test_without_a_log_only_a_remembering_verifier_tells_siblings_apart(quorum: Members) -> None:
    """Two branches are no decision for who saw neither; who saw one walks back from it."""
    second = quorum.file.successor(round="2")
    sibling = quorum.file.successor(expires=EXPIRES + timedelta(days=1))
    quorum.install(second, ["ann", "ben"])
    third = second.successor(round="3")
    quorum.install(third, THREE)
    agree(quorum, third, *THREE)
    assert quorum.decide().decision is not None
    sign(quorum, sibling, "ann", "cat", word=".late")
    assert [reason.code for reason in fresh(quorum).reasons] == ["members-fork"]
    assert quorum.decide().decision is not None
    fourth = third.successor(round="4")
    quorum.install(fourth, THREE)
    assert in_force(quorum.decide()) == fourth.sha256


def test_a_log_that_too_few_cosigned_orders_nothing(quorum: Members) -> None:
    """One member alone can write any order, and its own signature on it is not enough."""
    second, sibling = (quorum.file.successor(round=name) for name in ("2", "other"))
    sign(quorum, second, "ann", "ben")
    log(quorum, ["ann"])
    sign(quorum, sibling, "ann", "cat", word=".other")
    quorum.claim(report_json())
    assert [reason.code for reason in fresh(quorum).reasons] == ["members-fork"]
    log(quorum, ["ann", "cat"])
    assert in_force(fresh(quorum)) == second.sha256


def test_a_signature_that_was_withdrawn_completes_nothing(quorum: Members) -> None:
    """The host keeps a signature that its member gave up, and shows it when another one joins it."""
    kept, chosen = (quorum.file.successor(round=name) for name in ("kept", "chosen"))
    sign(quorum, kept, "ann", word=".kept")
    log(quorum)
    sign(quorum, chosen, "ann")
    log(quorum)
    sign(quorum, kept, "cat")
    log(quorum)
    sign(quorum, chosen, "ben")
    log(quorum)
    quorum.claim(report_json())
    assert in_force(fresh(quorum)) == chosen.sha256


def test_removing_logged_signatures_brings_no_old_version_back(quorum: Members) -> None:
    """A fresh verifier that is shown the log without the signatures decides nothing."""
    quorum.install(quorum.file.successor(round="2"), ["ann", "ben"])
    first = quorum.attestations / "quorum.1.ann.dsse.json"
    log(quorum)
    quorum.claim(report_json())
    assert in_force(fresh(quorum)) == quorum.file.sha256
    for path in quorum.attestations.glob("quorum.2.*"):
        path.unlink()
    quorum.write("quorum.toml", dsse.DsseEnvelope.decode(first.read_bytes(), MEMBERS_TYPE).payload)
    assert [reason.code for reason in fresh(quorum).reasons] == ["removed-entry"]


def test_a_key_that_was_replaced_orders_nothing_after_it(quorum: Members) -> None:
    """Old keys of removed members cosign a longer log: what they add there is not agreed."""
    stay = tuple(member for member in quorum.file.members if member.name != "ann")
    second = quorum.file.successor(members=stay)
    quorum.install(second, THREE)
    log(quorum, ["ben", "cat"])
    sibling = MembersFile.decode(
        dsse.DsseEnvelope.decode(
            (quorum.attestations / "quorum.1.ann.dsse.json").read_bytes(), MEMBERS_TYPE
        ).payload
    ).successor(round="theirs")
    sign(quorum, sibling, "ann", "ben", word=".theirs")
    log(quorum, ["ben"])
    quorum.claim(report_json())
    assert in_force(fresh(quorum)) == second.sha256


def test_old_keys_of_removed_members_sign_on_to_version_9(tmp_path: Path) -> None:
    """A removed majority signs a version 2 of its own and goes on: no fresh verifier follows it.

    The log has the version that removed them first, and what they add to it is not agreed.
    """
    seven = ("ann", "ben", "cat", "dan", "eve", "fay", "gus")
    quorum = Members.make(tmp_path / "seven", seven, threshold=2, dissent="report", kinds=("ed25519",))
    first = quorum.file
    stay = tuple(member for member in first.members if member.name in seven[4:])
    second = first.successor(members=stay)
    quorum.install(second, seven)
    log(quorum, seven)
    gone = tuple(member for member in first.members if member.name in seven[:4])
    theirs = first.successor(members=gone)
    sign(quorum, theirs, *seven[:4], word=".theirs")
    for _ in range(7):
        theirs = theirs.successor()
        sign(quorum, theirs, *seven[:4], word=".theirs")
    log(quorum, seven[4:5])
    agree(quorum, theirs, *seven[:2])
    quorum.write("quorum.toml", theirs.raw)
    outcome = fresh(quorum)
    assert outcome.decision is None
    quorum.write("quorum.toml", second.raw)
    assert in_force(fresh(quorum)) == second.sha256
    assert fresh(quorum).agree == ()


def test_an_entry_that_cannot_be_read_changes_no_order(quorum: Members) -> None:
    """The host appends garbage to the log: what was agreed before it stays agreed."""
    second, sibling = (quorum.file.successor(round=name) for name in ("2", "other"))
    sign(quorum, second, "ann", "ben")
    log(quorum)
    sign(quorum, sibling, "ann", "cat", word=".other")
    with Folder(quorum.attestations) as folder:
        found = read_quorum_log(folder, quorum.root, quorum.file)
    assert found is not None
    write_log(quorum, [*found.entries, b"garbage"])
    quorum.claim(report_json())
    assert in_force(fresh(quorum)) == second.sha256
