"""The dialects of tar in layers: GNU tar and Python as the other sides, damage and smuggling."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from coattest_build.containers.errors import ContainerError
from coattest_build.containers.layertar import LayerEntry, read_layer
from coattest_build.containers.sources import HeldBytes
from support.build.container_images import Entry, entry, folder, hard_link, symlink, tar

BIG = 1 << 21


def read(data: bytes, most: int = 100_000) -> list[LayerEntry]:
    """All entries."""
    return list(read_layer(HeldBytes(data), most=most))


def content(data: bytes, found: LayerEntry) -> bytes:
    """An entry's bytes."""
    return b"".join(bytes(size) if place < 0 else data[place : place + size] for place, size in found.content)


LONG = "long/" + "n" * 120 + "/" + "m" * 120
ENTRIES: tuple[Entry, ...] = (
    folder("d", mode=0o1777),
    entry("d/f", b"content", mode=0o4711, uid=1000, gid=2000),
    entry(LONG, b"x" * 513),
    symlink("s", "t" * 150),
    hard_link("h", "d/f"),
    entry("c", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    entry("b", type=tarfile.BLKTYPE, devmajor=8, devminor=300),
    entry("p", type=tarfile.FIFOTYPE),
    entry("ids", uid=3_000_000, gid=4_000_000_000),
)


@pytest.mark.parametrize("dialect", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_what_python_writes_is_read(dialect: int) -> None:
    """Long names, large ids, devices: pax and GNU give the same entries."""
    data = tar(*ENTRIES, format=dialect)
    found = read(data)
    assert len(found) == len(ENTRIES)
    for (info, body), got in zip(ENTRIES, found, strict=True):
        assert (got.name.decode().rstrip("/"), got.mode) == (info.name, info.mode)
        assert (got.uid, got.gid, got.mtime) == (info.uid, info.gid, info.mtime)
        assert (got.target.decode(), got.device) == (info.linkname, (info.devmajor, info.devminor))
        assert (got.size, content(data, got)) == (len(body), body)


@pytest.mark.parametrize("dialect", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_gnu_tar_writes_is_read(dialect: str, tmp_path: Path) -> None:
    """Each of its formats, with the owner's ids and whole seconds."""
    if shutil.which("tar") is None:
        pytest.skip("no tar on this machine")
    (tmp_path / "t/d").mkdir(parents=True)
    (tmp_path / "t/d/f").write_bytes(b"content" * 100)
    (tmp_path / "t/s").symlink_to("d/f")
    os.link(tmp_path / "t/d/f", tmp_path / "t/z")
    os.utime(tmp_path / "t/d/f", ns=(0, 1_600_000_000_999_999_999))
    data = subprocess.run(
        ["tar", "--sort=name", f"--format={dialect}", "-C", str(tmp_path / "t"), "-c", "."],
        check=True,
        capture_output=True,
    ).stdout
    found = {got.name.decode().removeprefix("./").rstrip("/"): got for got in read(data)}
    assert sorted(found) == ["", "d", "d/f", "s", "z"]
    kinds = {name: got.kind for name, got in found.items() if name}
    assert kinds == {"d": "directory", "d/f": "file", "s": "symlink", "z": "hard link"}
    assert content(data, found["d/f"]) == b"content" * 100
    assert found["d/f"].mtime == 1_600_000_000
    assert found["d/f"].uid == os.getuid()


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
@pytest.mark.parametrize("at", [(0,), (BIG,), (0, BIG // 2), (4096, BIG // 2, BIG)])
def test_a_sparse_file_of_pax_is_what_it_was(version: str, at: tuple[int, ...], tmp_path: Path) -> None:
    """Holes at the beginning, between and at the end, in each of the three forms."""
    if shutil.which("tar") is None:
        pytest.skip("no tar on this machine")
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for place in at:
            file.seek(place)
            file.write(b"data" * 1024)
        file.truncate(BIG + 70_000)
    (tmp_path / "after").write_bytes(b"after")
    names = ("sparse", "after")
    data = subprocess.run(
        ["tar", "--format=posix", "-S", f"--sparse-version={version}", "-C", str(tmp_path), "-c", *names],
        check=True,
        capture_output=True,
    ).stdout
    assert len(data) < BIG // 2
    sparse, after = read(data)
    assert (sparse.name, sparse.size) == (b"sparse", BIG + 70_000)
    assert content(data, sparse) == path.read_bytes()
    assert content(data, after) == b"after"


def test_a_sparse_file_in_gnu_s_old_form_is_refused(tmp_path: Path) -> None:
    """Docker does not load it either."""
    if shutil.which("tar") is None:
        pytest.skip("no tar on this machine")
    with (tmp_path / "sparse").open("wb") as file:
        file.seek(BIG)
        file.write(b"x")
    data = subprocess.run(
        ["tar", "--format=gnu", "-S", "-C", str(tmp_path), "-c", "sparse"], check=True, capture_output=True
    ).stdout
    with pytest.raises(ContainerError, match="old form") as caught:
        read(data)
    assert caught.value.code == "container-unsupported"


def test_the_prefix_of_a_name_belongs_to_the_dialect() -> None:
    """ustar's has 155 bytes, star's 131; GNU has times there, and v7 nothing."""
    block = bytearray(tar(entry("name"), format=tarfile.USTAR_FORMAT)[:512])
    block[345:348] = b"pre"

    def named(magic: bytes, end: bytes = bytes(12)) -> bytes:
        block[257:265], block[500:512] = magic, end
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return read(bytes(block) + bytes(1024))[0].name

    assert named(b"ustar\x0000") == b"pre/name"
    assert named(b"ustar\x0000", bytes(8) + b"tar\0") == b"pre/name"
    assert named(b"ustar  \0") == b"name"
    assert named(bytes(8)) == b"name"


def test_numbers_in_base_256_are_read() -> None:
    """Also negative ones: a time before 1970."""
    block = bytearray(tar(entry("name"), format=tarfile.USTAR_FORMAT)[:512])

    def timed(field: bytes) -> int:
        block[136:148] = field
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return read(bytes(block) + bytes(1024))[0].mtime

    assert timed(b"\x80" + bytes(7) + b"\x7f\0\0\0") == 0x7F000000
    assert timed(b"\xff" * 12) == -1
    with pytest.raises(ContainerError, match="too large"):
        timed(b"\xbf" + b"\xff" * 11)


def test_a_checksum_of_signed_bytes_is_read() -> None:
    """Old writers added the bytes as signed numbers."""
    block = bytearray(tar(entry("caf\xe9"), format=tarfile.GNU_FORMAT, encoding="latin-1")[:512])
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % (sum(block) - 256)
    assert read(bytes(block))[0].name == b"caf\xe9"
    block[148:156] = b"%06o\0 " % (sum(block) - 512)
    with pytest.raises(ContainerError, match="checksum"):
        read(bytes(block))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1600000000.999999999", 1_600_000_000),
        ("1600000000", 1_600_000_000),
        ("1600000000.", 1_600_000_000),
        ("-0.5", -1),
        ("0.5", 0),
        ("00001600000000", 1_600_000_000),
    ],
)
def test_a_time_is_its_decimal_text_rounded_down(text: str, seconds: int) -> None:
    """A float would make 1600000001 of the first."""
    assert read(tar(entry("x", pax_headers={"mtime": text})))[0].mtime == seconds


def test_a_global_header_changes_nothing() -> None:
    """Docker ignores it."""
    data = tar(entry("x", b"1"), pax_headers={"path": "evil", "mtime": "5", "uid": "7"})
    (found,) = read(data)
    assert (found.name, found.mtime, found.uid) == (b"x", 1_600_000_000, 0)


def spoiled(data: bytes, at: int, new: bytes) -> bytes:
    """The archive with other bytes in its first header, and the right checksum."""
    block = bytearray(data[:512])
    block[at : at + len(new)] = new
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data[512:]


PLAIN = tar(entry("x", b"1"), format=tarfile.USTAR_FORMAT)
DAMAGED = {
    "no archive": b"no archive" * 100,
    "a wrong checksum": PLAIN[:100] + b"7" + PLAIN[101:],
    "cut in a header": PLAIN[:300],
    "cut in the content": tar(entry("x", b"1" * 100), format=tarfile.USTAR_FORMAT)[:600],
    "cut in the padding after a size that lies": spoiled(PLAIN, 124, b"77777777777"),
    "a size that is no number": spoiled(PLAIN, 124, b"0000000000x"),
    "a negative owner": spoiled(PLAIN, 108, b"\xff" * 8),
    "a second archive after the end": PLAIN + PLAIN,
    "data after one block of zeros": PLAIN[:1024] + bytes(512) + PLAIN,
    "an unknown type": spoiled(PLAIN, 156, b"Z"),
    "a contiguous file": spoiled(PLAIN, 156, b"7"),
    "a pax header at the end": spoiled(PLAIN, 156, b"x"),
    "a long name at the end": spoiled(PLAIN, 156, b"L"),
    "a long name of a gigabyte": spoiled(spoiled(PLAIN, 156, b"L"), 124, b"10000000000"),
    "a pax time that is none": tar(entry("x", pax_headers={"mtime": "1e9"})),
    "a pax size that is none": tar(entry("x", pax_headers={"size": "0x10"})),
    "a pax owner of other digits": tar(entry("x", pax_headers={"uid": "\u0661"})),
    "a sparse map that goes back": tar(
        entry("x", b"12", pax_headers={"GNU.sparse.map": "5,1,3,1", "GNU.sparse.size": "9"})
    ),
    "a sparse map with too little data": tar(
        entry("x", b"1", pax_headers={"GNU.sparse.map": "0,2", "GNU.sparse.size": "9"})
    ),
    "a sparse map with too much data": tar(
        entry("x", b"123", pax_headers={"GNU.sparse.map": "0,2", "GNU.sparse.size": "9"})
    ),
    "a sparse file of another version": tar(
        entry("x", b"1", pax_headers={"GNU.sparse.major": "2", "GNU.sparse.minor": "0"})
    ),
    "a sparse map without an end": tar(
        entry(
            "x",
            b"9" * 2048,
            pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"},
        )
    ),
}


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_a_damaged_archive_is_refused(name: str) -> None:
    """With an error of ours; never a part of it."""
    with pytest.raises(ContainerError):
        read(DAMAGED[name])


def test_an_archive_may_end_without_its_zeros() -> None:
    """Go's reader takes the end of the file for the end."""
    assert [found.name for found in read(PLAIN[:1024])] == [b"x"]
    assert [found.name for found in read(PLAIN[:1536])] == [b"x"]


def test_a_name_in_two_dialects_is_refused() -> None:
    """One reader takes GNU's, another the pax record."""
    long_name = tar(entry("n" * 150), format=tarfile.GNU_FORMAT)
    both = tar(entry("x", pax_headers={"path": "evil"}))
    header, rest = long_name[:1024], both
    with pytest.raises(ContainerError) as caught:
        read(header + rest)
    assert caught.value.code == "container-two-readings"


def test_headers_are_counted() -> None:
    """Also those before an entry, which are none themselves."""
    data = tar(*(entry(f"{'n' * 120}{n}") for n in range(10)))
    assert len(read(data, most=20)) == 10
    with pytest.raises(ContainerError, match="more than 19 entries"):
        read(data, most=19)


def test_names_are_bytes() -> None:
    """Not UTF-8, and no reader's normal form."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("\xff\xfe"))
    assert read(buffer.getvalue())[0].name == b"\xff\xfe"
