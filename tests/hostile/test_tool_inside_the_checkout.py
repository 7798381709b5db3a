"""A coattest that comes out of what it is to judge says nothing: it would be the publisher's code."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import click
import pytest

from coattest.errors import EnvironmentFailure
from coattest.parser import adopted
from coattest.programs.apart import FLAG, own_places, require_apart
from support.hostile.commands import LINES, find_command, kept_apart
from support.raises import raises_code

RUN = "import sys; sys.argv[0] = 'coattest'; from coattest.command import main; main()"
PATHS = [entry for entry in sys.path if Path(entry).is_dir()]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout with attestations, as a clone of a repository."""
    folder = tmp_path / "clone"
    for name in ("build", "attestations", "lib", ".git"):
        (folder / name).mkdir(parents=True)
    (folder / "build/image.toml").write_text("")
    (folder / "attestations/releases").mkdir()
    return folder


@pytest.mark.parametrize("command", sorted(LINES))
def test_every_command_refuses_when_something_is_imported_from_the_checkout(
    command: str, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it reads a key or anything else, whether it judges a folder or only signs."""
    monkeypatch.chdir(clone)
    monkeypatch.syspath_prepend(str(clone / "lib"))
    for name in ("file", "KEY", "KEY.pub", "FILE", "MEASURED"):
        (clone / name).write_text("")
    words = [word.replace("MIRROR", "file:///nowhere") for word in LINES[command]]
    with (
        raises_code(EnvironmentFailure, "not-apart", match="an entry of sys.path lies in") as caught,
        find_command(command).make_context(command, words) as context,
    ):
        adopted(find_command(command)).invoke(context)
    assert [finding.where for finding in caught.value.findings] == [str(clone / "lib")]


@pytest.mark.parametrize("command", sorted(LINES))
def test_every_command_has_the_way_out(command: str) -> None:
    """By one name; where nothing is judged there is no such option."""
    context = click.Context(find_command(command))
    assert [each.opts for each in context.command.get_params(context)].count([FLAG]) == 1
    assert command in kept_apart()
    other = find_command("verify keygen")
    assert all(FLAG not in each.opts for each in other.get_params(click.Context(other)))


def test_what_lies_elsewhere_is_no_hindrance(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation beside the checkout, whose name begins alike, judges it."""
    beside = clone.with_name("clone-venv")
    beside.mkdir()
    monkeypatch.syspath_prepend(str(beside))
    require_apart([clone])
    require_apart([clone / "attestations"])
    require_apart([clone / "absent"])


@pytest.mark.parametrize("judged", ["", "attestations", "build", "absent/folder"])
def test_the_whole_clone_counts(judged: str, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of its folders is named, by its repository; without one, by what a checkout looks like."""
    monkeypatch.syspath_prepend(str(clone / "lib"))
    with raises_code(EnvironmentFailure, "not-apart"):
        require_apart([clone / judged])
    (clone / ".git").rmdir()
    with raises_code(EnvironmentFailure, "not-apart"):
        require_apart([clone / judged])


def test_links_hide_nothing(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link into the checkout, a checkout behind a link, and a link inside that leads out of it."""
    (tmp_path / "into").symlink_to(clone / "lib")
    (tmp_path / "other-name").symlink_to(clone)
    (tmp_path / "outside").mkdir()
    (clone / "out").symlink_to(tmp_path / "outside")
    for entry, judged in (
        (tmp_path / "into", clone),
        (clone / "lib", tmp_path / "other-name"),
        (tmp_path / "other-name" / "lib", clone),
        (clone / "out", clone),
    ):
        with monkeypatch.context() as patched, raises_code(EnvironmentFailure, "not-apart"):
            patched.syspath_prepend(str(entry))
            require_apart([judged])


@pytest.mark.parametrize("entry", ["", ".", "lib", "../clone/lib"])
def test_an_entry_that_depends_on_the_current_folder_counts(
    entry: str, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``python -m``, ``python -c`` and a careless PYTHONPATH put the current folder first."""
    monkeypatch.chdir(clone)
    monkeypatch.setattr(sys, "path", [*sys.path, entry])
    with raises_code(EnvironmentFailure, "not-apart"):
        require_apart([clone])


@pytest.mark.parametrize("name", ["executable", "prefix", "exec_prefix", "base_prefix", "base_exec_prefix"])
def test_the_interpreter_counts(name: str, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its program, its environment and what that was made from."""
    monkeypatch.setattr(sys, name, str(clone / "lib"))
    with raises_code(EnvironmentFailure, "not-apart", match="the interpreter lies in"):
        require_apart([clone])


def test_an_imported_module_counts(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that an import hook took from a place that is not on the path."""
    (clone / "lib/hooked.py").write_text("")
    module = type(sys)("hooked")
    module.__file__ = str(clone / "lib/hooked.py")
    monkeypatch.setitem(sys.modules, "hooked", module)
    with raises_code(EnvironmentFailure, "not-apart", match="an imported module lies in"):
        require_apart([clone])


def test_all_that_lies_inside_is_named(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finding for each, so that a person sees what to move."""
    monkeypatch.setattr(sys, "executable", str(clone / "lib/python"))
    monkeypatch.syspath_prepend(str(clone / "lib"))
    with raises_code(EnvironmentFailure, "not-apart") as caught:
        require_apart([clone])
    assert len(caught.value.findings) == 2
    assert {finding.code for finding in caught.value.findings} == {"not-apart"}


def test_a_folder_that_is_no_checkout_is_named_as_such(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where build/image.toml is missing that is said too; where it is there, nothing is."""
    monkeypatch.syspath_prepend(str(clone / "lib"))
    with raises_code(EnvironmentFailure, "not-apart", match="lib has no build/image.toml and is no folder"):
        require_apart([clone / "lib"])
    for folder in (clone, clone / "attestations"):
        with raises_code(EnvironmentFailure, "not-apart") as caught:
            require_apart([folder])
        assert "image.toml" not in str(caught.value)


def test_the_places_are_all_there() -> None:
    """Interpreter, path and the modules of coattest itself."""
    assert {"the interpreter", "an entry of sys.path", "an imported module"} <= {
        what for what, _ in own_places()
    }
    assert any(path.name == "coattest" for _, path in own_places())


@pytest.mark.parametrize("variable", ["COATTEST_STATE", "COATTEST_CONFIG"])
@pytest.mark.parametrize("place", [".", "state", "attestations/new/state", "link"])
@pytest.mark.parametrize("judged", ["", "attestations"])
def test_what_is_remembered_does_not_come_from_the_checkout(
    variable: str, place: str, judged: str, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that keeps its state in the project's folder: a record that was committed there would count."""
    (clone.parent / "into").symlink_to(clone)
    require_apart([clone / judged])
    for folder in (clone / place, clone.parent / "into" / place):
        monkeypatch.setenv(variable, str(folder))
        with raises_code(EnvironmentFailure, "not-apart", match=variable):
            require_apart([clone / judged])
    monkeypatch.chdir(clone)
    monkeypatch.setenv(variable, place)
    with raises_code(EnvironmentFailure, "not-apart", match="which is to be judged"):
        require_apart([Path(judged)])


def test_what_is_remembered_may_lie_beside_the_checkout(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above it, and in a folder that is no checkout."""
    for place in (clone.parent, clone.parent / "clone-state", clone.parent / "other/state"):
        monkeypatch.setenv("COATTEST_STATE", str(place))
        monkeypatch.setenv("COATTEST_CONFIG", str(place))
        require_apart([clone])
        require_apart([clone / "attestations"])
        require_apart([clone.parent / "other"])


def made_venv(folder: Path) -> Path:
    """An environment whose interpreter is in ``folder``, with what this one imports from; its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "paths.pth").write_text("".join(f"{entry}\n" for entry in PATHS))
    return folder / "bin/python"


def attempt(python: Path, words: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run coattest with an interpreter, isolated."""
    command = [str(python), "-I", "-c", RUN, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_the_checkouts_own_environment_is_refused(clone: Path, tmp_path: Path) -> None:
    """``CHECKOUT/.venv/bin/verify``, which is what ``make`` installs: exit 3 in one line, with a remedy."""
    python = made_venv(clone / ".venv")
    words = [
        "verify",
        "quorum",
        "--attestations",
        str(clone / "attestations"),
        "--root",
        "sha256:" + "0" * 64,
    ]
    refused = attempt(python, words, cwd=tmp_path)
    assert refused.returncode == 3
    assert "the interpreter lies in" in refused.stderr
    assert FLAG in refused.stderr
    assert refused.stderr.count("\n") == 1
    mine = attempt(python, [*words, FLAG], cwd=tmp_path)
    assert "lies in" not in mine.stderr
    assert mine.returncode == 1, "the attestations are no quorum, and that is what it says"
    apart = made_venv(tmp_path / "apart")
    assert attempt(apart, words, cwd=clone).returncode == 1


def test_a_path_file_that_leads_into_the_checkout_is_noticed(clone: Path, tmp_path: Path) -> None:
    """An editable installation from the checkout, in an environment elsewhere."""
    python = made_venv(tmp_path / "apart")
    (site,) = (tmp_path / "apart").glob("lib/python*/site-packages")
    (site / "editable.pth").write_text(f"{clone / 'lib'}\n")
    refused = attempt(python, ["eif", "sbom", "--source", str(clone), "--json"], cwd=tmp_path)
    assert refused.returncode == 3
    assert '"not-apart"' in refused.stdout


def test_the_projects_own_environment_is_refused_for_the_project() -> None:
    """This very checkout, where its environment is inside it, as after ``make test``."""
    root = Path(__file__).parents[2]
    inside = Path(sys.prefix).is_relative_to(root)
    code = attempt(Path(sys.executable), ["eif", "sbom"], cwd=root, env={**os.environ}).returncode
    editable = any(Path(entry).is_relative_to(root) for entry in PATHS)
    assert code == (3 if inside or editable else 0)
