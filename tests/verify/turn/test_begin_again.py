"""A log that is lost for good, in git: members begin it again by turns, and go on."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

import pytest
from dulwich.repo import Repo

from ceremony.story import restart_log
from ceremony.table import MAIN, Table, refusals
from coattest.errors import EnvironmentFailure
from coattest_verify.quorum.change.judge import judge_change
from coattest_verify.quorum.change.tree import two_commits
from coattest_verify.quorum.members.chain import follow
from support.raises import raises_code
from support.verify.desk import Desk
from support.verify.signing_world import NAMES, SigningWorld

THREE = ("ann", "ben", "cat")
RELEASE = "0.1.0"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Three members who decided on a release, and a branch that somebody has set back for good."""
    made = Table.make(tmp_path / "table", 1, names=THREE, threshold=2)
    made.everybody_builds(RELEASE)
    made.turns(["ann"], claim=("ann", RELEASE))
    kept = made.tip
    made.turns(THREE)
    made.turns(THREE)
    assert {name: found.reasons for name, found in made.decisions(RELEASE).items()} == dict.fromkeys(
        THREE, ()
    )
    Repo(str(made.folder / "common.git")).refs[MAIN] = kept.encode()
    return made


def test_members_begin_the_log_again_by_turns(table: Table) -> None:
    """Nobody can go on before; each signs in its turn; then everybody decides, and no one is locked out."""
    with raises_code(EnvironmentFailure, "log-shrunk"):
        table.turns(["ben"])
    table.by_hand("ann", restart_log)
    table.everybody_builds(RELEASE)
    for _ in range(3):
        done = table.turns(THREE)
    assert refusals(done) == {}
    assert all(found.reasons == () for found in table.decisions(RELEASE).values())
    seen = {name: seat.roots.seen(table.quorum.root) for name, seat in table.seats.items()}
    assert all(each and each.version == 2 and each.log and each.log.version == 2 for each in seen.values())
    with table.common.files_at(table.tip) as files:
        chain = follow(files, table.quorum.root, seen=None, now=table.clock)
        assert files.read("log/checkpoint").splitlines()[0].endswith(chain.restart.encode())


@pytest.mark.slow
def test_each_commit_on_the_way_may_be_merged(table: Table) -> None:
    """``lint-change`` has nothing against the proposal, a signature, or the log that is begun again."""
    table.by_hand("ann", restart_log)
    for _ in range(3):
        table.turns(THREE)
    repository = Path(table.folder / "common.git")
    commits = table.commits()
    for base, head in pairwise(commits):
        with two_commits(repository, base, head, "attestations") as both:
            verdict = judge_change(both, table.quorum.root, seen=None, member=None, others={})
        assert verdict.findings == ()


def test_the_commands_begin_it_again(tmp_path: Path) -> None:
    """By hand: the proposal writes the log that it names, and every signature says what it does."""
    world = SigningWorld(tmp_path / "world")
    world.claim()
    for name in NAMES:
        world.quorum.sign(name, world.report, time=datetime.now(timezone.utc).replace(microsecond=0))
    folder = ("--attestations", str(world.attestations))
    desk, decide = Desk(world.desk.folder), ("quorum", *world.quorum.deciding())

    def log_it() -> None:
        desk.ok("log", "append", *folder, *world.root)
        for name in NAMES:
            desk.ok("log", "cosign", *world.who(name), *world.root)

    log_it()
    desk.ok(*decide)
    shutil.rmtree(world.attestations / "log")
    assert desk.run(*decide).returncode == 3
    desk.ok("members", "enroll", "--restart-log", *folder)
    shown = desk.run("members", "show", *folder, *world.root, "--json")
    point = json.loads(shown.stdout)["restart"]
    tiles = {path: path.read_bytes() for path in (world.attestations / "log").rglob("*") if path.is_file()}
    shutil.rmtree(world.attestations / "log")
    refused = desk.run("members", "countersign", *world.who(NAMES[0]))
    assert refused.returncode == 1
    assert f"goes on from {point['size']} entries, root {point['root']}" in refused.stderr
    assert "this version begins the log again" in refused.stderr
    for path, content in tiles.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name in NAMES[:2]:
        desk.ok("members", "countersign", *world.who(name))
    desk.ok(*decide)
    log_it()
    desk.ok(*decide)
    assert (
        json.loads((desk.folder / "config/roots.json").read_text())["roots"].popitem()[1]["log"]["version"]
        == 2
    )
