"""Files written whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from coattest import files
from coattest.errors import UsageError


def test_a_new_file_has_no_name_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is killed before the link leaves nothing behind; what is there stays."""
    names: list[list[str]] = []
    link = os.link

    def watched(*arguments: Any, **options: Any) -> None:
        names.append([item.name for item in tmp_path.iterdir()])
        link(*arguments, **options)

    monkeypatch.setattr(os, "link", watched)
    place = tmp_path / "result"
    assert files.write_new(place, b"first", 0o600)
    assert names == [[]]
    assert not files.write_new(place, b"second")
    assert names == [[], ["result"]]
    assert place.read_bytes() == b"first"
    assert place.stat().st_mode & 0o777 == 0o600


def test_without_nameless_files_a_temporary_one_is_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without O_TMPFILE."""
    real = os.open

    def refused(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no such files here")
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refused)
    place = tmp_path / "result"
    assert files.write_new(place, b"first")
    assert not files.write_new(place, b"second")
    assert [item.name for item in tmp_path.iterdir()] == ["result"]
    assert place.read_bytes() == b"first"


def test_a_relative_path_leads_through_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout's folder may be a link out of it; an absolute path is the caller's own."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private/image.eif").write_bytes(b"secret")
    checkout = tmp_path / "checkout"
    (checkout / "deep/er").mkdir(parents=True)
    (checkout / "deep/er/image.eif").write_bytes(b"own")
    (checkout / "files").symlink_to(tmp_path / "private")
    monkeypatch.chdir(checkout)
    for name in ("deep/er/image.eif", "./deep/../deep/er/image.eif"):
        assert files.read_bounded(Path(name), 10) == b"own"
    for name in ("files/image.eif", "deep/../files/image.eif"):
        with pytest.raises(UsageError, match=r"files/image\.eif: .*link"):
            files.read_bounded(Path(name), 10)
    assert files.read_bounded(checkout / "files/image.eif", 10) == b"secret"
    with pytest.raises(FileNotFoundError):
        files.read_bounded(Path("deep/none/image.eif"), 10)
    with pytest.raises(NotADirectoryError):
        files.read_bounded(Path("deep/er/image.eif/x"), 10)


@pytest.mark.parametrize("write", [files.write_atomic, files.write_new])
def test_a_file_that_cannot_be_written_is_named(write: Any, tmp_path: Path) -> None:
    """Not the temporary file in its place, and not nothing at all; what was written of it is gone."""
    place = tmp_path / "result"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as full:
            write(place, bytes(64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (full.value.errno, full.value.filename) == (errno.EFBIG, str(place))
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="No such file") as nowhere:
        write(Path("/proc/result"), b"x")
    assert nowhere.value.filename == "/proc/result"


def test_a_folder_that_cannot_be_made_is_named_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative one is made step by step, and the step alone would say nothing."""
    monkeypatch.chdir("/")
    with pytest.raises(OSError, match="No such file") as nowhere:
        files.make_folder(Path("proc/new/folder"))
    assert nowhere.value.filename == "proc/new/folder"


def test_a_pipe_that_a_shell_makes_is_refused_with_what_to_do() -> None:
    """``command <(other)`` names a link in /dev/fd; what it leads to has no name to give instead."""
    reading, writing = os.pipe()
    try:
        with pytest.raises(UsageError, match="write it to a file first, or give - where") as caught:
            files.read_whole(Path(f"/dev/fd/{reading}"))
    finally:
        os.close(reading)
        os.close(writing)
    assert caught.value.code == "not-a-file"
