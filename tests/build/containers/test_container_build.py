"""`eif container build`: an image file with nitro-cli's registers, from a container image and blobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coattest_build.formats.measure import measure
from support.build.container_images import config_of, entry, folder, ramdisk_of, saved, tar
from support.build.containers.command import run
from support.build.found_images import nitro_boot
from support.build.images import pcr

KERNEL, CMDLINE, INIT, DRIVER = b"kernel" * 100, b"reboot=k panic=30", b"\x7fELF", b"ko"
LAYER = tar(folder("d"), entry("d/x", b"1"))


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """A folder as nitro-cli's, with kernels for both machines."""
    made = tmp_path / "blobs"
    made.mkdir()
    files = (("bzImage", KERNEL), ("Image", b"arm" * 9), ("cmdline", b" " + CMDLINE + b"\n"))
    for name, data in (*files, ("init", INIT), ("nsm.ko", DRIVER)):
        (made / name).write_bytes(data)
    return made


def line(image: Path, blobs: Path, *more: object) -> tuple[object, ...]:
    """The words of a build."""
    return (
        "build",
        image,
        "--style",
        "nitro-cli",
        "--blobs",
        blobs,
        "--out",
        image.with_name("x.eif"),
        *more,
    )


def test_the_registers_are_those_of_the_parts(
    image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Printed as nitro-cli prints them; `check` finds the file equal; a second build is the same."""
    image.write_bytes(saved([LAYER]))
    target = image.with_name("x.eif")
    code, shown, _ = run(capsys, *line(image, blobs))
    assert code == 0
    boot, application = nitro_boot(), ramdisk_of(image)
    registers = json.loads(shown)["Measurements"]
    assert registers["PCR0"] == pcr(KERNEL, CMDLINE, boot, application)
    assert registers["PCR1"] == pcr(KERNEL, CMDLINE, boot)
    assert registers["PCR2"] == pcr(application)
    first = target.read_bytes()
    assert run(capsys, "check", image, "--eif", target, "--blobs", blobs)[0] == 0
    image.with_name("m.json").write_text(shown)
    assert run(capsys, "check", image, "--expect", image.with_name("m.json"), "--blobs", blobs)[0] == 0
    assert run(capsys, *line(image, blobs, "--json"))[0] == 0
    assert target.read_bytes() == first


def test_an_image_for_arm64_has_its_kernel_and_flag(
    image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As nitro-cli on such a machine."""
    image.write_bytes(saved([LAYER], config=config_of([LAYER], architecture="arm64")))
    assert run(capsys, *line(image, blobs))[0] == 0
    raw = image.with_name("x.eif").read_bytes()
    assert raw[6:8] == b"\0\1"
    assert measure(image.with_name("x.eif")).pcr1 == pcr(b"arm" * 9, CMDLINE, nitro_boot())


def test_what_docker_decides_has_to_be_said(
    image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 3 and no file; with the times the file is one that `check` knows."""
    image.write_bytes(saved([tar(entry("p/x"))]))
    code, _, said = run(capsys, *line(image, blobs))
    assert code == 3
    assert "'/p'" in said
    assert not image.with_name("x.eif").exists()
    code, _, said = run(capsys, *line(image, blobs, "--time", "1=5", "--store", "vfs"))
    assert (code, "vfs" in said) == (0, True)
    assert run(capsys, "check", image, "--eif", image.with_name("x.eif"), "--blobs", blobs)[0] == 0


def test_without_a_blob_or_a_configuration_nothing_is_written(
    image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A blob that is gone is exit 3; a file system, which names no machine, is exit 2."""
    image.write_bytes(LAYER)
    assert run(capsys, *line(image, blobs))[0] == 2
    image.write_bytes(saved([LAYER]))
    (blobs / "init").unlink()
    code, shown, _ = run(capsys, *line(image, blobs, "--json"))
    assert (code, json.loads(shown)["code"]) == (3, "blobs-missing")
    assert not image.with_name("x.eif").exists()
