"""The images are the same bytes under every variation; where they are not, the first difference is named."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coattest_build import builder
from coattest_build.explain import diff
from coattest_build.inputs.cache import cache_folder
from reproducible.variations import (
    ALL,
    CHEAP,
    COMPILE_SECONDS,
    COMPILES,
    FAKETIME,
    FUTURE,
    HERE,
    NOBODY,
    Build,
    Variation,
    start,
)
from support.build.source_roots import PACKAGES

REPOSITORY = Path(__file__).parents[2]
SOURCES = ("build/image.toml", "build/image.lock", "build/kernel", "build/init", "enclave")
# What the builder imports. The last two by name, because pip decides about those for its own Python.
LIBRARIES = ("click", "cryptography", "dulwich", "rich", "tomli-w", "zlib-ng", "tomli", "typing-extensions")


@dataclass(frozen=True, slots=True)
class Workshop:
    """A folder that other users may enter: source, builder, and the plain build's images in ``out``."""

    folder: Path

    @property
    def out(self) -> Path:
        """The images of the plain build."""
        return self.folder / "out"

    def run(self, name: str, variation: Variation) -> Build:
        """Start a build under a variation; what it needs and is not here skips, or fails in CI."""
        python = require(variation)
        folder = self.folder / name
        folder.mkdir()
        source = folder / variation.place
        shutil.copytree(self.folder / "source", source)
        if variation.git_above:
            above = source.parent
            for command in (
                ["init", "-q"],
                ["add", "source/build/image.toml"],
                ["commit", "-qm", "one file"],
            ):
                identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
                subprocess.run(["git", "-C", str(above), *identity, *command], check=True)
        path = [self.folder / "site", self.folder / "package", self.libraries(python)]
        return start(name, variation, folder, source, path, python, cache_folder())

    def libraries(self, python: str) -> Path:
        """The folder with what the builder imports, for this Python."""
        version = version_of(python)
        folder = self.folder / f"libraries-{version}"
        if not folder.exists():
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
            command += ["--python-version", version, "--only-binary=:all:", *LIBRARIES]
            subprocess.run(command, check=True, umask=0o022)
        return folder


def version_of(python: str) -> str:
    """A Python's version, as "3.12"."""
    command = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def open_to_others(path: Path) -> bool:
    """Whether every user may execute ``path``."""
    real = path.resolve()
    return all(folder.stat().st_mode & 0o001 for folder in (real, *real.parents))


def find_python(variation: Variation) -> str | None:
    """An interpreter for a variation: of its version, executable by its user."""
    version = variation.python or "3*"
    homes = Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")
    found = [shutil.which(f"python{variation.python or '3'}"), *map(str, homes)]
    candidates = [path for path in found if path and ".pyenv/shims" not in path]
    if not variation.python:
        candidates = [sys.executable, "/usr/bin/python3", *candidates]
    usable = (path for path in candidates if Path(path).exists())
    return next((path for path in usable if not variation.uid or open_to_others(Path(path))), None)


def require(variation: Variation) -> str:
    """The interpreter; or a skip that names what is missing, which in CI is a failure."""
    missing = []
    if "root" in variation.needs and os.geteuid():
        missing.append("root")
    if "faketime" in variation.needs and not FAKETIME.exists():
        missing.append("libfaketime")
    if "disorderfs" in variation.needs and not (shutil.which("disorderfs") and Path("/dev/fuse").exists()):
        missing.append("disorderfs with FUSE")
    python = find_python(variation)
    if python is None:
        missing.append(f"Python {variation.python or '3'} that user {variation.uid or 'here'} may run")
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {', '.join(missing)}")
    assert python
    return python


@pytest.fixture(scope="session")
def workshop() -> Iterator[Workshop]:
    """The source as it is now, built once plainly, with the kernel from the user's cache when that has it."""
    with tempfile.TemporaryDirectory(prefix="coattest-reproducible-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        ignored = shutil.ignore_patterns("__pycache__")
        for part in SOURCES:
            target = folder / "source" / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if (REPOSITORY / part).is_dir():
                shutil.copytree(REPOSITORY / part, target, ignore=ignored)
            else:
                shutil.copyfile(REPOSITORY / part, target)
        for package in PACKAGES:
            shutil.copytree(package, folder / "package" / package.name, ignore=ignored)
        shutil.copytree(HERE / "site", folder / "site", ignore=ignored)
        # Where wordy failures of a missing permission would otherwise be the outcome.
        subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
        builder.build(folder / "source", folder / "out")
        yield Workshop(folder)


@pytest.fixture(scope="session", autouse=True)
def compiles(request: pytest.FixtureRequest) -> Iterator[dict[str, Build]]:
    """The uncached builds, started first, so that they run beside the others; only when they are wanted."""
    wanted = [name for name in COMPILES if any(f"[{name}]" in item.name for item in request.session.items)]
    builds: dict[str, Build] = {}
    try:
        for name in wanted:
            try:
                builds[name] = request.getfixturevalue("workshop").run(name, COMPILES[name])
            except (pytest.skip.Exception, pytest.fail.Exception):
                continue  # the test itself says so
        yield builds
    finally:
        for build in builds.values():
            build.process.terminate()
            build.process.wait()


def digest(path: Path) -> str:
    """SHA-256 of a file (hex)."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def explain(one: Path, other: Path) -> str:
    """The first difference between two images: section, ramdisk entry, offset."""
    comparison = diff.compare(one, other)
    if comparison.identical:
        return "no difference that the formats know; the files differ outside of them"
    return comparison.line(comparison.findings[0])


def assert_same(plain: Path, varied: Path) -> None:
    """Fail with the first difference unless both folders hold the same images."""
    names = sorted(path.name for path in plain.glob("*.eif"))
    assert names == ["image.eif", "image.local.eif"]
    for name in names:
        if digest(plain / name) != digest(varied / name):
            pytest.fail(f"{name}: {explain(plain / name, varied / name)}")


def assert_took_effect(variation: Variation, seen: Mapping[str, Any]) -> None:
    """Fail when the build did not run under the variation: it would prove nothing."""
    environment = variation.environment
    if variation.uid:
        assert seen["uid"] == NOBODY
    if variation.host:
        assert seen["host"] == variation.host
    if variation.cpus:
        assert seen["cpus"] == len(variation.cpus)
    if variation.python:
        assert seen["python"] == variation.python
    if variation.mount in ("tmpfs", "overlay"):
        assert f"{variation.mount} /" in seen["mounts"]
    if "FAKETIME" in environment:
        assert seen["time"] >= FUTURE > time.time()
    if "TZ" in environment:
        assert seen["zone"] != time.strftime("%z")
    assert seen["shuffled"] == ("COATTEST_TEST_SHUFFLE" in environment)
    assert ("zlib_ng" in seen["zlib"]) == ("COATTEST_TEST_ZLIB_NG" in environment)
    assert seen["compiled"] == variation.fresh


def build_and_compare(workshop: Workshop, name: str, variation: Variation) -> None:
    """Build under a variation and compare with the plain build."""
    build = workshop.run(name, variation)
    try:
        seen = build.finish()
    finally:
        if variation.mount == "disorderfs":
            subprocess.run(["fusermount", "-uz", str(build.folder / "cache" / "work")], check=True)
    assert_took_effect(variation, seen)
    assert_same(workshop.out, build.out)
    shutil.rmtree(build.folder)


@pytest.mark.parametrize("name", CHEAP)
def test_one_variation_does_not_change_the_images(workshop: Workshop, name: str) -> None:
    """The images built under one variation are those of the plain build."""
    build_and_compare(workshop, name, CHEAP[name])


def test_all_variations_together_do_not_change_the_images(workshop: Workshop) -> None:
    """The images built under all variations at once are those of the plain build."""
    build_and_compare(workshop, "all", ALL)


def test_a_difference_is_named_by_section_entry_and_offset(workshop: Workshop) -> None:
    """Two images that differ in one file give that file's name and the offset in it."""
    said = explain(workshop.out / "image.eif", workshop.out / "image.local.eif")
    assert said.startswith("ramdisk 1: rootfs/etc/coattest/trust.json: ")
    assert " at byte " in said


@pytest.mark.timeout(COMPILE_SECONDS)
@pytest.mark.parametrize("name", COMPILES)
def test_a_kernel_compiled_elsewhere_is_the_same(
    workshop: Workshop, compiles: Mapping[str, Build], name: str
) -> None:
    """Kernel and init compiled anew under other paths, users, job counts and zones give the same images."""
    require(COMPILES[name])
    seen = compiles[name].finish()
    assert_took_effect(COMPILES[name], seen)
    assert_same(workshop.out, compiles[name].out)
