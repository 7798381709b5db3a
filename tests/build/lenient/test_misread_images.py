"""Image files that are measured as one thing and read as another: never the same, never a good release."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import CoattestError
from coattest_build import cli
from coattest_verify.attestation import AWS_NITRO
from coattest_verify.cli.release.measured import read_measured
from support.build.container_images import entry, folder, ramdisk_of, saved, tar
from support.build.found_images import nitro_boot
from support.build.images import HEADER, METADATA, RAMDISK, SpecImage, pcr, plain

KERNEL, CMDLINE = b"kernel" * 100, b"reboot=k panic=30"
NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
EMPTY = (METADATA, b"{}")

Look = Callable[..., tuple[int, Any]]


def good(application: bytes) -> SpecImage:
    """What nitro-cli makes of the container image."""
    return plain(kernel=KERNEL, cmdline=CMDLINE, ramdisks=(nitro_boot(), application))


def evil(application: bytes) -> bytes:
    """Another application, behind which the sections of the good image are hidden as data."""
    inner = b"".join(
        struct.pack(">HHQ", kind, 0, len(data)) + data for kind, data in good(application).sections
    )
    return b"evil" + inner


def hiding(application: bytes, *more: tuple[int, bytes]) -> SpecImage:
    """An image with that application for AWS's reader, whose table leads to the good one."""
    sections = good(application).sections
    made = SpecImage([*sections[:-1], (RAMDISK, evil(application)), *more], count=len(sections))
    position = HEADER + sum(12 + len(data) for _, data in sections[:-1]) + 12 + len(b"evil")
    made.offsets, made.sizes = dict.fromkeys(range(32), 0), dict.fromkeys(range(32), 0)
    for index, (_, data) in enumerate(sections):
        made.offsets[index], made.sizes[index] = position, len(data)
        position += 12 + len(data)
    return made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file for the container image."""
    return tmp_path / "image.tar"


@pytest.fixture
def application(image: Path) -> bytes:
    """That of a container image that decides everything."""
    image.write_bytes(saved([tar(folder("d"), entry("d/x", b"1"))]))
    return ramdisk_of(image)


@pytest.fixture
def deployed(tmp_path: Path) -> Path:
    """The enclave's image file."""
    return tmp_path / "deployed.eif"


@pytest.fixture
def look(image: Path, deployed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Look:
    """Runs a command of eif on the deployed file; ``check`` is that of the container image."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for name, data in (("bzImage", KERNEL), ("cmdline", CMDLINE), ("init", b"\x7fELF"), ("nsm.ko", b"ko")):
        (blobs / name).write_bytes(data)

    def run(verb: str, *, known: bool = True) -> tuple[int, Any]:
        words: tuple[object, ...] = (verb, deployed, deployed) if verb == "diff" else (verb, deployed)
        if verb == "check":
            words = ("container", verb, image, "--eif", deployed, *(("--blobs", blobs) if known else ()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["eif", *map(str, words), "--json"])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        document, _ = json.JSONDecoder().raw_decode(capsys.readouterr().out)
        return int(ended.value.code or 0), document

    return run


def release_code(path: Path) -> str:
    """Why `verify release which` does not take the file for any release; empty where it does."""
    try:
        read_measured(path, set_name=None, at=None, root=AWS_NITRO, now=NOW)
    except CoattestError as error:
        return error.code
    return ""


@pytest.mark.parametrize("tail", [b"", bytes(1), bytes(11), bytes(12), b"\0\x03" + b"\xff" * 10])
def test_a_good_image_hidden_in_an_evil_one_is_found(
    tail: bytes, deployed: Path, application: bytes, look: Look
) -> None:
    """Behind the last section nothing, bytes that end AWS's reader, or a section that stops it."""
    deployed.write_bytes(hiding(application).build() + tail)
    for verb in ("check", "describe", "diff"):
        code, document = look(verb)
        assert (code, document["findings"][0]["code"]) == (1, "eif-two-readings")
    assert release_code(deployed) == "eif-two-readings"
    code, document = look("measure")
    shown = evil(application) if len(tail) < 12 else application
    assert (code, document["Measurements"]["PCR2"]) == (1, pcr(shown))


def test_more_sections_than_are_read_are_refused(deployed: Path, application: bytes, look: Look) -> None:
    """AWS's reader has no limit: with the good image hidden, and with a ramdisk behind all that are read."""
    behind = good(application)
    behind.sections += [*[EMPTY] * (256 - len(behind.sections)), (RAMDISK, b"evil")]
    behind.count, behind.offsets = 32, {0: 1}
    for made in (hiding(application, *[EMPTY] * 300), behind):
        deployed.write_bytes(made.build())
        for verb in ("check", "measure", "describe", "diff"):
            code, document = look(verb)
            assert (code, document["code"]) == (2, "eif-limit")
        assert release_code(deployed) == "eif-limit"


def test_the_limit_itself_is_read(deployed: Path, application: bytes, look: Look) -> None:
    """The table has no room for 256 sections, so they are two readings."""
    made = good(application)
    made.sections += [EMPTY] * (256 - len(made.sections))
    deployed.write_bytes(made.build())
    code, document = look("measure")
    assert (code, document["Measurements"]["PCR2"]) == (1, pcr(application))
    assert release_code(deployed) == "eif-two-readings"


@pytest.mark.parametrize("known", [True, False])
def test_the_same_sections_in_another_order_differ(
    known: bool, deployed: Path, application: bytes, look: Look
) -> None:
    """The registers are others, and are said where all that they are of is known."""
    made = good(application)
    made.sections.sort(key=lambda each: -each[0])  # metadata, ramdisks, cmdline, kernel
    deployed.write_bytes(made.build())
    code, document = look("check", known=known)
    found = [(finding["code"], finding["where"]) for finding in document["findings"]]
    others = [("measurement", "PCR0"), ("measurement", "PCR1")] if known else []
    assert (code, found) == (1, [("eif-section-order", "image"), *others])


@pytest.mark.parametrize(
    ("more", "tail", "expected"),
    [
        ([EMPTY], b"", "eif-section-count"),
        ([], bytes(1), "eif-trailing"),
        ([], bytes(12), "eif-section-type"),
    ],
)
def test_what_no_builder_writes_differs(  # noqa: PLR0917 - three are fixtures
    more: list[tuple[int, bytes]], tail: bytes, expected: str, deployed: Path, application: bytes, look: Look
) -> None:
    """A note of `measure`, whose registers are right, and a difference of `check`."""
    made = good(application)
    made.sections += more
    deployed.write_bytes(made.build() + tail)
    code, document = look("check")
    assert (code, [finding["code"] for finding in document["findings"]]) == (1, [expected])
    assert look("measure")[0] == 0


def test_an_image_of_version_3_has_no_metadata(deployed: Path, application: bytes, look: Look) -> None:
    """nitro-cli wrote it so: it is the same."""
    made = good(application)
    made.version, made.sections = 3, [each for each in made.sections if each[0] != METADATA]
    deployed.write_bytes(made.build())
    code, document = look("check")
    assert (code, document["verdict"]) == (0, "same")


@pytest.mark.parametrize("known", [True, False])
def test_a_wrong_crc_differs(known: bool, deployed: Path, application: bytes, look: Look) -> None:
    """It is in no register, and no builder writes one; `check` says so with the blobs and without."""
    made = good(application)
    made.crc = 1
    deployed.write_bytes(made.build())
    code, document = look("check", known=known)
    assert (code, [finding["code"] for finding in document["findings"]]) == (1, ["eif-crc"])
