"""Reading .deb files: compression, truncation, damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from coattest.errors import FoundFalse
from coattest_build.formats.deb import open_data
from coattest_build.inputs.unpack import Tree
from support.build import packages
from support.build.packages import file, make_deb
from support.raises import raises_code


@pytest.mark.parametrize("compression", [".xz", ".gz", ""])
def test_the_compressions_of_debian_are_read(tmp_path: Path, compression: str) -> None:
    """data.tar may be xz, gzip or plain."""
    path = make_deb(tmp_path / "a.deb", [file("./a", b"content")], compression=compression)
    tree = Tree(tmp_path / "root")
    tree.unpack_deb(path, "a")
    assert (tree.root / "a").read_bytes() == b"content"


def test_an_unsupported_compression_is_named(tmp_path: Path) -> None:
    """zstd is a clear error, not a crash."""
    path = make_deb(tmp_path / "a.deb", [file("./a")], compression=".zst")
    with raises_code(
        FoundFalse, "bad-archive", match=r"a 1\.0: data\.tar\.zst: this compression is not supported"
    ):
        Tree(tmp_path / "root").unpack_deb(path, "a 1.0")


def test_a_package_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    """Truncation at any length is an error that names the package, whatever was cut."""
    for compression in (".xz", ".gz", ""):
        whole = packages.deb_bytes(packages.tar([file("./a", b"content")]), compression)
        for length in [*range(0, len(whole), 23), len(whole) - 2]:
            path = tmp_path / "a.deb"
            path.write_bytes(whole[:length])
            tree = Tree(tmp_path / f"root{compression}{length}")
            with raises_code(FoundFalse, "bad-archive", match=r"^a 1\.0: "):
                tree.unpack_deb(path, "a 1.0")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04" + bytes(200),
        packages.ar([("control.tar.xz", b"")]),
        packages.ar([("debian-binary", b"3.0\n"), ("data.tar", b"")]),
        packages.ar([("debian-binary", b"2.0\n")]),
        packages.ar([("debian-binary", b"2.0\n"), ("data.tar.xz", b"not xz at all")]),
        packages.ar([("debian-binary", b"2.0\n"), ("data.tar.gz", b"not gzip at all")]),
        packages.ar([("debian-binary", b"2.0\n"), *((f"x{n}", b"") for n in range(40)), ("data.tar", b"")]),
    ],
)
def test_what_is_no_package_is_refused(tmp_path: Path, data: bytes) -> None:
    """Other files, other versions and damaged ones are one clear error."""
    path = tmp_path / "a.deb"
    path.write_bytes(data)
    with raises_code(FoundFalse, "bad-archive", match=r"^a: "):
        Tree(tmp_path / "root").unpack_deb(path, "a")


def test_bytes_after_the_archive_do_not_matter_to_the_reader(tmp_path: Path) -> None:
    """The stream ends where the ar member says."""
    path = make_deb(tmp_path / "a.deb", [file("./a")], compression="")
    whole = path.read_bytes()
    path.write_bytes(whole + b"more")
    with open_data(path, "a") as stream:
        total = 0
        while data := stream.read(65536):
            total += len(data)
    assert total == len(packages.tar([file("./a")]))
