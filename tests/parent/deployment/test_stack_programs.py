"""What is installed on the instance: one archive of the same bytes, that pip takes by hash alone."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from coattest.errors import UsageError
from coattest_parent.deployment.stack import programs
from coattest_parent.deployment.stack.configuration import archive_digest
from support.build.wheelhouse import make_wheel_file
from support.raises import raises_code


def main_wheel(folder: Path, *needs: str) -> Path:
    """A wheel named app that depends on ``needs``."""
    path = make_wheel_file(folder, "app", "1.0", b"NAME = 'app'\n")
    held = {}
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    lines = "".join(f"Requires-Dist: {need}\n" for need in needs)
    held["app-1.0.dist-info/METADATA"] += lines.encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in held.items():
            archive.writestr(name, content)
    return path


def install(folder: Path) -> subprocess.CompletedProcess[str]:
    """pip, as user data calls it, but into a folder."""
    command = [sys.executable, "-m", "pip", "install", "--no-input", "--no-index", "--target", "installed"]
    command += ["--find-links", programs.WHEELS, "--require-hashes", "-r", programs.REQUIREMENTS]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_the_archive_installs_without_an_index_and_a_changed_wheel_does_not(tmp_path: Path) -> None:
    """pip installs exactly the wheels of the archive, and refuses one whose bytes are others."""
    house = tmp_path / "house"
    make_wheel_file(house, "some_dep", "2.1", b"NAME = 'dep'\n")
    archive = programs.pack_programs(
        main_wheel(tmp_path, "Some.Dep>=2", "tomli; python_version < '3.10'"), house, "x86_64"
    )
    for name in ("good", "bad"):
        with tarfile.open(fileobj=io.BytesIO(archive)) as held:
            held.extractall(tmp_path / name, filter="data")
    done = install(tmp_path / "good")
    assert done.returncode == 0, done.stderr
    installed = sorted(path.name for path in (tmp_path / "good" / "installed").glob("*/__init__.py"))
    assert installed == ["__init__.py", "__init__.py"]
    make_wheel_file(tmp_path / "bad" / programs.WHEELS, "some_dep", "2.1", b"NAME = 'other'\n")
    refused = install(tmp_path / "bad")
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr


def test_one_set_of_wheels_is_one_archive(tmp_path: Path) -> None:
    """The same wheels give the same bytes wherever they lie, and every line has the wheel's own hash."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        main_wheel(folder)
    dependency = make_wheel_file(tmp_path / "house", "dep", "1.0")
    first = programs.pack_programs(one / "app-1.0-py3-none-any.whl", tmp_path / "house", "x86_64")
    (two / "app-1.0-py3-none-any.whl").write_bytes((one / "app-1.0-py3-none-any.whl").read_bytes())
    assert programs.pack_programs(two / "app-1.0-py3-none-any.whl", tmp_path / "house", "x86_64") == first
    with tarfile.open(fileobj=io.BytesIO(first)) as held:
        file = held.extractfile(programs.REQUIREMENTS)
        assert file
        lines = file.read().decode().splitlines()
    digest = hashlib.sha256(dependency.read_bytes()).hexdigest()
    assert lines[1] == f"dep==1.0 --hash=sha256:{digest}"
    assert archive_digest(first) == hashlib.sha256(first).hexdigest()


def test_a_wheel_may_have_the_long_name_that_indexes_give(tmp_path: Path) -> None:
    """Over 100 characters, as charset_normalizer's."""
    house = tmp_path / "house"
    short = make_wheel_file(house, "charset_normalizer", "3.4.4")
    tags = "manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64"
    long = short.rename(house / f"charset_normalizer-3.4.4-cp311-cp311-{tags}.whl")
    packed = programs.pack_programs(main_wheel(tmp_path, "charset-normalizer"), house, "x86_64")
    with tarfile.open(fileobj=io.BytesIO(packed)) as held:
        file = held.extractfile(f"{programs.WHEELS}/{long.name}")
        assert file
        assert file.read() == long.read_bytes()


def packed_wheel(path: Path, metadata: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A file with a wheel's name and this METADATA."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{path.name.partition('-')[0]}-1.0.dist-info/METADATA", metadata)
    return path


def test_a_wheel_that_unpacks_to_gigabytes_or_not_at_all_is_none(tmp_path: Path) -> None:
    """One line, and no more of it in memory than METADATA may have."""
    bomb = packed_wheel(tmp_path / "bomb-1.0-py3-none-any.whl", b"X: y\n" * 30_000_000)
    with raises_code(UsageError, "bad-wheelhouse", match="METADATA is over"):
        programs.pack_programs(bomb, tmp_path / "none", "x86_64")
    good = packed_wheel(tmp_path / "flags-1.0-py3-none-any.whl", b"X: y\n").read_bytes()
    at, central = good.index(b"flags-1.0"), good.rindex(b"PK\1\2")
    damages = {
        "encrypted": {central + 8: 1, 6: 1},
        "an unknown method": {central + 10: 99, 8: 99},
        "what deflate does not read": {at + len("flags-1.0.dist-info/METADATA"): 255},
    }
    for changes in damages.values():
        bad = bytearray(good)
        for place, value in changes.items():
            bad[place] = value
        path = tmp_path / "bad-1.0-py3-none-any.whl"
        path.write_bytes(bad)
        with raises_code(UsageError, "bad-wheelhouse", match="not a wheel"):
            programs.pack_programs(path, tmp_path / "none", "x86_64")


def test_a_wheelhouse_that_cannot_be_installed_is_refused(tmp_path: Path) -> None:
    """A missing dependency, two versions of one, and a file that is no wheel: each is named."""
    wheel = main_wheel(
        tmp_path, "dep>=1", "other[extra]==2", "boto3>=1; extra == 'aws'", "z3; extra == 'prove'"
    )
    house = tmp_path / "house"
    make_wheel_file(house, "dep", "1.0")
    with raises_code(UsageError, "bad-wheelhouse", match="no wheel of boto3, other"):
        programs.pack_programs(wheel, house, "x86_64")
    make_wheel_file(house, "other", "2")
    with raises_code(UsageError, "bad-wheelhouse", match="no wheel of boto3"):
        programs.pack_programs(wheel, house, "x86_64")
    make_wheel_file(house, "boto3", "1.36")
    assert programs.pack_programs(wheel, house, "x86_64")
    make_wheel_file(house, "dep", "1.1")
    with raises_code(UsageError, "bad-wheelhouse", match="two wheels of dep"):
        programs.pack_programs(wheel, house, "x86_64")
    places = ("{0}.py", "{0}-1.0.dist-info/RECORD", "other/{0}-1.0.dist-info/METADATA")
    for number, place in enumerate((None, *places)):
        bad = tmp_path / f"bad{number}-1.0-py3-none-any.whl"
        bad.write_bytes(b"no zip")
        if place is not None:
            with zipfile.ZipFile(bad, "w") as archive:
                archive.writestr(place.format(f"bad{number}"), "Requires-Dist: dep\n")
        with raises_code(UsageError, "bad-wheelhouse", match="not a wheel"):
            programs.pack_programs(bad, tmp_path, "x86_64")
    bad = tmp_path / "crc-1.0-py3-none-any.whl"
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("crc-1.0.dist-info/METADATA", "Requires-Dist: dep\n")
    bad.write_bytes(bad.read_bytes().replace(b"Requires-Dist: dep", b"Requires-Dist: dip"))
    with raises_code(UsageError, "bad-wheelhouse", match="not a wheel: Bad CRC-32"):
        programs.pack_programs(bad, tmp_path, "x86_64")


@pytest.mark.parametrize(
    ("tags", "runs"),
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", True),
        ("cp37-abi3-manylinux_2_34_x86_64", True),
        ("cp311-abi3-manylinux_2_28_x86_64", True),
        ("cp312-abi3-manylinux_2_28_x86_64", False),
        ("cp312-cp312-manylinux_2_17_x86_64", False),
        ("cp39-cp39-manylinux_2_17_x86_64", False),
        ("py312-none-any", False),
        ("py2-none-any", False),
        ("cp311-cp311-manylinux_2_39_x86_64", False),
        ("cp311-cp311-manylinux_2_17_aarch64", False),
        ("cp311-cp311-musllinux_1_2_x86_64", False),
        ("cp311-cp311-macosx_11_0_arm64", False),
        ("cp311-cp311-linux_x86_64", False),
        ("cp311-cp311t-manylinux_2_17_x86_64", False),
    ],
)
def test_a_wheel_is_for_the_instances_python_and_its_glibc(tmp_path: Path, tags: str, runs: bool) -> None:
    """Python 3.11 or its stable ABI, glibc 2.34 or older, the image's architecture; others are named."""
    assert programs.runs_there(f"some_dep-2.1-{tags}.whl", "x86_64") is runs
    assert programs.runs_there(f"some_dep-2.1-1-{tags}.whl", "x86_64") is runs
    if not runs:
        wheel = main_wheel(tmp_path)
        (tmp_path / "house").mkdir()
        (tmp_path / "house" / f"some_dep-2.1-{tags}.whl").write_bytes(b"")
        with raises_code(UsageError, "bad-wheelhouse", match="not for Python 3.11 with glibc 2.34.*some_dep"):
            programs.pack_programs(wheel, tmp_path / "house", "x86_64")
