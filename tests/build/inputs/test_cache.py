"""A cache into which somebody else wrote, such as one that a checkout brought: nothing leads out of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from coattest.errors import UsageError
from coattest.files import write_plain
from coattest_build import kernel, sandbox
from coattest_build.inputs.cache import Cache, cache_folder, exclusive
from coattest_build.inputs.fetch import fetch_one
from coattest_build.inputs.lock import LockedPackage
from coattest_verify.signatures.durable import DurableFolder
from support.build.shell_root import make_shell_root
from support.raises import raises_code

LIMITS = sandbox.Limits(seconds=600, memory=1 << 30, processes=32, disk=1 << 40, output=1 << 20)

PLACES: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda path, home: path.symlink_to(home),
    "new-link": lambda path, home: path.symlink_to(home.with_name("new")),
    "fifo": lambda path, _: os.mkfifo(path),
    "device": lambda path, _: path.symlink_to("/dev/null"),
    "folder": lambda path, _: path.mkdir(),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A file of the user's own, in a folder of its own."""
    (tmp_path / "home").mkdir()
    path = tmp_path / "home/.bashrc"
    path.write_text("# my shell\n")
    return path


def unchanged(home: Path) -> None:
    """Nothing was written there."""
    assert home.read_text() == "# my shell\n"
    assert [path.name for path in home.parent.iterdir()] == [home.name]


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("append", [False, True])
def test_only_a_plain_file_is_written(tmp_path: Path, home: Path, kind: str, append: bool) -> None:
    """A pipe does not hang, a link is not followed: exit code 2."""
    PLACES[kind](tmp_path / "file", home)
    with raises_code(UsageError, "not-a-file"), write_plain(tmp_path / "file", append=append):
        pass
    unchanged(home)


def test_a_plain_file_is_made_replaced_or_added_to(tmp_path: Path) -> None:
    """As the caller says."""
    for append, expected in ((False, b"ab"), (True, b"abab"), (False, b"ab")):
        with write_plain(tmp_path / "file", append=append) as file:
            file.write(b"ab")
        assert (tmp_path / "file").read_bytes() == expected


@pytest.mark.parametrize("kind", ["link", "new-link", "fifo"])
def test_a_log_goes_through_no_link(tmp_path: Path, home: Path, kind: str) -> None:
    """The compiler's words are the source's: appended to a shell's file they would run at the next login."""
    root = make_shell_root(tmp_path / "root")
    PLACES[kind](tmp_path / "log", home)
    with raises_code(UsageError, "not-a-file"):
        sandbox.run_limited(
            root, ["/bin/sh", "-c", "echo touch pwned"], limits=LIMITS, env={}, log=tmp_path / "log"
        )
    unchanged(home)


@pytest.mark.parametrize("kind", ["link", "new-link", "fifo"])
def test_a_lock_of_the_cache_is_a_plain_file(tmp_path: Path, home: Path, kind: str) -> None:
    """Opening a pipe for writing would wait for its reader."""
    PLACES[kind](tmp_path / "lock", home)
    with raises_code(UsageError, "not-a-file"), exclusive(tmp_path / "lock"):
        pass
    unchanged(home)


@pytest.mark.parametrize("kind", ["link", "new-link", "fifo"])
def test_the_lock_of_a_journal_is_a_plain_file(tmp_path: Path, home: Path, kind: str) -> None:
    """Opened for writing, a link would have emptied what it leads to."""
    PLACES[kind](tmp_path / ".lock", home)
    with raises_code(UsageError, "not-a-file"), DurableFolder(tmp_path).locked():
        pass
    unchanged(home)


@pytest.mark.parametrize("kind", ["link", "new-link", "fifo"])
def test_an_unfinished_download_is_a_plain_file(tmp_path: Path, home: Path, kind: str) -> None:
    """What a mirror sends does not land where a link leads."""
    content = b"pinned"
    (tmp_path / "mirror/pool/main/p/pkg").mkdir(parents=True)
    path = "pool/main/p/pkg/pkg_1_all.deb"
    (tmp_path / "mirror" / path).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    package = LockedPackage("pkg", "1", "all", len(content), digest, path, ("runtime",))
    cache = Cache(tmp_path / "cache")
    PLACES[kind](cache.partial(digest), home)
    with raises_code(UsageError, "not-a-file"):
        fetch_one(package, cache, [(tmp_path / "mirror").as_uri()], lambda _: None)
    unchanged(home)


@pytest.mark.parametrize("kind", PLACES)
def test_a_kernel_of_odd_files_is_no_kernel(tmp_path: Path, home: Path, kind: str) -> None:
    """It is compiled then."""
    (tmp_path / "kernel").mkdir()
    PLACES[kind](tmp_path / "kernel/outputs.json", home)
    assert kernel._load(tmp_path / "kernel", "0" * 64) is None


def test_a_cache_is_not_looked_for_in_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relative XDG_CACHE_HOME does not count (XDG Base Directory Specification)."""
    monkeypatch.delenv("COATTEST_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", ".", "cache", "../cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / ".cache/coattest"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c/coattest"
