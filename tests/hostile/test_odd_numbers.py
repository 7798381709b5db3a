"""Numbers in hostile archives: int() takes signs, underscores and other scripts' digits."""

from __future__ import annotations

import contextlib
import tarfile
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest.errors import CoattestError, FoundFalse, UsageError
from coattest_build.formats.tar import TarStream, parse_header, parse_pax
from coattest_build.inputs.unpack import Tree
from coattest_verify.cli.members.init import parse_groups
from coattest_verify.cli.policy.making import further
from coattest_verify.rebuild.inputs.release import parse_release
from support.build.packages import ar, deb_bytes, file, make_deb
from support.raises import raises_code

ODD = [
    *("\u00b2", "\u0661", "\uff11", "1\u00b2", "\u2460", "+1", "-1", "1_0", " 1", "1 ", "0x1", "1e1", "1.0"),
    *("9" * 16, "1" * 5000, "1\n", "\t1"),
]
"""Texts that str.isdigit, str.isdecimal or int() takes for a number, or that int() refuses in its own way."""


@pytest.mark.parametrize("size", [text for text in ODD if "\n" not in text])
def test_a_pax_size_is_ascii_digits(size: str, tmp_path: Path) -> None:
    """Anything else is a damaged package, whatever Python's int would make of it."""
    path = make_deb(tmp_path / "a.deb", [file("./a", size=size)], format=tarfile.PAX_FORMAT)
    with raises_code(FoundFalse, "bad-archive", "hostile-package"):
        Tree(tmp_path / "root").unpack_deb(path, "a")
    assert not (tmp_path / "root/a").exists()


def test_a_pax_size_of_plain_digits_is_taken(tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    path = make_deb(tmp_path / "a.deb", [file("./a", b"x", size="1")], format=tarfile.PAX_FORMAT)
    tree = Tree(tmp_path / "root")
    tree.unpack_deb(path, "a")
    assert (tree.root / "a").read_bytes() == b"x"


@pytest.mark.parametrize("size", ["+1", "-1", "1_0", "0x1", "\u00b2", "\u0661", "", "1.0"])
def test_an_ar_size_is_ascii_digits(size: str, tmp_path: Path) -> None:
    """In the header of each member of a .deb."""
    data = deb_bytes(tarfile.TarInfo("./a").tobuf() + bytes(1024))
    for place in (8 + 48, data.index(b"data.tar") + 48):
        field = size.encode()[:10].ljust(10)
        (tmp_path / "a.deb").write_bytes(data[:place] + field + data[place + 10 :])
        with raises_code(FoundFalse, "bad-archive"):
            Tree(tmp_path / f"root-{place}").unpack_deb(tmp_path / "a.deb", "a")


def test_an_archive_of_these_parts_is_read(tmp_path: Path) -> None:
    """The helper's headers are good as they are."""
    assert ar([("a", b"")]).startswith(b"!<arch>\n")
    (tmp_path / "a.deb").write_bytes(deb_bytes(tarfile.TarInfo("./a").tobuf() + bytes(1024)))
    Tree(tmp_path / "root").unpack_deb(tmp_path / "a.deb", "a")


class Blocks:
    """A stream over bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int, /) -> bytes:
        piece, self._data = self._data[:size], self._data[size:]
        return piece


@given(st.binary(max_size=2000))
def test_a_pax_header_of_any_bytes_is_records_or_an_error_of_ours(data: bytes) -> None:
    """Nothing else comes out of it."""
    try:
        records = parse_pax(data)
    except CoattestError:
        return
    assert set(records) <= {"path", "linkpath", "size"}


@given(st.integers(0, 511), st.binary(min_size=1, max_size=12), st.text(max_size=20))
def test_a_tar_header_with_changed_bytes_is_a_member_or_an_error_of_ours(
    place: int, patch: bytes, size: str
) -> None:
    """Also with its checksum put right, and with a pax header before it that names any size."""
    info = tarfile.TarInfo("./a")
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[place : place + len(patch)] = patch
    block = block[:512]
    total = sum(block) - sum(block[148:156]) + 8 * 0x20
    block[148:156] = b"%06o\0 " % total
    with contextlib.suppress(CoattestError):
        parse_header(bytes(block))
    record = f" size={size}\n".encode("utf-8", "surrogateescape" if size.isascii() else "strict")
    length = len(record) + 2
    header = tarfile.TarInfo("./pax")
    header.type, header.size = tarfile.XHDTYPE, length
    body = (b"%02d" % length + record).ljust(512, b"\0")
    stream = TarStream(
        Blocks(header.tobuf(tarfile.USTAR_FORMAT) + body + bytes(block) + bytes(1024)),
        max_members=10,
        max_bytes=100_000,
    )
    with contextlib.suppress(CoattestError):
        assert all(member.size >= 0 for member in stream)


@pytest.mark.parametrize("size", [text for text in ODD if text.strip() == text])
def test_a_release_file_lists_sizes_in_ascii_digits(size: str) -> None:
    """A line that is none makes the whole file one that is not relied on."""
    text = f"Suite: x\nCodename: x\nDate: Sat, 11 Jul 2026 10:00:00 UTC\nSHA256:\n {'0' * 64} {size} main/x\n"
    found = parse_release(text.encode(), "x")
    assert getattr(found, "code", None) == "bad-release"
    good = parse_release(text.replace(f" {size} main", " 12 main").encode(), "x")
    assert getattr(good, "code", None) is None


@pytest.mark.parametrize("index", [text for text in ODD if text not in (" 1", "1 ")])
def test_a_register_on_the_command_line_is_ascii_digits(index: str) -> None:
    """Usage, exit 2, and no traceback."""
    with pytest.raises((UsageError, click.UsageError)):
        further({"registers": (f"{index}={'0' * 96}",), "pcr3_role": None, "pcr4_instance": None})


@pytest.mark.parametrize("count", [text for text in ODD if text != "9" * 16])
def test_a_groups_threshold_is_ascii_digits(count: str) -> None:
    """As above."""
    with pytest.raises(UsageError):
        parse_groups((f"g={count}:a,b",))
