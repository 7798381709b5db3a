"""The source tree as data: digests, commits, and trees that are not what they seem."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dulwich import porcelain

from coattest.errors import EnvironmentFailure, UsageError
from coattest_build import source
from coattest_build.source import Snapshot
from support.raises import raises_code

ME = b"Test <test@example.invalid>"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small source tree, without a repository."""
    folder = tmp_path / "tree"
    for name, content in (
        ("build/image.toml", "image"),
        ("build/image.lock", "lock"),
        ("build/kernel/x86_64.config", "config"),
        ("build/init/init.c", "code"),
        ("build/coattest_build/x.py", "not covered"),
        ("enclave/package/main.py", "program"),
        ("enclave/package/__pycache__/main.pyc", "not covered"),
        ("README.md", "not covered"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.fixture
def repository(tree: Path) -> Path:
    """The same tree, committed."""
    porcelain.init(str(tree))
    paths = [str(p) for p in tree.rglob("*") if p.is_file() and ".git" not in p.parts and p.suffix != ".pyc"]
    porcelain.add(str(tree), paths)
    porcelain.commit(str(tree), message=b"first", author=ME, committer=ME)
    return tree


def snapshot(tree: Path, name: str = "copy") -> Snapshot:
    return source.take(tree, tree.parent / name)


def test_the_snapshot_is_what_goes_into_the_image(tree: Path) -> None:
    """The copy holds image.toml, kernel, init and enclave files, and the lock; no caches, nothing else."""
    taken = snapshot(tree)
    assert [file.path for file in taken.files] == [
        "build/image.toml",
        "build/init/init.c",
        "build/kernel/x86_64.config",
        "enclave/package/main.py",
    ]
    copied = sorted(p.relative_to(taken.folder).as_posix() for p in taken.folder.rglob("*") if p.is_file())
    assert copied == sorted([*(file.path for file in taken.files), "build/image.lock"])
    assert (taken.commit, taken.changed) == (None, ())


def test_the_tree_digest_is_the_documented_one(tree: Path) -> None:
    """path NUL mode NUL sha256 newline, sorted: anybody can compute it with find and sha256sum."""
    script = (
        r"""find build/image.toml build/kernel build/init enclave -type f ! -name '*.pyc' | LC_ALL=C sort |"""
        r""" while read -r p; do x=0; [ -x "$p" ] && x=1;"""
        r""" printf '%s\0%s\0%s\n' "$p" $x "$(sha256sum < "$p" | cut -c1-64)"; done | sha256sum"""
    )
    result = subprocess.run(["sh", "-c", script], cwd=tree, capture_output=True, text=True, check=True)
    assert snapshot(tree).tree_sha256 == result.stdout[:64]


def test_every_covered_byte_name_and_mode_counts(tree: Path) -> None:
    """Content, name and executable bit of a covered file change the digest; other files and times do not."""
    seen = [snapshot(tree, "copy0").tree_sha256]

    def differs() -> bool:
        seen.append(snapshot(tree, f"copy{len(seen)}").tree_sha256)
        return len(set(seen)) == len(seen)

    program = tree / "enclave/package/main.py"
    program.write_text("Program")
    assert differs()
    program.chmod(0o755)
    assert differs()
    program.rename(tree / "enclave/package/other.py")
    assert differs()
    (tree / "README.md").write_text("changed")
    (tree / "build/image.lock").write_text("changed")
    os.utime(tree / "build/init/init.c", (0, 0))
    assert snapshot(tree, "last").tree_sha256 == seen[-1]


def test_a_clean_checkout_names_its_commit(repository: Path) -> None:
    """The commit is HEAD's and the tree is not dirty, whatever else lies around in the checkout."""
    (repository / "notes.txt").write_text("untracked, not covered")
    (repository / "README.md").write_text("changed, not covered")
    taken = snapshot(repository)
    assert taken.commit
    assert len(taken.commit) == 40
    assert not taken.dirty


@pytest.mark.parametrize("change", ["edit", "add", "remove", "mode", "lock"])
def test_any_difference_from_the_commit_is_dirty(repository: Path, change: str) -> None:
    """An edited, added, removed or re-moded covered file, or another lock, makes the tree dirty, by name."""
    program = repository / "enclave/package/main.py"
    if change == "edit":
        program.write_text("edited")
    elif change == "add":
        (repository / "enclave/more.py").write_text("new")
    elif change == "remove":
        program.unlink()
    elif change == "mode":
        program.chmod(0o755)
    else:
        (repository / "build/image.lock").write_text("other")
    taken = snapshot(repository)
    assert taken.dirty
    named = {"add": "enclave/more.py", "lock": "build/image.lock"}.get(change, "enclave/package/main.py")
    assert taken.changed == (named,)


def test_an_index_that_hides_a_change_does_not_help(repository: Path) -> None:
    """The working files are compared with the commit's objects, so assume-unchanged flags are of no use."""
    program = repository / "enclave/package/main.py"
    before = program.stat()
    program.write_text("PROGRAM")  # the same size
    os.utime(program, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert snapshot(repository).dirty


def test_nothing_of_the_tree_is_run(repository: Path, tmp_path: Path) -> None:
    """Hooks, filters, a file-system monitor, an ssh command and Python files of the tree are not executed."""
    mark = tmp_path / "was-run"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {mark}\n")
    script.chmod(0o755)
    with (repository / ".git/config").open("a") as config:
        config.write(f"[core]\n fsmonitor = {script}\n sshCommand = {script}\n hooksPath = {tmp_path}\n")
        config.write(f'[filter "x"]\n clean = {script}\n smudge = {script}\n required = true\n')
    (repository / ".gitattributes").write_text("* filter=x\n")
    for name in ("post-checkout", "post-index-change", "pre-commit"):
        (repository / ".git/hooks").mkdir(exist_ok=True)
        (repository / ".git/hooks" / name).symlink_to(script)
    code = f"import pathlib; pathlib.Path({str(mark)!r}).touch()"
    for name in (
        "conftest.py",
        "sitecustomize.py",
        "build/__init__.py",
        "coattest_build/__init__.py",
        "click.py",
    ):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text(code)
    command = (
        "import sys; from pathlib import Path; from coattest_build import source; "
        "source.take(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-I", "-c", command, ".", str(tmp_path / "copy")]
    subprocess.run(arguments, cwd=repository, check=True)
    assert not mark.exists()


def test_links_and_devices_in_the_tree_are_refused(tree: Path, tmp_path: Path) -> None:
    """A symlink could name any file of the builder's machine; a FIFO would hang."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    link = tree / "enclave/link.py"
    link.symlink_to(secret)
    with raises_code(UsageError, "bad-source", match=r"link\.py"):
        snapshot(tree)
    link.unlink()
    link.symlink_to(tmp_path, target_is_directory=True)
    with raises_code(UsageError, "bad-source", match=r"link\.py"):
        snapshot(tree, "second")
    link.unlink()
    os.mkfifo(link)
    with raises_code(UsageError, "bad-source", match="not a plain file"):
        snapshot(tree, "third")


def test_links_inside_a_folder_of_the_tree_are_kept(tree: Path) -> None:
    """As links, in the digest by where they lead; one is another thing than a file with that text."""
    before = snapshot(tree, "none").tree_sha256
    deep = tree / "enclave/deep/er"
    deep.mkdir(parents=True)
    (deep / "file").write_text("text")
    links = {"enclave/deep/er/up": "../../deep/er/file", "enclave/deep/to": "er/up", "enclave/folder": "deep"}
    for name, target in links.items():
        (tree / name).symlink_to(target)
    taken = snapshot(tree, "links")
    assert {name: str((taken.folder / name).readlink()) for name in links} == links
    assert (taken.folder / "enclave/folder/to").read_text() == "text"
    assert [file.path for file in taken.files if file.executable is None] == list(links)
    (tree / "enclave/folder").unlink()
    (tree / "enclave/folder").write_text("deep")
    assert len({before, taken.tree_sha256, snapshot(tree, "file").tree_sha256}) == 3


@pytest.mark.parametrize(
    "target",
    [
        *("/etc/passwd", "..", "../..", "../../build/image.toml", "../../../outside", "missing", "link", "."),
        *("deep/../../outside", "./deep", "deep//x", "deep/", "../other/../../outside", "../kernel/../../x"),
    ],
)
def test_links_that_lead_anywhere_else_are_refused(tree: Path, tmp_path: Path, target: str) -> None:
    """Out of their own folder of the tree, by any way, to nothing, or in a circle."""
    (tmp_path / "outside").write_text("secret")
    (tree / "enclave/sub/deep").mkdir(parents=True)
    (tree / "enclave/sub/deep/file").write_text("")
    (tree / "enclave/sub/link").symlink_to(target)
    with raises_code(UsageError, "bad-source", match="sub/link"):
        snapshot(tree)


def test_a_link_is_compared_with_the_commits(repository: Path) -> None:
    """As it was committed the tree is clean; a file with the link's text, and another way, are changes."""
    link = repository / "enclave/link.py"
    link.symlink_to("package/main.py")
    porcelain.add(str(repository), paths=[str(link)])
    porcelain.commit(str(repository), message=b"link", author=ME, committer=ME)
    assert not snapshot(repository, "clean").dirty
    text = str(link.readlink())
    link.unlink()
    link.write_text(text)
    assert snapshot(repository, "file").changed == ("enclave/link.py",)


def test_two_links_together_do_not_lead_out(tree: Path, tmp_path: Path) -> None:
    """A way up behind another link would begin elsewhere than it looks."""
    (tmp_path / "outside").write_text("secret")
    (tree / "enclave/a/b").mkdir(parents=True)
    (tree / "enclave/a/b/high").symlink_to("../../a")
    (tree / "enclave/a/b/link").symlink_to("high/../../../outside")
    with raises_code(UsageError, "bad-source", match="b/link"):
        snapshot(tree)


def test_links_in_a_row_have_linux_limit(tree: Path) -> None:
    """What Linux does not follow is no file there, and 10,000 in a row took Python ten minutes."""
    (tree / "enclave/link-0").symlink_to("package")
    for number in range(1, 41):
        (tree / f"enclave/link-{number}").symlink_to(f"link-{number - 1}")
    with raises_code(UsageError, "bad-source", match="link-40"):
        snapshot(tree)
    (tree / "enclave/link-40").unlink()
    assert snapshot(tree, "shorter").files


def test_a_folder_that_is_no_source_tree_is_not_told_to_lock(tree: Path) -> None:
    """The image's file comes first: another folder was meant."""
    (tree / "build" / "image.toml").unlink()
    (tree / "build" / "image.lock").unlink()
    with pytest.raises(UsageError, match=r"no build/image.toml here \(name the source tree"):
        snapshot(tree)


def test_a_tree_without_a_lock_says_what_to_run(tree: Path) -> None:
    """A missing lock is a usage error with the command."""
    (tree / "build/image.lock").unlink()
    with raises_code(UsageError, "bad-source", match="eif lock") as caught:
        snapshot(tree)
    assert caught.value.exit_code == 2


def test_a_directory_that_is_no_source_tree_is_named(tmp_path: Path) -> None:
    """A wrong --source is one line."""
    with raises_code(UsageError, "bad-source", match="--source"):
        source.take(tmp_path / "nothing", tmp_path / "copy")


def test_a_broken_repository_is_not_taken_for_none(repository: Path) -> None:
    """When objects are damaged the build stops; it is never reported as clean or as outside a repository."""
    for path in (repository / ".git/objects").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(b"garbage")
    with pytest.raises(EnvironmentFailure, match="the repository cannot be read") as caught:
        snapshot(repository)
    assert caught.value.exit_code == 3
