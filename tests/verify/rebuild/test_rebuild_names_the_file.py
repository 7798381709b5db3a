"""One changed byte in a file of enclave/: `verify rebuild` is exit 3 and names that file. Real builds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coattest.errors import EnvironmentFailure
from coattest_verify.cli.rebuild import rebuild_command
from conftest import BuiltImages
from support.build.checkouts import commit, make_checkout

CHANGED = "enclave/coattest_enclave/payload/clock.py"
ENTRY = "rootfs/usr/lib/coattest/coattest_enclave/payload/clock.py"

pytestmark = pytest.mark.image


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A commit of the image's sources, with one byte of one file changed after it."""
    folder = make_checkout(tmp_path / "checkout")
    text = (folder / CHANGED).read_bytes()
    (folder / CHANGED).write_bytes(text.replace(b"2025-01-01", b"2025-01-02"))
    return folder


def run(checkout: Path, *more: str) -> Result:
    """verify rebuild of the default profile."""
    command = [
        "--source",
        str(checkout),
        "--attestations",
        str(checkout / "attestations"),
        "--profile",
        "aws",
    ]
    return CliRunner().invoke(rebuild_command, [*command, *more], standalone_mode=False)


def test_a_change_that_is_not_committed_is_refused_by_name(checkout: Path, tmp_path: Path) -> None:
    """Before anything is built: a buyer who edited a file would otherwise sign what nobody else has."""
    done = run(checkout, "--out", str(tmp_path / "out"))
    assert isinstance(done.exception, EnvironmentFailure)
    assert (done.exception.exit_code, done.exception.code) == (3, "dirty-tree")
    assert str(done.exception).endswith(f"{CHANGED} (commit or discard them; see git status)")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_committed_change_is_found_in_the_image(
    checkout: Path, tmp_path: Path, built_images: BuiltImages
) -> None:
    """With the claimed image at hand the ramdisk entry and the byte are named, in prose and in JSON."""
    commit(checkout)
    out = tmp_path / "out"
    out.mkdir()
    shutil.copyfile(built_images.image("aws"), out / "image.eif")  # as an earlier rebuild left it
    done = run(checkout, "--out", str(out), "--json")
    assert done.return_value == 3
    document = json.loads(done.stdout)
    assert (document["matches"], document["code"]) == (False, "wrong-source")
    found = document["explained"]["aws"]["findings"]
    assert f"ramdisk 1: {ENTRY}" in [item["where"] for item in found]
    assert all("/coattest_enclave/" in item["where"] and "clock" in item["where"] for item in found)
    prose = run(checkout, "--out", str(tmp_path / "two"), "--claimed", str(built_images.directory))
    assert prose.return_value == 3
    assert "this says nothing about the claim" in prose.stderr
    assert "--dissent" not in prose.stderr
    assert f"aws: ramdisk 1: {ENTRY}: different content at byte " in prose.stderr


def test_without_the_claimed_image_the_sections_are_compared(checkout: Path, tmp_path: Path) -> None:
    """The application's ramdisk is the only section that differs, and the tree's digest says so too."""
    commit(checkout)
    done = run(checkout, "--out", str(tmp_path / "out"), "--json")
    assert done.return_value == 3
    document = json.loads(done.stdout)
    assert document["explained"] == {}
    texts = [f"{item['where']}: {item['detail']}" for item in document["differences"]]
    assert [text for text in texts if text.startswith("tree_sha256: ")]
    sections = [text for text in texts if text.startswith("aws: section ")]
    assert len(sections) == 1
    assert sections[0].startswith("aws: section 4 ramdisk of ")
