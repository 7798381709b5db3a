"""``eif describe`` shows what is in an image, and says what does not hold."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

from coattest_build.explain.describe import describe_image
from support.build.eif_program import eif
from support.build.images import DIRECTORY, SYMLINK, SpecImage, archive, newc, pcr, plain

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
BOOT = archive(newc(b"dev", DIRECTORY), newc(b"init", 0o100755, b"\x7fELF"))
APPLICATION = archive(
    newc(b"cmd", data=b"/usr/bin/python3\n"),
    newc(b"rootfs", DIRECTORY),
    newc(b"rootfs/bin", SYMLINK, b"usr/bin"),
    newc(b"rootfs/tmp", 0o41777),
)


def spec() -> SpecImage:
    """An image with two real ramdisks."""
    return plain(b"kernel", b"reboot=k", b'{"ImageName": "n", "ImageVersion": "1"}', (BOOT, APPLICATION))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The image in a file."""
    path = tmp_path / "image.eif"
    path.write_bytes(spec().build())
    return path


def test_json_has_everything(image: Path) -> None:
    """The document has header, sections, measurements, cmdline, metadata and every file with its digest."""
    done = eif("describe", image, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    raw = image.read_bytes()
    assert document["image"] == {
        "size": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "sha384": hashlib.sha384(raw).hexdigest(),
    }
    assert document["Measurements"]["PCR0"] == pcr(b"kernel", b"reboot=k", BOOT, APPLICATION)
    assert (document["version"], document["architecture"]) == (4, "x86_64")
    assert (document["default_memory"], document["default_cpus"]) == (1 << 30, 2)
    assert document["crc32"] == raw[544:548].hex()
    assert document["cmdline"] == "reboot=k"
    assert document["metadata"] == {"ImageName": "n", "ImageVersion": "1"}
    assert document["signature"] is None
    for (kind, data), section in zip(spec().sections, document["sections"], strict=True):
        assert section["type"] == {1: "kernel", 2: "cmdline", 3: "ramdisk", 5: "metadata"}[kind]
        assert section["sha384"] == hashlib.sha384(data).hexdigest()
        assert raw[section["offset"] : section["offset"] + section["size"]] == data
    tree = {row.pop("path"): row for row in document["tree"]}
    owned = {"uid": 0, "gid": 0, "mtime": 0, "hidden": None}
    assert tree["dev"] == {"type": "directory", "mode": "0755", "ramdisk": 0, "entry": 0, **owned}
    assert tree["init"] == {
        **{"type": "file", "mode": "0755", "ramdisk": 0, "entry": 1, **owned},
        **{"size": 4, "sha256": hashlib.sha256(b"\x7fELF").hexdigest()},
    }
    assert tree["rootfs/bin"] == {
        **{"type": "symlink", "mode": "0777", "ramdisk": 1, "entry": 5, **owned},
        "target": "usr/bin",
    }
    assert tree["rootfs/tmp"]["mode"] == "1777"


def test_tables_have_whole_digests(image: Path) -> None:
    """Outside a terminal each digest is on one line, uncut; files are listed on request only."""
    done = eif("describe", image)
    assert done.returncode == 0
    assert pcr(b"kernel", b"reboot=k", BOOT, APPLICATION) in done.stdout
    assert hashlib.sha384(APPLICATION).hexdigest() in done.stdout
    assert "reboot=k" in done.stdout
    assert "ImageName" in done.stdout
    assert "rootfs/bin" not in done.stdout
    listed = eif("describe", image, "--files")
    assert "rootfs/bin -> usr/bin" in listed.stdout
    assert hashlib.sha256(b"/usr/bin/python3\n").hexdigest() in listed.stdout


def test_hostile_text_does_not_reach_the_terminal(tmp_path: Path) -> None:
    """Control characters and rich's markup from an image are shown, not obeyed."""
    path = tmp_path / "image.eif"
    ramdisk = archive(newc(b"\x1b[31mred", data=b""), newc(b"a[bold]b", data=b""))
    path.write_bytes(plain(b"k", b"a\x1b]0;title\x07[red]b\n\xff", b'{"a":"\x7f"}', (ramdisk,)).build())
    done = eif("describe", path, "--files")
    assert done.returncode == 0
    assert not {"\x1b", "\x07", "\x7f"} & set(done.stdout)
    assert "\\x1b]0;title\\x07[red]b\\n\\xff" in done.stdout
    assert "\\x1b[31mred" in done.stdout
    assert "a[bold]b" in done.stdout


def test_ramdisk_that_is_no_archive(tmp_path: Path) -> None:
    """An opaque ramdisk is described as such; asking for its files is exit 1 with the reason."""
    path = tmp_path / "image.eif"
    path.write_bytes(plain(ramdisks=(b"\x1f\x8b opaque", APPLICATION)).build())
    done = eif("describe", path, "--json")
    assert done.returncode == 0
    (finding,) = json.loads(done.stdout)["ramdisk_findings"]
    assert (finding["code"], finding["where"]) == ("ramdisk-stopped", "ramdisk 0")
    assert eif("describe", path).returncode == 0
    listed = eif("describe", path, "--files")
    assert listed.returncode == 1
    assert "rootfs/bin" not in listed.stdout  # the kernel does not come so far
    assert "ramdisk 0: the kernel stops here" in listed.stderr


@pytest.mark.parametrize(
    "metadata", [b"no json", b"[" * 100_000, b'{"a": 1, "a": 2}', b"\xff", b"1" * 5000, b'{"a": NaN}']
)
def test_metadata_that_is_no_json(tmp_path: Path, metadata: bytes) -> None:
    """Metadata that AWS's reader would not load is exit 1; everything else is still shown."""
    path = tmp_path / "image.eif"
    path.write_bytes(plain(metadata=metadata).build())
    done = eif("describe", path, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["metadata"] is None
    (finding,) = document["findings"]
    assert (finding["code"], finding["where"]) == ("metadata-malformed", "metadata")
    assert finding["detail"].startswith("not JSON")


def test_single_ramdisk_is_pointed_out(tmp_path: Path) -> None:
    """A PCR2 that is the same for every one-ramdisk image is worth a note."""
    path = tmp_path / "image.eif"
    path.write_bytes(plain(ramdisks=(BOOT,)).build())
    assert any("PCR2" in note for note in describe_image(path, now=NOW, files=False).notes)


def test_broken_image_is_one_line(tmp_path: Path) -> None:
    """A file that is not an image is exit 2, with one line, and one JSON document on request."""
    path = tmp_path / "image.eif"
    path.write_bytes(spec().build()[:-1])
    done = eif("describe", path, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["code"] == "eif-truncated"
    assert len(done.stderr.splitlines()) == 1
