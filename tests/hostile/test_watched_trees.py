"""What `tox -e hostile-trees` rests on: a checkout is walked again whenever anything in it changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hostile_trees.canaries import Tree
from hostile_trees.inside import Summary, changed
from hostile_trees.trial import Ended

CHANGES: dict[str, Callable[[Path], object]] = {
    "written in place": lambda folder: (folder / "file").write_bytes(b"other"),
    "cut": lambda folder: os.truncate(folder / "file", 1),
    "given another mode": lambda folder: (folder / "file").chmod(0o600),
    "given another time": lambda folder: os.utime(folder / "file", (1, 1)),
    "replaced": lambda folder: (folder / "new").rename(folder / "file"),
    "removed": lambda folder: (folder / "file").unlink(),
    "linked": lambda folder: (folder / "link").symlink_to("file"),
    "joined by a pipe": lambda folder: os.mkfifo(folder / "pipe"),
    "moved out": lambda folder: (folder / "file").rename(folder.parent.parent.parent / "out"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_in_a_tree_is_noticed_and_named(tmp_path: Path, change: str) -> None:
    """Two folders down, and reading alone is no change."""
    folder = tmp_path / "tree/a/b"
    folder.mkdir(parents=True)
    for name in ("file", "new"):
        (folder / name).write_bytes(b"content")
    tree = Tree(tmp_path / "tree")
    (folder / "file").read_bytes()
    assert tree.quiet()
    before = tree.state
    CHANGES[change](folder)
    assert not tree.quiet()
    assert changed(before, tree.look(), tree.folder, "verify quorum")
    assert not changed(tree.state, tree.look(), tree.folder, "verify quorum")
    assert tree.quiet()
    tree.close()


def test_a_command_that_does_wrong_is_told_what() -> None:
    """Each bound counts, at its limit and beyond."""
    line = b"verify: no\n"

    def wrong(code: int = 2, err: bytes = line, seconds: float = 1, memory: int = 1 << 30) -> list[str]:
        ended = Ended(code, b"", err, seconds, memory, late=False)
        return list(ended.wrong("verify", reports=False, verdict=b"no decision: "))

    assert wrong() == []
    assert wrong(memory=(1 << 30) + 1) == ["1024 MB of memory"]
    assert wrong(code=70) == ["exit code 70"]
    assert wrong(code=-9) == ["exit code -9"]
    assert wrong(err=line * 2) == ["not one line that says what is wrong"]
    assert wrong(code=3, err=b"no decision: a\n" + line * 2) == []
    assert wrong(code=2, err=b"no decision: a\n" + line * 2) != []
    assert wrong(err=b"Traceback\n" + line) == ["a traceback"]
    assert wrong(err=b"\x1b[2J" + line) != []


def test_what_several_processes_counted_is_one_summary() -> None:
    """Counts add up, and only the slowest and largest of all remain."""
    total = Summary(trees=1, codes={"2": 75}, slowest=[(float(n), "a") for n in range(5)])
    total.add(Summary(trees=2, wrong=1, fresh=3, codes={"2": 149, "0": 1}, slowest=[(9.0, "b")]))
    assert (total.trees, total.commands, total.wrong, total.fresh) == (3, 225, 1, 3)
    assert [seconds for seconds, _ in total.slowest] == [9.0, 4.0, 3.0, 2.0, 1.0]
