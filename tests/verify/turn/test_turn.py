"""``verify turn``: one member's whole part in git, and what a repository cannot do to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from dulwich.index import commit_tree
from dulwich.objects import Blob
from dulwich.repo import Repo

from ceremony.table import MAIN, Seat, Table, refusals
from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse, UsageError
from coattest.files import Folder
from coattest.strictjson import canonical
from coattest_verify.quorum.change.judge import judge_change
from coattest_verify.quorum.change.tree import two_commits
from coattest_verify.quorum.log.examine import read_quorum_log
from coattest_verify.quorum.releases import put_file
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.statement import Statement
from coattest_verify.turn.loop import take_turn
from coattest_verify.turn.repository import OwnRepository
from coattest_verify.turn.settings import TurnSettings, load_settings
from coattest_verify.turn.steps import MemberTurn, Questions
from support.raises import raises_code
from support.verify.desk import Desk
from support.verify.history.commits import AUTHOR, LINK, PROGRAM, SUBMODULE
from support.verify.logs import made_log

THREE = ("ann", "ben", "cat")
RELEASE = "0.1.0"
STATEMENT = "releases/0.1.0/rebuild.{}.intoto.json"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Three members, of whom two must agree, with results for a release that nobody has claimed yet."""
    made = Table.make(tmp_path / "table", 1, names=THREE, real=True, threshold=2)
    made.everybody_builds(RELEASE)
    return made


def member_of(table: Table, name: str, **changes: Any) -> MemberTurn:
    """Who takes a turn, with what is on this member's machine."""
    seat = table.seats[name]
    values: dict[str, Any] = {
        "signer": lambda _: seat.signer,
        "root": table.quorum.root,
        "questions": Questions(),
        "rebuilds": tuple(seat.results),
        "memory": seat.roots,
        **changes,
    }
    with seat.own_state():
        return MemberTurn(name, **values)


def turn(table: Table, seat: Seat, member: MemberTurn, repository: OwnRepository | None = None) -> Any:
    """The turn, in this member's state."""
    with seat.own_state():
        return take_turn(repository or seat.repository, member, {}, table.now)


def content(table: Table, name: str) -> bytes:
    """A file of the attestations on the branch."""
    with table.common.files_at(table.tip) as files:
        return files.read(name)


def replace_tip(table: Table, files: dict[str, tuple[int, bytes]]) -> None:
    """What whoever may push can commit: any mode, any name."""
    repository = Repo(str(table.folder / "common.git"))
    store, parent = repository.object_store, repository.refs[MAIN]
    listed = [
        (entry.path, entry.sha, entry.mode) for entry in store.iter_tree_contents(repository[parent].tree)
    ]
    for path, (mode, data) in files.items():
        blob = Blob.from_string(data)
        if mode != SUBMODULE:
            store.add_object(blob)
        listed.append((path.encode(), blob.id, mode))
    made = repository[parent].copy()
    made.tree, made.parents, made.message = commit_tree(store, listed), [parent], b"hostile"
    made.author = made.committer = AUTHOR
    store.add_object(made)
    repository.refs[MAIN] = made.id


def test_one_command_is_a_members_whole_part(table: Table) -> None:
    """As a program, with git itself: it claims, states, appends, and cosigns what it fetched back."""
    seat = table.seats["ann"]
    desk = Desk(seat.folder)
    (seat.folder / "config").mkdir(exist_ok=True)
    settings = seat.repository.settings
    (seat.folder / "config/turn.toml").write_text(f'format = "coattest-turn/v1"\nurl = "{settings.url}"\n')
    root = f"sha256:{table.quorum.root.hex()}"
    argv = ("turn", "--key", str(table.quorum.key("ann")), "--member", "ann", "--root", root)
    digest = Claimed.decode(table.claims[RELEASE].read_bytes()).sha256
    claimed = ("--claim", str(table.claims[RELEASE]), "--rebuild", f"out-{RELEASE}")
    asked = desk.run(*argv, *claimed, "--json")
    assert (asked.returncode, json.loads(asked.stdout)["published"]) == (2, False)
    assert {each["code"] for each in json.loads(asked.stdout)["waits"]} == {"not-confirmed", "no-claim"}
    claimed = (*claimed, "--expect", f"sha256:{digest}")
    done = desk.run(*argv, *claimed, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["published"], told["waits"]) == (0, True, []), done.stderr
    assert told["done"][:2] == [
        f"published the claim of release {RELEASE}",
        f"signed agree for release {RELEASE}",
    ]
    assert [line.split()[0] for line in told["done"][2:]] == ["appended", "cosigned"]
    again = json.loads(desk.run(*argv, *claimed, "--json").stdout)
    assert (again["published"], again["done"], again["tip"]) == (False, [], told["tip"])
    assert content(table, "log/cosignature.ann").startswith(b"coattest/")


def test_a_lost_push_is_made_again_with_the_same_signature(table: Table) -> None:
    """The append goes on top of the others' entries; nobody signs twice, and all cosign one log."""
    table.turns(["ann"], claim=("ann", RELEASE))
    signed: list[bytes] = []

    class First(OwnRepository):
        """Before the first push of this member another one gets its turn in."""

        def push(self, commit: str) -> Any:
            if not signed:
                with self.files_at(commit) as files:
                    signed.append(files.read(STATEMENT.format("ben")))
                other = member_of(table, "cat")
                turn(table, table.seats["cat"], other)
                assert other.waits == {}
            return super().push(commit)

    seat = table.seats["ben"]
    repository = First(table.quorum.root, seat.repository.settings, seat.folder / "state" / "turn")
    member = member_of(table, "ben")
    end = turn(table, seat, member, repository)
    assert (end.published, member.waits) == (True, {})
    assert content(table, STATEMENT.format("ben")) == signed[0]
    assert [outcome.agree for outcome in table.decisions(RELEASE).values()] == [THREE] * 3


def test_without_the_right_to_push_the_own_files_are_handed_in(table: Table) -> None:
    """The server refuses the branch: a branch of this member's files, without the log, that may be merged."""
    table.turns(["ann"], claim=("ann", RELEASE))
    bare = table.folder / "common.git"
    before, seat = table.tip, table.seats["ben"]

    class Protected(OwnRepository):
        """A server that takes no push to its main branch, and says so."""

        def push(self, commit: str) -> str:
            return "! [remote rejected] (protected branch hook declined)"

    member = member_of(table, "ben")
    own = Protected(table.quorum.root, seat.repository.settings, seat.folder / "state" / "turn")
    end = turn(table, seat, member, own)
    assert (end.published, end.branch, table.tip) == (False, "coattest/ben", before)
    with two_commits(bare, before, "coattest/ben", "attestations") as commits:
        verdict = judge_change(commits, table.quorum.root, seen=None, member="ben", others={})
    assert verdict.findings == ()
    assert {change.name.split(".")[0] for change in verdict.changes} == {
        "log/cosignature",
        "releases/0",
    }


def test_nothing_in_a_repository_is_run_or_followed(table: Table, tmp_path: Path) -> None:
    """Filters, links, programs, submodules and odd names stay where they are, and are not looked at."""
    canary = tmp_path / "canary"
    run = f"sh -c 'touch {canary}'"
    odd = {
        ".gitattributes": (0o100644, b"* filter=evil diff=evil merge=evil\n"),
        "attestations/log/.gitattributes": (0o100644, b"* filter=evil\n"),
        ".gitmodules": (0o100644, f'[submodule "x"]\n\tpath = x\n\turl = ext::{run}\n'.encode()),
        f"attestations/{STATEMENT.format('ben')}": (LINK, b"/etc/passwd"),
        "attestations/quorum.1.cat.x.dsse.json": (PROGRAM, b"#!/bin/sh\n"),
        "attestations/releases/0.1.0/evil": (SUBMODULE, b"x"),
    }
    replace_tip(table, odd)
    member = member_of(table, "ann", claim=table.claims[RELEASE])
    end = turn(table, table.seats["ann"], member)
    assert (end.published, member.waits) == (True, {})
    assert not canary.exists()
    tree = Repo(str(table.folder / "common.git"))
    store = tree.object_store
    found = {
        entry.path.decode(): entry.mode for entry in store.iter_tree_contents(tree[tree.refs[MAIN]].tree)
    }
    assert {path: found[path] for path in odd} == {path: mode for path, (mode, _) in odd.items()}
    assert f"attestations/{STATEMENT.format('ann')}" in found


def test_the_users_git_settings_do_not_count(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a configuration in HOME nor variables send the turn elsewhere, or start anything."""
    canary = tmp_path / "canary"
    home = tmp_path / "home"
    home.mkdir()
    hooks = home / "hooks"
    hooks.mkdir()
    for name in ("pre-push", "reference-transaction", "post-commit"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {canary}\n")
        (hooks / name).chmod(0o755)
    (home / ".gitconfig").write_text(
        f'[core]\n\thooksPath = {hooks}\n[url "{tmp_path}/nowhere"]\n\tinsteadOf = {table.folder}\n'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_SSH_COMMAND", f"touch {canary}")
    member = member_of(table, "ann", claim=table.claims[RELEASE])
    assert turn(table, table.seats["ann"], member).published
    assert not canary.exists()


def test_version_1_gets_its_signatures_by_turns(tmp_path: Path) -> None:
    """Until it has all of them a turn does nothing else; another quorum's version 1 is not signed."""
    table = Table.make(tmp_path / "table", 3, names=THREE, real=True, threshold=2, unsigned=("ben", "cat"))
    first = member_of(table, "ben")
    assert turn(table, table.seats["ben"], first).published
    assert [error.code for error in first.waits.values()] == ["members-unsigned"]
    assert first.done == ["signed version 1 of the members file"]
    other = member_of(table, "cat", root=bytes(32))
    with raises_code(FoundFalse, "members-wrong-root"):
        turn(table, table.seats["cat"], other)
    assert other.done == []
    last = member_of(table, "cat")
    assert turn(table, table.seats["cat"], last).published
    assert last.waits == {}


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c id",
        "-oProxyCommand=id",
        "--upload-pack=id",
        "fd::17",
        "git://example.org/x",
        "x y",
        "",
        "hub.git",
    ],
)
def test_an_address_names_no_program(url: str, tmp_path: Path) -> None:
    """Only https, ssh and paths are addresses."""
    path = tmp_path / "turn.toml"
    path.write_text(f'format = "coattest-turn/v1"\nurl = "{url}"\n')
    with raises_code(UsageError, "malformed", match=r"an absolute path, without spaces|not a text"):
        load_settings(path)


def test_settings_say_where_and_nothing_more(tmp_path: Path) -> None:
    """All of them, the shortest ones, and the mistakes; a missing file says what to write."""
    path = tmp_path / "turn.toml"
    first = 'format = "coattest-turn/v1"\nurl = "git@example.org:quorum.git"\n'
    path.write_text(first)
    assert load_settings(path) == TurnSettings("git@example.org:quorum.git")
    path.write_text(first + 'branch = "a/b"\nfolder = "x/y"\npush = false\nhand-in = "/srv/fork.git"\n')
    assert load_settings(path).own_url == "/srv/fork.git"
    for wrong in ('branch = "../x"\n', 'folder = "../x"\n', 'folder = "/x"\n', "push = 1\n", "other = 1\n"):
        path.write_text(first + wrong)
        with raises_code(UsageError, "malformed"):
            load_settings(path)
    with raises_code(UsageError, "usage", match="two lines are enough"):
        load_settings(tmp_path / "absent")


def test_an_invented_entry_is_not_cosigned_and_silences_nobody(table: Table) -> None:
    """The log waits, with the reason; what the member states goes out, and nothing is appended after it."""
    table.turns(["ann"], claim=("ann", RELEASE))

    def invent(folder: Path) -> None:
        with Folder(folder) as evidence:
            log = read_quorum_log(evidence, table.quorum.root, table.quorum.file)
        assert log is not None
        facts = {"release": "0.9.0", "tree_sha256": "0" * 64, "lock_sha256": "0" * 64}
        entry = canonical({"kind": "revoke", "sha256": "0" * 64, "member": "cat", "facts": facts})
        for name, data in made_log([*log.entries, entry], table.quorum.root).items():
            put_file(folder, name, data)

    table.by_hand("ann", invent)
    before = content(table, "log/checkpoint")
    member = member_of(table, "ben")
    assert turn(table, table.seats["ben"], member).published
    assert [error.code for error in member.waits.values()] == ["removed-entry"]
    assert content(table, STATEMENT.format("ben"))
    assert content(table, "log/checkpoint") == before
    with pytest.raises(CoattestError):
        content(table, "log/cosignature.ben")


class No(Questions):
    """Somebody who says no to statements."""

    def statement(self, statement: Statement, claim: Claimed, *, looked_at: bool) -> None:
        raise EnvironmentFailure("nothing was signed: the answer was no", code="declined")


def test_a_no_stops_its_own_matter_only(table: Table) -> None:
    """The claim goes out and is cosigned; the statement waits, and is asked once."""
    member = member_of(table, "ann", claim=table.claims[RELEASE], questions=No())
    turn(table, table.seats["ann"], member)
    assert [error.code for error in member.waits.values()] == ["declined"]
    assert json.loads(content(table, f"releases/{RELEASE}/claim.json"))["release"] == RELEASE
    with pytest.raises(CoattestError):
        content(table, STATEMENT.format("ann"))


def test_a_result_that_differs_is_not_signed(table: Table) -> None:
    """It is told, with the way to dissent; the others go on."""
    table.turns(["ann"], claim=("ann", RELEASE))
    shutil.rmtree(table.seats["ben"].folder / f"out-{RELEASE}")
    table.seats["ben"].results.clear()
    table.build(table.seats["ben"], RELEASE, b"evil")
    done = table.turns(["ben", "cat"])
    assert [error.code for error in refusals(done).values()] == ["mismatch"]
    assert done["cat"].waits == {}


def test_nothing_is_shown_before_the_commitments(tmp_path: Path) -> None:
    """Neither the claim nor a result, until enough members committed, and cosigned that."""
    table = Table.make(tmp_path / "table", 2, names=THREE, real=True, threshold=2, commitments=2)
    table.everybody_builds(RELEASE)
    first = table.turns(["ann"], claim=("ann", RELEASE))
    assert {error.code for error in refusals(first).values()} == {"commitments-missing", "no-claim"}
    table.turns(THREE)
    table.turns(THREE)
    with pytest.raises(CoattestError):
        content(table, f"releases/{RELEASE}/claim.json")
    assert refusals(table.turns(["ann"], claim=("ann", RELEASE))) == {}
    assert refusals(table.turns(["ben", "cat"])) == {}
    assert refusals(table.turns(THREE)) == {}
    outcomes = table.decisions(RELEASE)
    assert [outcome.agree for outcome in outcomes.values()] == [THREE] * 3
    assert {name: outcome.reasons for name, outcome in outcomes.items()} == dict.fromkeys(THREE, ())
