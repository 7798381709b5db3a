"""`eif lock` against a mirror and an index in local folders."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from coattest.errors import CoattestError, EnvironmentFailure
from coattest.progress import Quiet, Terminal
from coattest_build import image
from coattest_build.inputs import lock, wheels
from coattest_build.inputs.cache import Cache
from support.build.eif_program import eif
from support.build.small_archive import index_variables, make_small_archive, publish
from support.build.wheelhouse import make_wheel_file
from support.raises import raises_code

REPOSITORY = Path(__file__).parents[3]


@dataclasses.dataclass
class World:
    """A source tree, a mirror and an index that belong together."""

    source: Path
    mirror: Path
    index: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `eif lock` in the source tree."""
        return eif("lock", "--mirror", self.mirror.as_uri(), *arguments, folder=self.source)

    @property
    def lock(self) -> lock.Lock:
        return lock.load_lock(self.source)[0]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Every package that the committed image.toml names, with small contents of our own, and one wheel."""
    world = World(tmp_path / "source", tmp_path / "mirror", tmp_path / "index")
    make_small_archive(world.source, world.mirror, world.index)
    for name, value in index_variables(world.index).items():
        monkeypatch.setenv(name, value)
    return world


def test_a_first_lock_pins_everything(world: World) -> None:
    """Every package and wheel is pinned; stable wins over backports; the time is the newest suite's."""
    result = world.run("--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    spec, locked = image.load_spec(world.source), world.lock
    locked.check_against(spec)
    assert document["inputs"] == len(locked.packages) + 1
    assert {move["before"] for move in document["moved"]} == {None}
    versions = {package.name: package.version for package in locked.packages}
    assert versions["make"] == "1.0-1"
    assert versions[spec.kernel.package] == "6.12-1~bpo12+1"
    assert locked.source_date_epoch == 1783850400
    assert [wheel.file for wheel in locked.wheels] == ["tinypkg-1.0-py3-none-any.whl"]


def test_a_second_lock_prints_only_what_moved(world: World) -> None:
    """When nothing moved the file stays byte for byte, even if the archive's date did."""
    assert world.run().returncode == 0
    before = (world.source / image.LOCK_FILE).read_bytes()
    spec = image.load_spec(world.source)
    stable = dict.fromkeys((*spec.runtime, *spec.toolchain), "1.0-1")
    publish(world.mirror, "bookworm", "Mon, 13 Jul 2026 10:00:00 UTC", stable)
    result = world.run()
    assert "nothing moved" in result.stdout
    assert (world.source / image.LOCK_FILE).read_bytes() == before
    publish(world.mirror, "bookworm", "Tue, 14 Jul 2026 10:00:00 UTC", {**stable, "libc6": "1.1-1"})
    assert world.run("--check").returncode == 1
    assert (world.source / image.LOCK_FILE).read_bytes() == before, "--check writes nothing"
    moved = json.loads(world.run("--json").stdout)["moved"]
    assert moved == [{"name": "libc6", "before": "1.0-1", "after": "1.1-1"}]
    assert world.lock.source_date_epoch > lock.parse_lock(before.decode()).source_date_epoch


@pytest.mark.slow
def test_what_is_pinned_can_stay(world: World) -> None:
    """--keep pins what image.toml adds, drops what it no longer names, and moves nothing else."""
    assert world.run().returncode == 0
    before = {package.name: package for package in world.lock.packages}
    spec, text = image.load_spec(world.source), (world.source / image.IMAGE_FILE).read_text()
    newer = dict.fromkeys((*spec.runtime, *spec.toolchain, "tini"), "9-1")
    publish(world.mirror, "bookworm", "Sun, 12 Jul 2026 10:00:00 UTC", newer)
    (world.source / image.IMAGE_FILE).write_text(text.replace('"libexpat1", ', '"tini", '))
    moved = json.loads(world.run("--keep", "--json").stdout)["moved"]
    assert moved == [
        {"name": "libexpat1", "before": "1.0-1", "after": None},
        {"name": "tini", "before": None, "after": "9-1"},
    ]
    after = {package.name: package for package in world.lock.packages}
    assert {name: pin for name, pin in after.items() if name != "tini"} == {
        name: pin for name, pin in before.items() if name != "libexpat1"
    }
    assert world.run("--check", "--keep").returncode == 0
    assert world.run("--check").returncode == 1, "without it everything is the newest"


@pytest.mark.slow
def test_a_package_that_is_used_for_more_is_not_shown_as_moved(world: World) -> None:
    """The version is the same before and after, and the table says what is not."""
    assert world.run().returncode == 0
    text = (world.source / image.IMAGE_FILE).read_text()
    (world.source / image.IMAGE_FILE).write_text(text.replace('"libexpat1", ', '"libexpat1", "bc", '))
    shown = world.run()
    assert shown.returncode == 0
    assert re.search(r"bc +\S +1\.0-1 +\S +different use or bytes", shown.stdout), shown.stdout
    assert {package.name: package.use for package in world.lock.packages}["bc"] == ("runtime", "toolchain")


def test_an_index_that_its_release_file_does_not_list_is_refused(world: World) -> None:
    """A Packages file that differs from InRelease is an error, and no lock is written."""
    path = world.mirror / "dists/bookworm/main/binary-amd64/Packages.xz"
    path.write_bytes(path.read_bytes() + b"x")
    result = world.run()
    assert result.returncode == 1
    assert "the SHA-256 is not the one in InRelease" in result.stderr
    assert not (world.source / image.LOCK_FILE).exists()


def test_a_mirror_without_the_suite_is_one_line(world: World) -> None:
    """Exit 3 with the address that was asked."""
    (world.mirror / "dists/bookworm/InRelease").unlink()
    result = world.run()
    assert result.returncode == 3
    assert "dists/bookworm/InRelease" in result.stderr


def test_a_wheel_with_another_hash_is_refused(world: World) -> None:
    """pip's index cannot put another file under the pinned hash."""
    make_wheel_file(world.index, "tinypkg", "1.0", content=b"changed = True\n")
    result = world.run()
    assert result.returncode == 3
    assert "tinypkg" in result.stderr
    assert not (world.source / image.LOCK_FILE).exists()


def test_wheels_are_fetched_once_and_checked(world: World, tmp_path: Path) -> None:
    """A locked wheel comes into the cache through pip, and from then on out of it."""
    assert world.run().returncode == 0
    cache = Cache(tmp_path / "cache")
    (wheel,) = world.lock.wheels
    path = wheels.fetch_wheels([wheel], cache, Quiet())["tinypkg"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == wheel.sha256
    (world.index / wheel.file).unlink()
    assert wheels.fetch_wheels([wheel], cache, Quiet()) == {"tinypkg": path}
    path.write_bytes(b"rotten")
    with raises_code(
        EnvironmentFailure, "wheel-unavailable", match="pip could not download tinypkg"
    ) as caught:
        wheels.fetch_wheels([wheel], cache, Quiet())
    assert isinstance(caught.value, CoattestError)
    assert caught.value.exit_code == 3


def test_progress_without_a_terminal_is_one_line_per_step(capsys: pytest.CaptureFixture[str]) -> None:
    """Logs are readable: no control characters, nothing on stdout."""
    reporter = Terminal()
    with reporter.step("Doing [one] thing"), reporter.transfer("Moving", 3_000_000) as advance:
        advance(3_000_000)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "Doing [one] thing\nMoving (3 MB)\n"
