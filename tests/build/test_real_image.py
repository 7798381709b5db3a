"""The format tools on the image that ships: oracles, its profiles compared, and mutations of it."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coattest.errors import CoattestError
from coattest_build.explain.describe import describe_image
from coattest_build.explain.diff import compare
from coattest_build.formats import cpio, eif
from coattest_build.formats.eif import SectionType
from coattest_build.formats.measure import measure
from support.build.images import HEADER, pcr

pytestmark = pytest.mark.image

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)


def walk(raw: bytes) -> list[tuple[int, int, bytes]]:
    """Type, data offset and data of each section, as AWS's reader walks them."""
    found, position = [], HEADER
    while position < len(raw):
        kind, _, size = struct.unpack_from(">HHQ", raw, position)
        found.append((kind, position + 12, raw[position + 12 : position + 12 + size]))
        position += 12 + size
    return found


def test_registers_equal_a_plain_recomputation(built_images: Any) -> None:
    """The shipped image's registers are those that the specification gives."""
    path = built_images.image("aws")
    measured = measure(path)
    sections = walk(path.read_bytes())
    kernel, cmdline, boot, application = (data for kind, _, data in sections if kind in (1, 2, 3))
    assert measured.pcr0 == pcr(kernel, cmdline, boot, application)
    assert measured.pcr1 == pcr(kernel, cmdline, boot)
    assert measured.pcr2 == pcr(application)


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio on this machine")
def test_system_cpio_lists_the_same_files(built_images: Any) -> None:
    """GNU cpio sees the same names in the same order in both ramdisks."""
    path = built_images.image("aws")
    for kind, offset, data in walk(path.read_bytes()):
        if kind == SectionType.RAMDISK:
            listed = subprocess.run(["cpio", "-t", "--quiet"], input=data, capture_output=True, check=True)
            with path.open("rb") as file:
                ours = [entry.name for entry in cpio.read_entries(file, offset, len(data))]
            assert ours == listed.stdout.decode().splitlines()


def test_profiles_differ_in_one_file(built_images: Any) -> None:
    """The two profiles differ in the trust file and in nothing else, and that is what a comparison says."""
    comparison = compare(built_images.image("aws"), built_images.image("local"))
    (found,) = comparison.findings
    assert (found.code, found.where) == ("entry-size", "ramdisk 1: rootfs/etc/coattest/trust.json")
    excerpt = comparison.places[found].excerpt
    assert excerpt is not None
    assert '"aws"' in excerpt.a
    assert '"local"' in excerpt.b


def repair_crc(path: Path) -> None:
    """Set the CRC-32 field to what the bytes say."""
    with path.open("r+b") as file:
        crc = zlib.crc32(file.read(544))
        file.seek(HEADER)
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
        file.seek(544)
        file.write(struct.pack(">I", crc))


@pytest.fixture(scope="module")
def victim(built_images: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[int]]]:
    """A copy of the image, and where its headers begin: the image's, the sections' and the entries'."""
    path = tmp_path_factory.mktemp("real") / "image.eif"
    shutil.copyfile(built_images.image("aws"), path)
    places = [0, 0x1C, 0x11C, 540]
    with path.open("rb") as file:
        for section in eif.read_structure(file).sections:
            places.append(section.offset - 12)
            if section.type is SectionType.RAMDISK:
                for entry in cpio.read_entries(file, section.offset, section.size):
                    places.append(entry.data_offset - (len(entry.name) + 1 + 110 + 3) // 4 * 4)
    yield path, places
    path.unlink()


def test_one_changed_byte_is_named(victim: tuple[Path, list[int]], built_images: Any) -> None:
    """One changed byte in one of the image's source files is traced to that file and line."""
    path, _ = victim
    with path.open("r+b") as file:
        section = eif.read_structure(file).of_type(SectionType.RAMDISK)[1]
        name = "rootfs/usr/lib/coattest/coattest_enclave/__main__.py"
        (entry,) = (e for e in cpio.read_entries(file, section.offset, section.size) if e.name == name)
        file.seek(entry.data_offset + 3)
        before = file.read(1)
        file.seek(entry.data_offset + 3)
        file.write(b"X")
    repair_crc(path)
    try:
        comparison = compare(built_images.image("aws"), path)
    finally:
        with path.open("r+b") as file:
            file.seek(entry.data_offset + 3)
            file.write(before)
        repair_crc(path)
    (found,) = comparison.findings
    place = comparison.places[found]
    assert (found.code, found.where, place.offset) == ("entry-content", f"ramdisk 1: {name}", 3)
    assert place.excerpt is not None
    assert (place.excerpt.kind, place.excerpt.place) == ("text", "line 1")
    assert path.read_bytes() == built_images.image("aws").read_bytes()


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutations_end_in_a_report_or_our_error(
    victim: tuple[Path, list[int]], built_images: Any, data: st.DataObject
) -> None:
    """The shipped image with a few bytes changed around a header is refused, or its difference is found."""
    path, places = victim
    original = built_images.image("aws")
    at = data.draw(st.sampled_from(places)) + data.draw(st.integers(0, 130))
    change = data.draw(
        st.binary(min_size=1, max_size=8)
        | st.integers(0, 2**32 - 1).map(lambda value: b"%08X" % value)
        | st.sampled_from([b"\0" * 8, b"\xff" * 8, b"../", b"07070", b"FFFFFFFF"])
    )
    with path.open("r+b") as file:
        file.seek(at)
        before = file.read(len(change))
        file.seek(at)
        file.write(change[: len(before)])
    repair_crc(path)
    try:
        try:
            describe_image(path, now=NOW, files=True).to_json()
            identical = compare(original, path).identical
        except CoattestError:
            return
        assert identical == (before == change)
    finally:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(before)
        repair_crc(path)
