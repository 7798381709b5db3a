"""The page on protected branches and CI: its scripts, each in an environment of a few variables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.guides.blocks import blocks_of
from support.verify.history.commits import History, read_folder
from support.verify.members import Members, report_json

PAGE = "docs/ci.md"
PATH = f"{Path(sys.executable).parent}:/usr/bin:/bin"


def script(command: str) -> str:
    """The page's script that has this command in it."""
    (found,) = [each.text for block in blocks_of(PAGE) for each in block.commands if command in each.text]
    return found


def run(text: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a machine of CI does: nothing in the environment but these variables."""
    return subprocess.run(
        ["bash", "-eu"],
        input=text,
        cwd=folder,
        env={"PATH": PATH, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", ['--repository "$REPOSITORY"', "git init"])
def test_a_branch_is_judged(tmp_path: Path, command: str) -> None:
    """A member's branch may be merged; the same branch with another member's file removed may not."""
    quorum = Members.make(tmp_path / "desk", ["buyer-1", "buyer-2"])
    quorum.claim(report_json())
    quorum.sign("buyer-1", report_json())
    history = History(tmp_path / "repository")
    base = history.commit(read_folder(quorum.attestations))
    history.repository.refs[b"refs/heads/protected"] = base.encode()
    quorum.sign("buyer-2", report_json())
    files = read_folder(quorum.attestations)
    for code in (0, 1):
        if code == 1:
            del files["attestations/releases/0.1.0/rebuild.buyer-1.intoto.json"]
        head = history.commit(files, base)
        folder = tmp_path / f"job-{code}"
        folder.mkdir()
        done = run(
            script(command),
            folder,
            ROOT=f"sha256:{quorum.root.hex()}",
            COATTEST_CONFIG=str(tmp_path / "config"),
            BASE=base,
            HEAD=head,
            REPOSITORY=str(history.folder),
            URL=str(history.folder),
            HEAD_REF="refs/heads/main",
            BASE_REF="refs/heads/protected",
        )
        assert done.returncode == code, done.stderr
    assert "rebuild.buyer-1.intoto.json: is removed" in done.stderr
