"""One ceremony from the first claim to the renewal of an expired quorum, and what must hold all along."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from ceremony.table import SEVEN, Table, refusals
from ceremony.token import token_key
from coattest.files import Folder, Held, ReadOnce
from coattest_build.ownwork import OwnWork
from coattest_verify.quorum.log.examine import read_quorum_log
from coattest_verify.quorum.members.chain import follow
from coattest_verify.quorum.members.file import MEMBERS_FILE, MembersFile
from coattest_verify.quorum.members.file import Member as Party
from coattest_verify.quorum.members.restarting import proposed_restart
from coattest_verify.quorum.releases import ReleaseFiles, put_file
from coattest_verify.quorum.signing import propose
from coattest_verify.quorum.statements.signed import read_statements
from coattest_verify.quorum.statements.statement import DISSENT
from coattest_verify.quorum.statements.votes import (
    EXCUSE,
    REVOKE,
    UNREVOKE,
    WITHDRAW,
    Vote,
    make_vote,
    sign_vote,
    vote_name,
)
from coattest_verify.rebuild.answer import answer, read_ask, read_report, sign_answer
from coattest_verify.signatures import keys
from coattest_verify.signatures.journal import SignatureJournal
from support.verify.members import EXPIRES, NOW

FIRST, SECOND = "0.1.0", "0.2.0"

LIFE = timedelta(hours=12)
"""How long version 1 decides; a ceremony up to its renewal takes some minutes of the table's clock."""


def whole_story(folder: Path, seed: int, *, real: bool = False) -> Table:
    """Two releases among seven who push at the same time, and what goes wrong with them.

    In the second one a member errs and another one is away; the first one is revoked, and that is undone; the
    branch is set back; the quorum expires, and is renewed with a new key, in a token where ``real``; the
    log is begun again. Raises
    AssertionError where a member is locked out, decides otherwise than the rest, or a merge needs a hand.
    """
    table = Table.make(folder, seed, real=real, expires=NOW + LIFE)
    table.everybody_builds(FIRST)
    release(table, FIRST, "ann")
    earlier = table.tip
    table.everybody_builds(SECOND)
    mistaken_release(table, SECOND, "ben", "eve", away="fay")
    agree(table, FIRST)
    agree(table, SECOND, away=("fay",))
    revoke(table, FIRST, "dan")
    set_back(table, earlier)
    expire(table)
    rotate(table, "cat", "gus", token_key(folder) if real else None)
    agree(table, FIRST, SECOND)
    begin_again(table, "dan")
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


def mistaken_release(table: Table, name: str, publisher: str, whose: str, away: str) -> None:
    """One member's machine builds other bytes; it dissents, finds its mistake, and takes that back.

    Another one is on leave meanwhile, and as many as change the members file excuse it.
    """
    seat, present = table.seats[whose], [each for each in SEVEN if each != away]
    table.build(seat, name, b"a broken disk")
    table.turns(present, claim=(publisher, name))
    done = table.turns(present)
    assert {what.split(":")[0]: error.code for what, error in refusals(done).items()} == {whose: "mismatch"}
    table.by_hand(whose, partial(state, table, whose, name, dissent=True))
    for each in present[: table.quorum.file.changing]:
        table.by_hand(each, partial(vote, table, EXCUSE, each, name, excused=away))
    assert refusals(table.turns([each for each in present if each != whose])) == {}
    for outcome in table.decisions(name).values():
        assert {reason.code for reason in outcome.reasons} == {"dissent"}
    agree(table, FIRST)
    table.build(seat, name)
    table.by_hand(whose, partial(withdraw, table, whose, name))
    table.by_hand(whose, partial(state, table, whose, name, dissent=False))
    for _ in range(2):  # an entry for it, and enough cosignatures on that
        assert refusals(table.turns(present)) == {}


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
    vote(table, WITHDRAW, whose, release_name, folder, undoes=wrong.signed_sha256)


def vote(table: Table, kind: str, whose: str, release_name: str, folder: Path, **values: str) -> Vote:
    """What verify release withdraw, excuse, revoke and unrevoke do in a clone."""
    with Folder(folder) as opened:
        files = ReleaseFiles(ReadOnce(opened), release_name)
        claim = files.claim()
    root, now = table.quorum.root, table.now()
    made = make_vote(kind, whose, root=root, claim=claim, note="why", now=now, **values)
    put_file(folder, files.place(vote_name(made)), sign_vote(made, table.seats[whose].signer))
    return made


def revoke(table: Table, name: str, whose: str) -> None:
    """A member revokes a release, which blocks at once, and takes that back."""
    made: list[Vote] = []
    table.by_hand(whose, lambda folder: made.append(vote(table, REVOKE, whose, name, folder)))
    for outcome in table.decisions(name).values():
        assert {reason.code for reason in outcome.reasons} == {"revoked"}
    undoes = made[0].signed_sha256
    table.by_hand(
        whose, lambda folder: made.append(vote(table, UNREVOKE, whose, name, folder, undoes=undoes))
    )
    agree(table, name)


def set_back(table: Table, earlier: str) -> None:
    """Whoever hosts the branch shows an earlier commit: who saw more decides nothing on it."""
    for seat in table.seats.values():
        outcome = table.decide(seat, FIRST, at=earlier)
        assert outcome is not None
        assert outcome.decision is None
        assert "log-shrunk" in {reason.code for reason in outcome.reasons}


def expire(table: Table) -> None:
    """The members file's time is over, and with it every decision."""
    table.clock = NOW + LIFE
    for outcome in table.decisions(FIRST).values():
        assert {reason.code for reason in outcome.reasons} == {"members-expired"}


def agree(table: Table, *releases: str, away: tuple[str, ...] = ()) -> None:
    """Every member decides the same, and nobody has anything to object to."""
    for name in releases:
        found = table.decisions(name)
        assert {member: outcome.reasons for member, outcome in found.items()} == dict.fromkeys(SEVEN, ())
        assert len({outcome.require().digest for outcome in found.values()}) == 1
        assert {outcome.agree for outcome in found.values()} == {
            tuple(each for each in SEVEN if each not in away)
        }


def rotate(table: Table, proposer: str, whose: str, token: tuple[keys.PublicKey, keys.Signer] | None) -> None:
    """A member lost its key: another one proposes a new one and more time; a turn of each puts that in force.

    The new key is in a ``token``, or else in a file.
    """
    seat = table.seats[whose]
    if token is None:
        public = keys.generate_key(seat.folder / "new-key", "ed25519")
        token = public, keys.load_signer(seat.folder / "new-key")
    public, signer = token
    before = table.quorum.file
    parties = tuple(Party(each.name, (public,)) if each.name == whose else each for each in before.members)
    proposal = before.successor(members=parties, expires=EXPIRES)

    def write(folder: Path) -> None:
        with Folder(folder) as evidence:
            propose(folder, evidence, proposal)

    table.by_hand(proposer, write)
    table.seats[whose] = replace(seat, signer=signer)
    table.turns([name for name in SEVEN if name != whose])
    assert refusals(table.turns(SEVEN)) == {}
    assert {outcome.members.version for outcome in table.decisions(FIRST).values() if outcome.members} == {2}
    table.quorum.file = proposal


def begin_again(table: Table, proposer: str) -> None:
    """Members do not trust the log any more: a version of the members file begins it again."""
    table.by_hand(proposer, restart_log)
    table.turns(SEVEN)
    assert refusals(table.turns(SEVEN)) == {}
    for seat in table.seats.values():
        seen = seat.roots.seen(table.quorum.root)
        assert seen is not None
        assert seen.log is not None
        assert (seen.version, seen.log.version) == (3, 3)


def restart_log(folder: Path) -> None:
    """What verify members enroll --restart-log does in a clone."""
    with Folder(folder) as opened:
        evidence = ReadOnce(opened)
        current = MembersFile.decode(evidence.read(MEMBERS_FILE))
        point, files = proposed_restart(evidence, current)
        propose(folder, evidence, current.successor(restart=point))
    for name, content in files.items():
        put_file(folder, name, content)


def check_history(table: Table) -> None:
    """One line of commits, each of which extends the log that was there, until it is begun again.

    All members cosigned all of it.
    """
    before: tuple[bytes, ...] = ()
    cosigned: set[str] = set()
    restart = ""
    for commit in table.commits():
        with table.common.files_at(commit) as files:
            held = Held({name: files.read(name) for name in files.entries})
        log = read_quorum_log(held, table.quorum.root, table.quorum.file)
        if log is None:
            assert before == ()
            continue
        if log.restart != restart:
            # What was logged while members signed that is given up, and logged again.
            vouched = follow(held, table.quorum.root, seen=None, now=table.clock).state.vouched
            assert 0 < vouched <= len(before)
            before, restart = before[:vouched], log.restart
        assert log.entries[: len(before)] == before
        assert len(set(log.entries)) == len(log.entries)
        # Cosignatures on the log that was begun again count until their members made new ones.
        refused = [finding for finding in log.refused if finding.code != "bad-signature"]
        assert refused == [] or (log.restart and {each.code for each in refused} == {"malformed"})
        before, cosigned = log.entries, set(log.times)
    assert before
    assert cosigned == set(SEVEN)
