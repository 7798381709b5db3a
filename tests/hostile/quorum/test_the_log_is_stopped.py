"""Attacks by whoever may push and appends what stops the log, or takes files out of what is logged."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ceremony.table import Seat, SharedStore, Table
from coattest.errors import FoundFalse
from coattest.files import Folder, ReadOnce
from coattest.strictjson import MAX_SIZE, canonical
from coattest_verify.quorum.commitments import commitments_missing
from coattest_verify.quorum.cosigning import appended
from coattest_verify.quorum.log.entries import parse_entry, vote_entry
from coattest_verify.quorum.log.examine import read_quorum_log
from coattest_verify.quorum.members.chain import follow
from coattest_verify.quorum.members.file import Member
from coattest_verify.quorum.releases import ReleaseFiles, put_file
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.salt import new_secret
from coattest_verify.quorum.statements.statement import RebuildReport
from coattest_verify.quorum.statements.votes import ARCHIVE, COMMIT, make_vote, sign_vote, vote_name
from coattest_verify.rebuild.answer import answer, read_ask, sign_answer
from coattest_verify.signatures import keys
from coattest_verify.signatures.journal import SignatureJournal
from coattest_verify.turn.loop import take_turn
from coattest_verify.turn.repository import OwnRepository
from coattest_verify.turn.steps import MemberTurn, Questions
from support.raises import raises_code
from support.verify.logs import made_log, sign_log_as, write_log
from support.verify.members import NOW, Members, hex_digest, report_json

THREE = ("ann", "ben", "cat")
RELEASE = "0.1.0"
INVENTED = canonical(
    {
        "kind": "revoke",
        "sha256": "0" * 64,
        "member": "cat",
        "facts": {"release": "0.9.0", "tree_sha256": "0" * 64, "lock_sha256": "0" * 64},
    }
)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Three members, who all committed to their result; two commitments are asked for, and agreed."""
    made = Table.make(tmp_path / "table", 4, names=THREE, threshold=2, commitments=2)
    made.everybody_builds(RELEASE)
    for _ in range(2):
        made.turns(THREE)
    return made


def garbage(table: Table, entry: bytes) -> Callable[[Path], None]:
    """An append of this entry, as anybody who may push can make it."""

    def append(folder: Path) -> None:
        with Folder(folder) as evidence:
            log = read_quorum_log(evidence, table.quorum.root, table.quorum.file)
        for name, data in made_log([*(log.entries if log else ()), entry], table.quorum.root).items():
            put_file(folder, name, data)

    return append


def turn(table: Table, name: str, repository: Callable[[Seat], OwnRepository], **more: Any) -> MemberTurn:
    """One member's turn, in a repository of this kind."""
    seat = table.seats[name]
    with seat.own_state():
        member = MemberTurn(
            name,
            lambda _: seat.signer,
            table.quorum.root,
            Questions(),
            tuple(seat.results),
            memory=seat.roots,
            **more,
        )
        take_turn(repository(seat), member, {}, table.now)
    return member


def own(seat: Seat) -> OwnRepository:
    """The member's repository as it is."""
    return seat.repository


def names(table: Table) -> set[str]:
    """The kinds of files of the release on the branch."""
    with table.common.files_at(table.tip) as files:
        return {name.split(".")[0] for name in files.names(f"releases/{RELEASE}")}


def waits(member: MemberTurn) -> set[str]:
    """The codes of what was not done."""
    return {error.code for error in member.waits.values()}


def git(folder: Path, *words: str) -> str:
    """git, without anybody's settings."""
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.invalid", *words],
        env={"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_nothing_is_shown_while_the_log_waits_and_one_line_ends_that(table: Table) -> None:
    """Neither claim nor result goes out; the turn names commit, file and command, and the command works."""
    table.by_hand("cat", garbage(table, INVENTED))
    stopped = turn(table, "ann", own, claim=table.claims[RELEASE])
    assert waits(stopped) == {"removed-entry", "log-waits", "no-claim"}
    assert names(table) == {"commit"}
    said = str(stopped.waits["log"])
    assert f"git revert {table.tip}" in said
    assert "(log/checkpoint and " in said
    clone = table.folder / "clone"
    git(table.folder, "clone", "--quiet", str(table.folder / "common.git"), str(clone))
    words = said[said.index("git revert ") :].rstrip(")").split()[1:]
    git(clone, *words, "--no-edit")
    git(clone, "push", "--quiet", "origin", "main")
    assert waits(turn(table, "ann", own, claim=table.claims[RELEASE])) == set()
    assert names(table) == {"commit", "claim", "publish", "rebuild"}


def test_what_was_signed_before_a_lost_push_is_not_shown_after_it(table: Table) -> None:
    """The push that wins stops the log: the signature that is kept for the next round stays at home."""

    class Overtaken(SharedStore):
        """Before the first push somebody appends what nobody signed."""

        lost = False

        def push(self, commit: str) -> Any:
            if not self.lost:
                type(self).lost = True
                table.by_hand("cat", garbage(table, INVENTED))
            return super().push(commit)

    member = turn(
        table,
        "ann",
        lambda seat: Overtaken(seat.repository.path, seat.repository.settings),
        claim=table.claims[RELEASE],
    )
    assert Overtaken.lost
    assert "removed-entry" in waits(member)
    assert names(table) == {"commit"}


def test_what_stays_at_home_gets_no_entry_either(table: Table) -> None:
    """The push that wins removes a logged dissent's file, and leaves the log, cosigned today, as it is."""
    results = table.seats["cat"].results
    table.seats["cat"].results = []
    turn(table, "ann", own, claim=table.claims[RELEASE])

    def dissents(folder: Path) -> None:
        with Folder(folder) as evidence:
            ask = read_ask(ReadOnce(evidence), folder, RELEASE)
            report = RebuildReport.read(json.loads((results[0] / "rebuild.json").read_bytes()))
            made = answer(ask, report, member="ben", dissent=True, reason="no", now=table.now())
            sign_answer(
                folder, ask.files, made, ask.members, table.seats["ben"].signer, journal=SignatureJournal()
            )

    table.by_hand("ben", dissents)
    table.seats["ben"].results = []
    for _ in range(2):
        table.turns(THREE)

    def removes(folder: Path) -> None:
        (path,) = folder.glob(f"releases/{RELEASE}/rebuild.ben.*intoto.json")
        path.unlink()

    class Overtaken(SharedStore):
        """Before the first push somebody removes the dissent."""

        lost = False

        def push(self, commit: str) -> Any:
            if not self.lost:
                type(self).lost = True
                table.by_hand("ann", removes)
            return super().push(commit)

    table.seats["cat"].results = results
    member = turn(table, "cat", lambda seat: Overtaken(seat.repository.path, seat.repository.settings))
    assert Overtaken.lost
    assert waits(member) == {"removed-entry"}
    with table.common.files_at(table.tip) as files:
        log = read_quorum_log(files, table.quorum.root, table.quorum.file)
        assert not [name for name in files.names(f"releases/{RELEASE}") if name.startswith("rebuild.cat.")]
    assert log is not None
    logged = [parse_entry(entry) for entry in log.entries]
    assert not [entry for entry in logged if (entry.kind, entry.member) == ("rebuild", "cat")]


def test_what_cannot_be_read_stops_no_decision(tmp_path: Path) -> None:
    """Under block, too: nobody cosigned it. What was cosigned and cannot be read is no decision."""
    quorum = Members.make(tmp_path / "desk", THREE, threshold=2)
    quorum.claim(report_json())
    for name in THREE:
        quorum.sign(name, report_json())
    for name in THREE:
        sign_log_as(quorum, name)
    with Folder(quorum.attestations) as folder:
        log = read_quorum_log(folder, quorum.root, quorum.file)
    assert log is not None
    write_log(quorum, [*log.entries, b"garbage"])
    outcome = quorum.decide()
    assert outcome.require().agreed == THREE
    assert "bad-log" in {warning.code for warning in outcome.warnings}
    with raises_code(FoundFalse, "bad-log", match="entry 4 cannot be read"):
        sign_log_as(quorum, "ann", append=False)


def test_an_archive_covers_no_other_source_and_nothing_later(tmp_path: Path) -> None:
    """Under an archived release's name anybody could have invented a commitment, or one of its own source."""
    quorum = Members.make(tmp_path / "desk", THREE, threshold=2, dissent="report")
    claim = quorum.claim(report_json())
    for name in THREE:
        quorum.sign(name, report_json())
        vote = make_vote(ARCHIVE, name, root=quorum.root, claim=claim, note="a" * 64, now=NOW)
        quorum.write(vote_name(vote), sign_vote(vote, quorum.signers[name]))
    sign_log_as(quorum, "ann")
    with Folder(quorum.attestations) as folder:
        log = read_quorum_log(folder, quorum.root, quorum.file)
    assert log is not None
    before = [each for each in log.entries if json.loads(each)["kind"] == "rebuild"]
    assert len(before) == 3
    for path in quorum.released.glob("rebuild.*"):
        path.unlink()
    sign_log_as(quorum, "ben", append=False)
    vote = replace(
        make_vote(COMMIT, "cat", root=quorum.root, claim=claim, note="b" * 64, now=NOW), sha256="c" * 64
    )
    elsewhere = replace(vote, tree_sha256=hex_digest("tree elsewhere", 256))
    for invented in (vote_entry(vote), vote_entry(elsewhere)):
        write_log(quorum, [*log.entries, invented])
        with raises_code(FoundFalse, "removed-entry"):
            sign_log_as(quorum, "cat", append=False)
    write_log(quorum, [vote_entry(elsewhere), *log.entries])
    (quorum.attestations / "log/cosignature.ann").unlink()
    (quorum.attestations / "log/cosignature.ben").unlink()
    with raises_code(FoundFalse, "removed-entry"):
        sign_log_as(quorum, "cat", append=False)


@pytest.fixture
def quorum(tmp_path: Path) -> Members:
    """Three members, of whom two decide, change and must have committed."""
    rules: dict[str, Any] = {"threshold": 2, "dissent": "report", "commitments": 2, "kinds": ("ed25519",)}
    return Members.make(tmp_path / "desk", THREE, **rules)


def logged(quorum: Members, *members: str) -> None:
    """Appended by the first, and cosigned by each."""
    for name in members:
        sign_log_as(quorum, name)


def committed(quorum: Members, name: str) -> str:
    """A member's commitment to the good result; the salt that opens it."""
    report, secret = RebuildReport.read(report_json()), new_secret(name, quorum.root)
    vote = make_vote(COMMIT, name, root=quorum.root, claim=report, note=secret.digest(report), now=NOW)
    quorum.write(vote_name(vote), sign_vote(vote, quorum.signers[name]))
    return secret.salt


def replaced_key(quorum: Members, name: str) -> None:
    """Version 2 of the members file, in which this member has another key, in force."""
    keys.generate_key(quorum.folder / "new-key", "ed25519")
    quorum.signers[name] = keys.load_signer(quorum.folder / "new-key")
    parties = tuple(
        Member(each.name, (quorum.signers[name].public,)) if each.name == name else each
        for each in quorum.file.members
    )
    quorum.install(quorum.file.successor(members=parties), [each for each in THREE if each != name])


def early(quorum: Members, claim: Claimed) -> str | None:
    """The code of why nothing may be shown yet, by the rule of turns and of lint-change."""
    with Folder(quorum.attestations) as folder:
        chain = follow(folder, quorum.root, seen=None, now=NOW)
        found = commitments_missing(ReleaseFiles(folder, RELEASE), chain, claim, quorum.root)
    return found.code if found else None


def test_a_key_replaced_between_commitment_and_reveal_loses_nothing(quorum: Members) -> None:
    """What the log has from the key of its time counts, for the turn and for the decision alike."""
    salts = {name: committed(quorum, name) for name in ("ann", "ben")}
    logged(quorum, *THREE)
    replaced_key(quorum, "ben")
    logged(quorum, *THREE)
    claim = quorum.claim(report_json())
    assert early(quorum, claim) is None
    for name, salt in salts.items():
        quorum.sign(name, report_json(), salt=salt)
    assert quorum.decide().require().agreed == ("ann", "ben")


def test_a_thief_commits_nothing_once_its_key_is_replaced(quorum: Members) -> None:
    """With an entry after the version that took the key away, its commitment counts in neither place."""
    salts = {name: committed(quorum, name) for name in ("ann", "ben")}
    (stolen,) = quorum.released.glob("commit.ben.*")
    late = stolen.read_bytes()
    stolen.unlink()
    replaced_key(quorum, "ben")
    logged(quorum, *THREE)
    stolen.write_bytes(late)
    logged(quorum, *THREE)
    claim = quorum.claim(report_json())
    assert early(quorum, claim) == "commitments-missing"
    for name, salt in salts.items():
        quorum.sign(name, report_json(), salt=salt)
    assert [reason.code for reason in quorum.decide().reasons] == ["too-few-commitments"]


def test_a_logged_statement_keeps_its_file(quorum: Members) -> None:
    """Signed again, it stands beside the first one, and who cosigns for the first time finds both."""
    quorum.claim(report_json())
    quorum.sign("ben", report_json())
    logged(quorum, "ann")
    journal = SignatureJournal()
    for hour in (2, 1):
        statement = quorum.statement("ann", report_json(), age=timedelta(hours=hour))
        with Folder(quorum.attestations) as folder:
            files = ReleaseFiles(ReadOnce(folder), RELEASE)
            signer = quorum.signers["ann"]
            sign_answer(quorum.attestations, files, statement, quorum.file, signer, journal=journal)
        logged(quorum, "ann")
    assert len(list(quorum.released.glob("rebuild.ann.*intoto.json"))) == 2
    logged(quorum, "cat")


def test_each_file_is_read_for_its_own_release(tmp_path: Path) -> None:
    """Junk in a thousand releases, once read for each of them, kept every append busy for hours."""
    quorum = Members.make(tmp_path, THREE, threshold=2)
    quorum.claim(report_json())
    for number in range(30):
        for word in range(5):
            put_file(quorum.attestations, f"releases/r{number}/revoke.ann.{word}.dsse.json", b"{}")
    reads: list[str] = []

    class Counted(ReadOnce):
        def read(self, name: str, limit: int = MAX_SIZE) -> bytes:
            reads.append(name)
            return super().read(name, limit)

    with Folder(quorum.attestations) as folder:
        assert appended(Counted(folder), quorum.root, seen=None).fresh
    assert max(Counter(name for name in reads if "revoke" in name).values()) == 1


def test_a_file_in_a_commitments_place_keeps_nobody_from_committing(tmp_path: Path) -> None:
    """Whoever may push put junk under the one name that each member's commitment had."""
    table = Table.make(tmp_path / "table", 4, names=THREE, threshold=2, commitments=2)
    table.everybody_builds(RELEASE)
    report = json.loads(table.claims[RELEASE].read_bytes())["source"]
    name = f"commit.ann.{report['tree_sha256'][:8]}-{report['lock_sha256'][:8]}.dsse.json"
    table.by_hand("cat", lambda folder: put_file(folder, f"releases/{RELEASE}/{name}", b"{}"))
    member = turn(table, "ann", own)
    assert member.done[0] == f"committed to a result for release {RELEASE}"
    again = turn(table, "ann", own)
    assert again.done == []
    assert waits(again) == {"no-claim"}
    with table.common.files_at(table.tip) as files:
        assert (
            len([each for each in files.names(f"releases/{RELEASE}") if each.startswith("commit.ann.")]) == 2
        )
