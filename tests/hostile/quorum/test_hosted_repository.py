"""A repository on a disk of this machine: git serves there, and runs nothing that its host has set."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure
from coattest_verify.turn.objects import write_commit
from coattest_verify.turn.repository import OwnRepository
from coattest_verify.turn.settings import TurnSettings
from support.raises import raises_code

WHO = ("-c", "user.name=t", "-c", "user.email=t@t")
HOOKS = (
    *("pre-receive", "update", "proc-receive", "post-receive", "post-update"),
    *("reference-transaction", "push-to-checkout", "pre-auto-gc", "pre-commit", "post-checkout"),
)


def git(where: Path, *words: str) -> str:
    """What git says in a folder."""
    done = subprocess.run(["git", *WHO, *words], cwd=where, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """What a program of the host's makes when it runs."""
    return tmp_path / "canary"


@pytest.fixture
def hosted(tmp_path: Path) -> Path:
    """A repository with a main branch, checked out in it."""
    folder = tmp_path / "hosted"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "attestations").mkdir()
    (folder / "attestations/quorum.toml").write_text("x = 1\n")
    (folder / ".gitattributes").write_text("* filter=evil diff=evil\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=first")
    return folder


def _program(folder: Path, canary: Path) -> str:
    path = folder.parent / "evil"
    path.write_text(f"#!/bin/sh\necho ran >> {canary}\ncat\n")
    path.chmod(0o755)
    return str(path)


def hooks(hosted: Path, canary: Path) -> None:
    """Every hook that a push could run, by its place and by a setting; the folder that is checked out."""
    git(hosted, "checkout", "--quiet", "--detach")
    for folder in (hosted / ".git/hooks", hosted / "more"):
        folder.mkdir(exist_ok=True)
        for name in HOOKS:
            (folder / name).write_text(f"#!/bin/sh\necho {name} >> {canary}\n")
            (folder / name).chmod(0o755)
    git(hosted, "config", "receive.procReceiveRefs", "refs/heads/none")
    git(hosted, "config", "core.hooksPath", str(hosted / "more"))


def alternates(hosted: Path, canary: Path) -> None:
    """A program that lists the refs of another repository."""
    git(hosted, "checkout", "--quiet", "--detach")
    git(hosted.parent, "clone", "--quiet", "--bare", str(hosted), "other.git")
    (hosted / ".git/objects/info/alternates").write_text(f"{hosted.parent}/other.git/objects\n")
    git(hosted, "config", "core.alternateRefsCommand", _program(hosted, canary))


def checked_out(hosted: Path, canary: Path) -> None:
    """A branch that is checked out, and whose files a push would write, through filters of the host's."""
    program = _program(hosted, canary)
    for name, value in (
        ("receive.denyCurrentBranch", "updateInstead"),
        ("filter.evil.smudge", program),
        ("filter.evil.clean", program),
        ("filter.evil.process", program),
        ("core.fsmonitor", program),
        ("gc.auto", "1"),
        ("gc.recentObjectsHook", program),
    ):
        git(hosted, "config", name, value)


def lacking(hosted: Path, canary: Path) -> None:
    """Objects that are to be fetched from elsewhere, by a program."""
    program = _program(hosted, canary)
    missing = git(hosted, "rev-parse", "HEAD:attestations/quorum.toml")
    (hosted / ".git/objects" / missing[:2] / missing[2:]).unlink()
    for name, value in (
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", str(hosted.parent)),
        ("remote.origin.uploadpack", program),
        ("protocol.allow", "always"),
        ("uploadpack.packObjectsHook", program),
    ):
        git(hosted, "config", name, value)


@pytest.mark.parametrize("spoil", [hooks, alternates, checked_out, lacking])
@pytest.mark.parametrize("scheme", ["file://", ""])
def test_a_turn_runs_nothing_of_who_hosts_the_repository(
    spoil: Callable[[Path, Path], None], scheme: str, hosted: Path, canary: Path, tmp_path: Path
) -> None:
    """Fetching, pushing and handing in, whatever stands in its settings."""
    spoil(hosted, canary)
    canary.unlink(missing_ok=True)  # making it ran some
    own = OwnRepository(bytes(32), TurnSettings(f"{scheme}{hosted}"), tmp_path / "state")
    pushed = False
    try:
        tip = own.fetch()
        made = git(own.path, "commit-tree", f"{tip}^{{tree}}", "-p", tip, "-m", "turn")
        pushed = own.push(made) is None
        own.hand_in(made, "buyer-1")
    except EnvironmentFailure:
        assert spoil is lacking
    assert not canary.exists(), canary.read_text()
    assert pushed == (spoil in {hooks, alternates})


@pytest.mark.parametrize("kind", ["file", "link", "submodule"])
def test_a_file_where_a_folder_belongs_ends_a_turn(kind: str, hosted: Path, tmp_path: Path) -> None:
    """``attestations/log`` that is none: nothing is written around it, and it is no bug of ours."""
    place = hosted / "attestations/log"
    if kind == "submodule":
        entry = f"160000,{git(hosted, 'rev-parse', 'HEAD')},attestations/log"
        git(hosted, "update-index", "--add", "--cacheinfo", entry)
    elif kind == "link":
        place.symlink_to("/etc")
    else:
        place.write_text("")
    if kind != "submodule":
        git(hosted, "add", "--all")
    git(hosted, "commit", "--quiet", "--message=second")
    own = OwnRepository(bytes(32), TurnSettings(str(hosted)), tmp_path / "state")
    tip = own.fetch()
    for changes in ({"log/checkpoint": b"x"}, {"log/tile/0/000": b"x", "other": b"y"}):
        with (
            own.files_at(tip) as files,
            raises_code(EnvironmentFailure, "bad-repository", match="in the place of a folder"),
        ):
            write_commit(
                own.path,
                files,
                "attestations",
                changes,
                author="m",
                message="m",
                now=datetime.now(timezone.utc),
            )
