"""Mutated images of other builders: described, measured and compared, or refused with one of our errors."""

from __future__ import annotations

import gzip
import io
import lzma
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coattest.errors import CoattestError
from coattest_build.explain.describe import describe_image
from coattest_build.explain.diff import compare
from coattest_build.formats.eif import EifSection, Layout, SectionType
from coattest_build.formats.lenient import decompress
from coattest_build.formats.lenient.initramfs import Unpacking, unpack_ramdisks
from support.build.found_images import find_cpio, found_images, nitro
from support.build.images import DIRECTORY, SYMLINK, archive, newc, plain, with_right_crc

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SEEDS = sorted(
    (
        *(nitro().build(), plain(ramdisks=(gzip.compress(find_cpio(), mtime=0), find_cpio())).build()),
        *(image.spec.build() for image in found_images().values()),
    ),
    key=len,
)


@st.composite
def changed(draw: st.DrawFn, raw: bytes) -> bytes:
    """The bytes with up to three changes: bytes, hexadecimal fields, pieces cut out, doubled or moved."""
    for _ in range(draw(st.integers(1, 3))):
        at, other = (draw(st.integers(0, max(len(raw) - 1, 0))) for _ in range(2))
        length = draw(st.integers(1, 300))
        kind = draw(st.sampled_from(["byte", "hex", "cut", "double", "move", "end", "zeros"]))
        value = draw(st.sampled_from([0, 1, 2, 0o777, 0o40755, 0o120777, 4096, 4097, 2**31, 2**32 - 1]))
        changes = {
            "byte": raw[:at] + bytes([value & 255]) + raw[at + 1 :],
            "hex": raw[:at] + b"%08X" % value + raw[at + 8 :],
            "cut": raw[:at] + raw[at + length :],
            "double": raw[: at + length] + raw[at:],
            "move": raw[:at] + raw[other : other + length] + raw[at + length :],
            "end": raw[:at],
            "zeros": raw[:at] + bytes(length) + raw[at:],
        }
        raw = changes[kind]
    return raw


def told(found: Unpacking) -> list[tuple[bytes, int, int, bytes, str]]:
    """Paths, modes, owners, targets and digests."""
    return [
        (path, node.mode, node.uid, node.target, found.streams.sha256(node.body))
        for path, node in found.tree.walk()
    ]


def unpacked(raw: bytes) -> Unpacking:
    """What Linux makes of one ramdisk with these bytes."""
    section = EifSection(SectionType.RAMDISK, 0, len(raw))
    return unpack_ramdisks(io.BytesIO(raw), Layout(0, 0, 0, 0, (section,), len(raw)), digests=True)


RAMDISKS = [
    find_cpio(),
    archive(
        newc(b"d", DIRECTORY),
        newc(b"d/f", data=b"one"),
        newc(b"l", SYMLINK, b"d"),
        newc(b"l/g", data=b"two", links=2),
        newc(b"h", links=2, data=b"three"),
    ),
]


@SETTINGS
@given(st.data())
def test_a_mutated_ramdisk_becomes_some_tree(data: st.DataObject) -> None:
    """A tree whose every path is reached from the root, whatever the ramdisk has; or one of our errors."""
    raw = data.draw(changed(data.draw(st.sampled_from(RAMDISKS))))
    try:
        found = unpacked(raw)
    except CoattestError:
        return
    for path, node in found.tree.walk():
        parts = path.split(b"/")
        assert all(part not in (b".", b"..") and len(part) <= 255 for part in parts)
        assert path == b"" or found.tree.stat(path) is node
        assert node.entry < len(found.ramdisk_of)
        if node.kind == "file":
            assert (
                sum(map(len, found.streams.blocks(node.body))) == node.body.length
                or node.body.zeros > 1 << 20
            )


@SETTINGS
@given(st.data())
def test_gzip_and_plain_give_one_tree(data: st.DataObject) -> None:
    """Where the kernel reads all of a mutated archive plain, it reads the same out of gzip and xz."""
    raw = data.draw(changed(data.draw(st.sampled_from(RAMDISKS))))
    plainly = unpacked(raw)
    if (
        plainly.stopped
        or plainly.streams.packed
        or any(note.code == "cpio-truncated" for note in plainly.notes)
    ):
        return
    for packed in (gzip.compress(raw, mtime=0), lzma.compress(raw, check=lzma.CHECK_CRC32)):
        again = unpacked(packed)
        if again.stopped:
            assert "junk" in again.stopped or "magic" in again.stopped  # zeros before the first header
            continue
        assert told(plainly) == told(again)


@settings(SETTINGS, max_examples=120)
@given(st.data())
def test_a_mutated_image_ends_in_a_report_or_our_error(data: st.DataObject) -> None:
    """Describing and comparing; identical means the same bytes."""
    original = data.draw(st.sampled_from(SEEDS))
    raw = with_right_crc(data.draw(changed(original)))
    with tempfile.TemporaryDirectory() as folder:
        a, b = Path(folder) / "a.eif", Path(folder) / "b.eif"
        a.write_bytes(original)
        b.write_bytes(raw)
        try:
            description = describe_image(b, now=NOW, files=True)
        except CoattestError:
            pass
        else:
            assert description.to_json()["image"]["size"] == len(raw)
        try:
            comparison = compare(a, b)
        except CoattestError:
            return
        assert comparison.identical == (raw == original)
        assert all(comparison.line(finding) for finding in comparison.findings)
        assert all(cause.line() and cause.to_json() for cause in comparison.causes)


LIMITS: dict[str, Callable[[], bytes]] = {
    "a bomb": lambda: gzip.compress(bytes(70 << 20)),
    "many links": lambda: archive(*(newc(b"l%d" % n, SYMLINK, b"l%d" % (n + 1)) for n in range(2000))),
    "a file of 4 GiB that is not there": lambda: newc(b"f", size=2**32 - 4),
    "a deep tree": lambda: archive(*(newc(b"/".join([b"d"] * depth), DIRECTORY) for depth in range(1, 600))),
    "sixty thousand files": lambda: archive(
        *(newc(b"./f%d" % number, data=b"x") for number in range(60_000))
    ),
}
LIMIT = 128 << 20
"""Bytes that reading may take beyond a look at a small image."""

PEAK = """
import resource, sys
from datetime import datetime, timezone
from pathlib import Path
from coattest_build.explain.describe import describe_image
small, large = map(Path, sys.argv[1:])
def look(path):
    try:
        describe_image(path, now=datetime.now(timezone.utc), files=True)
    except Exception as error:
        assert type(error).__module__.startswith("coattest"), error
look(small)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
look(large)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITS)
def test_memory_is_bounded(tmp_path: Path, name: str) -> None:
    """What a ramdisk claims or becomes costs little memory."""
    small, large = tmp_path / "small.eif", tmp_path / "large.eif"
    small.write_bytes(nitro().build())
    large.write_bytes(plain(ramdisks=(LIMITS[name](),)).build())
    command = [sys.executable, "-c", PEAK, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert int(done.stdout) * 1024 < LIMIT


def test_a_limit_says_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More entries, and more bytes out of compressed archives, than are read."""
    from coattest_build.formats.lenient import initramfs

    path = tmp_path / "image.eif"
    path.write_bytes(plain(ramdisks=(gzip.compress(find_cpio(), mtime=0),)).build())
    monkeypatch.setattr(initramfs, "MAX_ENTRIES", 3)
    with pytest.raises(CoattestError, match="more than 3 entries"):
        describe_image(path, now=NOW, files=False)
    monkeypatch.undo()
    monkeypatch.setattr(initramfs, "MAX_UNPACKED", 100)
    with pytest.raises(CoattestError, match=f"more than {decompress.MAX_UNPACKED} bytes"):
        describe_image(path, now=NOW, files=False)


def test_bytes_that_are_not_there_have_a_limit(tmp_path: Path) -> None:
    """Each compressed archive may end inside a file of 4 GiB: 50 bytes took the reader ten seconds."""
    path = tmp_path / "image.eif"
    ends = gzip.compress(newc(b"hole", size=0xFFFFFFF0), mtime=0)
    path.write_bytes(plain(ramdisks=(archive(newc(b"x")), ends * 1000)).build())
    with pytest.raises(CoattestError, match=f"more than {decompress.MAX_UNPACKED} bytes") as refused:
        describe_image(path, now=NOW, files=True)
    assert refused.value.code == "cpio-limit"
    path.write_bytes(plain(ramdisks=(archive(newc(b"x")), ends)).build())
    assert describe_image(path, now=NOW, files=False).unpacked.tree.stat(b"hole") is not None


def test_zstd_without_a_library_is_exit_3(tmp_path: Path) -> None:
    """The message says what is missing; the registers can be measured all the same."""
    path = tmp_path / "image.eif"
    path.write_bytes(plain(ramdisks=(b"\x28\xb5\x2f\xfd" + bytes(20),)).build())
    blocked = "import sys; sys.modules['compression'] = sys.modules['backports'] = None\n"
    program = blocked + "from coattest_build.cli import main; main()"
    for verb, code in (("describe", 3), ("measure", 0)):
        command = [sys.executable, "-c", program, verb, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == code, done.stderr
    assert "PCR0" in done.stdout
