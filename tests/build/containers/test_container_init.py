"""Parts of the container profile's init, with this machine's C library (tests/local/qemu boots it whole)."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.enclave.enclave_image import compile_program

SOURCES = Path(__file__).parents[2] / "support" / "container_images"
NOT_STARTED, NOT_FOUND = 126, 127
SCRIPT = b"#!/bin/sh\necho $0\n"


@pytest.fixture(scope="module")
def parts() -> Iterator[Path]:
    """The program, where every user may start it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield compile_program("init_parts", Path(name), SOURCES)


def run(parts: Path, *words: object) -> tuple[int, str]:
    """Exit code and output."""
    done = subprocess.run([parts, *map(str, words)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def file(path: Path, content: bytes, mode: int = 0o755) -> Path:
    """A file in a folder of its own."""
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_without_a_console_no_file_becomes_an_output(parts: Path) -> None:
    """The three standard descriptors are taken, the next free one is 3."""
    assert run(parts, "descriptors") == (3, "")


def test_the_search_goes_on_where_nothing_can_be_executed(parts: Path, tmp_path: Path) -> None:
    """A missing folder, a file in a folder's place, a folder, a file without the bit, a relative folder."""
    (tmp_path / "a/tool").mkdir(parents=True)
    plain = file(tmp_path / "b/tool", SCRIPT, 0o644)
    there = file(tmp_path / "c/tool", SCRIPT)
    folders = ("/nowhere", plain, "relative", tmp_path / "a", plain.parent, there.parent)
    assert run(parts, "search", ":".join(map(str, folders)), "tool") == (0, f"{there}\n")
    code, said = run(parts, "search", plain.parent, "tool")
    assert (code, said) == (NOT_FOUND, "init: find tool failed: errno 2\n")


@pytest.mark.parametrize(
    ("content", "code", "errno"), [(b"no program", NOT_STARTED, 8), (b"#!/no/interpreter\n", NOT_FOUND, 2)]
)
def test_a_file_that_is_found_and_does_not_start_ends_the_search(
    parts: Path, tmp_path: Path, content: bytes, code: int, errno: int
) -> None:
    """Another program of its name, further on, is not what the image's author meant."""
    found = file(tmp_path / "a/tool", content)
    path = f"{found.parent}:{file(tmp_path / 'b/tool', SCRIPT).parent}"
    assert run(parts, "search", path, "tool") == (code, f"init: start {found} failed: errno {errno}\n")


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_the_program_starts_where_root_may_and_with_three_descriptors(parts: Path, tmp_path: Path) -> None:
    """The working folder of a user who could not enter it."""
    place = tmp_path / "private"
    place.mkdir(mode=0o700)
    assert run(parts, "user", 65534, place, parts, "left") == (0, f"0 1 2 {place}\n")
    code, said = run(parts, "user", 65534, "/nowhere", parts, "left")
    assert (code, said) == (NOT_STARTED, "init: enter /nowhere failed: errno 2\n")
