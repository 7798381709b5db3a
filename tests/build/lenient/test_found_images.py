"""Images of every builder, and every oddity: described, measured and compared as the enclave sees them."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import pytest

from coattest_build.explain.describe import Description, describe_image
from coattest_build.explain.diff import compare
from coattest_build.formats.eif import ImageError
from coattest_build.formats.lenient import initramfs
from support.build.eif_program import eif
from support.build.found_images import FoundImage, found_images
from support.build.images import CMDLINE, KERNEL, RAMDISK, SYMLINK, archive, newc, pcr, plain

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
IMAGES = found_images()


def described(tmp_path: Path, image: FoundImage) -> Description:
    """The description of a case, its files included."""
    path = tmp_path / "image.eif"
    path.write_bytes(image.spec.build())
    return describe_image(path, now=NOW, files=True)


def test_there_are_enough() -> None:
    """At least seventy."""
    assert len(IMAGES) >= 70


@pytest.mark.parametrize("name", IMAGES)
def test_the_tree_is_what_linux_makes_of_it(tmp_path: Path, name: str) -> None:
    """Each path of the case, its attributes, and exactly the findings and notes that it is to have."""
    image = IMAGES[name]
    description = described(tmp_path, image)
    assert description.tree is not None
    rows = {row.path: row for row in description.tree}
    for path, expected in image.tree.items():
        kind, _, value = expected.partition(" ")
        if kind == "gone":
            assert path not in rows
            continue
        row = rows[path]
        assert row.node.kind == {"dir": "directory", "link": "symlink"}.get(kind, kind)
        if kind == "file":
            content = value.encode("latin-1")
            assert (row.node.body.length, row.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        if kind == "link":
            assert row.node.target.decode() == value
    for path, (mode, uid, gid) in image.attributes.items():
        node = rows[path].node
        assert (oct(node.mode), node.uid, node.gid) == (oct(mode), uid, gid)
    assert [finding.code for finding in description.unpacked.findings] == list(image.findings)
    assert sorted(finding.code for finding in description.breaches) == sorted(image.breaches)
    assert [finding.code for finding in description.findings] == list(image.image_findings)
    assert json.loads(json.dumps(description.to_json(), default=list))["tree"] is not None


@pytest.mark.parametrize("name", IMAGES)
def test_it_is_measured_and_compared(tmp_path: Path, name: str) -> None:
    """The registers are those of its sections in file order, and it is identical with itself."""
    image = IMAGES[name]
    measured = described(tmp_path, image).measurements
    sections = image.spec.sections
    ramdisks = [data for kind, data in sections if kind == RAMDISK]
    content = [data for kind, data in sections if kind in (KERNEL, CMDLINE, RAMDISK)]
    base = [
        data
        for index, (kind, data) in enumerate(sections)
        if kind in (KERNEL, CMDLINE) or index == [each for each, _ in sections].index(RAMDISK)
    ]
    assert measured.pcr0 == pcr(*content)
    assert measured.pcr1 == pcr(*base)
    assert measured.pcr2 == pcr(*ramdisks[1:])
    path = tmp_path / "image.eif"
    assert measured.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    copy = tmp_path / "copy.eif"
    copy.write_bytes(path.read_bytes())
    assert compare(path, copy).identical


@pytest.mark.parametrize(
    ("records", "limit"),
    [
        ([newc(b"n" * 60, 0o100644), newc(b"m" * 60, 0o100644)], "MAX_NAMES"),
        ([newc(b"a", SYMLINK, b"t" * 60), newc(b"b", SYMLINK, b"t" * 60)], "MAX_NAMES"),
        ([newc(b"%d" % n, 0o100644) for n in range(101)], "MAX_ENTRIES"),
    ],
    ids=["names", "targets", "entries"],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_what_a_ramdisk_takes_of_memory_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: Sequence[bytes], limit: str, packed: bool
) -> None:
    """A few megabytes that unpack to 400,000 links of 4,000 bytes took two gigabytes."""
    monkeypatch.setattr(initramfs, limit, 100)
    content = archive(*records)
    path = tmp_path / "image.eif"
    path.write_bytes(plain(ramdisks=(gzip.compress(content) if packed else content,)).build())
    with pytest.raises(ImageError, match="more than 100 ") as caught:
        describe_image(path, now=NOW, files=True)
    assert caught.value.code == "cpio-limit"


def test_the_exit_codes_agree(tmp_path: Path) -> None:
    """0 for others' images, 1 where the CRC-32 is wrong, 2 for what is no image, with the file's name."""
    path = tmp_path / "image.eif"
    for name, code in (("nitro-cli", 0), ("a wrong CRC-32", 1), ("a stale table", 1)):
        path.write_bytes(IMAGES[name].spec.build())
        for verb, files in (("measure", (path,)), ("describe", (path,)), ("diff", (path, path))):
            done = eif(verb, *files)
            assert (verb, done.returncode) == (verb, code)
            assert code == 0 or (str(path) if verb != "diff" else "image A") in done.stderr
    path.write_bytes(b"MZ" * 300)
    for arguments in (("measure", path), ("describe", path), ("diff", path, path)):
        done = eif(*arguments)
        assert (arguments[0], done.returncode) == (arguments[0], 2)
        assert f"{path}: not an EIF" in done.stderr


def test_nitro_cli_image_on_the_screen(tmp_path: Path) -> None:
    """The files the enclave sees, what mounts hide, and what is not as coattest writes it, as notes."""
    path = tmp_path / "image.eif"
    path.write_bytes(IMAGES["nitro-cli"].spec.build())
    done = eif("describe", path, "--files")
    assert done.returncode == 0
    assert "rootfs/app.py" in done.stdout
    assert "rootfs/dev/pts (hidden by the mount on rootfs/dev)" in done.stdout
    assert "note: ramdisk 1: rootfs/bin/ is not a plain relative name (and" in done.stderr


def test_a_replaced_init_is_found(tmp_path: Path) -> None:
    """A later ramdisk's /init is a finding that names both; without --files it is a note."""
    path = tmp_path / "image.eif"
    path.write_bytes(IMAGES["a later ramdisk replaces init"].spec.build())
    listed = eif("describe", path, "--files")
    assert listed.returncode == 1
    assert "ramdisk 1: init: it replaces what ramdisk 0 has there" in listed.stderr
    plainly = eif("describe", path)
    assert plainly.returncode == 0
    assert "note: ramdisk 1: init: it replaces" in plainly.stderr


@pytest.mark.parametrize(
    ("ramdisks", "said"),
    [
        ((), "no ramdisk: PCR2"),
        ((b"boot",), "one ramdisk only: PCR2"),
        ((b"boot", b""), "no bytes in a second ramdisk: PCR2"),
        ((b"boot", b"app"), None),
    ],
)
def test_a_register_of_nothing_is_told(tmp_path: Path, ramdisks: tuple[bytes, ...], said: str | None) -> None:
    """With why nothing is in it."""
    image = tmp_path / "x.eif"
    image.write_bytes(plain(ramdisks=ramdisks).build())
    notes = [note for note in describe_image(image, now=NOW, files=False).notes if "PCR2" in note]
    assert [note.split(" is ")[0] for note in notes] == ([said] if said else [])
