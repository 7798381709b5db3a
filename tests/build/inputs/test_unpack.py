"""Unpacking packages whose content is hostile."""

from __future__ import annotations

import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest.errors import FoundFalse
from coattest_build.formats.tar import TarStream
from coattest_build.inputs import unpack
from coattest_build.inputs.unpack import Tree
from support.build import packages
from support.build.packages import Member, directory, entry, file, hard_link, make_deb, symlink
from support.raises import raises_code


def unpacked(tmp_path: Path, *packages_: list[Member], **options: object) -> Path:
    """The directory that results from unpacking packages with these members, one after another."""
    tree = Tree(tmp_path / "root")
    for number, members in enumerate(packages_):
        path = make_deb(tmp_path / f"{number}.deb", members)
        tree.unpack_deb(path, f"package-{number}")
    return tree.root


def outside(tmp_path: Path) -> set[str]:
    """What is in the test's folder beside the root and the packages."""
    return {path.name for path in tmp_path.iterdir() if path.suffix != ".deb"} - {"root"}


def test_an_ordinary_package_is_unpacked_with_normal_modes(tmp_path: Path) -> None:
    """Files become 644 or 755, directories 755, links stay links, hard links share a file."""
    root = unpacked(
        tmp_path,
        [
            directory("./"),
            directory("./usr/"),
            file("./usr/bin/tool", b"code", 0o700),
            file("./usr/data", b"text", 0o600),
            symlink("./usr/link", "../usr/data"),
            symlink("./usr/absolute", "/usr/data"),
            hard_link("./usr/again", "./usr/bin/tool"),
        ],
    )
    assert (root / "usr/bin/tool").read_bytes() == b"code"
    assert stat.S_IMODE((root / "usr/bin/tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "usr/data").stat().st_mode) == 0o644
    assert stat.S_IMODE((root / "usr").stat().st_mode) == 0o755
    assert (root / "usr/link").readlink() == Path("../usr/data")
    assert (root / "usr/absolute").readlink() == Path("/usr/data")
    assert (root / "usr/again").samefile(root / "usr/bin/tool")


def test_maintainer_scripts_are_not_unpacked(tmp_path: Path) -> None:
    """The control part of a package leaves no trace."""
    root = unpacked(tmp_path, [file("./a")])
    assert [path.name for path in root.rglob("*")] == ["a"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        pytest.param([file("/etc/passwd")], "an absolute path", id="absolute path"),
        pytest.param([file("./usr/../../outside")], "a path with ..", id="dotdot in the middle"),
        pytest.param([file("../outside")], "a path with ..", id="dotdot at the start"),
        pytest.param([file(".//etc/passwd")], "an absolute path", id="absolute behind a dot"),
        pytest.param([file("./a\nb")], "not a plain path", id="control character"),
        pytest.param([file("./a//b")], "not a plain path", id="empty component"),
        pytest.param([file("./" + "d/" * 80 + "f")], "not a plain path", id="too deep"),
        pytest.param([symlink("./a", "../outside")], "a symlink out of the tree", id="symlink to dotdot"),
        pytest.param([symlink("./d/a", "../../../etc")], "a symlink out of the tree", id="symlink far up"),
        pytest.param(
            [symlink("./a", "/../outside")], "a symlink out of the tree", id="symlink above the root"
        ),
        pytest.param(
            [symlink("./d", "usr"), file("./d/f")], "writes through a symlink", id="file through a symlink"
        ),
        pytest.param(
            [symlink("./d", "/tmp"), directory("./d/sub")],
            "writes through a symlink",
            id="directory through a symlink",
        ),
        pytest.param(
            [symlink("./d", "usr"), symlink("./d/s", "x")],
            "writes through a symlink",
            id="link through a link",
        ),
        pytest.param([symlink("./a", "b"), file("./a")], "there is already a", id="file over a symlink"),
        pytest.param([file("./a"), file("./a")], "there is already a", id="file twice"),
        pytest.param([file("./a"), file("./a/b")], "writes through a file", id="file below a file"),
        pytest.param(
            [hard_link("./a", "/etc/passwd")], "an absolute path", id="hard link to an absolute path"
        ),
        pytest.param([hard_link("./a", "../outside")], "a path with ..", id="hard link to dotdot"),
        pytest.param(
            [hard_link("./a", "./missing")], "a hard link to something that is not", id="hard link to nothing"
        ),
        pytest.param(
            [symlink("./s", "/etc/passwd"), hard_link("./a", "./s")],
            "a hard link to something that is not",
            id="hard link to a symlink",
        ),
        pytest.param([entry("./c", tarfile.CHRTYPE)], "a character device", id="character device"),
        pytest.param([entry("./b", tarfile.BLKTYPE)], "a block device", id="block device"),
        pytest.param([entry("./f", tarfile.FIFOTYPE)], "a FIFO", id="fifo"),
        pytest.param([entry("./s", tarfile.GNUTYPE_SPARSE)], "a member of type b'S'", id="sparse file"),
        pytest.param([file("./su", mode=0o4755)], "a setuid or setgid file", id="setuid"),
        pytest.param([file("./su", mode=0o2755)], "a setuid or setgid file", id="setgid"),
        pytest.param([symlink("./", "etc")], "the root is a symlink", id="root replaced"),
    ],
)
def test_hostile_members_are_refused(tmp_path: Path, members: list[Member], message: str) -> None:
    """A member that would leave the tree, or is no plain file, stops the build with the package's name."""
    (tmp_path / "outside").write_text("untouched")
    with raises_code(FoundFalse, "hostile-package") as caught:
        unpacked(tmp_path, members)
    assert message in str(caught.value)
    assert "package-0" in str(caught.value)
    assert caught.value.exit_code == 1
    assert outside(tmp_path) == {"outside"}
    assert (tmp_path / "outside").read_text() == "untouched"


def test_a_second_package_cannot_write_through_the_first_ones_link(tmp_path: Path) -> None:
    """Links of one package are remembered when the next is unpacked."""
    with raises_code(FoundFalse, "hostile-package", match="writes through a symlink"):
        unpacked(tmp_path, [symlink("./lib", "usr/lib")], [file("./lib/libc.so.6")])


@pytest.mark.parametrize(
    "key", ["SCHILY.xattr.security.capability", "LIBARCHIVE.xattr.user.x", "SCHILY.acl.access"]
)
def test_extended_attributes_are_refused(tmp_path: Path, key: str) -> None:
    """A file that carries capabilities or an ACL is not unpacked without them."""
    path = make_deb(tmp_path / "a.deb", [file("./a", **{key: "v"})], format=tarfile.PAX_FORMAT)
    with raises_code(FoundFalse, "hostile-package", match="an extended attribute"):
        Tree(tmp_path / "root").unpack_deb(path, "a")


def test_harmless_pax_headers_and_long_names_are_understood(tmp_path: Path) -> None:
    """Long names and link targets come out whole, in GNU's and in pax form."""
    long = "/".join(["d" * 90] * 4)
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        members = [file(f"./{long}/{'f' * 120}", b"content"), symlink("./s", f"{long}/{'f' * 120}")]
        path = make_deb(tmp_path / "a.deb", members, format=form)
        tree = Tree(tmp_path / f"root{number}")
        tree.unpack_deb(path, "a")
        assert (tree.root / "s").read_bytes() == b"content"


def test_a_bomb_of_bytes_is_stopped_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few compressed kilobytes do not become gigabytes on disk."""
    monkeypatch.setattr(unpack, "MAX_BYTES", 1_000_000)
    path = make_deb(tmp_path / "a.deb", [file("./zeros", bytes(50_000_000))])
    assert path.stat().st_size < 100_000
    with raises_code(FoundFalse, "hostile-package", match="unpacks to more than"):
        Tree(tmp_path / "root").unpack_deb(path, "a")
    written = (tmp_path / "root/zeros").stat().st_size
    assert written <= 1_000_000


def test_a_bomb_of_files_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of members is limited."""
    monkeypatch.setattr(unpack, "MAX_MEMBERS", 100)
    with raises_code(FoundFalse, "hostile-package", match="unpacks to more than 100 members"):
        unpacked(tmp_path, [file(f"./{number}") for number in range(101)])
    assert len(list((tmp_path / "root").iterdir())) <= 100


def test_a_huge_header_is_not_read_into_memory(tmp_path: Path) -> None:
    """A pax header or long name that claims a size beyond reason is refused before it is read."""
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        info = tarfile.TarInfo("./header")
        info.type, info.size = kind, 1 << 30
        data = info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
        (tmp_path / "a.deb").write_bytes(packages.deb_bytes(data))
        with raises_code(FoundFalse, "hostile-package", match="a header of 1073741824 bytes"):
            Tree(tmp_path / kind.hex()).unpack_deb(tmp_path / "a.deb", "a")


def test_what_is_not_kept_is_checked_all_the_same(tmp_path: Path) -> None:
    """Pruning a path does not hide a hostile one."""
    path = make_deb(tmp_path / "a.deb", [symlink("./share/s", "../../../etc")])
    with raises_code(FoundFalse, "hostile-package", match="a symlink out of the tree"):
        Tree(tmp_path / "root").unpack_deb(path, "a", lambda name: not name.startswith("share"))


def test_pruned_paths_are_not_written(tmp_path: Path) -> None:
    """``wanted`` decides what is unpacked."""
    path = make_deb(tmp_path / "a.deb", [file("./a"), file("./share/b")])
    tree = Tree(tmp_path / "root")
    tree.unpack_deb(path, "a", lambda name: not name.startswith("share"))
    assert [found.name for found in tree.root.rglob("*")] == ["a"]


def test_many_packages_in_parallel_give_the_same_tree(tmp_path: Path) -> None:
    """Two threads that share directories do not trip over each other."""
    debs = []
    for number in range(12):
        members = [directory("./usr/share/"), file(f"./usr/share/{number}/f", bytes([number]))]
        debs.append((make_deb(tmp_path / f"{number}.deb", members), str(number)))
    tree = Tree(tmp_path / "root")
    unpack.unpack_all(tree, debs)
    assert {p.name: (p / "f").read_bytes() for p in (tree.root / "usr/share").iterdir()} == {
        str(number): bytes([number]) for number in range(12)
    }


class Pieces:
    """A stream over bytes that gives them in short reads."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, size: int, /) -> bytes:
        piece, self.data = self.data[: min(size, 100)], self.data[min(size, 100) :]
        return piece


ARCHIVE_CODES = ("bad-archive", "hostile-package")
SAMPLE = packages.tar(
    [file("./a", b"content"), directory("./d"), symlink("./d/s", "../a"), hard_link("./h", "./a")]
)


@given(st.binary(max_size=2048))
def test_no_bytes_escape_the_error_type(data: bytes) -> None:
    """Whatever is read as a tar stream either parses or is refused as an archive."""
    code = None
    try:
        for _ in TarStream(Pieces(data), max_members=10, max_bytes=10_000):
            pass
    except FoundFalse as error:
        code = error.code
    assert code in (None, *ARCHIVE_CODES)


@given(st.integers(0, len(SAMPLE) - 1), st.integers(1, 255))
def test_no_changed_byte_escapes_the_error_type(position: int, change: int) -> None:
    """A real archive with one byte changed either parses or is refused as an archive."""
    data = bytearray(SAMPLE)
    data[position] ^= change
    stream = TarStream(Pieces(bytes(data)), max_members=100, max_bytes=1_000_000)
    code = None
    try:
        for _ in stream:
            list(stream.content())
    except FoundFalse as error:
        code = error.code
    assert code in (None, *ARCHIVE_CODES)
