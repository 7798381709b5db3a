"""Mutated images: no parser raises outside its error type, writes outside its directory, or eats memory."""

from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from coattest.errors import CoattestError
from coattest_build.explain.describe import describe_image
from coattest_build.explain.diff import compare
from coattest_build.formats import cpio
from coattest_build.formats.cpio import RamdiskError, read_entries
from coattest_build.formats.eif import EifSection, ImageError, Layout, SectionType
from coattest_build.formats.extract import extract_ramdisk
from coattest_build.formats.measure import measure_file
from coattest_build.formats.signature import check_signature, make_section, parse_signature
from support.build.images import (
    DIRECTORY,
    HEADER,
    SIGNATURE,
    SYMLINK,
    archive,
    newc,
    pcr,
    plain,
    with_right_crc,
)
from support.enclave.enclave_image import read_layout
from support.verify.signing_keys import certify

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
MEMORY_LIMIT = 64 << 20
"""Bytes that reading an image may take beyond the file itself."""

RAMDISK = archive(
    newc(b"dir", DIRECTORY),
    newc(b"dir/file", 0o100755, b"content"),
    newc(b"dir/link", SYMLINK, b"../../outside"),
    newc(b"dir/sub", DIRECTORY),
    newc(b"dir/sub/x", data=b"12345678"),
)


def _signed() -> tuple[bytes, bytes]:
    key = ec.derive_private_key(0xC0A77E57, ec.SECP384R1())
    certificate = certify(key, start=NOW - timedelta(days=1))
    image = plain(b"kernel", b"cmdline", b'{"a": 1}', (RAMDISK, RAMDISK))
    pcr0 = bytes.fromhex(pcr(b"kernel", b"cmdline", RAMDISK, RAMDISK))
    section = make_section(certificate, pcr0, lambda data: key.sign(data, ec.ECDSA(hashes.SHA384())), NOW)
    image.sections.append((SIGNATURE, section))
    return image.build(), section


IMAGE, SIGNATURE_SECTION = _signed()

CERTIFICATE_SIZE = len(parse_signature(SIGNATURE_SECTION).certificate_der)

Mutation = Callable[[bytes], bytes]

BOUNDARIES = [0, 1, 2, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


@st.composite
def mutations(draw: st.DrawFn, size: int, *, start: int = 0, width: int = 8) -> Mutation:
    """One change: bits, an integer's boundary value, bytes cut out, doubled, inserted, or the end cut off."""
    at = draw(st.integers(start, size - 1))
    length = draw(st.integers(1, 600))
    kind = draw(
        st.sampled_from(["flip", "byte", "integer", "hex", "cut", "double", "insert", "truncate", "move"])
    )
    value = draw(st.integers(0, 255))
    integer = draw(st.sampled_from(BOUNDARIES) | st.integers(0, 2**64 - 1) | st.integers(0, 2 * size))
    other = draw(st.integers(start, size - 1))
    changes: dict[str, Mutation] = {
        "flip": lambda raw: (
            raw[:at] + bytes([raw[at] ^ (1 << value % 8)]) + raw[at + 1 :] if at < len(raw) else raw
        ),
        "byte": lambda raw: raw[:at] + bytes([value]) + raw[at + 1 :],
        "integer": lambda raw: raw[:at] + struct.pack(">Q", integer)[-width:] + raw[at + width :],
        "hex": lambda raw: raw[:at] + b"%08X" % (integer & 0xFFFFFFFF) + raw[at + 8 :],
        "cut": lambda raw: raw[:at] + raw[at + length :],
        "double": lambda raw: raw[: at + length] + raw[at:],
        "insert": lambda raw: raw[:at] + bytes([value]) * length + raw[at:],
        "truncate": lambda raw: raw[:at],
        "move": lambda raw: raw[:at] + raw[other : other + length] + raw[at + length :],
    }
    return changes[kind]


def _views(raw: bytes) -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]:
    """The sections as QEMU sees them (by the table) and as AWS's reader does (by walking to the end)."""
    (count,) = struct.unpack_from(">H", raw, 0x1A)
    by_table = []
    for index in range(count):
        (offset,) = struct.unpack_from(">Q", raw, 0x1C + 8 * index)
        (size,) = struct.unpack_from(">Q", raw, 0x11C + 8 * index)
        (kind,) = struct.unpack_from(">H", raw, offset)
        by_table.append((kind, raw[offset + 12 : offset + 12 + size]))
    walked, position = [], HEADER
    while position + 12 <= len(raw):
        kind, _, size = struct.unpack_from(">HHQ", raw, position)
        walked.append((kind, raw[position + 12 : position + 12 + size]))
        position += 12 + size
    return by_table, walked


def _accepted(raw: bytes) -> Layout | None:
    try:
        return read_layout(io.BytesIO(raw))
    except ImageError:
        return None


SETTINGS = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.slow
@SETTINGS
@given(st.lists(mutations(len(IMAGE)) | mutations(HEADER + 60), min_size=1, max_size=4), st.booleans())
def test_image_reader(changes: list[Mutation], repair: bool) -> None:
    """A mutated image is refused with ImageError, or both of the format's readers see it as we do."""
    raw = IMAGE
    for change in changes:
        raw = change(raw)
    if repair:
        raw = with_right_crc(raw)
    layout = _accepted(raw)
    if layout is None:
        return
    ours = [(int(s.type), raw[s.offset : s.offset + s.size]) for s in layout.sections]
    by_table, walked = _views(raw)
    assert ours == by_table == walked
    measured = [data for kind, data in walked if kind in (1, 2, 3)]
    try:
        measurements = measure_file(io.BytesIO(raw))
    except ImageError:
        return
    assert measurements.pcr0 == pcr(*measured)


@pytest.mark.slow
@SETTINGS
@given(st.binary(max_size=2000))
@example(b"")
@example(b".eif")
def test_arbitrary_bytes(raw: bytes) -> None:
    """Bytes that were never an image are refused by every parser, and only in its own way."""
    assert _accepted(raw) is None
    assert _accepted(with_right_crc(IMAGE[:HEADER] + raw)) is None
    with pytest.raises(ImageError):
        parse_signature(raw)
    with pytest.raises(RamdiskError):
        list(read_entries(io.BytesIO(raw), 0, len(raw)))


@pytest.mark.slow
@SETTINGS
@given(changes=st.lists(mutations(len(RAMDISK), width=4), min_size=1, max_size=4))
def test_ramdisk_reader_and_extraction(changes: list[Mutation]) -> None:
    """A mutated ramdisk is refused with RamdiskError, or unpacks to what it lists and to nothing else."""
    raw = RAMDISK
    for change in changes:
        raw = change(raw)
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "a" / "b" / "target"
        target.parent.mkdir(parents=True)
        try:
            extract_ramdisk(io.BytesIO(raw), EifSection(SectionType.RAMDISK, 0, len(raw)), target)
        except RamdiskError:
            assert not target.exists()
            names = set()
        else:
            names = {entry.name for entry in read_entries(io.BytesIO(raw), 0, len(raw))} | {""}
        made = {os.path.relpath(path, target) for path in Path(directory).rglob("*")}
        assert made - {"..", "../.."} == {name or "." for name in names}


@pytest.mark.slow
@SETTINGS
@given(changes=st.lists(mutations(len(SIGNATURE_SECTION), width=2), min_size=1, max_size=3))
def test_signature_parser(changes: list[Mutation]) -> None:
    """A mutated signature is refused, or is canonical CBOR; it holds only with the same key and signature.

    The certificate's other fields are nobody's to check: they are in PCR8.
    """
    raw = SIGNATURE_SECTION
    for change in changes:
        raw = change(raw)
    try:
        parsed = parse_signature(raw)
    except ImageError:
        return
    assert cbor2.dumps(cbor2.loads(raw)) == raw
    pcr0 = bytes.fromhex(pcr(b"kernel", b"cmdline", RAMDISK, RAMDISK))
    if not check_signature(parsed, pcr0, NOW):
        original = parse_signature(SIGNATURE_SECTION)
        assert parsed.certificate.public_key() == original.certificate.public_key()
        assert (parsed.signature, parsed.payload) == (original.signature, original.payload)


@pytest.mark.slow
@settings(SETTINGS, max_examples=150)
@given(changes=st.lists(mutations(len(IMAGE), start=HEADER), min_size=1, max_size=3))
def test_describe_and_diff(changes: list[Mutation]) -> None:
    """Describing or comparing a mutated image ends with a report or one of our errors."""
    raw = IMAGE
    for change in changes:
        raw = change(raw)
    with tempfile.TemporaryDirectory() as directory:
        original, mutated = Path(directory) / "a.eif", Path(directory) / "b.eif"
        original.write_bytes(IMAGE)
        mutated.write_bytes(with_right_crc(raw))
        try:
            description = describe_image(mutated, now=NOW, files=True)
        except CoattestError:
            pass
        else:
            assert description.to_json()["image"]["size"] == len(raw)
        try:
            comparison = compare(original, mutated)
        except CoattestError:
            return
        assert comparison.identical == (mutated.read_bytes() == IMAGE)
        assert all(comparison.line(finding) for finding in comparison.findings)
        assert len(comparison.to_json()["findings"]) == len(comparison.faults) + len(comparison.findings)


def _many_files(count: int) -> bytes:
    return archive(*(newc(b"%0200d" % index) for index in range(count)))


HOSTILE = {
    "as many entries as are allowed": lambda: _many_files(min(cpio.MAX_ENTRIES, cpio.MAX_ALL_NAMES // 200)),
    "more entries than are allowed": lambda: _many_files(cpio.MAX_ALL_NAMES // 200 + 2),
    "one large file": lambda: archive(newc(b"a", data=bytes(80 << 20))),
    "a file that claims 4 GiB": lambda: archive(newc(b"a", size=2**32 - 8)),
    "a name that claims 4 GiB": lambda: archive(newc(b"a", name_size=2**32 - 1)),
    "a deep tree": lambda: archive(*(newc(b"/".join([b"d"] * depth), DIRECTORY) for depth in range(1, 512))),
}


# Prints how much the peak grew, in KiB, over that of a first look at a small image.
MEASURE_PEAK = """
import sys
from datetime import datetime, timezone
from pathlib import Path
from coattest_build.explain.describe import describe_image
from coattest_build.explain.diff import compare

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

def look(a, b):
    describe_image(a, now=datetime.now(timezone.utc), files=True).to_json()
    compare(a, b).to_json()

small, a, b = map(Path, sys.argv[1:])
look(small, small)
before = peak()
look(a, b)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_memory_is_bounded(name: str, tmp_path: Path) -> None:
    """Describing and comparing take at most 64 MB more than for a small image, whatever the file says."""
    paths = [tmp_path / part for part in ("small.eif", "a.eif", "b.eif")]
    ramdisk = HOSTILE[name]()
    paths[0].write_bytes(IMAGE)
    paths[1].write_bytes(plain(ramdisks=(ramdisk, b"r")).build())
    paths[2].write_bytes(plain(ramdisks=(ramdisk + b"\0", b"r")).build())
    done = subprocess.run(
        [sys.executable, "-c", MEASURE_PEAK, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert int(done.stdout) * 1024 < MEMORY_LIMIT


def test_the_unmutated_image_is_accepted() -> None:
    """The image that the mutations start from is accepted and its signature holds."""
    assert _accepted(IMAGE) is not None
    assert len(list(read_entries(io.BytesIO(RAMDISK), 0, len(RAMDISK)))) == 5
    assert (
        check_signature(
            parse_signature(SIGNATURE_SECTION),
            bytes.fromhex(pcr(b"kernel", b"cmdline", RAMDISK, RAMDISK)),
            NOW,
        )
        == ()
    )


@pytest.mark.slow
@SETTINGS
@given(changes=st.lists(mutations(CERTIFICATE_SIZE, width=1), min_size=1, max_size=3))
def test_certificate_in_a_signature(changes: list[Mutation]) -> None:
    """A mutated certificate in a section that is otherwise right is refused, or works in all that we do."""
    der = parse_signature(SIGNATURE_SECTION).certificate_der
    for change in changes:
        der = change(der)
    pem = b"-----BEGIN CERTIFICATE-----\n"
    text = base64.b64encode(der)
    pem += b"".join(text[start : start + 64] + b"\n" for start in range(0, len(text), 64))
    pem += b"-----END CERTIFICATE-----\n"
    entry = cbor2.loads(SIGNATURE_SECTION)[0]
    section = cbor2.dumps([entry | {"signing_certificate": list(pem)}])
    try:
        parsed = parse_signature(section)
    except ImageError:
        return
    assert parsed.certificate_der == der
    assert all(finding.code for finding in check_signature(parsed, bytes(48), NOW))
    image = plain()
    image.sections.append((SIGNATURE, section))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "image.eif"
        path.write_bytes(image.build())
        report = describe_image(path, now=NOW, files=False)
    assert report.measurements.pcr8 == pcr(der)
    assert report.signature is not None
    assert report.signature.findings
