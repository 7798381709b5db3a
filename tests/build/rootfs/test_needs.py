"""What programs of a root file system need: loader, libraries, interpreters; what is said when one lacks."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest.errors import UsageError
from coattest_build.formats.elf import Linking, linking
from coattest_build.image import ImageSpec, load_spec
from coattest_build.inputs.unpack import Tree
from coattest_build.rootfs.needs import check_needs
from support.guides.blocks import ROOT

LOADER = "/lib64/ld-linux-x86-64.so.2"


def elf(
    needed: tuple[str, ...] = (), interpreter: str | None = None, search: str = "", tag: int = 29
) -> bytes:
    """A file with a dynamic section, loaded at 0x400000 as a whole."""
    base = 0x400000
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in (*needed, search))
    entries = [(1, strings.index(b"\0" + name.encode() + b"\0") + 1) for name in needed]
    if search:
        entries.append((tag, strings.index(b"\0" + search.encode() + b"\0") + 1))
    loader = interpreter.encode() + b"\0" if interpreter else b""
    at = 64 + 3 * 56
    entries.append((5, base + at + len(loader)))
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in [*entries, (0, 0)])
    body = loader + strings + dynamic
    where = at + len(loader) + len(strings)
    segments = [(1, 0, base, at + len(body)), (2, where, base + where, len(dynamic))]
    if loader:
        segments.append((3, at, base + at, len(loader)))
    header = b"\x7fELF\x02\x01".ljust(32, b"\0") + struct.pack("<Q14xHH", 64, 56, len(segments))
    table = b"".join(
        struct.pack("<IIQQQQQQ", kind, 0, offset, address, 0, size, size, 1)
        for kind, offset, address, size in segments
    )
    return header.ljust(64, b"\0") + table.ljust(3 * 56, b"\0") + body


def reader(content: bytes) -> Any:
    """Reads a file that is there as bytes."""
    return lambda offset, size: content[offset : offset + size]


def test_a_file_says_what_it_is_linked_to() -> None:
    """Loader, libraries in their order, folders of DT_RUNPATH, or of DT_RPATH where there is none."""
    content = elf(("libc.so.6", "libm.so.6"), LOADER, "$ORIGIN/../lib:/opt/lib")
    expected = Linking(LOADER, ("libc.so.6", "libm.so.6"), ("$ORIGIN/../lib", "/opt/lib"))
    assert linking(reader(content)) == expected
    assert linking(reader(elf(search="/old", tag=15))) == Linking(None, (), ("/old",))
    assert linking(reader(b"\x7fELF\x01\x01")) is None
    assert linking(reader(b"#!/bin/sh\n")) is None


def test_a_program_of_this_machine_is_read() -> None:
    """env of this machine: a file that a compiler made."""
    found = linking(reader(Path("/usr/bin/env").resolve().read_bytes()))
    assert found is not None
    assert found.interpreter is not None
    assert "libc.so.6" in found.needed


@given(st.data())
def test_a_damaged_file_is_never_a_fault(data: st.DataObject) -> None:
    """Whatever bytes are changed or missing, the answer is None or a value."""
    content = bytearray(elf(("libc.so.6",), LOADER, "/opt"))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    found = linking(reader(cut))
    assert found is None or isinstance(found, Linking)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A root with a loader, a C library and a program that is linked to them."""
    made = Tree(tmp_path / "root")
    made.add_file("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", [elf()], executable=True)
    made.add_symlink("lib64", "usr/lib/x86_64-linux-gnu")
    made.add_file("usr/lib/x86_64-linux-gnu/libc.so.6", [elf(("ld-linux-x86-64.so.2",))])
    made.add_file("usr/bin/python3", [elf(("libc.so.6",), LOADER)], executable=True)
    return made


def spec(*command: str, **changes: Any) -> ImageSpec:
    """The auction's image.toml with another command."""
    return dataclasses.replace(load_spec(ROOT), command=command, environment=(), **changes)


def test_a_root_that_has_everything_passes(tree: Tree) -> None:
    """Through links, DT_RUNPATH relative to the file, and env's search; nothing is said."""
    tree.add_file("opt/w/a.so", [elf(("libgomp-0a.so.1",), None, "$ORIGIN/../w.libs")])
    tree.add_file("opt/w.libs/libgomp-0a.so.1", [elf(("libc.so.6",))])
    tree.add_file("usr/bin/env", [elf(("libc.so.6",), LOADER)], executable=True)
    tree.add_file("app/main", [b"#!/usr/bin/env python3\n"], executable=True)
    everything = set(tree.kinds)
    assert check_needs(spec("/app/main"), tree, own=everything, wheels=()) == ()


@pytest.mark.parametrize(
    ("name", "content", "executable", "needed"),
    [
        ("app/main", elf(("libssl.so.3",), LOADER), True, "libssl.so.3"),
        ("app/main", elf(("libc.so.6",), "/lib/ld-musl-x86_64.so.1"), True, "/lib/ld-musl-x86_64.so.1"),
        ("app/main", b"#!/bin/sh\nexec x\n", True, "/bin/sh"),
        ("app/main", b"#! /usr/bin/python3.9 -I\n", True, "/usr/bin/python3.9"),
        ("app/main", b"#!/usr/bin/env node\n", True, "node"),
    ],
)
def test_what_the_command_lacks_is_named(
    tree: Tree, name: str, content: bytes, executable: bool, needed: str
) -> None:
    """A library, a loader, an interpreter: with the file that needs it, in one line."""
    if b"env" in content:
        tree.add_file("usr/bin/env", [elf(("libc.so.6",), LOADER)], executable=True)
    tree.add_file(name, [content], executable=executable)
    with pytest.raises(UsageError) as refused:
        check_needs(spec("/app/main"), tree, own=(), wheels=())
    assert refused.value.code == "missing-needs"
    assert f"{name} needs {needed}, which is not in the image" in str(refused.value)
    assert [finding.expected for finding in refused.value.findings] == [needed]


def test_the_hint_has_debians_name_of_a_library(tree: Tree) -> None:
    """As Debian names packages of libraries by their soname (Policy, 8.1)."""
    for library, package in (
        ("libssl.so.3", "libssl3"),
        ("libfoo2.so.1", "libfoo2-1"),
        ("libX11.so.6", "libx11-6"),
    ):
        name = f"app/{library}.main"
        tree.add_file(name, [elf((library,), LOADER)], executable=True)
        with pytest.raises(UsageError) as refused:
            check_needs(spec(f"/{name}"), tree, own=(), wheels=())
        assert f" {package} " in str(refused.value.hint)


def test_everything_that_lacks_is_a_finding(tree: Tree) -> None:
    """A library that the command's library needs, a wheel's module, and a file of one's own, together."""
    tree.add_file("usr/lib/libdeep.so", [elf(("libdeeper.so.1",))])
    tree.add_file("app/main", [elf(("libdeep.so",), LOADER)], executable=True)
    tree.add_file("opt/wheel.so", [elf(("libcuda.so.1",))])
    tree.add_file("app/helper", [b"#!/bin/bash\n"], executable=True)
    with pytest.raises(UsageError) as refused:
        check_needs(spec("/app/main"), tree, own={"app/helper", "app/main"}, wheels={"opt/wheel.so"})
    assert {(each.where, each.expected) for each in refused.value.findings} == {
        ("usr/lib/libdeep.so", "libdeeper.so.1"),
        ("opt/wheel.so", "libcuda.so.1"),
        ("app/helper", "/bin/bash"),
    }
    assert "and 2 more things are missing" in str(refused.value)


def test_what_a_package_brings_and_nobody_starts_is_told_only(tree: Tree) -> None:
    """A program of a package is returned; a script of it, a module that only begins like one, is not."""
    tree.add_file("usr/bin/tool", [elf(("libtool.so.9",), LOADER)], executable=True)
    tree.add_file("usr/lib/python3/timeit.py", [b"#!/usr/bin/env python9\n"], executable=True)
    found = check_needs(spec("/usr/bin/python3"), tree, own=(), wheels=())
    assert [(each.where, each.expected) for each in found] == [("usr/bin/tool", "libtool.so.9")]
