"""Wheels, pruning, and what ends up in the ramdisks."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from coattest.errors import CoattestError, FoundFalse, UsageError
from coattest_build import image, rootfs
from coattest_build.formats import cpio, eif
from coattest_build.inputs import wheels
from coattest_build.inputs.unpack import Tree
from support.raises import raises_code

REPOSITORY = Path(__file__).parents[3]


def make_wheel(path: Path, members: list[tuple[str, bytes, int]]) -> Path:
    """A zip archive with names and modes exactly as given."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def unpack(tmp_path: Path, members: list[tuple[str, bytes, int]]) -> Path:
    tree = Tree(tmp_path / "root")
    wheels.unpack_wheel(make_wheel(tmp_path / "a.whl", members), tree, "lib", label="a.whl")
    return tree.root / "lib"


def test_a_wheel_is_unpacked_without_scripts_and_metadata(tmp_path: Path) -> None:
    """Only the packages arrive, with mode 644 whatever the wheel says."""
    lib = unpack(
        tmp_path,
        [
            ("pkg/__init__.py", b"x", 0o100777),
            ("pkg/native.so", b"elf", 0o100755),
            ("a-1.dist-info/RECORD", b"r", 0o100644),
            ("a-1.data/scripts/tool", b"#!python", 0o100755),
        ],
    )
    found = sorted(path.relative_to(lib).as_posix() for path in lib.rglob("*") if path.is_file())
    assert found == ["pkg/__init__.py", "pkg/native.so"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in lib.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(("/etc/passwd", 0o100644), id="absolute"),
        pytest.param(("../outside", 0o100644), id="dotdot"),
        pytest.param(("pkg/../../outside", 0o100644), id="dotdot inside"),
        pytest.param(("pkg//x", 0o100644), id="empty component"),
        pytest.param(("pkg\\..\\x", 0o100644), id="backslash"),
        pytest.param(("pkg/link", 0o120777), id="symlink"),
        pytest.param(("pkg/fifo", 0o010644), id="fifo"),
        pytest.param(("pkg/device", 0o020644), id="device"),
        pytest.param(("a-1.data/data/etc/passwd", 0o100644), id="data scheme"),
        pytest.param(("a-1.data/purelib/x.py", 0o100644), id="purelib scheme"),
    ],
)
def test_hostile_wheel_members_are_refused(tmp_path: Path, member: tuple[str, int]) -> None:
    """A member that would be written elsewhere, or is no file, stops the build with the wheel's name."""
    name, mode = member
    with raises_code(FoundFalse, "hostile-wheel", match=r"a\.whl") as caught:
        unpack(tmp_path, [("pkg/__init__.py", b"", 0o100644), (name, b"target", mode)])
    assert caught.value.exit_code == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a.whl", "root"}


def test_a_wheel_is_pruned_as_packages_are(tmp_path: Path) -> None:
    """``wanted`` is asked with the path in the image, and what it declines is checked all the same."""
    tree = Tree(tmp_path / "root")
    wheel = make_wheel(tmp_path / "a.whl", [("pkg/x.py", b"x", 0o100644), ("pkg/x.pyi", b"x", 0o100644)])
    wheels.unpack_wheel(wheel, tree, "lib", label="a.whl", wanted=lambda path: path != "lib/pkg/x.pyi")
    assert [path.name for path in (tree.root / "lib/pkg").iterdir()] == ["x.py"]
    wheel = make_wheel(tmp_path / "b.whl", [("../x", b"x", 0o100644)])
    with raises_code(FoundFalse, "hostile-wheel"):
        wheels.unpack_wheel(wheel, tree, "lib", label="b.whl", wanted=lambda path: False)


def test_a_wheel_cannot_replace_a_file(tmp_path: Path) -> None:
    """Two wheels with one path, or one wheel with a path twice, are refused."""
    tree = Tree(tmp_path / "root")
    wheel = make_wheel(tmp_path / "a.whl", [("pkg/x.py", b"x", 0o100644)])
    wheels.unpack_wheel(wheel, tree, "lib", label="a.whl")
    with raises_code(FoundFalse, "hostile-package", match="there is already a file"):
        wheels.unpack_wheel(wheel, tree, "lib", label="a.whl")


def test_wheel_bombs_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Size and number of members are limited before anything is written beyond them."""
    monkeypatch.setattr(wheels, "MAX_UNPACKED", 1_000_000)
    with raises_code(FoundFalse, "hostile-wheel", match="unpacks to more than"):
        unpack(tmp_path, [("zeros", bytes(2_000_000), 0o100644)])
    monkeypatch.setattr(wheels, "MAX_MEMBERS", 2)
    (tmp_path / "more").mkdir()
    with raises_code(FoundFalse, "hostile-wheel", match="more than 2 members"):
        unpack(tmp_path / "more", [(str(n), b"", 0o100644) for n in range(3)])


def test_a_damaged_wheel_is_one_clear_error(tmp_path: Path) -> None:
    """Every truncation of a wheel is FoundFalse, and so is a member whose bytes were changed."""
    whole = make_wheel(tmp_path / "whole.whl", [("pkg/x.py", b"content" * 100, 0o100644)]).read_bytes()
    for number, data in enumerate(
        (*(whole[:n] for n in range(0, len(whole), 11)), whole.replace(b"K", b"L"))
    ):
        (tmp_path / "a.whl").write_bytes(data)
        with pytest.raises(FoundFalse):
            wheels.unpack_wheel(tmp_path / "a.whl", Tree(tmp_path / f"root{number}"), "lib", label="a.whl")


def test_prune_globs_cover_what_is_below_them() -> None:
    """A glob names a path and everything inside; nothing else."""
    pruned = rootfs.prune_pattern(("usr/share", "usr/lib/test*", "a/*.py"))
    for path in ("usr/share", "usr/share/doc/x", "usr/lib/test", "usr/lib/tests/deep/file", "a/b.py"):
        assert pruned.match(path), path
    for path in ("usr", "usr/shared", "usr/lib/attest", "usr/lib", "", "a/b.pyc"):
        assert not pruned.match(path), path
    assert not rootfs.prune_pattern(()).match("anything")


def test_entries_of_a_tree_have_normal_modes(tmp_path: Path) -> None:
    """Owner-executable files are 755, others 644, whatever umask wrote them; links are taken as links."""
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True, mode=0o700)
    (root / "d/x").write_text("x")
    (root / "d/x").chmod(0o4711)
    (root / "d/y").write_text("y")
    (root / "d/y").chmod(0o600)
    (root / "link").symlink_to("d/x")
    entries = {entry.name: entry for entry in rootfs.root_entries(root, "rootfs")}
    assert {name: oct(entry.mode) for name, entry in entries.items()} == {
        "rootfs": "0o40755",
        "rootfs/d": "0o40755",
        "rootfs/d/x": "0o100755",
        "rootfs/d/y": "0o100644",
        "rootfs/link": "0o120777",
    }
    assert entries["rootfs/link"].content == b"d/x"


def test_what_the_images_python_left_behind_is_looked_at(tmp_path: Path) -> None:
    """A link out of the tree, or a FIFO, that appeared while modules were compiled is refused."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "escape").symlink_to("../../etc/passwd")
    with pytest.raises(CoattestError, match="a symlink out of the tree"):
        list(rootfs.root_entries(root, "rootfs"))
    (root / "escape").unlink()
    import os

    os.mkfifo(root / "fifo")
    with pytest.raises(UsageError, match="neither a file"):
        list(rootfs.root_entries(root, "rootfs"))


@pytest.mark.image
def test_the_ramdisks_are_laid_out_as_nitro_cli_does(built_images) -> None:  # type: ignore[no-untyped-def]
    """Boot holds dev and init; application holds rootfs, cmd and env with a line per entry."""
    spec = image.load_spec(REPOSITORY)
    with built_images.image("aws").open("rb") as file:
        boot, application = eif.read_structure(file).of_type(eif.SectionType.RAMDISK)
        assert [entry.name for entry in cpio.read_entries(file, boot.offset, boot.size)] == ["dev", "init"]
        entries = {e.name: e for e in cpio.read_entries(file, application.offset, application.size)}

        def content(name: str) -> bytes:
            return b"".join(cpio.content_blocks(file, entries[name]))

        assert content("cmd").decode().splitlines() == list(spec.command)
        assert dict(line.split("=", 1) for line in content("env").decode().splitlines()) == dict(
            spec.environment
        )
        assert {name.split("/")[0] for name in entries} == {"rootfs", "cmd", "env"}
        for folder in ("dev", "proc", "run", "sys", "tmp", "var"):
            assert entries[f"rootfs/{folder}"].kind == "directory"
        trust = REPOSITORY / spec.profile_source("aws")
        assert content("rootfs/etc/coattest/trust.json") == trust.read_bytes()
    times = {entry.mtime for entry in entries.values()}
    assert len(times) == 1
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}


@pytest.mark.image
def test_modules_are_compiled_once_and_carry_no_time(built_images) -> None:  # type: ignore[no-untyped-def]
    """Every .pyc is hash-based and unchecked (PEP 552), and no module of ours is without one."""
    with built_images.image("aws").open("rb") as file:
        _, application = eif.read_structure(file).of_type(eif.SectionType.RAMDISK)
        entries = {e.name: e for e in cpio.read_entries(file, application.offset, application.size)}
        compiled = [entry for name, entry in entries.items() if name.endswith(".pyc")]
        assert len(compiled) > 200
        for entry in compiled:
            head = next(iter(cpio.content_blocks(file, entry)))[:16]
            assert head[4:8] == b"\x01\0\0\0", entry.name
    stdlib = [name for name in entries if name.startswith("rootfs/usr/lib/python3.11/")]
    assert not [name for name in stdlib if name.endswith(".py") or "__pycache__" in name]
    for name in entries:
        if name.startswith("rootfs/usr/lib/coattest/") and name.endswith(".py"):
            folder, _, module = name.rpartition("/")
            assert f"{folder}/__pycache__/{module.removesuffix('.py')}.cpython-311.pyc" in entries


@pytest.mark.image
def test_no_host_path_is_in_the_image(built_images) -> None:  # type: ignore[no-untyped-def]
    """No compiled module names a directory of the machine that built it."""
    with built_images.image("aws").open("rb") as file:
        _, application = eif.read_structure(file).of_type(eif.SectionType.RAMDISK)
        traces = (str(REPOSITORY).encode() + b"/", str(Path.home()).encode() + b"/", b"/work/build-")
        for entry in cpio.read_entries(file, application.offset, application.size):
            if entry.name.endswith(".pyc"):
                content = b"".join(cpio.content_blocks(file, entry))
                assert not [trace for trace in traces if trace in content], entry.name
