"""What a signing command read stays what it was, and does not fill the memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from coattest import files
from coattest.errors import Rejected
from coattest.files import Folder, ReadOnce
from support.raises import raises_code


def test_a_file_is_what_it_was_at_first(tmp_path: Path) -> None:
    """Changed, removed or added later: names and contents stay, and so does what was missing or no file."""
    (tmp_path / "a").write_bytes(b"shown")
    (tmp_path / "d").mkdir()
    with Folder(tmp_path) as folder:
        once = ReadOnce(folder)
        assert once.names() == ("a", "d")
        assert once.read("a") == b"shown"
        for name, code in (("b", "absent"), ("d", "not-a-file")):
            with raises_code(Rejected, code):
                once.read(name)
        (tmp_path / "a").write_bytes(b"swapped")
        (tmp_path / "b").write_bytes(b"new")
        (tmp_path / "d").rmdir()
        (tmp_path / "d").write_bytes(b"new")
        assert once.names() == ("a", "d")
        assert once.read("a") == b"shown"
        for name, code in (("b", "absent"), ("d", "not-a-file")):
            with raises_code(Rejected, code):
                once.read(name)
        with raises_code(Rejected, "too-large"):
            once.read("a", 4)


def test_all_files_together_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of many large files is refused file by file; what was read before stays readable."""
    monkeypatch.setattr(files, "MAX_TOTAL", 10)
    for name in "abc":
        (tmp_path / name).write_bytes(b"12345")
    with Folder(tmp_path) as folder:
        once = ReadOnce(folder)
        assert once.read("a") == once.read("b") == b"12345"
        with raises_code(Rejected, "too-large", match="with the files before it"):
            once.read("c")
        assert once.read("a") == b"12345"
