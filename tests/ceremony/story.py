"""One ceremony from the first claim over a wrong dissent to a rotation, and what must hold all along."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from ceremony.table import SEVEN, Table, refusals
from coattest.files import Folder, Held, ReadOnce
from coattest_build.ownwork import OwnWork
from coattest_verify.quorum.log.examine import read_quorum_log
from coattest_verify.quorum.members.file import Member as Party
from coattest_verify.quorum.releases import put_file
from coattest_verify.quorum.signing import propose
from coattest_verify.quorum.statements.signed import read_statements
from coattest_verify.quorum.statements.statement import DISSENT
from coattest_verify.quorum.statements.votes import WITHDRAW, make_vote, sign_vote, vote_name
from coattest_verify.rebuild.answer import answer, read_ask, read_report, sign_answer
from coattest_verify.signatures import keys
from coattest_verify.signatures.journal import SignatureJournal

FIRST, SECOND = "0.1.0", "0.2.0"


def whole_story(folder: Path, seed: int, *, real: bool = False) -> Table:
    """Two releases, a mistake in the second, and a new key, among seven who push at the same time.

    Raises AssertionError where a member is locked out, decides otherwise than the rest, or a merge would
    need a hand.
    """
    table = Table.make(folder, seed, real=real)
    table.everybody_builds(FIRST)
    release(table, FIRST, "ann")
    table.everybody_builds(SECOND)
    mistaken_release(table, SECOND, "ben", "eve")
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


def mistaken_release(table: Table, name: str, publisher: str, whose: str) -> None:
    """One member's machine builds other bytes; it dissents, finds its mistake, and takes that back."""
    seat = table.seats[whose]
    table.build(seat, name, b"a broken disk")
    table.turns(SEVEN, claim=(publisher, name))
    done = table.turns(SEVEN)
    assert {what.split(":")[0]: error.code for what, error in refusals(done).items()} == {whose: "mismatch"}
    table.by_hand(whose, partial(state, table, whose, name, dissent=True))
    assert refusals(table.turns([each for each in SEVEN if each != whose])) == {}
    for outcome in table.decisions(name).values():
        assert {reason.code for reason in outcome.reasons} == {"dissent"}
    agree(table, FIRST)
    table.build(seat, name)
    table.by_hand(whose, partial(withdraw, table, whose, name))
    table.by_hand(whose, partial(state, table, whose, name, dissent=False))
    for _ in range(2):  # an entry for it, and enough cosignatures on that
        assert refusals(table.turns(SEVEN)) == {}
    agree(table, name)


def state(table: Table, whose: str, release_name: str, folder: Path, *, dissent: bool) -> None:
    """What verify sign-pcrs does in a clone."""
    seat = table.seats[whose]
    with Folder(folder) as opened, seat.own_state():
        ask = read_ask(ReadOnce(opened), folder, release_name)
        own = read_report(seat.folder / f"out-{release_name}", OwnWork())
        statement = answer(ask, own.report, member=whose, dissent=dissent, now=table.now())
        sign_answer(folder, ask.files, statement, ask.members, seat.signer, journal=SignatureJournal())


def withdraw(table: Table, whose: str, release_name: str, folder: Path) -> None:
    """What verify release withdraw does in a clone."""
    with Folder(folder) as opened:
        ask = read_ask(ReadOnce(opened), folder, release_name)
        (wrong,) = (
            item for item in read_statements(ask.files, ask.members)[0] if item.statement.outcome == DISSENT
        )
        vote = make_vote(
            WITHDRAW,
            whose,
            root=table.quorum.root,
            claim=ask.claim,
            note="a broken disk",
            now=table.now(),
            undoes=wrong.signed_sha256,
        )
        put_file(folder, ask.files.place(vote_name(vote)), sign_vote(vote, table.seats[whose].signer))


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
