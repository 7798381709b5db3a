"""Ramdisks: the writer's bytes, the reader's rules, and extraction that cannot leave its directory."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest.errors import UsageError
from coattest_build.formats import cpio
from coattest_build.formats.cpio import (
    NewEntry,
    RamdiskError,
    link_target,
    read_entries,
    write_ramdisk,
)
from coattest_build.formats.eif import EifSection, SectionType
from coattest_build.formats.extract import extract_ramdisk
from support.build.images import DIRECTORY, SYMLINK, archive, newc

FILE, PROGRAM = 0o100644, 0o100755

TREE = (
    NewEntry("rootfs", DIRECTORY, None),
    NewEntry("rootfs/usr", DIRECTORY, None),
    NewEntry("rootfs/usr/prog", PROGRAM, b"#!/bin/sh\n"),
    NewEntry("rootfs/usr/empty", FILE, b""),
    NewEntry("rootfs/bin", SYMLINK, b"/usr/bin"),
    NewEntry("rootfs/tmp", 0o41777, None),
    NewEntry("cmd", FILE, b"one\ntwo\n"),
    NewEntry("caf\u00e9", FILE, b"12345"),
)


def section(raw: bytes) -> EifSection:
    """The whole of ``raw`` as a ramdisk section."""
    return EifSection(SectionType.RAMDISK, 0, len(raw))


def listing(raw: bytes) -> list[tuple[str, int, int]]:
    """Name, mode and size of every entry."""
    return [(e.name, e.mode, e.size) for e in read_entries(io.BytesIO(raw), 0, len(raw))]


def refusal(raw: bytes) -> str:
    """The reason for which the reader refuses the archive."""
    with pytest.raises(RamdiskError) as caught:
        listing(raw)
    return caught.value.code


def write(tmp_path: Path, *entries: NewEntry, mtime: int = 1700000000) -> bytes:
    """The archive that the writer makes of the entries."""
    out = tmp_path / "ramdisk"
    write_ramdisk(out, entries, mtime=mtime)
    return out.read_bytes()


# --- the writer


def test_writer_follows_the_specification(tmp_path: Path) -> None:
    """Entries come sorted by name, with counted inodes, zero owners, fixed link counts and one time."""
    time = 1700000000
    assert write(tmp_path, *TREE) == archive(
        newc("caf\u00e9".encode(), FILE, b"12345", inode=1, mtime=time),
        newc(b"cmd", FILE, b"one\ntwo\n", inode=2, mtime=time),
        newc(b"rootfs", DIRECTORY, inode=3, links=2, mtime=time),
        newc(b"rootfs/bin", SYMLINK, b"/usr/bin", inode=4, mtime=time),
        newc(b"rootfs/tmp", 0o41777, inode=5, links=2, mtime=time),
        newc(b"rootfs/usr", DIRECTORY, inode=6, links=2, mtime=time),
        newc(b"rootfs/usr/empty", FILE, inode=7, mtime=time),
        newc(b"rootfs/usr/prog", PROGRAM, b"#!/bin/sh\n", inode=8, mtime=time),
    )


@given(st.permutations(TREE))
def test_order_of_entries_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, entries: list[NewEntry]
) -> None:
    """Any order of the same entries gives the same bytes."""
    directory = tmp_path_factory.mktemp("order")
    assert write(directory, *entries) == write(directory, *TREE)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """The reader returns what was written, sorted, with content at the offsets it names."""
    raw = write(tmp_path, *TREE)
    entries = list(read_entries(io.BytesIO(b"before" + raw + b"after"), 6, len(raw)))
    assert [entry.name for entry in entries] == sorted(entry.name for entry in TREE)
    content = {e.name: (b"before" + raw)[e.data_offset : e.data_offset + e.size] for e in entries}
    assert content == {entry.name: entry.content or b"" for entry in TREE}
    assert {entry.mtime for entry in entries} == {1700000000}
    assert {entry.kind for entry in entries} == {"file", "directory", "symlink"}
    assert len(raw) % 512 == 0


def test_content_may_be_a_file(tmp_path: Path) -> None:
    """A path as content is copied, and only its content counts: not its mode or times."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_001)
    source.chmod(0o600)
    assert write(tmp_path, NewEntry("f", FILE, source)) == write(
        tmp_path, NewEntry("f", FILE, b"x" * 100_001)
    )


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio on this machine")
def test_system_cpio_reads_what_is_written(tmp_path: Path) -> None:
    """GNU cpio unpacks our archive to the same tree."""
    raw = write(tmp_path, *TREE)
    target = tmp_path / "unpacked"
    target.mkdir()
    subprocess.run(["cpio", "-idm", "--quiet"], input=raw, cwd=target, check=True)
    found = {str(path.relative_to(target)): path.lstat() for path in target.rglob("*")}
    assert found.keys() == {entry.name for entry in TREE}
    assert (target / "rootfs/usr/prog").read_bytes() == b"#!/bin/sh\n"
    assert (target / "rootfs/bin").readlink() == Path("/usr/bin")
    assert all(found[entry.name].st_mode == entry.mode for entry in TREE if entry.mode != SYMLINK)
    assert {int(info.st_mtime) for info in found.values() if stat.S_ISREG(info.st_mode)} == {1700000000}


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio on this machine")
def test_archives_of_system_cpio_are_read(tmp_path: Path) -> None:
    """An archive that GNU cpio made of plain files is accepted."""
    (tmp_path / "in" / "dir").mkdir(parents=True)
    (tmp_path / "in" / "dir" / "file").write_bytes(b"content")
    (tmp_path / "in" / "link").symlink_to("dir/file")
    names = b"dir\ndir/file\nlink\n"
    made = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        input=names,
        cwd=tmp_path / "in",
        check=True,
        capture_output=True,
    )
    assert [name for name, _, _ in listing(made.stdout)] == ["dir", "dir/file", "link"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (NewEntry("/etc", DIRECTORY, None), "cpio-absolute-name"),
        (NewEntry("../etc", DIRECTORY, None), "cpio-traversal"),
        (NewEntry("a//b", DIRECTORY, None), "cpio-name"),
        (NewEntry("", DIRECTORY, None), "cpio-name"),
        (NewEntry("\udcff", FILE, b""), "cpio-name"),
        (NewEntry("TRAILER!!!", FILE, b""), "cpio-name"),
        (NewEntry("no/parent", FILE, b""), "cpio-parent"),
        (NewEntry("f", 0o104755, b""), "cpio-mode"),
        (NewEntry("f", 0o101644, b""), "cpio-mode"),
        (NewEntry("f", 0o020666, b""), "cpio-type"),
        (NewEntry("f", 0o644, b""), "cpio-type"),
        (NewEntry("f", FILE, None), "cpio-type"),
        (NewEntry("d", DIRECTORY, b""), "cpio-type"),
        (NewEntry("l", SYMLINK, Path("target")), "cpio-type"),
        (NewEntry("l", SYMLINK, b""), "cpio-size"),
        (NewEntry("l", SYMLINK, b"a\0b"), "cpio-name"),
    ],
)
def test_writer_refuses_what_the_reader_would(tmp_path: Path, entry: NewEntry, reason: str) -> None:
    """The writer is held to the reader's rules and leaves no file behind."""
    with pytest.raises(UsageError) as caught:
        write(tmp_path, entry)
    assert caught.value.code == reason
    assert not list(tmp_path.iterdir())


def test_writer_refuses_the_same_name_twice(tmp_path: Path) -> None:
    """One name is one entry."""
    with pytest.raises(UsageError) as caught:
        write(tmp_path, NewEntry("f", FILE, b"1"), NewEntry("f", FILE, b"2"))
    assert caught.value.code == "cpio-duplicate"


def test_writer_refuses_a_time_that_does_not_fit(tmp_path: Path) -> None:
    """The field for the time has 32 bits."""
    with pytest.raises(UsageError):
        write(tmp_path, mtime=1 << 32)


# --- the reader

REFUSED = {
    "an absolute name": (archive(newc(b"/etc/passwd")), "cpio-absolute-name"),
    "a name that leaves the tree": (archive(newc(b"../evil")), "cpio-traversal"),
    "a name that leaves the tree later": (
        archive(newc(b"a", DIRECTORY), newc(b"a/../../b")),
        "cpio-traversal",
    ),
    "dot": (archive(newc(b".", DIRECTORY)), "cpio-name"),
    "a dot inside": (archive(newc(b"a", DIRECTORY), newc(b"a/./b")), "cpio-name"),
    "a double slash": (archive(newc(b"a", DIRECTORY), newc(b"a//b")), "cpio-name"),
    "a final slash": (archive(newc(b"a/", DIRECTORY)), "cpio-name"),
    "an empty name": (archive(newc(b"")), "cpio-name"),
    "a name with a zero in it": (archive(newc(b"a\0b")), "cpio-name"),
    "a name that is not UTF-8": (archive(newc(b"\xff")), "cpio-name"),
    "a name longer than the limit": (archive(newc(b"a/" * 600)), "cpio-name"),
    "a component longer than a file system takes": (archive(newc(b"a" * 256)), "cpio-name"),
    "a name size of zero": (archive(newc(b"a", name_size=0)), "cpio-name"),
    "a name that is not ended": (archive(newc(b"abc", name_size=3)), "cpio-padding"),
    "the same name twice": (archive(newc(b"a"), newc(b"a")), "cpio-duplicate"),
    "a directory twice": (archive(newc(b"a", DIRECTORY), newc(b"a", DIRECTORY)), "cpio-duplicate"),
    "no parent": (archive(newc(b"a/b")), "cpio-parent"),
    "a parent that comes later": (archive(newc(b"a/b"), newc(b"a", DIRECTORY)), "cpio-parent"),
    "a path through a file": (archive(newc(b"a"), newc(b"a/b")), "cpio-parent"),
    "a path through a symlink": (archive(newc(b"a", SYMLINK, b"/etc"), newc(b"a/b")), "cpio-parent"),
    "a hard link": (archive(newc(b"a", links=2)), "cpio-hard-link"),
    "a file without links": (archive(newc(b"a", links=0)), "cpio-hard-link"),
    "a hard-linked symlink": (archive(newc(b"a", SYMLINK, b"b", links=2)), "cpio-hard-link"),
    "a character device": (archive(newc(b"a", 0o020666)), "cpio-type"),
    "a block device": (archive(newc(b"a", 0o060660)), "cpio-type"),
    "a FIFO": (archive(newc(b"a", 0o010644)), "cpio-type"),
    "a socket": (archive(newc(b"a", 0o140644)), "cpio-type"),
    "no type": (archive(newc(b"a", 0o644)), "cpio-type"),
    "a mode beyond 16 bits": (archive(newc(b"a", 0x10000 | FILE)), "cpio-type"),
    "setuid": (archive(newc(b"a", 0o104755)), "cpio-mode"),
    "setgid": (archive(newc(b"a", 0o102755)), "cpio-mode"),
    "a setgid directory": (archive(newc(b"a", 0o042755)), "cpio-mode"),
    "a sticky file": (archive(newc(b"a", 0o101644)), "cpio-mode"),
    "a directory with content": (archive(newc(b"a", DIRECTORY, b"x")), "cpio-size"),
    "a symlink to nothing": (archive(newc(b"a", SYMLINK)), "cpio-size"),
    "a symlink that is too long": (archive(newc(b"a", SYMLINK, b"x" * 4096)), "cpio-size"),
    "a symlink with a zero": (archive(newc(b"a", SYMLINK, b"x\0y")), "cpio-name"),
    "a checksummed archive": (archive(newc(b"a", magic=b"070702")), "cpio-magic"),
    "an old archive": (archive(newc(b"a", magic=b"070707")), "cpio-magic"),
    "a compressed archive": (b"\x1f\x8b" + bytes(510), "cpio-magic"),
    "a checksum": (archive(newc(b"a", check=1)), "cpio-field"),
    "a device number": (archive(newc(b"a", device=(0, 0, 1, 0))), "cpio-field"),
    "a field that is not hexadecimal": (archive(newc(b"a").replace(b"000081A4", b"0000 1A4")), "cpio-field"),
    "a signed field": (archive(newc(b"a").replace(b"000081A4", b"+00081A4")), "cpio-field"),
    "content beyond the end": (archive(newc(b"a", size=1 << 20)), "cpio-truncated"),
    "4 GiB of content": (archive(newc(b"a", size=2**32 - 1)), "cpio-truncated"),
    "non-zero padding after a name": (archive(newc(b"abc", name_padding=b"x\0")), "cpio-padding"),
    "non-zero padding after content": (archive(newc(b"a", data=b"x", data_padding=b"\0\0y")), "cpio-padding"),
    "no trailer": (newc(b"a"), "cpio-truncated"),
    "zeros in place of a trailer": (archive(newc(b"a"), trailer=False) + bytes(512), "cpio-magic"),
    "nothing": (b"", "cpio-truncated"),
    "a trailer with content": (newc(b"TRAILER!!!", 0, b"x"), "cpio-trailer"),
    "a trailer with a mode": (newc(b"TRAILER!!!", FILE), "cpio-trailer"),
    "a second archive": (archive(newc(b"a")) + archive(newc(b"b")), "cpio-trailing"),
    "a byte after the trailer": (archive()[:-1] + b"x", "cpio-trailing"),
    "too much padding": (archive() + bytes(512), "cpio-trailing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_reader_refuses(name: str) -> None:
    """Each archive that breaks one rule is refused for that rule."""
    raw, reason = REFUSED[name]
    assert refusal(raw) == reason


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_of_a_refused_archive_is_written(name: str, tmp_path: Path) -> None:
    """Extraction checks the whole archive first, so a refused one leaves no trace."""
    raw, reason = REFUSED[name]
    target = tmp_path / "target"
    with pytest.raises(RamdiskError) as caught:
        extract_ramdisk(io.BytesIO(raw), section(raw), target)
    assert caught.value.code == reason
    assert not list(tmp_path.iterdir())


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """No archive that ends before its trailer is accepted."""
    raw = write(tmp_path, *TREE)
    end = raw.rindex(b"TRAILER!!!") + len(b"TRAILER!!!") + 1
    for length in range(end):
        assert refusal(raw[:length]) == "cpio-truncated"


def test_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries, bytes of names and bytes of content have limits."""
    raw = archive(newc(b"aaa", data=b"1234"), newc(b"bbb", data=b"5678"))
    assert len(listing(raw)) == 2
    for name, value in (("MAX_ENTRIES", 1), ("MAX_ALL_NAMES", 5), ("MAX_CONTENT", 7)):
        with monkeypatch.context() as patch:
            patch.setattr(cpio, name, value)
            assert refusal(raw) == "cpio-limit"


def test_sticky_directories_are_accepted() -> None:
    """The sticky bit belongs on /tmp, and nothing else does."""
    assert listing(archive(newc(b"tmp", 0o041777))) == [("tmp", 0o041777, 0)]


# --- extraction


def extract(raw: bytes, target: Path) -> None:
    """Extract an archive."""
    extract_ramdisk(io.BytesIO(raw), section(raw), target)


def test_extraction_makes_the_tree(tmp_path: Path) -> None:
    """Types, modes, content and targets are those of the entries, under any umask."""
    raw = write(
        tmp_path, *TREE, NewEntry("rootfs/locked", 0o40555, None), NewEntry("rootfs/locked/f", 0o100400, b"1")
    )
    before = os.umask(0o077)
    try:
        extract(raw, tmp_path / "new" / "target")
    finally:
        os.umask(before)
    target = tmp_path / "new" / "target"
    for entry in read_entries(io.BytesIO(raw), 0, len(raw)):
        info = (target / entry.name).lstat()
        assert stat.S_IFMT(info.st_mode) == stat.S_IFMT(entry.mode)
        if entry.kind == "symlink":
            assert os.fsencode((target / entry.name).readlink()) == link_target(io.BytesIO(raw), entry)
        else:
            assert info.st_mode == entry.mode
        if entry.kind == "file":
            data = raw[entry.data_offset : entry.data_offset + entry.size]
            assert (target / entry.name).read_bytes() == data
    assert len(list(target.rglob("*"))) == len(TREE) + 2


def test_two_ramdisks_share_directories(tmp_path: Path) -> None:
    """A second ramdisk may be unpacked over the first, as the kernel does it, where only directories meet."""
    extract(archive(newc(b"dev", DIRECTORY), newc(b"init", data=b"1")), tmp_path / "t")
    extract(archive(newc(b"dev", 0o40700), newc(b"dev/x", data=b"2")), tmp_path / "t")
    assert (tmp_path / "t" / "dev" / "x").read_bytes() == b"2"
    assert stat.S_IMODE((tmp_path / "t" / "dev").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [FILE, SYMLINK])
def test_extraction_never_replaces_a_file(tmp_path: Path, mode: int) -> None:
    """What is there stays there."""
    target = tmp_path / "t"
    target.mkdir()
    (target / "a").write_bytes(b"precious")
    with pytest.raises(UsageError) as caught:
        extract(archive(newc(b"a", mode, b"x")), target)
    assert caught.value.code == "cpio-destination"
    assert (target / "a").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "raw",
    [
        archive(newc(b"a", DIRECTORY), newc(b"a/evil", data=b"x")),
        archive(newc(b"b", data=b"x")),
        archive(newc(b"b", DIRECTORY), newc(b"b/evil", data=b"x")),
        archive(newc(b"dir", DIRECTORY), newc(b"dir/link", DIRECTORY), newc(b"dir/link/evil", data=b"x")),
    ],
)
def test_extraction_never_writes_through_a_link(tmp_path: Path, raw: bytes) -> None:
    """Links that are in the destination already, to a directory, a file or nothing, are not followed."""
    outside, target = tmp_path / "outside", tmp_path / "t"
    outside.mkdir()
    (target / "dir").mkdir(parents=True)
    (target / "a").symlink_to(outside)
    (target / "b").symlink_to(outside / "absent")
    (target / "dir" / "link").symlink_to(outside)
    with pytest.raises(UsageError) as caught:
        extract(raw, target)
    assert caught.value.code == "cpio-destination"
    assert not list(outside.iterdir())


def test_failed_extraction_leaves_no_new_directory(tmp_path: Path) -> None:
    """When the disk is full half way, the directory that extraction made is gone again."""

    class FullDisk(io.BytesIO):
        """Reads like an archive until content is asked for."""

        def read(self, size: int | None = -1, /) -> bytes:
            if size == 4321:
                raise OSError(28, "No space left on device")
            return super().read(size)

    raw = archive(newc(b"a", DIRECTORY), newc(b"a/b", data=b"x" * 4321))
    with pytest.raises(OSError, match="No space"):
        extract_ramdisk(FullDisk(raw), section(raw), tmp_path / "t")
    assert not (tmp_path / "t").exists()
