"""The page on protected branches and CI: its scripts, each in an environment of a few variables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from coattest_build.ownwork import COMPARED, sha256_hex
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.signatures.keys import generate_key
from support.guides.blocks import blocks_of
from support.verify.desk import Desk
from support.verify.history.commits import History, read_folder
from support.verify.members import Members, claim_json, report_json

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


def keygen(folder: Path, name: str) -> str:
    """A member's key, encrypted: the PEM text that a secret of CI holds."""
    public = generate_key(folder / f"{name}.key", passphrase=b"open sesame")
    (folder / f"{name}.key.pub").write_bytes(public.pem)
    return (folder / f"{name}.key").read_text()


def stand_ins(folder: Path) -> Path:
    """``eif build`` and ``verify rebuild`` that found their images built; the other commands are real."""
    (folder / "bin").mkdir()
    (folder / "bin/eif").write_text("#!/bin/sh\nexit 0\n")
    real = Path(sys.executable).with_name("verify")
    (folder / "bin/verify").write_text(
        f'#!/bin/sh\nif [ "$1" = rebuild ]; then exit "$REBUILT"; fi\nexec {real} "$@"\n'
    )
    for name in ("eif", "verify"):
        (folder / "bin" / name).chmod(0o755)
    return folder / "bin"


@pytest.mark.slow
def test_a_member_commits_and_reveals_in_two_jobs(tmp_path: Path) -> None:
    """The key and its passphrase come by descriptors; the two jobs share the state, and nobody is asked.

    Nothing is signed after another exit code of the rebuild than 0.
    """
    desk = Desk(tmp_path)
    members = []
    secrets = {name: keygen(tmp_path, name) for name in ("buyer-1", "buyer-2")}
    for name in secrets:
        members += ["--member", f"{name}={name}.key.pub"]
    (tmp_path / "attestations").mkdir()
    rules = ("--threshold", "2", "--commitments", "2")
    root = desk.json("members", "init", *members, *rules)["root"]
    (tmp_path / "pass").write_text("open sesame\n")
    for name in secrets:
        desk.ok(
            *("members", "countersign", "--key", f"{name}.key", "--member", name),
            *("--passphrase-file", "pass"),
        )
    report = desk.images("out")
    path = f"{stand_ins(tmp_path)}:{PATH}"
    settings = {"PATH": path, "ROOT": root, "SOURCE": "source", "RELEASE": "0.1.0", "REBUILT": "0"}
    jobs = {
        name: {
            **settings,
            "MEMBER": name,
            "KEY": secret,
            "PASSPHRASE": "open sesame",
            "COATTEST_STATE": str(tmp_path / "state"),
            "COATTEST_CONFIG": str(tmp_path / f"config-{name}"),
        }
        for name, secret in secrets.items()
    }
    for job in jobs.values():
        done = run(script("eif build"), tmp_path, **job)
        assert done.returncode == 0, done.stderr
    for job in jobs.values():
        done = run(script("verify log cosign"), tmp_path, **job)
        assert done.returncode == 0, done.stderr
    claim = tmp_path / "attestations/releases/0.1.0/claim.json"
    claim.write_text(json.dumps(claim_json(report)))
    built = sha256_hex((tmp_path / "out/rebuild.json").read_bytes())
    desk.own_work.note(COMPARED, built, Claimed.decode(claim.read_bytes()).sha256)
    desk.ok(
        *("release", "publish", "--key", "buyer-1.key", "--member", "buyer-1", "--passphrase-file", "pass"),
        *("--root", root, "--rebuild", "out"),
    )
    for code in ("1", "3", "70"):
        done = run(script("verify rebuild"), tmp_path, **{**jobs["buyer-1"], "REBUILT": code})
        assert str(done.returncode) == code
    assert not list(claim.parent.glob("rebuild.*"))
    for job in jobs.values():
        done = run(script("verify rebuild"), tmp_path, **job)
        assert done.returncode == 0, done.stderr
    for job in jobs.values():
        done = run(script("verify log cosign"), tmp_path, **job)
        assert done.returncode == 0, done.stderr
    assert desk.json("quorum", "--root", root)["agree"] == ["buyer-1", "buyer-2"]
