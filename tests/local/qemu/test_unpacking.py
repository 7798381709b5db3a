"""A booted kernel unpacks the tree that our model says it does: oddities, and mutated archives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from coattest_build.inputs.cache import cache_folder
from coattest_local.qemu.tools import find_tools
from support.build.found_images import FoundImage, find_cpio, found_images
from support.build.images import DIRECTORY, RAMDISK, SYMLINK, archive, newc
from support.local.kernel_tree import compile_inspector, kernel_tree, model_tree
from support.only_in import only_in

SEEDS = range(40)
IMAGES = found_images()


MUTATED = find_cpio() + archive(
    newc(b"d", DIRECTORY),
    newc(b"d/f", data=b"one"),
    newc(b"l", SYMLINK, b"d"),
    newc(b"l/g", data=b"two", links=2),
    newc(b"h", links=2, data=b"three"),
    newc(b"l/", DIRECTORY, mtime=9),
)


@pytest.fixture(scope="module")
def qemu() -> list[str | Path]:
    """QEMU with its firmware, which ``tox -e boot`` builds."""
    only_in("boot")
    tools = find_tools()
    return [tools.qemu, *(part for folder in tools.firmware for part in ("-L", folder))]


@pytest.fixture(scope="module")
def kernel(built_images: object) -> Path:
    """Our kernel, from the cache, where building the images put it."""
    assert built_images is not None
    return max(cache_folder().glob("kernel/*/bzImage"), key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="module")
def inspector(qemu: list[str | Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The archive with the program that tells what it finds."""
    assert qemu
    return compile_inspector(tmp_path_factory.mktemp("inspector"))


def is_packed(image: FoundImage) -> bool:
    """Whether a case has something that only another kernel unpacks."""
    return "ramdisk-compressed" in image.breaches


@pytest.mark.image
@pytest.mark.parametrize("name", [name for name, image in IMAGES.items() if not is_packed(image)])
def test_an_oddity_becomes_what_the_kernel_makes_of_it(
    qemu: list[str | Path], kernel: Path, inspector: bytes, tmp_path: Path, name: str
) -> None:
    """Modes, owners, devices, sizes, times, contents and targets of every path, and no path more."""
    ramdisks = inspector + b"".join(data for kind, data in IMAGES[name].spec.sections if kind == RAMDISK)
    assert model_tree(ramdisks) == kernel_tree(qemu, kernel, ramdisks, tmp_path)


@pytest.mark.image
@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutated_archive_becomes_what_the_kernel_makes_of_it(
    qemu: list[str | Path], kernel: Path, inspector: bytes, tmp_path: Path, seed: int
) -> None:
    """Random bytes, fields and cuts; the seed is the case."""
    ramdisks = inspector + mutated(seed)
    assert model_tree(ramdisks) == kernel_tree(qemu, kernel, ramdisks, tmp_path)


def mutated(seed: int) -> bytes:
    """The archives with one to four changes."""
    chance, raw = random.Random(seed), bytearray(MUTATED)
    headers = [at for at in range(0, len(raw), 4) if raw[at : at + 6] == b"070701"]
    for _ in range(chance.randint(1, 4)):
        field = chance.choice(headers) + 6 + 8 * chance.randrange(13)
        value = chance.choice([0, 1, 2, 3, 5, 10, 11, 0o40755, 0o100644, 0o120777, 0o20666, 0o644, 4097])
        kind = chance.choice(["field", "field", "byte", "digit", "cut"])
        if kind == "field":
            raw[field : field + 8] = b"%08X" % value
        elif kind == "digit":
            raw[field + chance.randrange(8)] = chance.choice(b" xgX0")
        elif kind == "byte":
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        else:
            at = chance.choice(headers)
            del raw[at : at + 4 * chance.randint(1, 40)]
            headers = [each for each in headers if each < at] or [0]
    return bytes(raw)
