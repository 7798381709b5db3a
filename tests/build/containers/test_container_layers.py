"""How layers become one tree: what replaces what, what is refused, and what is said to be undecided."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import EnvironmentFailure
from coattest_build.containers import layers as limits
from coattest_build.containers import layertar
from coattest_build.containers.errors import ContainerError
from support.build.container_images import (
    CMD,
    NOON,
    Entry,
    entry,
    folder,
    hard_link,
    listed,
    ramdisk_of,
    saved,
    symlink,
    tar,
    tree_of,
)
from support.raises import raises_code

D, F = folder("d"), entry("d/f", b"1")


def write(tmp_path: Path, *layers: tuple[Entry, ...], run: dict[str, Any] | None = None) -> Path:
    """An image of these layers."""
    path = tmp_path / "image.tar"
    path.write_bytes(saved([tar(*entries) for entries in layers], {**CMD, **(run or {})}))
    return path


def made(tmp_path: Path, *layers: tuple[Entry, ...]) -> dict[str, Any]:
    """The entries of its ramdisk, without what every ramdisk has."""
    every = set(listed(ramdisk_of(write(tmp_path, ()))))
    found = listed(ramdisk_of(write(tmp_path, *layers)))
    return {name.removeprefix("rootfs/"): value for name, value in found.items() if name not in every}


def undecided(tmp_path: Path, *layers: tuple[Entry, ...], **options: Any) -> list[tuple[str, str, int]]:
    """Path, cause and layer of what the image does not decide."""
    with tree_of(write(tmp_path, *layers, **options)) as tree:
        return [(item.path.decode(), item.cause, item.layer) for item in tree.undecided]


def test_a_whiteout_removes_what_lower_layers_have(tmp_path: Path) -> None:
    """A file, or a folder with all in it; the folder around it keeps its own new time."""
    lower = (D, F, folder("d/e"), entry("d/e/g"))
    found = made(tmp_path, lower, (folder("d", mtime=7), entry("d/.wh.f"), entry("d/.wh.e")))
    assert list(found) == ["d/"]
    assert found["d/"]["mtime"] == 7


def test_an_opaque_folder_hides_lower_layers_only(tmp_path: Path) -> None:
    """Wherever in its layer the mark stands."""
    upper = (D, entry("d/new"), entry("d/.wh..wh..opq"), entry("d/newer"))
    assert list(made(tmp_path, (D, F), upper)) == ["d/", "d/new", "d/newer"]


def test_other_marks_of_aufs_are_ignored(tmp_path: Path) -> None:
    """They name nothing of the image."""
    assert list(made(tmp_path, (D, F), (D, entry("d/.wh..wh.plnk"), entry(".wh..wh.aufs")))) == ["d/", "d/f"]


def test_a_file_replaces_a_folder_and_the_other_way_round(tmp_path: Path) -> None:
    """What was in the folder is gone, and does not come back with a later folder."""
    found = made(tmp_path, (D, F), (entry("d", b"file"),))
    assert list(found) == ["d"]
    assert list(made(tmp_path, (D, F), (entry("d", b"file"),), (D, entry("d/g")))) == ["d/", "d/g"]


def test_a_hard_link_is_a_relative_symlink_to_the_first_name(tmp_path: Path) -> None:
    """In the order of the walk, with the mode of the last header that named the file."""
    found = made(tmp_path, (D, entry("z", b"x", mode=0o600), hard_link("d/a", "z", mode=0o4711, mtime=9)))
    assert found["d/a"]["content"] == b"x"
    assert (found["z"]["content"], found["z"]["mode"]) == (b"d/a", 0o124711)
    assert found["d/a"]["mtime"] == 9


def test_the_order_is_by_components(tmp_path: Path) -> None:
    """A folder's content comes before names that sort between it and its slash."""
    names = ["a-b", "a.b", "B", "a/c", "a0"]
    found = made(tmp_path, (folder("a"), *map(entry, names)))
    assert list(found) == ["B", "a/", "a/c", "a-b", "a.b", "a0"]


def test_names_are_cleaned_and_the_root_is_ignored(tmp_path: Path) -> None:
    """As Go's filepath.Clean does inside the layer."""
    found = made(tmp_path, (folder("./"), folder("./d/"), entry("/d/../d/./x"), entry("d//y")))
    assert list(found) == ["d/", "d/x", "d/y"]


def test_times_are_bounded_and_rounded_down(tmp_path: Path) -> None:
    """Before 1970 is 0; a fraction is cut from the decimal text, not rounded."""
    late = entry("late", pax_headers={"mtime": "1600000000.999999999"})
    found = made(tmp_path, (entry("early", mtime=-5), late, entry("never", mtime=1 << 40)))
    assert [found[name]["mtime"] for name in ("early", "late", "never")] == [0, 1600000000, 0]


def test_a_link_inside_one_layer_is_followed(tmp_path: Path) -> None:
    """Also an absolute one, from the layer's own root."""
    layer = (folder("usr"), symlink("a", "usr"), symlink("b", "/usr"), entry("a/x"), entry("b/y"))
    assert list(made(tmp_path, layer)) == ["a", "b", "usr/", "usr/x", "usr/y"]


def test_a_link_of_a_lower_layer_is_not_followed_but_hidden_and_that_is_said(tmp_path: Path) -> None:
    """overlay2 makes a folder of it, other stores follow it: the path is undecided."""
    lower = (folder("usr"), symlink("lib", "usr"))
    assert undecided(tmp_path, lower, (entry("lib/x"),)) == [("lib", "hides a link", 2)]


def test_a_folder_without_an_entry_is_undecided_until_a_layer_has_one(tmp_path: Path) -> None:
    """Entry after its content in the same layer, or in a later one."""
    implied = (entry("p/q/x"),)
    assert undecided(tmp_path, implied) == [("p", "implied", 1), ("p/q", "implied", 1)]
    assert undecided(tmp_path, (*implied, folder("p"), folder("p/q"))) == []
    assert undecided(tmp_path, implied, (folder("p"), folder("p/q"))) == []
    assert undecided(tmp_path, (folder("p"), folder("p/q")), implied) == [
        ("p", "implied", 2),
        ("p/q", "implied", 2),
    ]


def test_a_whiteout_without_an_entry_for_its_folder_is_undecided(tmp_path: Path) -> None:
    """The folder is implied by it."""
    assert undecided(tmp_path, (D, F), (entry("d/.wh.f"),)) == [("d", "implied", 2)]


def test_a_working_folder_that_no_layer_has_is_undecided(tmp_path: Path) -> None:
    """With the folder in which it is made, as making it changes that folder's time; through links too."""
    run = {"WorkingDir": "/srv/app/"}
    assert undecided(tmp_path, (folder("srv"),), run=run) == [
        ("srv", "parent of the working folder", 0),
        ("srv/app", "working folder", 0),
    ]
    assert undecided(tmp_path, (folder("srv"), folder("srv/app")), run=run) == []
    assert undecided(tmp_path, (symlink("srv", "/data"),), run=run) == [
        ("data", "working folder", 0),
        ("data/app", "working folder", 0),
    ]


def test_a_working_folder_in_a_folder_with_a_fixed_time_leaves_that_one_decided(tmp_path: Path) -> None:
    """linuxkit sets the time of /etc."""
    assert undecided(tmp_path, (folder("etc"),), run={"WorkingDir": "/etc/app"}) == [
        ("etc/app", "working folder", 0)
    ]


def test_every_clock_has_to_be_given(tmp_path: Path) -> None:
    """One of two is not enough; with both there are bytes."""
    path = write(tmp_path, (entry("p/x"),), run={"WorkingDir": "/w"})
    with raises_code(EnvironmentFailure, "undecidable", match="--time 0=SECONDS"):
        ramdisk_of(path, times={1: 5})
    found = listed(ramdisk_of(path, times={0: 4, 1: 5}))
    assert (found["rootfs/w/"]["mtime"], found["rootfs/p/"]["mtime"]) == (4, 5)


def test_docker_removes_what_is_in_the_place_of_its_own_files(tmp_path: Path) -> None:
    """A link /etc is replaced by a folder; a link's target stays; folders named as its files stay."""
    link = made(tmp_path, (folder("real"), entry("real/hosts", b"mine"), symlink("etc", "real")))
    assert list(link) == ["real/", "real/hosts"]
    kept = made(tmp_path, (folder("etc"), folder("etc/hosts"), entry("etc/hosts/x")))
    assert list(kept) == ["etc/hosts/", "etc/hosts/x"]


def test_what_linuxkit_drops_leaves_its_other_names_dangling(tmp_path: Path) -> None:
    """The first name of the file is dropped, the second leads there: so does nitro-cli's."""
    found = made(tmp_path, (entry("Dockerfile", b"FROM"), hard_link("other", "Dockerfile")))
    assert found["other"]["content"] == b"Dockerfile"


REFUSED: dict[str, tuple[tuple[tuple[Entry, ...], ...], str]] = {
    "a file in place of the root": (((entry("./"),),), "in place of the root"),
    "a link in place of the root": (((F, symlink("d/..", "/x")),), "in place of the root"),
    "a name out of the image": (((entry("../x"),),), "leads out"),
    "a hard link out of the image": (((hard_link("x", "../../y"),),), "leads out"),
    "a hard link to a lower layer": (((entry("a"),), (hard_link("b", "a"),)), "lower layers cannot"),
    "a hard link to itself": (((entry("a"), hard_link("a", "a")),), "no earlier entry"),
    "a hard link to a folder": (((D, hard_link("x", "d")),), "to a folder"),
    "a hard link through a missing folder": (((hard_link("x", "no/y"),),), "no earlier entry"),
    "a file as a folder": (((entry("a"), entry("a/b")),), "not a folder"),
    "a link to nothing as a folder": (((symlink("l", "gone"), entry("l/x")),), "leads to nothing"),
    "a link in a circle": (((symlink("l", "l"), entry("l/x")),), "more than 40 links"),
    "a folder and a file": (((D, entry("d")),), "a folder and something else"),
    "added and removed": (((entry("x"), entry(".wh.x")),), "adds and removes"),
    "a folder removed and made again": (((D, F), (entry(".wh.d"), D)), "disagree about its content"),
    "a folder that is a whiteout": (((entry(".wh.d/x"),),), "the name of a removal"),
    "a whiteout of a dot": (((D, entry("d/.wh..")),), "removes its own folder"),
    "the whole image hidden": (((D,), (entry(".wh..wh..opq"),)), "only some stores"),
    "the overlay's own whiteout": (((entry("x", type=tarfile.CHRTYPE),),), "takes for a removed"),
    "the overlay's own attribute": (
        ((folder("d", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"}),),),
        "overlay's own",
    ),
    "a component that is too long": (((entry("x" * 256),),), "more than 255 bytes"),
    "a user id of 33 bits": (((entry("x", uid=1 << 32),),), "more than 32 bits"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_docker_refuses_or_its_stores_make_differently_is_refused(name: str, tmp_path: Path) -> None:
    """With the path and the reason; never one of several trees."""
    layers, why = REFUSED[name]
    with pytest.raises(ContainerError, match=why) as caught:
        ramdisk_of(write(tmp_path, *layers))
    assert caught.value.code == "container-unloadable"
    assert "layer" in str(caught.value)


@pytest.mark.parametrize(
    ("run", "why"),
    [
        ({"WorkingDir": "relative"}, "not an absolute path"),
        (
            {"WorkingDir": "/d/f/x"},
            "WorkingDir: no folder can be at '/d/f/x': a file is there, or on",
        ),
        ({"WorkingDir": "/d/f"}, "WorkingDir: no folder can be at '/d/f': a file is there, or on"),
    ],
)
def test_a_working_folder_that_docker_refuses_is_refused(
    run: dict[str, str], why: str, tmp_path: Path
) -> None:
    """Docker makes no container of such an image."""
    with pytest.raises(ContainerError, match=why):
        ramdisk_of(write(tmp_path, (D, F), run=run))


def test_a_working_folder_with_the_name_of_a_removal_is_refused(tmp_path: Path) -> None:
    """Also through a link: found by the fuzzer."""
    for layer in ((), (symlink("a", ".wh.a"),)):
        run = {"WorkingDir": "/a/b" if layer else "/.wh.a"}
        with pytest.raises(ContainerError, match="name of a removal"):
            ramdisk_of(write(tmp_path, layer, run=run))


def test_what_no_ramdisk_can_hold_is_refused(tmp_path: Path) -> None:
    """A time of 33 bits that Docker keeps: nitro-cli would write nine digits and break the archive."""
    with pytest.raises(ContainerError, match="no place in a ramdisk") as caught:
        ramdisk_of(write(tmp_path, (entry("x", mtime=1 << 32),)))
    assert caught.value.code == "container-unsupported"


def test_entries_and_steps_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all layers together."""
    path = write(tmp_path, tuple(entry(f"a{n}") for n in range(6)), tuple(entry(f"b{n}") for n in range(6)))
    monkeypatch.setattr(limits, "MAX_ENTRIES", 10)
    with pytest.raises(ContainerError, match="more than 10 entries") as caught:
        ramdisk_of(path)
    assert caught.value.code == "container-limit"
    deep = write(tmp_path, (entry("a/" * 300 + "x"),))
    monkeypatch.setattr(limits, "MAX_ENTRIES", 1000)
    monkeypatch.setattr(limits, "MAX_STEPS", 100)
    with pytest.raises(ContainerError, match="more than 100 steps"):
        ramdisk_of(deep, times={1: 0})


def deep(count: int, depth: int) -> tuple[Entry, ...]:
    """Files each in folders of their own, of which no entry speaks."""
    return tuple(entry(f"{n}/" + "d/" * depth + "x") for n in range(count))


def sparse(count: int, pieces: int) -> tuple[Entry, ...]:
    """Files that are all holes."""
    numbers = ",".join(f"{2 * n + 1},0" for n in range(pieces))
    headers = {"GNU.sparse.map": numbers, "GNU.sparse.size": str(2 * pieces)}
    return tuple(entry(f"s{n}", pax_headers=headers) for n in range(count))


@pytest.mark.parametrize(
    ("layers", "limit", "value"),
    [
        ([deep(3, 10)], "MAX_ENTRIES", 20),
        ([deep(1, 10), deep(1, 10)], "MAX_ENTRIES", 20),
        ([(entry("a" * 60), entry("b" * 60))], "MAX_TEXT", 100),
        ([(symlink("a", "t" * 60),), (symlink("b", "t" * 60),)], "MAX_TEXT", 100),
        ([(entry("x", pax_headers={f"SCHILY.xattr.user.{'n' * 100}": "1"}),)], "MAX_TEXT", 100),
        ([sparse(1, 30), sparse(1, 30)], "MAX_PIECES", 50),
        ([deep(1, 30)], "MAX_PATHS", 400),
    ],
    ids=["implied", "implied-in-two", "names", "targets", "attributes", "pieces", "paths"],
)
def test_what_a_small_archive_would_take_of_memory_is_limited(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layers: Sequence[tuple[Entry, ...]],
    limit: str,
    value: int,
) -> None:
    """Over all layers together: a megabyte that unpacks to folders, targets or holes took five gigabytes."""
    path = write(tmp_path, *layers)
    monkeypatch.setattr(limits, limit, value)
    with pytest.raises(ContainerError, match=f"more than {value} ") as caught:
        ramdisk_of(path, times=dict.fromkeys(range(3), NOON))
    assert caught.value.code == "container-limit"


def test_the_pieces_of_one_archive_are_limited_where_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive is listed before it is known whether it is an image's."""
    monkeypatch.setattr(layertar, "MAX_PIECES", 50)
    with pytest.raises(ContainerError, match="more than 50 pieces"):
        ramdisk_of(write(tmp_path, sparse(2, 30)))


def test_a_tree_of_a_thousand_folders_inside_each_other_is_read(tmp_path: Path) -> None:
    """Nothing here recurses."""
    path = write(tmp_path, (entry("a/" * 1000 + "x"),), (entry("a/" * 1000 + "y"),))
    found = listed(ramdisk_of(path, times={1: NOON, 2: NOON}))
    assert "rootfs/" + "a/" * 1000 + "y" in found


def test_a_duplicate_file_counts_last(tmp_path: Path) -> None:
    """The containerd store takes it so."""
    assert made(tmp_path, (entry("x", b"1"), entry("x", b"22")))["x"]["content"] == b"22"
