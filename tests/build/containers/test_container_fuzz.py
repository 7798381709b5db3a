"""Hostile images: read, or refused with one of our errors; never another exception, never another tree."""

from __future__ import annotations

import contextlib
import gzip
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from coattest.errors import CoattestError
from coattest.network import parse_network
from coattest_build.containers.application import container_tree
from coattest_build.containers.errors import ContainerError
from coattest_build.containers.image import Choice, open_container_image
from coattest_build.containers.inspection import inspect_container
from coattest_build.containers.layers import walk
from coattest_build.containers.layertar import DIRECTORY, read_layer
from coattest_build.containers.own.plan import RunPlan, decode_plan
from coattest_build.containers.own.tree import own_tree
from coattest_build.containers.own.users import MAX_ID, ContainerUser, resolve_user
from coattest_build.containers.sources import HeldBytes
from support.build.container_images import (
    CMD,
    INDEX,
    LAYER,
    MANIFEST,
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


def opened_or_refused(data: bytes, choice: Choice | None = None) -> bool:
    """Read an image to its end, everything that is shown included; whether it was not refused."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "image.tar"
        path.write_bytes(data)
        refusal = None
        try:
            with open_container_image(path, choice, max_size=1 << 22) as image:
                inspect_container(container_tree(image)).to_json()
                for _ in own_tree(image).blocks():
                    pass
        except CoattestError as error:
            refusal = error
        assert refusal is None or (refusal.exit_code in (1, 2, 3) and "\n" not in str(refusal))
        return refusal is None


@pytest.mark.slow
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


@pytest.mark.slow
@SETTINGS
@given(
    st.sampled_from([saved(LAYERS), whole_layout(), gzip.compress(saved(LAYERS), mtime=0)]).flatmap(changed)
)
def test_a_changed_image_is_read_or_refused(data: bytes) -> None:
    """Archives of every form."""
    opened_or_refused(data)


@pytest.mark.slow
@SETTINGS
@given(st.sampled_from(LAYERS).flatmap(lambda raw: changed(raw, headers=True)))
def test_a_changed_file_system_is_read_or_refused(data: bytes) -> None:
    """Of ``docker export``, which no digest covers: also as the ramdisk of style nitro-cli."""
    opened_or_refused(data)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "export.tar"
        path.write_bytes(data)
        with contextlib.suppress(CoattestError):
            assert len(ramdisk_of(path, command=("/d/f",))) % 512 == 0


def in_gzip(data: bytes) -> bytes:
    """Two members, as eStargz has many."""
    return gzip.compress(data[:1500], mtime=0) + gzip.compress(data[1500:], mtime=0)


def in_zstd(data: bytes) -> bytes:
    """A skippable frame and two others; the content as it is, so that no library is needed to write it."""
    frames = b"\x50\x2a\x4d\x18\x03\0\0\0abc"
    for part in (data[:1500], data[1500:]):
        # RFC 8878: single segment with a size of 4 bytes, one raw block that is the last.
        frames += b"\x28\xb5\x2f\xfd\xa0" + len(part).to_bytes(4, "little")
        frames += (len(part) << 3 | 1).to_bytes(3, "little") + part
    return frames


@pytest.mark.slow
@SETTINGS
@given(st.sampled_from([(in_gzip, "+gzip"), (in_zstd, "+zstd")]), st.booleans(), st.data())
def test_a_changed_compressed_layer_is_read_or_refused(
    form: tuple[Callable[[bytes], bytes], str], whole: bool, data: st.DataObject
) -> None:
    """Under a right digest: what a hostile publisher pushes. What is read is what diff_id says."""
    pack, kind = form
    raw = data.draw(st.just(pack(LAYERS[0])) if whole else changed(pack(LAYERS[0])))
    layout = Layout()
    archive = layout.index(layout.manifest(LAYERS[:1], pack=lambda _: raw, kind=LAYER + kind)).archive()
    assert opened_or_refused(archive) or not whole


DESCRIPTORS = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": st.sampled_from([INDEX, MANIFEST, LAYER, "x"]),
        "digest": st.sampled_from(range(3)),
        "size": st.integers(-1, 3) | st.just("right"),
        "platform": st.sampled_from(
            [{"os": "linux", "architecture": "amd64"}, {"os": "unknown", "architecture": "unknown"}, {}, 1]
        ),
        "annotations": st.dictionaries(
            st.sampled_from(["org.opencontainers.image.ref.name", "vnd.docker.reference.type"]), st.just("a")
        ),
    },
)


@pytest.mark.slow
@SETTINGS
@given(st.lists(st.lists(DESCRIPTORS, max_size=4), min_size=1, max_size=4), st.sampled_from(["a", None]))
def test_any_nest_of_indexes_leads_to_one_image_or_is_refused(
    levels: list[list[dict[str, Any]]], ref: str | None
) -> None:
    """Each level names what the levels below have, by right and wrong types, sizes and digests."""
    layout = Layout()
    layout.manifest(LAYERS[:1])
    for level in levels:
        known = list(layout.files)[1:]
        descriptors = []
        for each in level:
            item = dict(each)
            if "digest" in item:
                place = known[-1 - item["digest"] % len(known)]
                item["digest"] = f"sha256:{place.rpartition('/')[2]}"
                item["size"] = len(layout.files[place]) if item.get("size") == "right" else item.get("size")
            descriptors.append(item)
        layout.index(layout.nested(*descriptors))
    opened_or_refused(layout.archive(), Choice(ref=ref))


PASSWD = st.lists(
    st.lists(
        st.sampled_from(["web", "root", "0", "33", "+5", "-1", "4294967296", "", "\udc80", "x"]), max_size=8
    ).map(":".join),
    max_size=4,
).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogateescape"))


@pytest.mark.slow
@SETTINGS
@given(PASSWD, PASSWD, st.lists(st.sampled_from(["web", "0", "33", "+5", "", "x"]), max_size=3).map(":".join))
def test_any_user_of_any_databases_has_ids_or_is_refused(passwd: bytes, group: bytes, user: str) -> None:
    """Ids within Docker's limits, and the first group among the groups; the same from what is written."""
    with contextlib.suppress(ContainerError):
        found = resolve_user(user, passwd, group)
        assert 0 <= found.uid <= MAX_ID
        assert found.gid == found.groups[0]
        assert len(set(found.groups)) == len(found.groups)
        assert all(0 <= one <= MAX_ID for one in found.groups)
        plan = RunPlan(("/x",), (), found, "/", False)
        assert decode_plan(plan.encode()) == replace(plan, user=replace(found, home=""))


@pytest.mark.slow
@SETTINGS
@given(st.data())
def test_a_changed_plan_is_what_encode_writes_or_refused(data: st.DataObject) -> None:
    """No two files mean one thing: `describe`, `check` and the parent read what init does."""
    user = ContainerUser(5, 6, (6, 7), "")
    network = parse_network(["5005:8080"], ["a.example:443"])
    raw = RunPlan(("/x", "y"), ("A=1",), user, "/d", True, network).encode()
    other = data.draw(changed(raw))
    with contextlib.suppress(ContainerError):
        assert decode_plan(other).encode() == other


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "Cmd", "Entrypoint", "Env", "User", "WorkingDir", "Volumes", "ExposedPorts", "StopSignal", "Healthcheck"
]  # fmt: skip


@pytest.mark.slow
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


@pytest.mark.slow
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
