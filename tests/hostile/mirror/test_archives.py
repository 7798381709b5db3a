"""Wheels, packages and logs that unpack to more, or take longer, than their size says."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coattest.errors import CoattestError, FoundFalse, Rejected, UsageError
from coattest_build.inputs import wheels
from coattest_build.inputs.package_index import LIMITS
from coattest_build.inputs.unpack import Tree
from coattest_verify.audit import collect
from coattest_verify.audit.collect import Collected
from coattest_verify.audit.events import KeyName
from coattest_verify.audit.records import (
    MAX_FILE,
    MAX_MEMBERS,
    MAX_RECORD,
    Flaw,
    inflate,
    records_of,
)
from support.build.packages import ar
from support.raises import raises_code
from support.verify.trail_records import KEY, record

GIGABYTE = 1 << 30


def zipped(*members: tuple[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def unpacked(tmp_path: Path, data: bytes) -> Tree:
    tmp_path.mkdir(parents=True, exist_ok=True)
    (tmp_path / "a.whl").write_bytes(data)
    tree = Tree(tmp_path / "root")
    wheels.unpack_wheel(tmp_path / "a.whl", tree, "lib", label="a.whl")
    return tree


def test_a_table_of_contents_of_hundreds_of_megabytes_is_not_read(tmp_path: Path) -> None:
    """A wheel may have a gigabyte; its table alone would be 20 million objects before they are counted."""
    entry = (
        struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", *(20, 3, 20, 0), *[0] * 4, *[0] * 3, 1, *[0] * 4, 0, 0)
        + b"a"
    )
    path = tmp_path / "a.whl"
    size = 200 << 20
    with path.open("wb") as file:
        file.truncate(size)
        file.write(entry)
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size, 0, 0))
    tracemalloc.start()
    try:
        with raises_code(FoundFalse, "hostile-wheel", match="central directory"):
            wheels.unpack_wheel(path, Tree(tmp_path / "root"), "lib", label="a.whl")
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """A thousand names for one member of a megabyte: a zip bomb without recursion (Fifield, 2019)."""
    data = zipped(("pkg/a", bytes(range(256)) * 4096))
    start = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entry = data[start:end]
    table = b"".join(
        entry.replace(b"pkg/a", b"pkg/%05d" % n)[:28] + b"\x09" + entry[29:46] + b"pkg/%05d" % n
        for n in range(1000)
    )
    closing = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1000, 1000, len(table), start, 0)
    with raises_code(FoundFalse, "hostile-wheel", match="overlap"):
        unpacked(tmp_path, data[:start] + table + closing)


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_wheel_is_stored_or_deflated(tmp_path: Path, kind: int) -> None:
    """LZMA's own header may ask for 4 GB of memory."""
    with raises_code(FoundFalse, "hostile-wheel", match="neither stored nor deflated"):
        unpacked(tmp_path, zipped(("pkg/a", b"x"), kind=kind))


@pytest.mark.parametrize(
    "name", ["a/" * 30_000 + "b", "a/" * 65 + "b", "pkg/\x07", "pkg//a", "./../a", "pkg/" + "\x7f"]
)
def test_a_member_has_a_plain_path_of_limited_depth(tmp_path: Path, name: str) -> None:
    """As those of packages: a path of 30,000 folders is no folder to make."""
    with raises_code(FoundFalse, "hostile-wheel"):
        unpacked(tmp_path, zipped((name, b"x")))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=12), st.integers(0, 400))
def test_a_damaged_wheel_is_an_error_of_ours(tmp_path: Path, place: int, patch: bytes, cut: int) -> None:
    """Whatever the library raises for offsets, names and sizes that are none."""
    data = bytearray(zipped(("pkg/\u00e9", b"x" * 100), ("pkg/b", b"y")))
    data[place : place + len(patch)] = patch
    number = len(list(tmp_path.iterdir()))
    with contextlib.suppress(CoattestError):
        unpacked(tmp_path / str(number), bytes(data[: len(data) - cut % 40]))


def test_a_package_of_empty_gzip_members_ends_at_the_first(tmp_path: Path) -> None:
    """50 million of them fit into a gigabyte."""
    data = ar(
        [("debian-binary", b"2.0\n"), ("control.tar.gz", b""), ("data.tar.gz", gzip.compress(b"") * 100)]
    )
    (tmp_path / "a.deb").write_bytes(data)
    with raises_code(FoundFalse, "bad-archive"):
        Tree(tmp_path / "root").unpack_deb(tmp_path / "a.deb", "a")


def test_pip_has_a_gigabyte_and_its_time() -> None:
    """What it reads is the index's, and it reads it whole."""
    assert LIMITS.memory <= GIGABYTE
    assert LIMITS.seconds <= 900


@pytest.mark.slow
def test_a_log_that_unpacks_to_gigabytes_is_not_unpacked() -> None:
    """In one member or in many, of any ratio."""
    zeros = zlib.compressobj(9, wbits=31)
    bomb = b"".join([*(zeros.compress(bytes(1 << 24)) for _ in range(64)), zeros.flush()])
    assert len(bomb) < 2 << 20
    tracemalloc.start()
    try:
        for data in (bomb, bomb[: len(bomb) // 2], gzip.compress(bytes(1 << 24)) * 64):
            with pytest.raises(Rejected, match=r"larger|times"):
                inflate(data)
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_FILE
    finally:
        tracemalloc.stop()


def test_a_log_of_thousands_of_members_is_given_up() -> None:
    """Several are allowed, and zeros behind them; a million empty ones are only work."""
    assert inflate(gzip.compress(b"a") + gzip.compress(b"b") * 2 + bytes(7)) == b"abb"
    with raises_code(Rejected, "too-large", match="members"):
        inflate(gzip.compress(b"") * (MAX_MEMBERS + 1))
    for damage in (b"x", gzip.compress(b"a")[:-1], b"\0\0x"):
        with pytest.raises(Rejected, match=r"damaged|cut off"):
            inflate(gzip.compress(b"a") + damage)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        '{"Records": [{"a": [' + "{}," * 2_000_000 + "{}]}]}",
        "{" + ",".join(f'"{number}": []' for number in range(400_000)) + "}",
        '{"Records": [' + "[" * 900_000 + "]" * 900_000 + "]}",
    ],
    ids=["one field", "many fields", "brackets"],
)
def test_a_record_of_megabytes_of_brackets_is_no_record(text: str) -> None:
    """As objects it would take twenty times its text, and a file may be one record."""
    tracemalloc.start()
    try:
        found = list(records_of(text.encode(), "x"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert all(isinstance(one, Flaw) for one in found)
    assert found
    assert peak < 200 << 20


def test_records_up_to_the_limit_are_read_wherever_they_end() -> None:
    """The window in which a record is looked for grows as far as the limit."""
    for size in (10, 16_300, 16_384, 200_000, MAX_RECORD - 100):
        raw = {"eventSource": "x", "pad": "a" * size, "number": 1234567}
        for text in (json.dumps({"Records": [raw, raw]}), json.dumps(raw) + "\n" + json.dumps(raw)):
            assert [one.raw for one in records_of(text.encode(), "x") if not isinstance(one, Flaw)] == [
                raw,
                raw,
            ]
    found = list(records_of(json.dumps({"Records": [{"pad": "a" * MAX_RECORD}]}).encode(), "x"))
    assert [type(one) for one in found] == [Flaw]


def test_digests_and_events_together_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are held in memory: the run ends with usage, exit 2, and says what to do."""
    monkeypatch.setattr(collect, "MAX_DIGESTS", 1000)
    monkeypatch.setattr(collect, "MAX_HELD", 1000)
    monkeypatch.setattr(collect, "MAX_CALLS", 3)
    monkeypatch.setattr(collect, "MAX_FLAWS", 3)
    taken = Collected(KeyName.parse(KEY))
    taken.digest(gzip.compress(b'{"digestEndTime": "' + b"a" * 975 + b'"}'), "", "one")
    with pytest.raises(UsageError, match="digest"):
        taken.digest(gzip.compress(b'{"digestEndTime": 1}'), "", "two")
    with pytest.raises(UsageError, match="characters"):
        taken.text(
            json.dumps(record(requestParameters={"encryptionContext": {"a": "b" * 2000}})).encode(), "x"
        )
    with pytest.raises(UsageError, match="calls"):
        Collected(KeyName.parse(KEY)).text(
            json.dumps([record(id=str(n), requestID=str(n)) for n in range(5)]).encode(), "x"
        )
    with pytest.raises(UsageError, match="cannot be read"):
        Collected(KeyName.parse(KEY)).text(b"[1,1,1,1,1]", "x")


def test_a_digest_file_of_any_size_is_not_held() -> None:
    """A small gzip of many megabytes is a place that cannot be read."""
    taken = Collected(KeyName.parse(KEY))
    taken.digest(gzip.compress(bytes(collect.MAX_DIGEST + 1)), "", "one")
    assert not taken.digests
    assert taken.coverage.unreadable
