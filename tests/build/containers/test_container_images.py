"""Which image a file holds, and that everything in it is what its digests say."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse
from coattest_build.containers.errors import ContainerError
from coattest_build.containers.image import Choice, open_container_image
from coattest_build.containers.manifests import Platform
from support.build.container_images import (
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    Entry,
    Layout,
    config_of,
    entry,
    folder,
    listed,
    ramdisk_of,
    saved,
    sha256,
    symlink,
    tar,
)
from support.raises import raises_code

ONE, TWO = tar(entry("a", b"1")), tar(entry("b", b"2"))
AMD = {"os": "linux", "architecture": "amd64"}
ARM = {"os": "linux", "architecture": "arm64", "variant": "v8"}


def put(tmp_path: Path, data: bytes) -> Path:
    """A file with these bytes."""
    path = tmp_path / "image.tar"
    path.write_bytes(data)
    return path


def refusal(path: Path, choice: Choice | None = None, **options: Any) -> CoattestError:
    """Why an image is not opened."""
    with pytest.raises(CoattestError) as caught, open_container_image(path, choice, **options):
        pass
    return caught.value


def config_for(platform: dict[str, str], layers: list[bytes]) -> bytes:
    """A configuration for a platform."""
    return config_of(layers, **platform)


def test_a_saved_image_is_the_same_in_every_wrapping(tmp_path: Path) -> None:
    """Old and new archives, layers plain, gzip in members, xz; the whole archive compressed."""
    expected = ramdisk_of(put(tmp_path, saved([ONE, TWO])))
    assert ramdisk_of(put(tmp_path, gzip.compress(saved([ONE, TWO])))) == expected

    def in_members(data: bytes) -> bytes:
        return gzip.compress(data[:700]) + gzip.compress(b"") + gzip.compress(data[700:])

    for pack in (in_members, lzma.compress, bytes):
        layout = Layout()
        layout.index(layout.manifest([ONE, TWO], pack=pack, kind=LAYER))
        assert ramdisk_of(put(tmp_path, layout.archive())) == expected


def test_zstd_is_read_where_python_has_it(tmp_path: Path) -> None:
    """Several frames, and skippable ones as zstd:chunked writes them; damage is refused."""
    zstd = None
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ModuleNotFoundError):
            zstd = zstd or importlib.import_module(name)
    expected = ramdisk_of(put(tmp_path, saved([ONE])))
    layout = Layout()
    if zstd is None:
        packed = layout.manifest([ONE], pack=lambda data: b"\x28\xb5\x2f\xfd" + data, kind=LAYER)
        layout.index(packed)
        assert refusal(put(tmp_path, layout.archive())).code == "missing-extra"
        pytest.skip("no zstd in this Python: compression.zstd or backports.zstd")
    skipped = b"\x50\x2a\x4d\x18\x05\0\0\0hello"

    def in_frames(data: bytes) -> bytes:
        return b"".join((skipped, zstd.compress(data[:700]), skipped, zstd.compress(data[700:]), skipped))

    for pack, reads in ((zstd.compress, True), (in_frames, True), (lambda data: in_frames(data)[:-2], False)):
        layout = Layout()
        layout.index(layout.manifest([ONE], pack=pack, kind=LAYER + "+zstd"))
        path = put(tmp_path, layout.archive())
        if reads:
            assert ramdisk_of(path) == expected
        else:
            assert refusal(path).code == "container-malformed"


def test_a_repeated_layer_may_be_a_link_in_an_old_archive(tmp_path: Path) -> None:
    """As old ``docker save`` writes it; the link is followed inside the archive only."""
    config = config_of([ONE, ONE])
    manifest = [{"Config": f"{sha256(config)}.json", "Layers": ["x/layer.tar", "y/layer.tar"]}]
    common = (entry(f"{sha256(config)}.json", config), entry("manifest.json", json.dumps(manifest).encode()))
    linked = tar(entry("x/layer.tar", ONE), symlink("y/layer.tar", "../x/layer.tar"), *common)
    assert listed(ramdisk_of(put(tmp_path, linked)))["rootfs/a"]["content"] == b"1"
    away = tar(entry("x/layer.tar", ONE), symlink("y/layer.tar", "/etc/passwd"), *common)
    assert "no such file in the archive" in str(refusal(put(tmp_path, away)))


def test_one_image_of_several_is_named(tmp_path: Path) -> None:
    """By platform, by reference, by both; else the choice is listed and none is taken."""
    layout = Layout()
    first = layout.manifest([ONE], platform=AMD)
    second = layout.manifest([TWO], config=config_for(ARM, [TWO]), platform=ARM)
    named = {"org.opencontainers.image.ref.name": "new"}
    layout.index(layout.nested(first, second), {**first, "annotations": named})
    path = layout.write(tmp_path / "layout")
    error = refusal(path)
    assert error.code == "container-ambiguous"
    assert "linux/arm64/v8" in str(error)
    for choice, diff_id in (
        (Choice(platform=Platform("linux", "amd64")), sha256(ONE)),
        (Choice(platform=Platform("linux", "arm64")), sha256(TWO)),
        (Choice(ref="new"), sha256(ONE)),
    ):
        with open_container_image(path, choice) as image:
            assert [layer.diff_id for layer in image.layers] == [diff_id]
    for choice in (Choice(ref="old"), Choice(platform=Platform("linux", "riscv64"))):
        assert refusal(path, choice).code == "container-ambiguous"
    tagged = put(tmp_path, saved([ONE], tags=["a:1", "a:2"]))
    with open_container_image(tagged, Choice(ref="a:2")) as image:
        assert image.names == ("a:1", "a:2")
    assert refusal(tagged, Choice(ref="a:3")).code == "container-ambiguous"


def test_an_attestation_is_no_image(tmp_path: Path) -> None:
    """Told by its platform or its annotation."""
    layout = Layout()
    image = layout.manifest([ONE], platform=AMD)
    by_platform = layout.manifest([TWO], platform={"os": "unknown", "architecture": "unknown"})
    annotation = {"vnd.docker.reference.type": "attestation-manifest"}
    by_annotation = layout.manifest([ONE, TWO], annotations=annotation)
    layout.index(image, by_platform, by_annotation)
    with open_container_image(layout.write(tmp_path / "layout")) as opened:
        assert opened.manifest == image["digest"].removeprefix("sha256:")


def changed(layout: Layout, what: str) -> None:
    """Change a blob under its digest: the one whose content ``what`` is in."""
    (name,) = (n for n, data in layout.files.items() if n.startswith("blobs/") and what.encode() in data)
    layout.files[name] = layout.files[name].replace(what.encode(), what.swapcase().encode())


@pytest.mark.parametrize("what", ["layers+gzip", "diff_ids", "manifests"])
def test_a_blob_that_is_not_its_digest_is_false(what: str, tmp_path: Path) -> None:
    """Manifest, configuration, nested index: exit 1, before anything in it is believed."""
    layout = Layout()
    layout.index(layout.nested(layout.manifest([ONE])))
    changed(layout, {"layers+gzip": "tar+gzip"}.get(what, what))
    error = refusal(layout.write(tmp_path / "layout"))
    assert (error.code, error.exit_code) == ("container-digest", 1)


def test_a_layer_that_is_not_its_digest_or_diff_id_is_false(tmp_path: Path) -> None:
    """A layer recompressed under the old digest; a layer whose content is another's; a size that lies."""
    layout = Layout()
    descriptor = layout.manifest([ONE])
    layout.index(descriptor)
    name = f"blobs/sha256/{sha256(gzip.compress(ONE, mtime=0))}"
    layout.files[name] = gzip.compress(ONE, 1, mtime=5)
    assert isinstance(refusal(layout.write(tmp_path / "blob")), FoundFalse)
    layout = Layout()
    layout.index(layout.manifest([ONE], config=config_of([TWO])))
    assert "the configuration says" in str(refusal(layout.write(tmp_path / "diff")))
    assert "the configuration says" in str(refusal(put(tmp_path, saved([ONE], config=config_of([TWO])))))
    layout = Layout()
    layout.index({**layout.manifest([ONE]), "size": 5})
    assert refusal(layout.write(tmp_path / "size")).code == "container-digest"


def test_another_number_of_layers_than_diff_ids_is_refused(tmp_path: Path) -> None:
    """A layer more or less would be another image."""
    for config in (config_of([ONE]), config_of([ONE, TWO, TWO])):
        assert "2 layers" in str(refusal(put(tmp_path, saved([ONE, TWO], config=config))))


def test_the_configuration_of_a_saved_image_is_the_one_in_its_name(tmp_path: Path) -> None:
    """Old archives name it by its digest, which is the image's id."""
    data = saved([ONE]).replace(b'"/a"', b'"/b"')
    assert refusal(put(tmp_path, data)).code in ("container-digest", "container-malformed")


def manifest_with(layout: Layout, **fields: Any) -> dict[str, Any]:
    """A manifest of one layer with other fields; its descriptor."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": layout.blob(config_of([ONE]), CONFIG),
        "layers": [layout.blob(ONE, LAYER)],
        **fields,
    }
    return layout.blob(json.dumps(document).encode(), MANIFEST)


def foreign(layout: Layout, kind: str) -> list[dict[str, Any]]:
    """One layer of another kind."""
    return [{**layout.blob(ONE, kind), "urls": ["https://example.com/layer"]}]


MANIFESTS: dict[str, tuple[Callable[[Layout], dict[str, Any]], str]] = {
    "a foreign layer": (
        lambda at: {"layers": foreign(at, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")},
        "container-unsupported",
    ),
    "a layer that may not be distributed": (
        lambda at: {"layers": foreign(at, "application/vnd.oci.image.layer.nondistributable.v1.tar")},
        "container-unsupported",
    ),
    "a layer at an address": (lambda at: {"layers": foreign(at, LAYER)}, "container-unsupported"),
    "an encrypted layer": (
        lambda at: {"layers": [at.blob(ONE, LAYER + "+gzip+encrypted")]},
        "container-unsupported",
    ),
    "schema 1": (lambda _: {"schemaVersion": 1}, "container-unsupported"),
    "schema 1 by its layers": (lambda _: {"fsLayers": []}, "container-unsupported"),
    "an index as well": (lambda _: {"manifests": []}, "container-two-readings"),
    "an index's type": (lambda _: {"mediaType": INDEX}, "container-two-readings"),
    "a name in another case": (lambda _: {"Layers": []}, "container-two-readings"),
    "a digest of another kind": (
        lambda at: {"config": {**at.blob(b"{}", CONFIG), "digest": "sha512:" + "0" * 128}},
        "container-unsupported",
    ),
    "no layers": (lambda _: {"layers": None}, "container-malformed"),
}


@pytest.mark.parametrize("name", sorted(MANIFESTS))
def test_a_manifest_that_is_not_plain_is_refused(name: str, tmp_path: Path) -> None:
    """With the reason."""
    fields, code = MANIFESTS[name]
    layout = Layout()
    layout.index(manifest_with(layout, **fields(layout)))
    assert refusal(layout.write(tmp_path / "layout")).code == code


@pytest.mark.parametrize(
    "config",
    [
        config_of([ONE], {"Cmd": ["/a"], "cmd": ["/evil"]}),
        config_of([ONE], {"cmd": ["/evil"]}),
        config_of([ONE]).replace(b'"os"', b'"OS": "linux", "os"'),
        config_of([ONE], {"Cmd": ["/a"], "User": "5", "U\u017fer": "0"}),
        config_of([ONE], {"Cmd": ["/a"], "Wor\u212aingDir": "/x"}),
        config_of([ONE]).replace(b'"rootfs"', '"root\u017f": 1, "rootfs"'.replace("root", "rootf").encode()),
    ],
)
def test_a_name_that_go_takes_in_another_case_is_refused(config: bytes, tmp_path: Path) -> None:
    """To Docker ``cmd`` is Cmd: what we would show is not what nitro-cli runs."""
    assert refusal(put(tmp_path, saved([ONE], config=config))).code == "container-two-readings"


def test_a_second_list_of_layers_in_another_letter_is_refused(tmp_path: Path) -> None:
    """Go takes a long s for an s, and the last of two: Docker would load these layers."""
    layout = Layout()
    evil = layout.blob(TWO, LAYER)
    assert refusal(
        layout.index(manifest_with(layout, **{"layer\u017f": [evil]})).write(tmp_path / "x")
    ).code == ("container-two-readings")


@pytest.mark.parametrize("value", [[], 0, False, "", "x"])
def test_a_configuration_that_is_no_object_is_refused(value: object, tmp_path: Path) -> None:
    """Also where it is empty: Docker does not load it."""
    refused = refusal(put(tmp_path, saved([ONE], config=config_of([ONE], value))))  # type: ignore[arg-type]
    assert refused.code == "container-malformed"


def test_two_lists_in_one_archive_have_to_name_one_image(tmp_path: Path) -> None:
    """New ``docker save`` writes index.json and manifest.json: each store of Docker reads another."""

    def both(config: bytes, layers: list[bytes]) -> Path:
        layout = Layout()
        layout.index(layout.manifest([ONE], pack=bytes, kind=LAYER))
        names = [f"blobs/sha256/{sha256(layer)}" for layer in layers]
        for data in (config, *layers):
            layout.files[f"blobs/sha256/{sha256(data)}"] = data
        saved_list = [{"Config": f"blobs/sha256/{sha256(config)}", "RepoTags": None, "Layers": names}]
        layout.files["manifest.json"] = json.dumps(saved_list).encode()
        return put(tmp_path, layout.archive())

    assert b"rootfs/a" in ramdisk_of(both(config_of([ONE]), [ONE]))
    for path in (both(config_of([TWO]), [TWO]), both(config_of([ONE]), [TWO])):
        assert refusal(path).code == "container-two-readings"


def test_a_platform_that_index_and_configuration_name_differently_is_refused(tmp_path: Path) -> None:
    """Who picks by the index would get another machine's program."""
    layout = Layout()
    layout.index(layout.manifest([ONE], platform={"os": "linux", "architecture": "arm64"}))
    assert refusal(layout.write(tmp_path / "layout")).code == "container-two-readings"
    assert refusal(put(tmp_path, saved([ONE])), Choice(platform=Platform("linux", "arm64"))).exit_code == 2


def test_indexes_do_not_nest_without_end(tmp_path: Path) -> None:
    """Four inside each other are read, six are not."""
    for depth, opens in ((4, True), (6, False)):
        layout = Layout()
        descriptor = layout.manifest([ONE])
        for _ in range(depth):
            descriptor = layout.nested(descriptor)
        layout.index(descriptor)
        path = layout.write(tmp_path / str(depth))
        if opens:
            assert ramdisk_of(path)
        else:
            assert "inside each other" in str(refusal(path))


def test_one_image_is_not_read_by_billions_of_names(tmp_path: Path) -> None:
    """An index that names one index 40 times, which does so again: every way has references of its own."""
    layout = Layout()
    descriptor = layout.manifest([ONE])
    for level in range(3):
        names = [{"org.opencontainers.image.ref.name": f"{level}-{number}"} for number in range(40)]
        descriptor = layout.nested(*({**descriptor, "annotations": name} for name in names))
    layout.index(descriptor)
    assert "ways to its images" in str(refusal(layout.write(tmp_path / "layout")))


def test_a_document_that_is_a_hole_is_refused(tmp_path: Path) -> None:
    """A sparse file of one piece that is not there."""
    pax = {"major": "1", "minor": "0", "name": "manifest.json", "realsize": "100"}
    headers = {f"GNU.sparse.{key}": value for key, value in pax.items()}
    hole = tar(entry("manifest.json", b"0\n".ljust(512, b"\0"), pax_headers=headers))
    assert "is a sparse file" in str(refusal(put(tmp_path, hole)))


def test_what_an_image_unpacks_to_is_limited(tmp_path: Path) -> None:
    """A megabyte of zeros in a kilobyte; also the archive as a whole."""
    bomb = tar(entry("a", bytes(1 << 20)))
    layout = Layout()
    layout.index(layout.manifest([bomb]))
    for path in (layout.write(tmp_path / "layout"), put(tmp_path, gzip.compress(saved([bomb])))):
        error = refusal(path, max_size=1 << 19)
        assert error.code == "container-limit"
        assert "--max-size" in str(error)


def test_other_compression_and_damage_are_refused(tmp_path: Path) -> None:
    """bzip2; a stream cut short; other bytes after it."""
    packs: list[tuple[Callable[[bytes], bytes], str]] = [
        (bz2.compress, "bzip2"),
        (lambda data: gzip.compress(data)[:-9], "damaged"),
        (lambda data: gzip.compress(data) + b"more", "other data"),
    ]
    for number, (pack, why) in enumerate(packs):
        layout = Layout()
        layout.index(layout.manifest([ONE], pack=pack))
        assert why in str(refusal(layout.write(tmp_path / str(number))))


def test_links_and_pipes_in_a_layout_are_not_followed(tmp_path: Path) -> None:
    """A blob that is a link, and a layout that is one."""
    layout = Layout()
    layout.index(layout.manifest([ONE]))
    path = layout.write(tmp_path / "layout")
    (name,) = (n for n, data in layout.files.items() if data == gzip.compress(ONE, mtime=0))
    (path / name).rename(tmp_path / "blob")
    (path / name).symlink_to(tmp_path / "blob")
    assert refusal(path).code == "container-malformed"
    (tmp_path / "link").symlink_to(path)
    assert refusal(tmp_path / "link").code == "not-a-folder"


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ((entry("oci-layout", b'{"imageLayoutVersion": "2.0.0"}'), entry("index.json", b"{}")), "malformed"),
        ((entry("oci-layout", b"{}"),), "malformed"),
        ((entry("manifest.json", b"[]"),), "malformed"),
        ((entry("manifest.json", b"{"),), "malformed"),
        ((entry("manifest.json", b"[]"), entry("./manifest.json", b"[]")), "two-readings"),
    ],
)
def test_an_archive_that_is_no_image_is_refused(files: tuple[Entry, ...], code: str, tmp_path: Path) -> None:
    """Exit 2."""
    error = refusal(put(tmp_path, tar(*files)))
    assert (error.code, error.exit_code) == (f"container-{code}", 2)


def test_an_empty_command_is_docker_s_choice(tmp_path: Path) -> None:
    """Docker 20 shows it, Docker 29 does not: two command files of one image, and neither without a word."""
    path = put(tmp_path, saved([ONE], {"Cmd": [], "Entrypoint": ["/e", "x y"]}))
    with raises_code(EnvironmentFailure, "undecidable"):
        ramdisk_of(path)
    assert listed(ramdisk_of(path, docker=20))["cmd"]["content"] == b""
    assert listed(ramdisk_of(path, docker=29))["cmd"]["content"] == b"/e\nx y\n"


@pytest.mark.parametrize(
    ("run", "command"),
    [
        ({"Cmd": ["a", "b"], "Entrypoint": ["e"]}, b"a\nb\n"),
        ({"Cmd": None, "Entrypoint": ["e", "f\ng"]}, b"e\nf\ng\n"),
        ({"Entrypoint": []}, b""),
    ],
)
def test_cmd_counts_before_the_entrypoint(run: dict[str, Any], command: bytes, tmp_path: Path) -> None:
    """They are never joined; words are not quoted."""
    assert listed(ramdisk_of(put(tmp_path, saved([ONE], run))))["cmd"]["content"] == command


def test_what_nitro_cli_refuses_is_refused(tmp_path: Path) -> None:
    """No command at all; another machine; another system."""
    for data in (
        saved([ONE], {}),
        saved([ONE], None),
        saved([ONE], config=config_of([ONE], architecture="riscv64")),
        saved([ONE], config=config_of([ONE], os="windows")),
    ):
        with pytest.raises(ContainerError) as caught:
            ramdisk_of(put(tmp_path, data))
        assert caught.value.code == "container-unsupported"


def test_an_export_gets_what_linuxkit_adds(tmp_path: Path) -> None:
    """An export without Docker's own files has them at the end, without a slash."""
    found = listed(ramdisk_of(put(tmp_path, tar(folder("d"), entry("d/x"))), command=("/d/x",)))
    names = list(found)
    assert names[:3] == ["rootfs", "rootfs/d/", "rootfs/d/x"]
    assert {"rootfs/etc/hosts", "rootfs/etc/mtab", "rootfs/dev/shm"} <= set(names)
    assert found["rootfs/etc/mtab"]["mode"] == 0o120755


def test_an_export_with_a_name_twice_or_a_dangling_hard_link_is_refused(tmp_path: Path) -> None:
    """Docker exports neither."""
    for data in (tar(entry("x"), entry("./x")), tar(entry("x", type=b"1", linkname="y"))):
        with pytest.raises(ContainerError):
            ramdisk_of(put(tmp_path, data), command=("/x",))
