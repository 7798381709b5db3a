"""A user's names for roots: what a folder brings neither makes a name nor moves one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from coattest.errors import UsageError
from coattest_verify.quorum.memory import NAMES_FILE, named_roots, parse_pinned_root
from support.raises import raises_code
from support.verify.signing_world import SigningWorld

ROOT = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32


def names(folder: Path, **roots: str) -> Path:
    """A file of names, as a user writes it."""
    lines = ['format = "coattest-root-names/v1"', "[roots]"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAMES_FILE
    path.write_text("\n".join([*lines, *(f'{name} = "{root}"' for name, root in roots.items())]) + "\n")
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """This user's configuration, with a quorum by the name of lab."""
    return names(tmp_path / "config", lab=ROOT, old=f"{OTHER}@3")


def test_a_name_is_the_root_that_the_user_wrote_beside_it(config: Path) -> None:
    """With its floor, and of two floors the higher one."""
    assert parse_pinned_root("lab") == bytes.fromhex("ab" * 32)
    assert (parse_pinned_root("lab").floor, parse_pinned_root("lab@4").floor) == (1, 4)
    assert [parse_pinned_root(text).floor for text in ("old", "old@2", "old@5")] == [3, 3, 5]
    assert set(named_roots(config)) == {"lab", "old"}


@pytest.mark.parametrize("text", ["Lab", "lab ", "", "@2", "lab@0", "lab@x", "../lab", "none", "sha256"])
def test_what_is_no_name_of_the_users_is_no_root(config: Path, text: str) -> None:
    """The error says which names there are."""
    assert config.exists()
    with raises_code(UsageError, "bad-root"):
        parse_pinned_root(text)


def test_without_a_file_there_are_no_names(tmp_path: Path) -> None:
    """And the digest works as ever."""
    with pytest.raises(UsageError, match="you named none"):
        parse_pinned_root("lab", tmp_path / "none.toml")
    assert parse_pinned_root(ROOT, tmp_path / "none.toml") == bytes.fromhex("ab" * 32)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("lab =", '"sha256:lab" ='),
        lambda text: text.replace(ROOT, "old"),
        lambda text: text.replace(ROOT, f"{ROOT}@0"),
        lambda text: text.replace("root-names/v1", "root-names/v2"),
        lambda text: text.replace("[roots]", "[root]"),
        lambda text: text + "more = 1\n",
        lambda text: text + f'lab = "{OTHER}"\n',
        lambda text: text + "\0",
    ],
)
def test_a_file_that_is_not_plainly_names_and_roots_is_refused(
    config: Path, spoil: Callable[[str], str]
) -> None:
    """No name leads to another name, and none is taken of a file that is half read."""
    config.write_text(spoil(config.read_text()))
    with raises_code(UsageError, "malformed"):
        parse_pinned_root("lab")


def test_a_file_behind_a_link_is_refused(config: Path, tmp_path: Path) -> None:
    """It might lead into a checkout."""
    shutil.move(config, tmp_path / "elsewhere.toml")
    config.symlink_to(tmp_path / "elsewhere.toml")
    with raises_code(UsageError, "not-a-file"):
        parse_pinned_root("lab")


def test_a_folder_neither_names_a_root_nor_moves_a_name(tmp_path: Path) -> None:
    """Whoever hosts the attestations brings names of its own, wherever a program might look for them."""
    world = SigningWorld(tmp_path / "world")
    world.claim()
    for name in world.quorum.file.names:
        world.quorum.sign(name, world.report)
    root = f"sha256:{world.quorum.root.hex()}"
    desk = world.desk
    for place in (desk.folder, world.attestations, world.attestations / "config", desk.folder / ".config"):
        names(place, lab=root, evil=root)
    asked = ("quorum", "--attestations", str(world.attestations), "--root")
    done = desk.run(*asked, "evil")
    assert done.returncode == 2
    assert "you named none" in done.stderr
    names(desk.folder / "config", lab=OTHER)
    done = desk.run(*asked, "lab")
    assert done.returncode == 1
    assert "members-wrong-root" in done.stderr or OTHER in done.stderr
    names(desk.folder / "config", lab=root)
    assert desk.run(*asked, "lab", "--json").returncode in {0, 3}
    assert root in (desk.folder / "config" / "roots.json").read_text()
