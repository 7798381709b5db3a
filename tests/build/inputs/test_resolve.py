"""`eif lock` from wanted names: the requirements file with versions and hashes, for the image's Python."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure, UsageError
from coattest_build import image
from coattest_build.inputs import lock, resolve, wheels
from coattest_build.inputs.lock import BadLock
from support.build.eif_program import eif
from support.build.small_archive import index_variables, make_small_archive, publish
from support.build.wheelhouse import make_wheel_file
from support.raises import raises_code

NEVER = 'python_version < "3.11" or python_version >= "3.12" or sys_platform == "win32"'
ALWAYS = 'python_version == "3.11" and sys_platform == "linux"'


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree that wants packages by name, beside a mirror and an index."""
    source, index = tmp_path / "source", tmp_path / "index"
    make_small_archive(source, tmp_path / "mirror", index)
    path = source / image.IMAGE_FILE
    path.write_text(path.read_text().replace("[wheels]\n", '[wheels]\nwanted = "enclave/wanted"\n'))
    (source / "enclave/wanted").write_text("tinypkg>=1 # small\n\nserver[fast]\n")
    requires = (f"never; {NEVER}", f"always; {ALWAYS}", 'quick<2; extra == "fast"', 'other; extra == "slow"')
    make_wheel_file(index, "server", "2.0", requires=requires)
    make_wheel_file(index, "always", "1.0", requires=("deep_one>=1",))
    make_wheel_file(index, "deep_one", "1.5")
    make_wheel_file(index, "quick", "1.9")
    make_wheel_file(index, "quick", "2.0")
    make_wheel_file(index, "never", "1.0")
    for name, value in index_variables(index).items():
        monkeypatch.setenv(name, value)
    return source


def run(source: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `eif lock` in the source tree."""
    return eif("lock", "--mirror", (source.parent / "mirror").as_uri(), *arguments, folder=source)


def pinned(source: Path) -> dict[str, str]:
    """The versions of the requirements file, which the lock pins too."""
    spec, (locked, _) = image.load_spec(source), lock.load_lock(source)
    assert spec.wheels
    wheels.check_pins(locked, source, spec.wheels)
    found = wheels.parse_requirements(wheels.read_requirements(source, spec.wheels), "here")
    assert all(len(wheel.hashes) == 1 for wheel in found)
    return {wheel.name: wheel.version for wheel in found}


def test_the_requirements_are_those_of_the_images_python(source: Path) -> None:
    """With extras and what is needed in turn; markers do not ask the Python that runs pip."""
    done = run(source)
    assert done.returncode == 0, done.stderr
    assert pinned(source) == {
        "always": "1.0",
        "deep-one": "1.5",
        "quick": "1.9",
        "server": "2.0",
        "tinypkg": "1.0",
    }
    assert run(source, "--check").returncode == 0


def test_pip_is_asked_for_what_it_leaves_out(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another Python, pip's own markers would leave out what the image's Python needs."""
    asked: list[list[str]] = []
    chosen = resolve.choose_wheels

    def of_another_python(lines: list[str], constraints: list[str], folder: Path, scratch: Path) -> object:
        asked.append(list(lines))
        ended = chosen(lines, constraints, folder, scratch)
        if "always" not in lines:
            (folder / "always-1.0-py3-none-any.whl").unlink()
        return ended

    monkeypatch.setattr(resolve, "choose_wheels", of_another_python)
    wanted = resolve.parse_wanted("server", "here")
    assert [pin.name for pin in resolve.choose_pins(wanted, {})] == ["always", "deep-one", "server"]
    assert asked == [["server"], ["server", "always"]]


@pytest.mark.parametrize("names", ["above\nbelow", "below\nabove"])
def test_what_pip_leaves_out_is_asked_for_by_all_who_need_it(source: Path, names: str) -> None:
    """Another Python's pip sees neither limit: the version meets both, in whatever order they are found."""
    index, here = source.parent / "index", 'python_full_version == "3.11.2"'
    make_wheel_file(index, "above", "1.0", requires=(f"limited>=1; {here}",))
    make_wheel_file(index, "below", "1.0", requires=(f"limited<2; {here}",))
    for version in ("0.5", "1.5", "2.0"):
        make_wheel_file(index, "limited", version)
    pins = resolve.choose_pins(resolve.parse_wanted(names, "here"), {})
    assert {pin.name: pin.version for pin in pins} == {"above": "1.0", "below": "1.0", "limited": "1.5"}


@pytest.mark.slow
def test_kept_wheels_keep_their_version(source: Path) -> None:
    """A newer one on the index moves the pin without --keep only."""
    assert run(source).returncode == 0
    make_wheel_file(source.parent / "index", "deep_one", "1.6")
    assert run(source, "--keep", "--check").returncode == 0
    assert run(source, "--check").returncode == 1
    assert pinned(source)["deep-one"] == "1.5"
    assert run(source).returncode == 0
    assert pinned(source)["deep-one"] == "1.6"


def test_names_that_changed_since_are_noticed(source: Path) -> None:
    """A build does not go on with the wheels of other names."""
    assert run(source).returncode == 0
    (source / "enclave/wanted").write_text("server\n")
    with pytest.raises(BadLock, match="not made from the enclave/wanted of today"):
        pinned(source)


@pytest.mark.parametrize(
    "line",
    [
        "--index-url http://127.0.0.1:9/",
        "-r other",
        "tinypkg @ file:///tmp/x.whl",
        "./tinypkg",
        "tinypkg===$HOME",
        "tinypkg --hash=sha256:00",
    ],
)
def test_only_names_and_versions_reach_pip(line: str) -> None:
    """No option, address or path."""
    with raises_code(UsageError, "bad-requirement"):
        resolve.parse_wanted(f"tinypkg\n{line}\n", "here")


@pytest.mark.parametrize("marker", ['os_name ~= "x"', '"a" in extras', 'python_full_version ~= "3"'])
def test_a_marker_without_a_meaning_is_one_line(marker: str) -> None:
    """``~=`` compares versions alone, and other variables are not of a wheel's."""
    with raises_code(UsageError, "bad-requirement"):
        resolve.choose_pins(resolve.parse_wanted(f"tinypkg; {marker}", "here"), {})


DEEP = "(" * 900 + 'os_name=="a"' + ")" * 900
LONG = " and ".join(['os_name=="posix"'] * 1000)


@pytest.mark.parametrize("marker", [DEEP, LONG])
def test_a_marker_has_an_end(marker: str) -> None:
    """In depth and length: a wheel on the index may have any."""
    with raises_code(UsageError, "bad-requirement"):
        resolve.parse_wanted(f"tinypkg; {marker}", "here")


def test_nothing_that_a_wheel_needs_is_built(source: Path) -> None:
    """A wheel that needs what is at an address: pip would run its build backend in spite of --only-binary."""
    ran, packed = source.parent / "ran", source.parent / "sub-1.0.tar.gz"
    project = '[build-system]\nrequires = []\nbuild-backend = "evil"\nbackend-path = ["."]\n'
    files = {"pyproject.toml": project, "evil.py": f"open({str(ran)!r}, 'w')\n"}
    with tarfile.open(packed, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"sub-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    make_wheel_file(source.parent / "index", "trap", "1.0", requires=(f"sub @ {packed.as_uri()}",))
    with raises_code(EnvironmentFailure, "wheel-unavailable", match="wants a program"):
        resolve.choose_pins(resolve.parse_wanted("trap", "here"), {})
    assert not ran.exists()


def test_the_requirements_are_not_written_through_a_link(source: Path) -> None:
    """Of a tree that somebody sent, named by an absolute path."""
    path, mine = source / image.IMAGE_FILE, source.parent / "mine/sub/file"
    written = re.sub(r"(?m)^requirements = .*$", 'requirements = "enclave/d/sub/file"', path.read_text())
    path.write_text(written)
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    (source / "enclave/d").symlink_to(source.parent / "mine")
    done = run(source, "--source", str(source))
    assert (done.returncode, mine.read_text()) == (2, "mine")
    assert "a link or file is on the way to it" in done.stderr


@pytest.mark.slow
def test_dependencies_of_runtime_packages_are_written_into_the_image_file(source: Path) -> None:
    """--runtime-depends adds them to the list that is all there is, and changes nothing else."""
    before = image.load_spec(source)
    stable = dict.fromkeys((*before.runtime, *before.toolchain, "libtwo", "libone"), "1.0-1")
    depends = {"libexpat1": "libone (>= 1), libc6", "libone": "libtwo | absent"}
    publish(source.parent / "mirror", "bookworm", "Sat, 11 Jul 2026 10:00:00 UTC", stable, depends)
    assert run(source, "--check", "--runtime-depends").returncode == 2
    done = run(source, "--runtime-depends")
    assert done.returncode == 0, done.stderr
    after, text = image.load_spec(source), (source / image.IMAGE_FILE).read_text()
    assert set(after.runtime) == {*before.runtime, "libone", "libtwo"}
    assert after.prune == before.prune
    assert "Dependencies are not added" in text
    assert run(source, "--runtime-depends").returncode == 0
    assert (source / image.IMAGE_FILE).read_text() == text
    (source / image.IMAGE_FILE).write_text(text.replace("[runtime]\n", '[runtime]\nprune = ["a]"]\n', 1))
    refused = run(source, "--runtime-depends")
    assert refused.returncode == 2
