"""The parts of the container route: what confines a stage, and what is taken from it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure
from coattest_build import container, image
from support.raises import raises_code

REPOSITORY = Path(__file__).parents[2]
PERL = shutil.which("perl")
PROBE = 'print map { $_ . (socket(my $made, $_, 1, 0) ? " yes\n" : " no\n") } (1, 2, 10, 16, 17, 40)'
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or PERL is None, reason="needs root and perl, as a container's stage has"
)


def seen(**changes: str) -> str:
    """The record of a confined stage, with changes."""
    return "".join(f"{name}:\t{value}\n" for name, value in {**container.EXPECTED, **changes}.items())


def confined(*command: str) -> str:
    """What a command prints when the stage's program runs it."""
    words = ", ".join(container.quoted(word) for word in command)
    program = f"{container.CONFINE}\nstep('/', '/', {{PATH => '/bin'}}, {words});\n"
    assert PERL
    return subprocess.run([PERL, "-e", program], check=True, capture_output=True, text=True).stdout


@needs_root
def test_a_confined_command_has_no_privilege() -> None:
    """The kernel says so of the command itself: no capability in any set, no new ones, a filter, nobody."""
    lines = confined("/bin/cat", "/proc/self/status").splitlines()
    status = {name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in lines)}
    expected = {name: value for name, value in container.EXPECTED.items() if name not in ("Inet", "Vsock")}
    assert {name: status[name] for name in expected} == expected
    assert status["Groups"] == ""


@needs_root
def test_a_confined_command_makes_unix_sockets_only() -> None:
    """AF_UNIX is allowed; IPv4, IPv6, netlink, packet and vsock sockets are refused."""
    assert PERL
    said = confined(PERL, "-e", PROBE).split("\n")
    assert said[:6] == ["1 yes", "2 no", "10 no", "16 no", "17 no", "40 no"]


@needs_root
def test_a_command_that_fails_stops_the_stage() -> None:
    """The program ends with an error at the first command that does."""
    with pytest.raises(subprocess.CalledProcessError):
        confined("/bin/false")


@pytest.mark.skipif(PERL is None, reason="needs perl")
def test_the_stages_program_is_perl(tmp_path: Path) -> None:
    """The program for this repository's image parses, and quotes survive it."""
    path = tmp_path / "stage.pl"
    path.write_text(container.driver(image.load_spec(REPOSITORY), 2))
    assert PERL
    subprocess.run([PERL, "-c", str(path)], check=True, capture_output=True)
    text = "it's a \\ and $HOME @x \"\n"
    said = subprocess.run([PERL, "-e", f"print {container.quoted(text)}"], check=True, capture_output=True)
    assert said.stdout.decode() == text


def test_a_confined_stage_is_recorded(tmp_path: Path) -> None:
    """What the stage saw of itself becomes the report's record."""
    (tmp_path / "isolation").write_text(seen())
    record = container.read_isolation(tmp_path / "isolation")
    assert record["capabilities"] == "none"
    assert record["network"] == "sockets refused"


@pytest.mark.parametrize("name", container.EXPECTED)
def test_a_stage_that_was_less_confined_is_refused(tmp_path: Path, name: str) -> None:
    """One capability, a missing filter or a possible socket ends the build, naming what was found: exit 3."""
    (tmp_path / "isolation").write_text(seen(**{name: "possible"}))
    with pytest.raises(EnvironmentFailure, match=f"{name} is possible") as caught:
        container.read_isolation(tmp_path / "isolation")
    assert caught.value.exit_code == 3
    text = "\n".join(line for line in seen().splitlines() if not line.startswith(name))
    (tmp_path / "isolation").write_text(text)
    with pytest.raises(EnvironmentFailure, match=f"{name} is unknown"):
        container.read_isolation(tmp_path / "isolation")


def test_only_modules_are_taken_from_the_stage(tmp_path: Path) -> None:
    """Bytecode is copied with a plain mode; other files, and whatever lies elsewhere, are left there."""
    bytecode = image.load_spec(REPOSITORY).bytecode
    assert bytecode
    plain, sourceless = bytecode.directories[0], bytecode.sourceless[0]
    compiled, root = tmp_path / "compiled", tmp_path / "root"
    for name in (
        f"{plain}/__pycache__/a.cpython-311.pyc",
        f"{sourceless}/b.pyc",
        f"{plain}/a.py",
        "etc/c.pyc",
    ):
        (compiled / name).parent.mkdir(parents=True, exist_ok=True)
        (compiled / name).write_bytes(name.encode())
        (compiled / name).chmod(0o4755)
    for folder in (plain, sourceless):
        (root / folder).mkdir(parents=True)
    (root / f"{plain}/a.py").write_text("source")
    (root / f"{sourceless}/b.py").write_text("source")
    container.take_bytecode(bytecode, compiled, root)
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    assert set(files) == {f"{plain}/__pycache__/a.cpython-311.pyc", f"{plain}/a.py", f"{sourceless}/b.pyc"}
    assert files[f"{plain}/a.py"].read_text() == "source"
    assert files[f"{sourceless}/b.pyc"].stat().st_mode & 0o7777 == 0o644


def test_a_link_in_place_of_a_module_is_refused(tmp_path: Path) -> None:
    """A link to a file of the assembling stage is not followed."""
    bytecode = image.load_spec(REPOSITORY).bytecode
    assert bytecode
    folder = bytecode.directories[0]
    (tmp_path / "compiled" / folder).mkdir(parents=True)
    (tmp_path / "root" / folder).mkdir(parents=True)
    (tmp_path / "secret").write_text("of the base")
    (tmp_path / "compiled" / folder / "a.pyc").symlink_to(tmp_path / "secret")
    with raises_code(EnvironmentFailure, "bytecode-failed"):
        container.take_bytecode(bytecode, tmp_path / "compiled", tmp_path / "root")
