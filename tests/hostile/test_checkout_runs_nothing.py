"""Whatever a checkout has in it, no command runs or imports any of it, with an empty cache."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coattest_local.aws import services
from support.build.checkouts import make_checkout
from support.build.small_archive import index_variables, make_small_archive
from support.hostile.commands import LINES, STARTING, find_command, kept_apart
from support.hostile.traps import Traps, plant, springs

FETCHING = (
    "eif build",
    "eif lock",
    "eif stage prepare",
    "nitro-local demo",
    "verify inputs",
    "verify rebuild",
)
"""Those that start helper programs: they run in another trapped folder too."""

LOCKED = ("eif build", "eif lock", "eif sbom", "eif stage prepare", "verify inputs")
"""Those that read the lock before anything else can refuse."""

IN_MAKE_TEST = {
    *(*FETCHING, *LOCKED),
    *("verify members show", "verify quorum", "verify release publish", "verify turn"),
}
"""``tox -e slow`` starts the others, ``tox -e hostile-trees`` every one in many folders."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror, an index, a member's key, and a checkout whose inputs are all in them."""
    folder = tmp_path_factory.mktemp("world")
    make_checkout(folder / "checkout")
    make_small_archive(folder / "checkout", folder / "mirror", folder / "index")
    variables = {**os.environ, **index_variables(folder / "index")}
    mirror = (folder / "mirror").as_uri()
    for words in (
        ["eif", "lock", "--source", str(folder / "checkout"), "--mirror", mirror],
        ["verify", "keygen", "--out", str(folder / "key")],
    ):
        subprocess.run(program(words), env=variables, cwd=folder, check=True, capture_output=True)
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-aqm", "small"],
        cwd=folder / "checkout",
        check=True,
    )
    (folder / "file").write_text("nothing\n")
    registers = {f"PCR{index}": f"{index + 1}" * 96 for index in range(3)}
    (folder / "measured.json").write_text(json.dumps({"Measurements": registers}))
    return folder


@pytest.fixture(scope="module")
def traps(world: Path) -> Traps:
    """The checkout with its traps, which are not committed."""
    return plant(world / "checkout", world / "canary")


@pytest.fixture(scope="module")
def elsewhere(world: Path) -> Traps:
    """A current folder with traps that is no checkout."""
    (world / "elsewhere").mkdir()
    return plant(world / "elsewhere", world / "canary")


@pytest.fixture(autouse=True)
def nothing_sprung(world: Path) -> Iterator[None]:
    """Each test begins without a canary."""
    (world / "canary").unlink(missing_ok=True)
    yield
    (world / "canary").unlink(missing_ok=True)


def program(words: list[str]) -> list[str]:
    """The console script of this installation, which lies in no checkout of these tests."""
    return [str(Path(sys.executable).with_name("coattest")), *words]


def run(
    command: str, world: Path, traps: Traps, *, here: Path, scratch: Path
) -> subprocess.CompletedProcess[str]:
    """Run a command on the checkout, in the folder ``here``, with an empty cache and hostile variables."""
    places = {
        "FILE": str(world / "file"),
        "KEY": str(world / "key"),
        "MEASURED": str(world / "measured.json"),
        "MIRROR": (world / "mirror").as_uri(),
        "NEW": str(scratch / "new"),
        "OUT": str(scratch / "out"),
    }
    words = [*command.split()]
    for word in {**LINES, **STARTING}[command]:
        name, dot, rest = word.partition(".")
        before, equals, last = name.rpartition("=")
        words.append(f"{before}{equals}{places.get(last, last)}{dot}{rest}")
    if here != traps.folder:
        options = {parameter.opts[0] for parameter in find_command(command).params}
        for option, path in (("--source", traps.folder), ("--attestations", traps.folder / "attestations")):
            words += [option, str(path)] if option in options else []
    environment = {
        **{name: value for name, value in os.environ.items() if name in ("LANG", "TMPDIR")},
        **traps.environment(),
        **index_variables(world / "index"),
        "HOME": str(scratch / "home"),
        "COATTEST_CACHE": str(scratch / "cache"),
        "COATTEST_CONFIG": str(scratch / "config"),
        "COATTEST_STATE": str(scratch / "state"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return subprocess.run(
        program(words), cwd=here, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_every_command_that_takes_a_checkout_is_here() -> None:
    """A new one cannot be forgotten, and no line is left over."""
    assert set(LINES) == kept_apart()
    assert set(FETCHING) <= set(LINES)


@pytest.mark.parametrize(
    "command",
    [pytest.param(each, marks=() if each in IN_MAKE_TEST else pytest.mark.slow) for each in sorted(LINES)],
)
def test_nothing_of_the_checkout_runs(command: str, world: Path, traps: Traps, tmp_path: Path) -> None:
    """In the checkout itself, with PATH and every tool's variables leading into it."""
    done = run(command, world, traps, here=traps.folder, scratch=tmp_path)
    assert traps.sprung == [], done.stderr
    assert done.returncode in (0, 1, 2, 3), done.stderr
    assert "not-apart" not in done.stderr
    assert "Missing" not in done.stderr, "the line here lacks what the command needs"
    assert "No such option" not in done.stderr


@pytest.mark.parametrize("command", [*FETCHING, *STARTING])
def test_nothing_of_the_current_folder_runs(
    command: str, world: Path, traps: Traps, elsewhere: Traps, tmp_path: Path
) -> None:
    """Of a folder that the command is only started in."""
    done = run(command, world, traps, here=elsewhere.folder, scratch=tmp_path)
    assert elsewhere.sprung == [], done.stderr
    assert done.returncode in (0, 1, 2, 3), done.stderr


@pytest.mark.slow
def test_the_local_services_start_in_any_folder(
    elsewhere: Traps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of their own, with nothing of the folder in it."""
    monkeypatch.chdir(elsewhere.folder)
    for name, value in elsewhere.environment().items():
        monkeypatch.setenv(name, value)
    with services.start(tmp_path / "services", quiet=True) as running:
        assert running.pid
    assert elsewhere.sprung == []


def test_the_wheels_were_really_fetched(world: Path, traps: Traps, tmp_path: Path) -> None:
    """pip ran, from an empty cache: without this the tests above would show nothing about it."""
    run("verify rebuild", world, traps, here=traps.folder, scratch=tmp_path)
    fetched = {path.name for path in (tmp_path / "cache" / "inputs").iterdir()}
    (wheel,) = (world / "index").glob("*.whl")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() in fetched
    assert len(fetched) > 20


@pytest.mark.parametrize("command", LOCKED)
def test_a_lock_cannot_tell_pip_what_to_run(command: str, world: Path, traps: Traps, tmp_path: Path) -> None:
    """A wheel's name that is two lines and an option of pip's: every command refuses the lock."""
    lock, digest = traps.folder / "build/image.lock", hashlib.sha256(b"").hexdigest()
    before = lock.read_text()
    name = f"./evil --hash=sha256:{digest}\\n--no-binary=:all:\\nx"
    lock.write_text(
        f'{before}\n[[wheel]]\nname = "{name}"\nversion = "1.0"\n'
        f'file = "evil-1.0-py3-none-any.whl"\nsize = 1\nsha256 = "{digest}"\n'
    )
    try:
        done = run(command, world, traps, here=traps.folder, scratch=tmp_path)
    finally:
        lock.write_text(before)
    assert traps.sprung == []
    assert "--no-binary" in done.stderr, "the refusal names what was there, as text"
    assert "Traceback" not in done.stderr
    # `eif lock` makes a new one: for it the old one does not count, so every pin moves.
    assert done.returncode == (1 if command == "eif lock" else 2)


def test_the_traps_work(world: Path, traps: Traps) -> None:
    """Each kind leaves its line when it is run."""
    for name in ("pip.py", "json.py", "bin/git", "tar", ".git/hooks/post-checkout", "evil/setup.py"):
        springs(traps.folder / name)
    assert len(traps.sprung) == 6
