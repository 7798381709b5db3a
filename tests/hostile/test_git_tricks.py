"""A hostile ``.git``: forged objects, object bombs, pipes, and repositories that lie elsewhere."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from coattest.errors import CoattestError, EnvironmentFailure, UsageError
from coattest_build import packs, repository, source
from support.bombs import zlib_bomb
from support.raises import raises_code

GIT = ("git", "-c", "user.name=n", "-c", "user.email=a@b.invalid", "-c", "protocol.file.allow=always")


def git(folder: Path, *words: str, stdin: bytes | None = None) -> str:
    """What git prints, run by the attacker in ``folder``."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        [*GIT, *words], cwd=folder, env=environment, input=stdin, capture_output=True, check=True
    )
    return done.stdout.decode(errors="replace").strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout with two commits."""
    folder = tmp_path / "checkout"
    for name in ("build/image.toml", "build/image.lock", "build/kernel/config", "build/init/init.c"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "enclave").mkdir()
    (folder / "enclave/main.py").write_text("\n".join(f"line {number}" for number in range(2000)))
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    (folder / "enclave/main.py").write_text("\n".join(f"line {number}" for number in range(1, 2001)))
    git(folder, "commit", "-qam", "two")
    return folder


@pytest.fixture(autouse=True)
def limited_memory() -> Iterator[None]:
    """A bomb that unpacks in this process would end in MemoryError, not in a machine without memory."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def look(checkout: Path) -> source.Snapshot:
    return source.take(checkout, checkout.parent / f"copy{len(list(checkout.parent.iterdir()))}")


def loose(checkout: Path, identifier: str, kind: bytes, data: bytes) -> str:
    """Put bytes under an object's name, right or wrong."""
    path = checkout / ".git/objects" / identifier[:2] / identifier[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(zlib.compress(b"%b %d\0" % (kind, len(data)) + data))
    return identifier


def honest(checkout: Path, kind: bytes, data: bytes) -> str:
    """Store an object under its own digest."""
    return loose(checkout, hashlib.sha1(b"%b %d\0" % (kind, len(data)) + data).hexdigest(), kind, data)


def tree(checkout: Path, *entries: tuple[bytes, bytes, str]) -> str:
    return honest(checkout, b"tree", b"".join(b"%b %b\0" % (m, n) + bytes.fromhex(i) for m, n, i in entries))


def commit(checkout: Path, top: str) -> None:
    """Make a commit of a tree the one that is checked out."""
    text = f"tree {top}\nauthor a <a@b> 0 +0000\ncommitter a <a@b> 0 +0000\n\nx\n"
    (checkout / ".git/HEAD").write_text(honest(checkout, b"commit", text.encode()) + "\n")


def refused(checkout: Path, match: str) -> None:
    with raises_code(EnvironmentFailure, "bad-repository", match=match):
        look(checkout)


@pytest.mark.parametrize(
    "packed", ["loose", "packed", "index alone", "deep deltas", "packed refs", "big offsets"]
)
def test_honest_repositories_are_read_whatever_their_storage(checkout: Path, packed: str) -> None:
    """Loose objects, packs with deltas, an index with 64-bit offsets, packed refs: commit and tree agree.

    So does the index of a pack that a clone over plain HTTP did not need, and left alone.
    """
    if packed in ("packed", "deep deltas"):
        depth = "250" if packed == "deep deltas" else "50"
        git(checkout, "repack", "-adfq", f"--depth={depth}", "--window=250")
        git(checkout, "prune-packed")
    elif packed == "index alone":
        git(checkout, "repack", "-aq")
        (pack,) = (checkout / ".git/objects/pack").glob("*.pack")
        pack.unlink()
    elif packed == "packed refs":
        git(checkout, "pack-refs", "--all")
        assert not (checkout / ".git/refs/heads/main").exists()
    elif packed == "big offsets":
        git(checkout, "-c", "pack.indexVersion=2", "repack", "-adq")
        (pack,) = (checkout / ".git/objects/pack").glob("*.pack")
        pack.with_suffix(".idx").unlink()
        git(checkout, "index-pack", "--index-version=2,0x40", str(pack))
    taken = look(checkout)
    assert taken.commit == git(checkout, "rev-parse", "HEAD")
    assert not taken.dirty


def test_a_tree_that_is_stored_as_a_delta_is_read(checkout: Path) -> None:
    """Trees of hundreds of names are deltas of each other in a pack."""
    for number in range(300):
        (checkout / f"enclave/module{number}.py").write_text(str(number))
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "many")
    for round_ in range(5):
        (checkout / "enclave/module7.py").write_text(f"changed {round_}")
        git(checkout, "commit", "-qam", "more")
    git(checkout, "repack", "-adfq", "--depth=50", "--window=50")
    (index,) = (checkout / ".git/objects/pack").glob("*.idx")
    stored = git(checkout, "verify-pack", "-v", str(index)).splitlines()
    assert any(line.split()[1] == "tree" and len(line.split()) == 7 for line in stored if " tree " in line)
    taken = look(checkout)
    assert (taken.commit, taken.dirty) == (git(checkout, "rev-parse", "HEAD"), False)


def test_a_linked_worktree_is_read_and_a_claimed_one_is_not(checkout: Path, tmp_path: Path) -> None:
    """``git worktree add`` makes a repository that names the worktree; a ``.git`` file proves nothing."""
    linked = tmp_path / "linked"
    git(checkout, "worktree", "add", "-q", str(linked))
    assert look(linked).commit == git(checkout, "rev-parse", "HEAD")
    stranger = tmp_path / "stranger"
    shutil.copytree(linked, stranger)
    refused(stranger, "does not name this worktree")
    (stranger / ".git").write_text(f"gitdir: {checkout}/.git\n")
    refused(stranger, "does not name this worktree")


def test_an_object_under_the_name_of_another_is_refused(checkout: Path) -> None:
    """A back door's commit under the honest commit's name: no report names a commit that was not built."""
    head = git(checkout, "rev-parse", "HEAD")
    (checkout / "enclave/main.py").write_text("BACK DOOR")
    git(checkout, "commit", "-qam", "evil")
    evil = subprocess.run(
        [*GIT, "cat-file", "commit", "HEAD"], cwd=checkout, capture_output=True, check=True
    ).stdout
    loose(checkout, head, b"commit", evil)
    (checkout / ".git/HEAD").write_text(head + "\n")
    refused(checkout, "different digest")


def test_ten_objects_that_are_a_hundred_million_files_are_refused(checkout: Path) -> None:
    """A tree of ten times the same tree, eight levels deep; every digest is right."""
    at = tree(checkout, (b"100644", b"f", honest(checkout, b"blob", b"x")))
    for _ in range(8):
        at = tree(checkout, *((b"40000", b"d%d" % number, at) for number in range(10)))
    commit(checkout, tree(checkout, (b"40000", b"enclave", at)))
    refused(checkout, "more than 50000 files|nested")


def test_a_small_tree_that_is_named_40000_times_is_given_up(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the limit on files, and a kilobyte to send; but each naming is a look into each of 100 packs."""
    small = tree(checkout, (b"100644", b"f", honest(checkout, b"blob", b"x")))
    many = tree(checkout, *((b"40000", b"d%05d" % number, small) for number in range(24_000)))
    commit(checkout, tree(checkout, (b"40000", b"enclave", many)))
    git(checkout, "repack", "-adq")
    for number in range(100):
        empty = checkout / f".git/objects/pack/a{number}"
        empty.with_suffix(".idx").write_bytes(b"\xfftOc\0\0\0\2" + bytes(1024 + 40))
        empty.with_suffix(".pack").write_bytes(b"PACK\0\0\0\2" + bytes(24))
    looked = 0
    find = packs.Pack.find

    def counted(pack: packs.Pack, identifier: bytes) -> int | None:
        nonlocal looked
        looked += 1
        return find(pack, identifier)

    monkeypatch.setattr(packs.Pack, "find", counted)
    refused(checkout, "steps")
    assert 100_000 < looked <= repository.MAX_STEPS


def test_a_stream_of_empty_blocks_ends(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """zlib allows blocks without a byte: 64 MB of them cost nothing to send, and give nothing."""
    monkeypatch.setattr(repository, "MAX_UNPACKED", 1 << 20)
    monkeypatch.setattr(repository, "MAX_OBJECT", 1 << 20)
    identifier = "cd" * 20
    path = checkout / ".git/objects/cd" / identifier[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\x78\x01" + b"\0\0\0\xff\xff" * (1 << 20))
    (checkout / ".git/HEAD").write_text(identifier + "\n")
    refused(checkout, "larger than")


@pytest.mark.parametrize("way", ["loop", "two", "folder", "long", "nul", "file"])
def test_a_git_file_that_leads_nowhere_is_refused(checkout: Path, way: str) -> None:
    """To a link that leads to itself, to a name that no file system has, through a file: one line, exit 3."""
    shutil.rmtree(checkout / ".git")
    (checkout / "loop").symlink_to("loop")
    (checkout / "one").symlink_to("two")
    (checkout / "two").symlink_to("one")
    named = {
        "loop": "loop",
        "two": "one/worktrees/x",
        "folder": "loop/worktrees/x",
        "long": "a" * 3000,
        "nul": "a\0b",
        "file": "build/image.toml/worktrees/x",
    }
    (checkout / ".git").write_text(f"gitdir: {named[way]}\n")
    with raises_code(EnvironmentFailure, "bad-repository"):
        look(checkout)


def test_a_git_that_is_a_link_to_itself_is_refused(checkout: Path) -> None:
    """As any other link in its place."""
    shutil.rmtree(checkout / ".git")
    (checkout / ".git").symlink_to(".git")
    refused(checkout, "not a plain file")


def test_a_tree_that_holds_itself_is_refused(checkout: Path) -> None:
    """Its digest cannot be right."""
    loose(checkout, "ab" * 20, b"tree", b"40000 enclave\0" + bytes.fromhex("ab" * 20))
    commit(checkout, "ab" * 20)
    refused(checkout, "different digest")


def test_folders_without_end_are_refused(checkout: Path) -> None:
    """A thousand folders inside each other, every digest right."""
    at = tree(checkout, (b"100644", b"f", honest(checkout, b"blob", b"x")))
    for _ in range(1000):
        at = tree(checkout, (b"40000", b"d", at))
    commit(checkout, tree(checkout, (b"40000", b"enclave", at)))
    refused(checkout, "nested deeper")


@pytest.mark.parametrize("kind", ["fifo", "zero", "folder", "socket"])
@pytest.mark.parametrize("name", ["HEAD", "packed-refs", "refs/heads/main", "config"])
def test_something_else_in_place_of_a_file_of_git_does_not_hang(checkout: Path, kind: str, name: str) -> None:
    """A FIFO, a link to /dev/zero, a folder: refused, or of no consequence where the file is not read."""
    path = checkout / ".git" / name
    if name == "packed-refs":
        (checkout / ".git/refs/heads/main").unlink()
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/run/nothing.sock")
    if name == "config":
        assert look(checkout).commit
    else:
        refused(checkout, "not a plain file")


@pytest.mark.parametrize("where", ["head", "tree", "pack"])
def test_a_small_object_that_unpacks_to_gigabytes_is_refused(checkout: Path, where: str) -> None:
    """3 GiB of zeros in 3 MB: unpacking stops at the limit."""
    data = zlib_bomb(b"%b %d\0" % (b"tree" if where == "tree" else b"commit", 3 << 30), 3 << 6)
    if where == "pack":
        git(checkout, "repack", "-adq")
        (pack,) = (checkout / ".git/objects/pack").glob("*.pack")
        content = bytearray(pack.read_bytes())
        content[12:] = b"\xf0\xff\xff\xff\x0f" + data  # every object now begins inside one bomb
        pack.chmod(0o600)
        pack.write_bytes(bytes(content))
        refused(checkout, "cannot be read")
        return
    identifier = "cd" * 20
    path = checkout / ".git/objects/cd" / identifier[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    if where == "tree":
        commit(checkout, identifier)
    else:
        (checkout / ".git/HEAD").write_text(identifier + "\n")
    refused(checkout, "larger than")


@pytest.mark.parametrize(
    "name", ["HEAD", "packed-refs", "objects/cd/cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"]
)
def test_a_file_of_git_that_is_huge_is_refused(checkout: Path, name: str) -> None:
    """A sparse file of a terabyte costs nothing to send."""
    path = checkout / ".git" / name
    path.parent.mkdir(exist_ok=True)
    if name == "packed-refs":
        (checkout / ".git/refs/heads/main").unlink()
    elif name.startswith("objects"):
        (checkout / ".git/HEAD").write_text("cd" * 20 + "\n")
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with raises_code(EnvironmentFailure, "bad-repository"):
        look(checkout)


def test_refs_that_name_each_other_are_refused(checkout: Path) -> None:
    """A circle of symbolic refs ends."""
    (checkout / ".git/refs/heads/main").write_text("ref: refs/heads/other\n")
    (checkout / ".git/refs/heads/other").write_text("ref: refs/heads/main\n")
    refused(checkout, "symbolic refs in a row")


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "refs/../../../secret", "a b"])
def test_a_ref_outside_refs_is_refused(checkout: Path, name: str) -> None:
    """HEAD names refs only, and no ref's name leads out of the repository."""
    (checkout.parent / "secret").write_text(git(checkout, "rev-parse", "HEAD"))
    (checkout / ".git/HEAD").write_text(f"ref: {name}\n")
    with raises_code(EnvironmentFailure, "bad-repository"):
        look(checkout)


@pytest.mark.parametrize("way", ["alternates", "objects", "commondir", "git", "nested worktree"])
def test_objects_elsewhere_on_this_machine_are_not_read(checkout: Path, tmp_path: Path, way: str) -> None:
    """Neither alternates nor links nor ``commondir`` lead to a repository of the sender's choice."""
    private = tmp_path / "private"
    shutil.copytree(checkout, private)
    dot = checkout / ".git"
    if way == "git":
        shutil.rmtree(dot)
        dot.symlink_to(private / ".git")
    elif way == "nested worktree":
        shutil.rmtree(dot)
        dot.write_text("gitdir: evil/worktrees/x\n")
        (checkout / "evil/worktrees/x").mkdir(parents=True)
        (checkout / "evil/worktrees/x/gitdir").write_text(f"{checkout}/.git\n")
        (checkout / "evil/worktrees/x/HEAD").write_text("ref: refs/heads/main\n")
        (checkout / "evil/worktrees/x/commondir").write_text(f"{private}/.git\n")
        (checkout / "evil/refs").symlink_to(private / ".git/refs")
        (checkout / "evil/objects").symlink_to(private / ".git/objects")
    else:
        shutil.rmtree(dot / "objects")
        if way == "alternates":
            (dot / "objects/info").mkdir(parents=True)
            (dot / "objects/info/alternates").write_text(f"{private}/.git/objects\n")
        elif way == "objects":
            (dot / "objects").symlink_to(private / ".git/objects")
        else:
            (dot / "commondir").write_text(f"{private}/.git\n")
    with pytest.raises(CoattestError) as caught:
        look(checkout)
    assert (caught.value.exit_code, caught.value.code) == (3, "bad-repository")


def test_a_delta_that_is_its_own_base_is_refused(checkout: Path) -> None:
    """In a pack a base can be named by its id: a circle of those ends."""
    git(checkout, "repack", "-adq")
    (pack,) = (checkout / ".git/objects/pack").glob("*.pack")
    head = git(checkout, "rev-parse", "HEAD")
    index = pack.with_suffix(".idx")
    listed = git(checkout, "verify-pack", "-v", str(index)).splitlines()
    offset = next(int(line.split()[4]) for line in listed if line.startswith(head))
    content = bytearray(pack.read_bytes())
    delta = b"\x7d" + bytes.fromhex(head) + zlib.compress(b"\x01\x01\x91\x00\x01" + bytes(8))
    content[offset : offset + len(delta)] = delta
    pack.chmod(0o600)
    pack.write_bytes(bytes(content))
    with raises_code(EnvironmentFailure, "bad-repository", match="deltas"):
        look(checkout)


def test_a_name_twice_in_a_tree_is_refused(checkout: Path) -> None:
    """Two blobs of one name: a reader that takes the first and one that takes the last disagree."""
    one, two = (honest(checkout, b"blob", data) for data in (b"one", b"two"))
    inner = tree(checkout, (b"100644", b"f", one), (b"100644", b"f", two))
    commit(checkout, tree(checkout, (b"40000", b"enclave", inner)))
    refused(checkout, "a name twice")


@pytest.mark.parametrize("delta", [b"", b"\x80", b"\5\5\0", b"\4\x7f\x91\0\x7f", b"\xff" * 80, b"\4\4\xff"])
def test_a_damaged_delta_is_an_error_of_its_own(delta: bytes) -> None:
    """Cut short, beyond the base, an instruction that is reserved: never IndexError, never wrong bytes."""
    with pytest.raises(EnvironmentFailure):
        packs.patched(b"base", delta, lambda _: None)


def test_a_checkout_that_is_a_link_is_refused(checkout: Path) -> None:
    """``--source`` names the folder itself."""
    link = checkout.parent / "link"
    link.symlink_to(checkout)
    with raises_code(UsageError, "not-a-folder", match="symbolic link"):
        look(link)
