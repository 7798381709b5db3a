"""Images whose ramdisk is known: Docker, linuxkit and the steps of nitro-cli made these bytes."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import CoattestError, EnvironmentFailure
from coattest_build.containers.errors import ContainerError
from coattest_build.containers.layertar import DIRECTORY, HARD_LINK, SYMLINK
from support.build.container_images import Layout, entry, listed, ramdisk_of, sha256, tree_of
from support.raises import raises_code
from support.shared_cases import shared_folder
from support.source_tree import ROOT

FOLDER = ROOT.parent / "shared" / "vectors" / "container"


@cache
def cases() -> dict[str, dict[str, Any]]:
    """The known results; one empty case where the folder is absent, so that a test says so."""
    index = FOLDER / "INDEX.json"
    return json.loads(index.read_text()) if index.exists() else {"absent": {}}


DECIDED = [name for name, case in cases().items() if "refused" not in case and "undecidable" not in case]
OPEN = [name for name, case in cases().items() if "undecidable" in case]
REFUSED = [name for name, case in cases().items() if "refused" in case]


def image_of(name: str) -> Path:
    """A case's image; skips where the vectors are absent."""
    return shared_folder("vectors/container") / str(cases()[name]["image"])


def times_of(name: str) -> dict[int, int]:
    """The time of each clock, from the ramdisk that was deployed: one value for each, or the test fails."""
    deployed = listed((image_of(name).parent / cases()[name]["deployed"]).read_bytes())
    with tree_of(image_of(name)) as tree:
        found: dict[int, set[int]] = {}
        for item in tree.undecided:
            found.setdefault(item.layer, set()).add(deployed[f"rootfs/{item.path.decode()}/"]["mtime"])
    assert all(len(values) == 1 for values in found.values())
    return {clock: values.pop() for clock, values in found.items()}


def test_all_vectors_are_looked_at() -> None:
    """48 images: none is left out by the way they are sorted here."""
    shared_folder("vectors/container")
    assert len(DECIDED) + len(OPEN) + len(REFUSED) == 48
    assert (len(OPEN), len(REFUSED)) == (2, 1)


@pytest.mark.parametrize("name", DECIDED)
def test_the_ramdisk_is_what_the_real_programs_made(name: str) -> None:
    """Every byte, and nothing is undecided."""
    ramdisk = ramdisk_of(image_of(name))
    assert (sha256(ramdisk), len(ramdisk)) == (cases()[name]["ramdisk_sha256"], cases()[name]["ramdisk_size"])


@pytest.mark.parametrize("name", OPEN or ["absent"])
def test_what_docker_decides_is_named_and_nothing_is_guessed(name: str) -> None:
    """The paths are the index's; without the times there are no bytes."""
    with tree_of(image_of(name)) as tree:
        assert [item.path.decode() for item in tree.undecided] == cases()[name]["undecidable"]
    with raises_code(EnvironmentFailure, "undecidable") as caught:
        ramdisk_of(image_of(name))
    assert caught.value.exit_code == 3
    assert [finding.where for finding in caught.value.findings] == [
        f"'/{path}'" for path in cases()[name]["undecidable"]
    ]


@pytest.mark.parametrize("name", OPEN or ["absent"])
def test_with_the_times_of_a_deployment_the_bytes_are_its_bytes(name: str) -> None:
    """One time for each layer and one for the container make the deployed ramdisk, byte for byte."""
    ramdisk = ramdisk_of(image_of(name), times=times_of(name))
    assert sha256(ramdisk) == cases()[name]["ramdisk_sha256"]
    assert ramdisk == (image_of(name).parent / cases()[name]["deployed"]).read_bytes()


@pytest.mark.parametrize("name", OPEN or ["absent"])
def test_other_times_change_the_named_entries_only(name: str) -> None:
    """Nothing but the named folders depends on the clocks."""
    times = dict.fromkeys(times_of(name), 1)
    deployed = listed((image_of(name).parent / cases()[name]["deployed"]).read_bytes())
    ours = listed(ramdisk_of(image_of(name), times=times))
    assert list(ours) == list(deployed)
    changed = {path for path in ours if ours[path] != deployed[path]}
    assert changed == {f"rootfs/{path}/" for path in cases()[name]["undecidable"]}


@pytest.mark.parametrize("name", REFUSED or ["absent"])
def test_what_docker_cannot_load_is_refused(name: str) -> None:
    """With the path and the reason."""
    with pytest.raises(ContainerError, match="links to files of lower layers cannot be loaded") as caught:
        ramdisk_of(image_of(name))
    assert caught.value.code == "container-unloadable"


@pytest.mark.parametrize("name", DECIDED)
def test_the_same_image_as_an_oci_layout_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    """Recompressed with gzip, in a folder and in an archive, beside an attestation that is skipped."""
    with tarfile.open(image_of(name)) as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        config, *layers = (
            archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in (manifest["Config"], *manifest["Layers"])
        )
    layout = Layout()
    image = layout.manifest(layers, config=config, platform={"os": "linux", "architecture": "amd64"})
    other = layout.manifest([], platform={"os": "unknown", "architecture": "unknown"})
    layout.index(layout.nested(image, other))
    (tmp_path / "image.tar").write_bytes(layout.archive())
    (tmp_path / "image.tar.gz").write_bytes(gzip.compress(layout.archive()))
    for path in (layout.write(tmp_path / "folder"), tmp_path / "image.tar", tmp_path / "image.tar.gz"):
        assert sha256(ramdisk_of(path)) == cases()[name]["ramdisk_sha256"]


@pytest.mark.parametrize("name", DECIDED)
def test_an_export_of_the_container_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    """With the command and environment by hand; links, devices and the entries that Docker adds included."""
    kinds = {
        "file": tarfile.REGTYPE,
        DIRECTORY: tarfile.DIRTYPE,
        SYMLINK: tarfile.SYMTYPE,
        HARD_LINK: tarfile.LNKTYPE,
        "char": tarfile.CHRTYPE,
        "block": tarfile.BLKTYPE,
        "fifo": tarfile.FIFOTYPE,
    }
    with tree_of(image_of(name)) as tree:
        made = []
        for item in tree.exported():
            layer = tree.image.layers[item.place].content
            made.append(
                entry(
                    item.name.decode("utf-8", "surrogateescape"),
                    b"".join(layer.read(place, size) for place, size in item.content),
                    type=kinds[item.kind],
                    mode=item.mode,
                    uid=item.uid,
                    gid=item.gid,
                    mtime=item.mtime,
                    linkname=item.target.decode("utf-8", "surrogateescape"),
                    devmajor=item.device[0],
                    devminor=item.device[1],
                )
            )
        config = tree.image.config
        assert config is not None
        words = config.cmd if config.cmd is not None else config.entrypoint
        assert words is not None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in made:
            archive.addfile(info, io.BytesIO(content))
    (tmp_path / "export.tar").write_bytes(buffer.getvalue())
    found = ramdisk_of(tmp_path / "export.tar", command=words, environment=config.env)
    assert sha256(found) == cases()[name]["ramdisk_sha256"]


@pytest.mark.parametrize("name", ["t1"] if "t1" in cases() else ["absent"])
def test_one_changed_byte_anywhere_is_noticed_or_changes_nothing(name: str, tmp_path: Path) -> None:
    """Every 97th byte of the archive flipped: refused, or outside of everything that counts."""
    raw, known = image_of(name).read_bytes(), cases()[name]["ramdisk_sha256"]
    refused = 0
    for at in range(0, len(raw), 97):
        (tmp_path / "image.tar").write_bytes(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :])
        try:
            assert sha256(ramdisk_of(tmp_path / "image.tar")) == known
        except CoattestError:
            refused += 1
    assert refused > len(raw) // 97 * 0.8
