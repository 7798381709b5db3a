"""One ceremony from the first claim to a rotation, and what must hold all along."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ceremony.table import SEVEN, Table, refusals
from coattest.files import Folder, Held
from coattest_verify.quorum.log.examine import read_quorum_log
from coattest_verify.quorum.members.file import Member as Party
from coattest_verify.quorum.signing import propose
from coattest_verify.signatures import keys

FIRST, SECOND = "0.1.0", "0.2.0"


def whole_story(folder: Path, seed: int, *, real: bool = False) -> Table:
    """Two releases and a new key for one member, among seven who push at the same time.

    Raises AssertionError where a member is locked out, decides otherwise than the rest, or a merge would
    need a hand.
    """
    table = Table.make(folder, seed, real=real)
    table.everybody_builds(FIRST)
    release(table, FIRST, "ann")
    table.everybody_builds(SECOND)
    release(table, SECOND, "ben")
    agree(table, FIRST, SECOND)
    rotate(table, "cat", "gus")
    agree(table, FIRST, SECOND)
    assert refusals(table.turns(SEVEN)) == {}
    check_history(table)
    return table


def release(table: Table, name: str, publisher: str) -> None:
    """A claim, and everybody's answer: two turns of each member at most."""
    done = table.turns(SEVEN, claim=(publisher, name))
    assert {error.code for error in refusals(done).values()} <= {"no-claim"}
    assert refusals(table.turns(SEVEN)) == {}
    agree(table, name)


def agree(table: Table, *releases: str) -> None:
    """Every member decides the same, and nobody has anything to object to."""
    for name in releases:
        found = table.decisions(name)
        assert {member: outcome.reasons for member, outcome in found.items()} == dict.fromkeys(SEVEN, ())
        assert len({outcome.require().digest for outcome in found.values()}) == 1
        assert {outcome.agree for outcome in found.values()} == {SEVEN}


def rotate(table: Table, proposer: str, whose: str) -> None:
    """A member lost its key: another one proposes its new one, and one turn of each puts that in force."""
    seat = table.seats[whose]
    public = keys.generate_key(seat.folder / "new-key", "ed25519")
    before = table.quorum.file
    parties = tuple(Party(each.name, (public,)) if each.name == whose else each for each in before.members)
    proposal = before.successor(members=parties)

    def write(folder: Path) -> None:
        with Folder(folder) as evidence:
            propose(folder, evidence, proposal)

    table.by_hand(proposer, write)
    table.seats[whose] = replace(seat, signer=keys.load_signer(seat.folder / "new-key"))
    table.turns([name for name in SEVEN if name != whose])
    assert refusals(table.turns(SEVEN)) == {}
    assert {outcome.members.version for outcome in table.decisions(FIRST).values() if outcome.members} == {2}
    table.quorum.file = proposal


def check_history(table: Table) -> None:
    """One line of commits, each of which extends the log that was there; all members cosigned all of it."""
    before: tuple[bytes, ...] = ()
    cosigned: set[str] = set()
    for commit in table.commits():
        with table.common.files_at(commit) as files:
            held = Held({name: files.read(name) for name in files.entries})
        log = read_quorum_log(held, table.quorum.root, table.quorum.file)
        if log is None:
            assert before == ()
            continue
        assert log.entries[: len(before)] == before
        assert len(set(log.entries)) == len(log.entries)
        assert [finding for finding in log.refused if finding.code != "bad-signature"] == []
        before, cosigned = log.entries, set(log.times)
    assert before
    assert cosigned == set(SEVEN)
