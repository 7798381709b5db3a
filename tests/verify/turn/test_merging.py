"""What git itself makes of the attestations: members' files merge, the log does not, and no byte changes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ceremony.table import Table
from coattest_verify.quorum.cosigning import append_log, cosign_log
from support.verify.members import report_json

THREE = ("ann", "ben", "cat")


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A claimed release and its publisher's statement, logged; the others have not answered."""
    made = Table.make(tmp_path / "table", 1, names=THREE, threshold=2)
    made.everybody_builds("0.1.0")
    made.turns(["ann"], claim=("ann", "0.1.0"))
    return made


def git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """git, without anybody's settings."""
    return subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.invalid", *words],
        env={"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def clone(table: Table, name: str, *options: str) -> Path:
    """A member's clone, checked out."""
    folder = table.folder / f"clone-{name}"
    done = git(table.folder, *options, "clone", "--quiet", str(table.folder / "common.git"), str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def answered(table: Table, name: str, folder: Path, *, append: bool) -> None:
    """This member's statement and cosignature in its clone, committed; with an append where that is asked."""
    attestations = folder / "attestations"
    table.quorum.claim(report_json())
    path = table.quorum.sign(name, report_json())
    (attestations / "releases/0.1.0" / path.name).write_bytes(path.read_bytes())
    root, signer = table.quorum.root, table.quorum.signers[name]
    with table.seats[name].own_state():
        if append:
            append_log(attestations, root, seen=None)
        cosign_log(attestations, root, name, signer, seen=None, now=table.now())
    assert git(folder, "add", "--all").returncode == 0
    done = git(folder, "commit", "--quiet", "--message", name)
    assert done.returncode == 0, done.stderr


def test_members_files_merge_without_a_hand(table: Table) -> None:
    """Statements and cosignatures of two members, made at the same time in two clones."""
    ben, cat = clone(table, "ben"), clone(table, "cat")
    answered(table, "ben", ben, append=False)
    answered(table, "cat", cat, append=False)
    done = git(ben, "pull", "--quiet", "--no-rebase", "--no-edit", str(cat), "main")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("releases/0.1.0/rebuild.cat.intoto.json", "log/cosignature.cat"):
        assert (ben / "attestations" / name).read_bytes() == (cat / "attestations" / name).read_bytes()


def test_two_logs_are_never_merged(table: Table) -> None:
    """Two appends from one tip conflict, in files that stay whole: the loser appends again."""
    ben, cat = clone(table, "ben"), clone(table, "cat")
    answered(table, "ben", ben, append=True)
    answered(table, "cat", cat, append=True)
    mine = (ben / "attestations/log/checkpoint").read_bytes()
    done = git(ben, "pull", "--quiet", "--no-rebase", "--no-edit", str(cat), "main")
    assert done.returncode != 0
    assert "CONFLICT" in done.stdout
    assert (ben / "attestations/log/checkpoint").read_bytes() == mine


@pytest.mark.parametrize("setting", ["core.autocrlf=true", "core.eol=crlf", "core.autocrlf=input"])
def test_no_setting_of_a_clone_changes_a_byte(table: Table, setting: str) -> None:
    """A machine that writes other line ends gets the files as they were signed, and has nothing to commit."""
    folder = clone(table, "ben", "-c", setting)
    with table.common.files_at(table.tip) as files:
        there = {name: files.read(name) for name in files.entries}
    assert {name: (folder / "attestations" / name).read_bytes() for name in there} == there
    assert git(folder, "-c", setting, "status", "--porcelain").stdout == ""
