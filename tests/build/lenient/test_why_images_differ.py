"""Why do my PCRs differ? The first screen says so, by cause, whoever built the two images."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from coattest_build.explain.diff import Comparison, compare
from coattest_build.formats.signature import make_section
from support.build.eif_program import eif
from support.build.found_images import NITRO_TIME, find_cpio, nitro, nitro_application
from support.build.images import DIRECTORY, SIGNATURE, SYMLINK, SpecImage, archive, newc, pcr, plain
from support.verify.signing_keys import NOW, PCR0, certify, signer

APP = b"import os\nprint('hello')\n"
OTHER_APP = b"import os\nprint('hullo')\n"


def compared(tmp_path: Path, a: SpecImage, b: SpecImage) -> Comparison:
    """The comparison of two images."""
    (tmp_path / "a.eif").write_bytes(a.build())
    (tmp_path / "b.eif").write_bytes(b.build())
    return compare(tmp_path / "a.eif", tmp_path / "b.eif")


def test_two_builds_of_nitro_cli_differ_in_times_and_a_line(tmp_path: Path) -> None:
    """The file with its line comes first, and the rest is times: how many, from when to when."""
    a, b = tmp_path / "a.eif", tmp_path / "b.eif"
    a.write_bytes(nitro(nitro_application(APP, work_time=NITRO_TIME + 7)).build())
    b.write_bytes(nitro(nitro_application(OTHER_APP, work_time=NITRO_TIME + 3600)).build())
    done = eif("diff", a, b)
    assert done.returncode == 1
    first, content, removed, added, times, *_ = done.stdout.splitlines()
    assert first == "PCR0, PCR2 differ, by cause:"
    assert content == "  content (PCR0 PCR2): 1 x: ramdisk 1: rootfs/app.py, line 2: different content"
    assert (removed.strip(), added.strip()) == ("- print('hello')", "+ print('hullo')")
    assert times == (
        "  time (PCR0 PCR2): 4 x: ramdisk 1: rootfs: 2017-04-18T16:30:07Z -> 2017-04-18T17:30:00Z"
    )
    document = json.loads(eif("diff", a, b, "--json").stdout)
    assert [cause["cause"] for cause in document["causes"]] == ["content", "time"]
    assert document["causes"][1]["times"] == {"a": [NITRO_TIME + 7] * 2, "b": [NITRO_TIME + 3600] * 2}
    assert document["causes"][0]["first"]["excerpt"]["place"] == "line 2"
    assert {found["where"] for found in document["findings"] if found["code"] == "entry-mtime"} == {
        "ramdisk 1: rootfs",  # twice in the archive, and the first time is what it gets
        "ramdisk 1: rootfs/app.py",
        "ramdisk 1: rootfs/bin",
        "ramdisk 1: rootfs/bin/ping",
    }
    assert document["registers"]["PCR1"]["a"] == document["registers"]["PCR1"]["b"]
    assert document["registers"]["PCR0"]["a"] != document["registers"]["PCR0"]["b"]


def test_across_styles_each_property_is_apart(tmp_path: Path) -> None:
    """The same files by coattest and by find and cpio: times, owners and order differ, content does not."""
    ours = plain(
        ramdisks=(
            archive(
                newc(b"init", 0o100755, b"#!/bin/sh\n"), newc(b"lib", DIRECTORY), newc(b"lib/a", data=b"a")
            ),
        )
    )
    theirs = plain(
        ramdisks=(
            archive(
                newc(b".", DIRECTORY),
                newc(b"./lib", DIRECTORY, mtime=5),
                newc(b"./lib/a", 0o100600, b"a", uid=1000, mtime=5),
                newc(b"./init", 0o100755, b"#!/bin/sh\n", mtime=5),
            ),
        )
    )
    comparison = compared(tmp_path, ours, theirs)
    assert [(cause.name, cause.count) for cause in comparison.causes] == [
        ("content", 1),  # the root itself is an entry of one only
        ("mode", 1),
        ("time", 3),
        ("owner", 1),
        ("order", 1),
    ]
    assert comparison.causes[0].first is not None
    assert (comparison.causes[0].first.code, comparison.causes[0].first.where) == (
        "entry-added",
        "ramdisk 0: /",
    )


CASES = {
    "kernel": (lambda: nitro(kernel=b"other"), "kernel (PCR0 PCR1): 1 x: kernel"),
    "cmdline": (
        lambda: nitro(cmdline=b"quiet"),
        "cmdline (PCR0 PCR1): 1 x: cmdline: reboot=k panic=30 -> quiet",
    ),
    "metadata": (lambda: nitro(metadata=b'{"ImageName":"x"}'), "not measured (no register): 2 x: metadata"),
    "a link": (
        lambda: nitro(nitro_application(extra=newc(b"rootfs/l", SYMLINK, b"x"))),
        "content (PCR0 PCR2): 1 x: ramdisk 1: rootfs/l: (nothing) -> symlink, mode 0777, 1 bytes",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_cause_is_one_line(tmp_path: Path, name: str) -> None:
    """Which registers, how many, where, and the two values."""
    make, line = CASES[name]
    comparison = compared(tmp_path, nitro(), make())
    (cause,) = comparison.causes
    assert cause.line().startswith(line)


def test_registers_are_those_of_the_images(tmp_path: Path) -> None:
    """Both values of each."""
    comparison = compared(tmp_path, plain(), plain(kernel=b"k"))
    a, b = comparison.registers["PCR1"]
    assert a == pcr(b"kernel" * 100, b"reboot=k panic=30", b"boot" * 300)
    assert b == pcr(b"k", b"reboot=k panic=30", b"boot" * 300)


def told(tmp_path: Path, a: SpecImage, b: SpecImage) -> tuple[str, dict[str, str]]:
    """The heading's registers, and those of each cause, both as a person reads them."""
    compared(tmp_path, a, b)
    first, *lines = eif("diff", tmp_path / "a.eif", tmp_path / "b.eif").stdout.splitlines()
    found = (re.match(r"  (\w+) \((.*?)\): ", line) for line in lines[: lines.index("All differences:")])
    return first.removesuffix(", by cause:"), {each[1]: each[2] for each in found if each}


def signed(number: int) -> SpecImage:
    """The image of nitro-cli with the signature of a key of its own; 0 for none."""
    spec = nitro()
    if number:
        key = ec.generate_private_key(ec.SECP384R1())
        section = make_section(certify(key), PCR0, signer(key), NOW)
        spec.sections.append((SIGNATURE, section))
    return spec


@pytest.mark.parametrize("sides", [(1, 1), (1, 0), (0, 1)])
def test_signatures_differ_in_pcr8(tmp_path: Path, sides: tuple[int, int]) -> None:
    """Signed by two keys, or by one and not at all: PCR8 differs, and is in the JSON with both values."""
    a, b = map(signed, sides)
    assert told(tmp_path, a, b) == ("PCR8 differs", {"signature": "PCR8"})
    registers = compare(tmp_path / "a.eif", tmp_path / "b.eif").to_json()["registers"]
    assert [side for side in "ab" if registers["PCR8"][side] == "0" * 96] == [
        side for side, key in zip("ab", sides, strict=True) if not key
    ]
    assert registers["PCR0"]["a"] == registers["PCR0"]["b"]


def test_a_cause_has_the_registers_that_it_changes_and_that_differ(tmp_path: Path) -> None:
    """No cause without its register, and none of a register that is the same."""
    raw, init, other = find_cpio(), newc(b"init", 0o100755, b"a"), newc(b"init", 0o100755, b"b")
    packed = gzip.compress(raw, mtime=0)
    assert told(tmp_path, plain(ramdisks=(raw,)), plain(ramdisks=(packed,))) == (
        "PCR0, PCR1 differ",
        {"compression": "PCR0 PCR1"},
    )
    app = newc(b"app")
    replaced = plain(ramdisks=(archive(init), archive(other, app)))
    assert told(tmp_path, plain(ramdisks=(archive(init), archive(app))), replaced) == (
        "PCR0, PCR2 differ",
        {"content": "PCR0 PCR2"},
    )
    assert compare(tmp_path / "a.eif", tmp_path / "b.eif").findings[0].where == "ramdisk 0 -> 1: init"
    hidden = plain(ramdisks=(archive(newc(b"init", 0o100755, b"c")), archive(init, app)))
    assert told(tmp_path, replaced, hidden) == (
        "PCR0, PCR1, PCR2 differ",
        {"content": "PCR0 PCR2", "encoding": "PCR0 PCR1"},
    )


def test_compression_is_a_cause_of_its_own(tmp_path: Path) -> None:
    """The same tree plain and in gzip; and in two gzips of which one file differs, found inside."""
    raw = find_cpio()
    comparison = compared(tmp_path, plain(ramdisks=(raw,)), plain(ramdisks=(gzip.compress(raw, mtime=0),)))
    assert [cause.name for cause in comparison.causes] == ["compression"]
    changed = gzip.compress(raw.replace(b"#!/bin/sh\n", b"#!/bin/ash"), mtime=0)
    inside = compared(tmp_path, plain(ramdisks=(gzip.compress(raw, mtime=0),)), plain(ramdisks=(changed,)))
    assert [cause.name for cause in inside.causes] == ["content"]
    assert "init, line 1" in inside.causes[0].line()
    levels = compared(
        tmp_path,
        plain(ramdisks=(gzip.compress(raw, 1, mtime=0),)),
        plain(ramdisks=(gzip.compress(raw, 9, mtime=0),)),
    )
    assert [finding.code for finding in levels.findings] == ["archive-bytes"]


def test_a_content_among_thousands_of_times_is_listed(tmp_path: Path) -> None:
    """Times are summed up by cause, and do not push the one file out of the list."""

    def disk(mtime: int, last: bytes) -> bytes:
        files = [newc(b"./f%d" % number, data=b"x", mtime=mtime) for number in range(2000)]
        return archive(*files, newc(b"./last", data=last))

    comparison = compared(tmp_path, plain(ramdisks=(disk(1, b"a"),)), plain(ramdisks=(disk(2, b"b"),)))
    assert comparison.truncated
    assert comparison.findings[0].where == "ramdisk 0: last"
    assert [(cause.name, cause.count) for cause in comparison.causes] == [("content", 1), ("time", 2000)]


def test_bytes_that_nobody_reads_are_a_difference(tmp_path: Path) -> None:
    """Two files that differ after the last section only are not identical."""
    longer = nitro()
    longer.trailing = b"xx"
    other = nitro()
    other.trailing = b"xy"
    comparison = compared(tmp_path, longer, other)
    assert [finding.code for finding in comparison.findings] == ["image-bytes"]
