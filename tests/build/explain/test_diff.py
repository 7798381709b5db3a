"""``eif diff`` names what differs between two images, down to the file and the byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest.findings import Finding
from coattest_build.explain import diff as differ
from coattest_build.explain import trees
from coattest_build.explain.details import Place
from coattest_build.explain.diff import Comparison, compare
from coattest_build.explain.excerpt import first_difference
from coattest_build.formats.eif import ImageError
from coattest_build.formats.elf import section_at
from support.build.eif_program import eif
from support.build.images import DIRECTORY, SIGNATURE, SYMLINK, SpecImage, archive, newc, plain

BOOT = archive(newc(b"dev", DIRECTORY), newc(b"init", 0o100755, b"init"))
SOURCE = b"import os\n\ndef main():\n    return 1\n"


def elf_file(text: bytes = b"code" * 8) -> bytes:
    """A small ELF file with a .text section after its header."""
    names = b"\0.text\0.shstrtab\0"
    text_at, names_at = 64, 64 + len(text)
    table_at = names_at + len(names)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, table_at, 0, 64, 0, 0, 64, 3, 2)
    sections = bytes(64)
    for name, kind, offset, size in ((1, 1, text_at, len(text)), (7, 3, names_at, len(names))):
        sections += struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, 0, 0, 1, 0)
    return head + text + names + sections


def application(**changes: bytes | None) -> bytes:
    """An application ramdisk; a change replaces the record of its name or removes it."""
    records: dict[str, bytes | None] = {
        "cmd": newc(b"cmd", data=b"python3\n"),
        "rootfs": newc(b"rootfs", DIRECTORY),
        "code": newc(b"rootfs/code.py", data=SOURCE),
        "lib": newc(b"rootfs/lib.so", 0o100755, elf_file()),
        "link": newc(b"rootfs/link", SYMLINK, b"code.py"),
    }
    return archive(*(record for record in (records | changes).values() if record is not None))


def spec(ramdisk: bytes | None = None, **changes: object) -> SpecImage:
    """An image with this application ramdisk."""
    arguments = {"ramdisks": (BOOT, ramdisk or application())} | changes
    return plain(**arguments)  # type: ignore[arg-type]


def compared(tmp_path: Path, a: SpecImage, b: SpecImage) -> Comparison:
    """The comparison of two images."""
    (tmp_path / "a.eif").write_bytes(a.build())
    (tmp_path / "b.eif").write_bytes(b.build())
    return compare(tmp_path / "a.eif", tmp_path / "b.eif")


def only(tmp_path: Path, b: SpecImage) -> Finding:
    """The one finding between the plain image and this one."""
    found = compared(tmp_path, spec(), b).findings
    assert len(found) == 1, found
    return found[0]


def only_place(tmp_path: Path, b: SpecImage) -> tuple[Finding, Place]:
    """The one finding between the plain image and this one, and its place."""
    comparison = compared(tmp_path, spec(), b)
    (found,) = comparison.findings
    return found, comparison.places[found]


def test_identical_images(tmp_path: Path) -> None:
    """Two copies of one image have no difference."""
    assert compared(tmp_path, spec(), spec()).findings == ()


CASES: dict[str, tuple[Callable[[], SpecImage], str, str, str | None, str | None]] = {
    "another kernel": (
        lambda: spec(kernel=b"kernel" * 99 + b"kerneL"),
        "section-content",
        "kernel",
        None,
        None,
    ),
    "a longer kernel": (
        lambda: spec(kernel=b"kernel" * 101),
        "section-size",
        "kernel",
        "600 bytes",
        "606 bytes",
    ),
    "another cmdline": (lambda: spec(cmdline=b"quiet"), "cmdline", "cmdline", "reboot=k panic=30", "quiet"),
    "another name": (
        lambda: spec(metadata=b'{"ImageName": "other"}'),
        "metadata",
        "metadata.ImageName",
        '"test"',
        '"other"',
    ),
    "metadata in another spelling": (
        lambda: spec(metadata=b'{"ImageName":"test"}'),
        "section-size",
        "metadata",
        "21 bytes",
        "20 bytes",
    ),
    "an added file": (
        lambda: spec(application(zzz=newc(b"rootfs/new", data=b"1"))),
        "entry-added",
        "ramdisk 1: rootfs/new",
        None,
        "file, mode 0644, 1 bytes",
    ),
    "a removed file": (
        lambda: spec(application(link=None)),
        "entry-removed",
        "ramdisk 1: rootfs/link",
        "symlink, mode 0777, 7 bytes",
        None,
    ),
    "another mode": (
        lambda: spec(application(code=newc(b"rootfs/code.py", 0o100755, SOURCE))),
        "entry-mode",
        "ramdisk 1: rootfs/code.py",
        "0644",
        "0755",
    ),
    "another type": (
        lambda: spec(application(code=newc(b"rootfs/code.py", DIRECTORY))),
        "entry-type",
        "ramdisk 1: rootfs/code.py",
        "file",
        "directory",
    ),
    "another target": (
        lambda: spec(application(link=newc(b"rootfs/link", SYMLINK, b"lib.so"))),
        "entry-target",
        "ramdisk 1: rootfs/link",
        "code.py",
        "lib.so",
    ),
    "another size": (
        lambda: spec(application(code=newc(b"rootfs/code.py", data=SOURCE + b"# more\n"))),
        "entry-size",
        "ramdisk 1: rootfs/code.py",
        "36 bytes",
        "43 bytes",
    ),
    "another owner": (
        lambda: spec(application(code=newc(b"rootfs/code.py", data=SOURCE, uid=1000, gid=100))),
        "entry-owner",
        "ramdisk 1: rootfs/code.py",
        "0:0",
        "1000:100",
    ),
    "another time": (
        lambda: spec(application(code=newc(b"rootfs/code.py", data=SOURCE, mtime=1))),
        "entry-mtime",
        "ramdisk 1: rootfs/code.py",
        "0",
        "1",
    ),
    "another inode": (
        lambda: spec(application(code=newc(b"rootfs/code.py", data=SOURCE, inode=9))),
        "archive-bytes",
        "ramdisk 1",
        None,
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_names_the_difference(tmp_path: Path, name: str) -> None:
    """Each change is found as what it is, where it is, with both values."""
    make, code, where, a, b = CASES[name]
    comparison = compared(tmp_path, spec(), make())
    (found,) = comparison.findings
    assert (found.code, found.where, found.expected, found.found) == (code, where, a, b)
    line = comparison.line(found)
    assert all(text in line for text in (where, a, b) if text)


def test_one_changed_byte_in_a_text_file(tmp_path: Path) -> None:
    """A changed byte in a source file is shown as its line in both images."""
    changed = newc(b"rootfs/code.py", data=SOURCE.replace(b"1", b"2"))
    found, place = only_place(tmp_path, spec(application(code=changed)))
    assert (found.code, found.where, place.offset) == ("entry-content", "ramdisk 1: rootfs/code.py", 34)
    assert place.excerpt is not None
    assert (place.excerpt.kind, place.excerpt.place) == ("text", "line 4")
    assert (place.excerpt.a, place.excerpt.b) == ("    return 1", "    return 2")


def test_one_changed_byte_in_an_elf_file(tmp_path: Path) -> None:
    """A changed byte in a program is shown with the section it is in and the bytes around it."""
    changed = newc(b"rootfs/lib.so", 0o100755, elf_file(b"code" * 7 + b"cod!"))
    found, place = only_place(tmp_path, spec(application(lib=changed)))
    assert (found.code, place.offset) == ("entry-content", 64 + 31)
    assert place.excerpt is not None
    assert (place.excerpt.kind, place.excerpt.place) == ("elf", "section .text")
    assert "63 6f 64 65" in place.excerpt.a
    assert "63 6f 64 21" in place.excerpt.b


def test_appended_text(tmp_path: Path) -> None:
    """Where one file ends early, the excerpt says so."""
    changed = newc(b"rootfs/code.py", data=SOURCE + b"more\n")
    _, place = only_place(tmp_path, spec(application(code=changed)))
    assert place.excerpt is not None
    assert (place.excerpt.place, place.excerpt.a, place.excerpt.b) == ("line 5", "(ends here)", "more")


def test_json_of_a_finding_has_its_place(tmp_path: Path) -> None:
    """A finding's six keys are there, and offset and excerpt for those whose contents were compared."""
    comparison = compared(tmp_path, spec(), spec(cmdline=b"reboot=k quiet", kernel=b"kernel" * 101))
    kernel, cmdline = comparison.to_json()["findings"]
    line = ("kernel" * 100)[-100:]
    assert kernel == {
        "code": "section-size",
        "where": "kernel",
        "detail": "different size",
        "expected": "600 bytes",
        "found": "606 bytes",
        "rule": None,
        "offset": 600,
        "excerpt": {"kind": "text", "place": "line 1", "a": line, "b": line + "kernel"},
    }
    assert (cmdline["expected"], cmdline["found"]) == ("reboot=k panic=30", "reboot=k quiet")
    assert cmdline["offset"] == 9
    assert "excerpt" not in cmdline


def test_header_and_order(tmp_path: Path) -> None:
    """Header fields and the order of sections are compared."""
    other = spec()
    other.memory, other.flags = 1 << 29, 1
    other.sections.insert(0, other.sections.pop(2))
    found = compared(tmp_path, spec(), other).findings
    assert [(finding.code, finding.where) for finding in found] == [
        ("header", "flags"),
        ("header", "default memory"),
        ("section-order", "sections"),
    ]


def test_section_in_one_image_only(tmp_path: Path) -> None:
    """A signature or a ramdisk more is named, in either direction."""
    other = spec()
    other.sections.append((SIGNATURE, b"signature"))
    assert only(tmp_path, other).found == "9 bytes"
    (found,) = compared(tmp_path, other, spec()).findings
    assert (found.code, found.where, found.expected) == ("section-missing", "signature", "9 bytes")
    third = spec(ramdisks=(BOOT, application(), archive(newc(b"third"))))
    missing, added = compared(tmp_path, spec(), third).findings
    assert (missing.code, missing.where) == ("section-missing", "ramdisk 2")
    assert (added.code, added.where) == ("entry-added", "ramdisk 2: third")


def test_ramdisk_that_is_no_archive(tmp_path: Path) -> None:
    """An opaque ramdisk is compared as bytes, and the reason is said."""
    comparison = compared(tmp_path, spec(), spec(b"opaque" * 1000))
    assert [finding.code for finding in comparison.findings] == ["ramdisk-unreadable", "section-size"]
    assert comparison.places[comparison.findings[1]].offset == 0


def test_entries_in_another_order(tmp_path: Path) -> None:
    """The same entries in another order are said to be that."""
    one = archive(newc(b"a"), newc(b"b"))
    other = archive(newc(b"b"), newc(b"a"))
    (found,) = compared(tmp_path, spec(one), spec(other)).findings
    assert (found.code, found.expected, found.found) == ("entry-order", "a", "b")


def test_reports_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison of unrelated images stops at a limit and says so."""
    monkeypatch.setattr(differ, "MAX_DIFFERENCES", 2)
    (tmp_path / "a.eif").write_bytes(spec().build())
    (tmp_path / "b.eif").write_bytes(spec(archive()).build())
    comparison = compare(tmp_path / "a.eif", tmp_path / "b.eif")
    assert (len(comparison.findings), comparison.truncated) == (2, True)


def test_a_file_with_many_names_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2.5 kB of names of one file whose 4 GiB are not there took four minutes."""
    looks: list[object] = []

    def counted(*blocks: Iterable[bytes]) -> int | None:
        looks.append(blocks)
        return first_difference(*blocks)

    def named(last: bytes) -> bytes:
        names = [newc(b"f%d" % number, inode=7, links=2) for number in range(20)]
        return archive(*names, newc(b"last", inode=7, links=2, data=last))

    monkeypatch.setattr(trees, "first_difference", counted)
    comparison = compared(tmp_path, spec(named(b"one")), spec(named(b"two")))
    assert [finding.code for finding in comparison.findings] == ["entry-content"] * 21
    assert len(looks) == 2  # that file, and init


def test_a_long_name_above_much_metadata_is_not_repeated(tmp_path: Path) -> None:
    """Half a megabyte of it became 20 GB of names."""
    deep = json.dumps({"k" * 400_000: {str(number): 1 for number in range(5_000)}}).encode()
    (found,) = compared(tmp_path, plain(metadata=deep), plain(metadata=b"{}")).findings
    assert (found.code, found.where) == ("section-size", "metadata")


def _blocks(data: bytes, cuts: list[int]) -> list[bytes]:
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(borders)]


@given(
    st.binary(max_size=50),
    st.binary(max_size=50),
    st.binary(max_size=50),
    st.lists(st.integers(0, 100)),
    st.lists(st.integers(0, 100)),
)
def test_first_difference_is_the_first(
    common: bytes, a: bytes, b: bytes, cuts_a: list[int], cuts_b: list[int]
) -> None:
    """However the streams are cut, the offset is that of a loop over bytes."""
    a, b = common + a, common + b
    expected = next(
        (i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), min(len(a), len(b))
    )
    found = first_difference(_blocks(a, cuts_a), _blocks(b, cuts_b))
    assert found == (None if a == b else expected)


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 200), st.integers(0, 255))
def test_hostile_elf_never_raises(tail: bytes, offset: int, position: int, value: int) -> None:
    """Whatever follows the magic, looking for a section's name ends with a name or None."""
    for raw in (b"\x7fELF\x02\x01" + tail, bytearray(elf_file())):
        changed = bytearray(raw)
        changed[position % len(changed)] = value
        found = section_at(lambda at, size, data=bytes(changed): data[at : at + size], offset)  # type: ignore[misc]
        assert found is None or isinstance(found, str)


def test_command(tmp_path: Path) -> None:
    """Exit 0 for identical files; exit 1 for others, with the first difference as one line on stderr."""
    a, b, same = tmp_path / "a.eif", tmp_path / "b.eif", tmp_path / "same.eif"
    a.write_bytes(spec().build())
    same.write_bytes(spec().build())
    b.write_bytes(spec(application(code=newc(b"rootfs/code.py", data=SOURCE.replace(b"1", b"2")))).build())
    done = eif("diff", a, same)
    assert (done.returncode, done.stdout, done.stderr) == (0, "identical\n", "")
    done = eif("diff", a, b)
    assert done.returncode == 1
    assert (
        done.stderr
        == "eif: first difference: ramdisk 1: rootfs/code.py: different content at byte 34 (line 4)\n"
    )
    assert "  -     return 1\n" in done.stdout
    assert "  +     return 2\n" in done.stdout
    done = eif("diff", a, b, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["identical"] is False
    assert document["findings"][0]["where"] == "ramdisk 1: rootfs/code.py"
    assert json.loads(eif("diff", a, same, "--json").stdout)["identical"] is True


@pytest.mark.parametrize("broken", [0, 1])
def test_unreadable_input_is_exit_2(tmp_path: Path, broken: int) -> None:
    """When either file is no image, or is not there, that is exit 2 and one line that names it."""
    paths = [tmp_path / "a.eif", tmp_path / "b.eif"]
    for path in paths:
        path.write_bytes(spec().build())
    paths[broken].write_bytes(b"no image")
    with pytest.raises(ImageError):
        compare(*paths)
    done = eif("diff", *paths)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"eif: {paths[broken]}: not an EIF")
    paths[broken].unlink()
    assert eif("diff", *paths).returncode == 2


FAULTS = {
    "eif-two-readings": ({"sizes": {2: 1}}, "so it has two measurements"),
    "eif-crc": ({"crc": 1}, "the CRC-32 is not the header's: 00000001 -> "),
}


@pytest.mark.parametrize("code", FAULTS)
@pytest.mark.parametrize("bad", ["a", "b", "ab"])
def test_an_image_that_is_not_one_thing_is_told_first(tmp_path: Path, bad: str, code: str) -> None:
    """The finding of ``describe`` for each such file, exit 1, also where the two have the same bytes."""
    changes, line = FAULTS[code]
    for name in "ab":
        made = spec()
        if name in bad:
            vars(made).update(changes)
        (tmp_path / name).write_bytes(made.build())
    done = eif("diff", tmp_path / "a", tmp_path / "b", "--json")
    document = json.loads(done.stdout)
    first = [(each["code"], each["where"]) for each in document["findings"][: len(bad)]]
    assert (done.returncode, first) == (1, [(code, f"image {name.upper()}") for name in bad])
    assert document["identical"] is (bad == "ab")
    assert len(document["findings"]) == len(bad) + (bad != "ab")
    told = done.stderr.splitlines()
    assert [line in each for each in told] == [True] * len(bad) + [False] * (bad != "ab")
