"""Measurements are those that the specification gives, in one pass, in bounded memory."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coattest_build.formats.eif import ImageError
from coattest_build.formats.hashing import BLOCK, Crc32, feed
from coattest_build.formats.measure import measure, measure_registers, pcr3, pcr4
from coattest_build.formats.registers import EMPTY_PCR2
from support.build.eif_program import eif
from support.build.images import HEADER, pcr, plain, with_right_crc

MEMORY_LIMIT = 64 << 20
"""Peak resident bytes of ``eif measure`` at any image size."""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for images that one test makes many of."""
    return tmp_path_factory.mktemp("measure")


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.binary(min_size=1, max_size=5000),
    cmdline=st.binary(min_size=1, max_size=200),
    ramdisks=st.lists(st.binary(min_size=1, max_size=5000), min_size=1, max_size=5),
)
def test_registers_follow_the_specification(
    scratch: Path, kernel: bytes, cmdline: bytes, ramdisks: list[bytes]
) -> None:
    """Registers, section digests and file digests equal a plain recomputation, for any number of ramdisks."""
    image = plain(kernel, cmdline, b"{}", tuple(ramdisks))
    raw = image.build()
    path = scratch / "image.eif"
    path.write_bytes(raw)
    measured = measure(path)
    assert measured.pcr0 == pcr(kernel, cmdline, *ramdisks)
    assert measured.pcr1 == pcr(kernel, cmdline, ramdisks[0])
    assert measured.pcr2 == pcr(*ramdisks[1:])
    assert measured.pcr8 is None
    assert [d.sha384 for d in measured.sections] == [
        hashlib.sha384(data).hexdigest() for _, data in image.sections
    ]
    assert [d.size for d in measured.sections] == [len(data) for _, data in image.sections]
    assert (measured.size, measured.sha256, measured.sha384) == (
        len(raw),
        hashlib.sha256(raw).hexdigest(),
        hashlib.sha384(raw).hexdigest(),
    )
    assert measure_registers(path) == measured.nitro_json()


def test_sections_larger_than_a_block(tmp_path: Path) -> None:
    """Sections that end on, before and after a block's border are measured whole and in order."""
    ramdisks = tuple(bytes([index]) * (BLOCK * index + delta) for index, delta in ((9, 0), (1, -1), (2, 1)))
    image = plain(b"k" * (3 * BLOCK + 7), b"cmd", b"{}", ramdisks)
    path = tmp_path / "image.eif"
    path.write_bytes(image.build())
    measured = measure(path)
    assert measured.pcr0 == pcr(b"k" * (3 * BLOCK + 7), b"cmd", *ramdisks)
    assert measured.pcr2 == pcr(*ramdisks[1:])
    assert measured.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_single_ramdisk_has_the_constant_pcr2(tmp_path: Path) -> None:
    """With one ramdisk PCR0 equals PCR1 and PCR2 is the published constant."""
    path = tmp_path / "image.eif"
    path.write_bytes(plain(ramdisks=(b"only",)).build())
    measured = measure(path)
    assert measured.pcr0 == measured.pcr1
    assert measured.pcr2 == EMPTY_PCR2 == pcr()


def test_registers_of_role_and_instance() -> None:
    """PCR3 and PCR4 are one hash over zeros and the text; AWS's documentation has these two."""
    assert pcr3("arn:aws:iam::123456789012:role/Webserver").startswith("78fce75d")
    assert pcr4("i-1234567890abcdef0").startswith("08f996b5")


@pytest.mark.parametrize("measurer", [measure, measure_registers])
def test_measuring_checks_the_crc(tmp_path: Path, measurer: object) -> None:
    """An image whose bytes and CRC disagree has no measurements."""
    path = tmp_path / "image.eif"
    image = bytearray(plain().build())
    image[-1] ^= 1
    path.write_bytes(image)
    with pytest.raises(ImageError) as caught:
        measurer(path)  # type: ignore[member]
    assert caught.value.code == "eif-crc"


def test_moving_a_byte_between_sections_shows(tmp_path: Path) -> None:
    """PCR0 is blind to a border between ramdisks; the section digests are not."""
    one, other = tmp_path / "a.eif", tmp_path / "b.eif"
    one.write_bytes(plain(ramdisks=(b"aa", b"bb")).build())
    other.write_bytes(plain(ramdisks=(b"aab", b"b")).build())
    a, b = measure(one), measure(other)
    assert a.pcr0 == b.pcr0
    assert a.sections != b.sections


def test_command_prints_what_nitro_cli_prints(tmp_path: Path) -> None:
    """``eif measure`` prints nitro-cli's document on stdout and nothing else, with --json or without."""
    path = tmp_path / "image.eif"
    path.write_bytes(plain(b"kernel", b"cmd", b"{}", (b"boot", b"app")).build())
    for arguments in ([], ["--json"]):
        done = eif("measure", str(path), *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == {
            "Measurements": {
                "HashAlgorithm": "Sha384 { ... }",
                "PCR0": pcr(b"kernel", b"cmd", b"boot", b"app"),
                "PCR1": pcr(b"kernel", b"cmd", b"boot"),
                "PCR2": pcr(b"app"),
            }
        }


def test_the_short_way_prints_what_the_command_line_prints(tmp_path: Path) -> None:
    """`eif measure IMAGE` does not import click, and prints the same bytes as with an option, which does."""
    path = tmp_path / "image.eif"
    path.write_bytes(plain().build())
    short = "import sys; from coattest_build.entry import main; main(); sys.exit('click' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", short, "measure", str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == eif("measure", "--json", str(path)).stdout


def test_command_refuses_in_one_line(tmp_path: Path) -> None:
    """A file that is not an image is exit 2 with one line, and so is a file that is not there."""
    path = tmp_path / "image.eif"
    path.write_bytes(b"MZ" * 1000)
    done = eif("measure", str(path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"eif: {path}: not an EIF: it does not begin with .eif"]
    assert eif("measure", str(tmp_path / "absent")).returncode == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not an EIF: it is empty"),
        (b"hello", "not an EIF: it does not begin with .eif"),
        (b".ei", "too short for an EIF header: 3 of 548 bytes"),
        (b'{"Measurements": {}}', "not an EIF: it is JSON, or another text"),
        (
            gzip.compress(b"x", mtime=0),
            "not an EIF: it is compressed with gzip (a container image is shown by `eif con",
        ),
        (
            bytes(257) + b"ustar" + bytes(300),
            "not an EIF: it is a tar archive (a container image is shown by",
        ),
    ],
)
def test_what_is_given_in_place_of_an_image_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    """By each command that reads one."""
    other, image = tmp_path / "other", tmp_path / "image.eif"
    other.write_bytes(content)
    image.write_bytes(plain().build())
    for words in (["measure", other], ["describe", other], ["diff", image, other]):
        done = eif(*map(str, words))
        assert done.returncode == 2
        assert done.stderr.startswith(f"eif: {other}: {said}")


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [8, 400])
def test_memory_does_not_grow_with_the_image(tmp_path: Path, megabytes: int) -> None:
    """Peak memory of the whole process stays below 64 MB whatever the image's size."""
    path = tmp_path / "image.eif"
    _sparse_image(path, megabytes << 20)
    script = (
        "import sys; from coattest_build.cli import cli;"
        "cli(['measure', sys.argv[1]], standalone_mode=False);"
        "print(*(line for line in open('/proc/self/status') if line.startswith('VmHWM')), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout)["Measurements"]["PCR2"]
    assert 0 < int(done.stderr.split()[1]) * 1024 < MEMORY_LIMIT


def _sparse_image(path: Path, size: int) -> None:
    """An image whose second ramdisk is ``size`` zeros that take no room on the disk."""
    head = bytearray(plain(b"k", b"c", b"{}", (b"r", b"x")).build())[:-1]
    head[-8:] = struct.pack(">Q", size)
    struct.pack_into(">Q", head, 0x11C + 4 * 8, size)
    crc = zlib.crc32(head[HEADER:], zlib.crc32(head[:544]))
    zeros = bytes(1 << 20)
    for _ in range(size >> 20):
        crc = zlib.crc32(zeros, crc)
    struct.pack_into(">I", head, 544, crc)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)


def test_feeding_hands_on_a_consumers_failure(tmp_path: Path) -> None:
    """An error in a hashing thread reaches the caller, and nothing hangs."""

    class Broken:
        def update(self, data: object) -> None:
            raise RuntimeError("broken")

    path = tmp_path / "file"
    path.write_bytes(bytes(10 * BLOCK))
    with path.open("rb") as file, pytest.raises(RuntimeError, match="broken"):
        feed(file, 0, 10 * BLOCK, (hashlib.sha256(), Broken(), Crc32()))


def test_feeding_keeps_order_for_many_consumers(tmp_path: Path) -> None:
    """Every consumer sees every byte in order, also when there are many consumers."""
    path = tmp_path / "file"
    content = b"".join(index.to_bytes(4, "big") for index in range(5 * BLOCK // 4 + 3))
    path.write_bytes(content)
    consumers = [hashlib.sha256() for _ in range(7)]
    crc = Crc32()
    with path.open("rb") as file:
        assert feed(file, 5, 1 << 40, (*consumers, crc)) == len(content) - 5
    assert {digest.hexdigest() for digest in consumers} == {hashlib.sha256(content[5:]).hexdigest()}
    assert crc.value == zlib.crc32(content[5:])


def test_fixed_crc_is_accepted(tmp_path: Path) -> None:
    """The test helper that repairs a CRC makes images that are read (else the fuzz tests test nothing)."""
    path = tmp_path / "image.eif"
    image = bytearray(plain().build())
    image[-1] ^= 1
    path.write_bytes(with_right_crc(bytes(image)))
    assert measure(path).size == len(image)
