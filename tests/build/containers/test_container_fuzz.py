"""Hostile images: read, or refused with one of our errors; never another exception, never another tree."""

from __future__ import annotations

import contextlib
import gzip
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from coattest.errors import CoattestError
from coattest_build.containers.application import container_tree
from coattest_build.containers.errors import ContainerError
from coattest_build.containers.image import open_container_image
from coattest_build.containers.inspection import inspect_container
from coattest_build.containers.layers import walk
from coattest_build.containers.layertar import DIRECTORY, read_layer
from coattest_build.containers.own.tree import own_tree
from coattest_build.containers.sources import HeldBytes
from support.build.container_images import (
    CMD,
    Entry,
    Layout,
    config_of,
    entry,
    folder,
    hard_link,
    listed,
    ramdisk_of,
    saved,
    sha256,
    symlink,
    tar,
)

SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "4000", "mtime": "1.5"}
LAYERS = (
    tar(folder("d"), entry("d/f", b"1" * 700), hard_link("h", "d/f"), symlink("s", "d"), entry("s/x")),
    tar(entry("n" * 120, pax_headers={"uid": "3000000", "SCHILY.xattr.user.x": "y"}), entry("d/.wh.f")),
    tar(entry("x" * 150), entry("y"), format=tarfile.GNU_FORMAT),
    tar(entry("sparse", b"1\n100\n5\n" + bytes(504) + b"12345", pax_headers=SPARSE)),
)


@st.composite
def changed(draw: st.DrawFn, raw: bytes, *, headers: bool = False) -> bytes:
    """The bytes with up to three changes; with ``headers`` the checksums of tar are right again."""
    for _ in range(draw(st.integers(1, 3))):
        at, other = (draw(st.integers(0, max(len(raw) - 1, 0))) for _ in range(2))
        length = draw(st.integers(1, 600))
        value = draw(
            st.sampled_from([b"\0", b"7", b"/", b"\x80", b"\xff", b"77777777777", b"..", b"5", b"1"])
        )
        kind = draw(st.sampled_from(["put", "cut", "double", "move", "end"]))
        raw = {
            "put": raw[:at] + value + raw[at + len(value) :],
            "cut": raw[:at] + raw[at + length :],
            "double": raw[: at + length] + raw[at:],
            "move": raw[:at] + raw[other : other + length] + raw[at + length :],
            "end": raw[:at],
        }[kind]
    return mended(raw) if headers else raw


def mended(raw: bytes) -> bytes:
    """With the right checksum in each block that looks like a header, so that damage gets past it."""
    blocks = []
    for at in range(0, len(raw), 512):
        block = bytearray(raw[at : at + 512])
        if len(block) == 512 and any(block) and block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
        blocks.append(bytes(block))
    return b"".join(blocks)


def opened_or_refused(data: bytes) -> None:
    """Read an image to its end, everything that is shown included."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "image.tar"
        path.write_bytes(data)
        refusal = None
        try:
            with open_container_image(path, max_size=1 << 22) as image:
                inspect_container(container_tree(image)).to_json()
                for _ in own_tree(image).blocks():
                    pass
        except CoattestError as error:
            refusal = error
        assert refusal is None or (refusal.exit_code in (1, 2, 3) and "\n" not in str(refusal))


@SETTINGS
@given(st.data())
def test_a_changed_layer_is_read_or_refused(data: st.DataObject) -> None:
    """Below the digests: what a hostile publisher can sign."""
    layer = data.draw(st.sampled_from(LAYERS).flatmap(lambda raw: changed(raw, headers=True)))
    with contextlib.suppress(ContainerError):
        for found in read_layer(HeldBytes(layer), most=1000):
            assert all(place < 0 or place + size <= len(layer) for place, size in found.content)
            assert sum(size for _, size in found.content) == found.size
    opened_or_refused(saved([LAYERS[0], layer]))


def whole_layout() -> bytes:
    """An OCI layout with a nested index, as an archive."""
    layout = Layout()
    image = layout.manifest(LAYERS[:2], platform={"os": "linux", "architecture": "amd64"})
    return layout.index(layout.nested(image)).archive()


@SETTINGS
@given(
    st.sampled_from([saved(LAYERS), whole_layout(), gzip.compress(saved(LAYERS), mtime=0)]).flatmap(changed)
)
def test_a_changed_image_is_read_or_refused(data: bytes) -> None:
    """Archives of every form."""
    opened_or_refused(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "Cmd", "Entrypoint", "Env", "User", "WorkingDir", "Volumes", "ExposedPorts", "StopSignal", "Healthcheck"
]  # fmt: skip


@SETTINGS
@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON), st.dictionaries(st.sampled_from(["os", "rootfs"]), JSON)
)
def test_any_configuration_is_read_or_refused(run: dict[str, Any], fields: dict[str, Any]) -> None:
    """Of any types, with any texts."""
    layers = [LAYERS[0]]
    opened_or_refused(saved(layers, config=config_of(layers, {**CMD, **run}, **fields)))


NAMES = st.lists(
    st.sampled_from(["a", "b", "etc", "dev", "hosts", "..", ".wh.a", ".wh..wh..opq"]), min_size=1, max_size=4
)
PATHS = NAMES.map("/".join)
ANY_ENTRY: st.SearchStrategy[Entry] = st.one_of(
    st.builds(entry, PATHS, st.binary(max_size=3)),
    st.builds(folder, PATHS),
    st.builds(symlink, PATHS, PATHS),
    st.builds(symlink, PATHS, PATHS.map(lambda path: "/" + path)),
    st.builds(hard_link, PATHS, PATHS),
)


@settings(SETTINGS, max_examples=400)
@given(
    st.lists(st.lists(ANY_ENTRY, max_size=6), min_size=1, max_size=3), st.sampled_from(["", "/a/b", "/etc/x"])
)
def test_any_layers_make_one_tree_or_are_refused(layers: list[list[Entry]], working_dir: str) -> None:
    """The ramdisk has each path of the tree once, parents first, no name that leads out, no whiteout."""
    raw = [tar(*entries) for entries in layers]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "image.tar"
        path.write_bytes(saved(raw, {**CMD, "WorkingDir": working_dir}))
        times = dict.fromkeys(range(len(layers) + 1), 5)
        ramdisk = b""
        try:
            ramdisk = ramdisk_of(path, times=times)
        except ContainerError as error:
            code = error.code
        else:
            code = None
        event(f"refused: {code}")
        assert code in (None, "container-unloadable")
        if code is not None:
            return
        assert sha256(ramdisk) == sha256(ramdisk_of(path, times=times))
        with open_container_image(path) as image:
            root = container_tree(image).root
            assert root is not None
            seen = {b""}
            for found, inode in walk(root):
                assert found.rpartition(b"/")[0] in seen
                assert not {b"..", b".", b""} & set(found.split(b"/"))
                assert not any(part.startswith(b".wh.") for part in found.split(b"/"))
                if inode.kind == DIRECTORY:
                    seen.add(found)
    assert len(ramdisk) % 512 == 0
    assert {"rootfs/etc/hosts", "cmd", "env"} <= set(listed(ramdisk))
