"""`eif container check`: an enclave's file or registers against a container image, and what stays open."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from coattest_build import cli
from coattest_build.containers.blobs import boot_ramdisk
from support.build.container_images import Entry, entry, folder, ramdisk_of, saved, tar, tree_of
from support.build.found_images import nitro_boot
from support.build.images import SpecImage, pcr, plain
from support.shared_cases import shared_folder

KERNEL, CMDLINE, INIT, DRIVER = b"kernel" * 100, b"reboot=k panic=30", b"\x7fELF", b"ko"
DECIDED = saved([tar(folder("d"), entry("d/x", b"1"))])
LAYERS = (
    tar(folder("a", mode=0o750, uid=7, gid=8), entry("a/f")),
    tar(entry("a/g"), entry("new/h"), entry("new/i/k")),
)
OPEN = saved(LAYERS, {"Cmd": ["/a"], "WorkingDir": "/w"})
TIMES = {0: 900, 2: 800}


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """A folder as nitro-cli's; the command line ends with a newline, as AWS's does."""
    made = tmp_path / "blobs"
    made.mkdir()
    for name, data in (("bzImage", KERNEL), ("cmdline", CMDLINE + b"\n"), ("init", INIT), ("nsm.ko", DRIVER)):
        (made / name).write_bytes(data)
    return made


def eif_of(image: Path, application: bytes, **changes: Any) -> Path:
    """An image file of nitro-cli's shape beside the container image."""
    path = image.with_name("deployed.eif")
    made: SpecImage = plain(kernel=KERNEL, cmdline=CMDLINE, ramdisks=(nitro_boot(), application))
    for name, value in changes.items():
        setattr(made, name, value)
    path.write_bytes(made.build())
    return path


def expected_of(image: Path, application: bytes, *names: str) -> Path:
    """Its measurements, as nitro-cli prints them; the registers are computed here."""
    boot = nitro_boot()
    values = {
        "PCR0": pcr(KERNEL, CMDLINE, boot, application),
        "PCR1": pcr(KERNEL, CMDLINE, boot),
        "PCR2": pcr(application),
    }
    path = image.with_name("measurements.json")
    chosen = {name: values[name] for name in names or values}
    path.write_text(json.dumps({"Measurements": {"HashAlgorithm": "Sha384 { ... }", **chosen}}))
    return path


def check(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    """Run it here: the exit code and the document of --json."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["eif", "container", "check", *map(str, words), "--json"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


def places(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Code and place of each finding."""
    return [(finding["code"], finding["where"]) for finding in document["findings"]]


def test_the_boot_ramdisk_is_the_one_of_the_tests_own_writer() -> None:
    """An empty folder, init and driver."""
    assert b"".join(boot_ramdisk(INIT, DRIVER)) == nitro_boot()


def test_the_boot_ramdisk_of_aws_s_own_blobs_is_known() -> None:
    """The SHA-256 of nitro-cli 1.5.0's on x86_64."""
    folder_of_aws = Path("/usr/share/nitro_enclaves/blobs")
    if not (folder_of_aws / "nsm.ko").exists():
        pytest.skip("nitro-cli's blobs are not on this machine")
    made = b"".join(boot_ramdisk(*((folder_of_aws / name).read_bytes() for name in ("init", "nsm.ko"))))
    known = "c752bd2c30ce7f8449fcea83b05eb53a4a10302dfbc8f5ee8f8a48ae3976a8e2"
    assert (len(made), hashlib.sha256(made).hexdigest()) == (764416, known)


def test_the_same_image_is_the_same(image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0 for the file and for the registers, and each part is named."""
    image.write_bytes(DECIDED)
    application = ramdisk_of(image)
    code, document = check(capsys, image, "--eif", eif_of(image, application), "--blobs", blobs)
    assert (code, document["verdict"], document["times"]) == (0, "same", {})
    assert document["same"] == ["kernel", "command line", "boot ramdisk", "application ramdisk"]
    code, document = check(capsys, image, "--expect", expected_of(image, application), "--blobs", blobs)
    assert (code, document["same"]) == (0, ["PCR0", "PCR1", "PCR2"])
    assert check(capsys, image, "--expect", expected_of(image, application, "PCR2"))[0] == 0


def test_without_blobs_the_rest_stays_open(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 3: the application is the image's, and what runs it was not looked at."""
    image.write_bytes(DECIDED)
    application = ramdisk_of(image)
    for words in (("--eif", eif_of(image, application)), ("--expect", expected_of(image, application))):
        code, document = check(capsys, image, *words)
        assert (code, document["code"]) == (3, "blobs-missing")


def test_a_blob_that_is_not_there_is_named(
    image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a link in its place."""
    image.write_bytes(DECIDED)
    deployed = eif_of(image, ramdisk_of(image))
    (blobs / "nsm.ko").rename(blobs / "other")
    for _ in range(2):
        code, document = check(capsys, image, "--eif", deployed, "--blobs", blobs)
        assert (code, document["code"]) == (3, "blobs-missing")
        assert "nsm.ko" in document["where"]
        if not (blobs / "nsm.ko").is_symlink():
            (blobs / "nsm.ko").symlink_to("other")


def test_other_blobs_differ(image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each part by name; the registers, too."""
    image.write_bytes(DECIDED)
    application = ramdisk_of(image)
    for name, place in (("bzImage", "kernel"), ("cmdline", "command line"), ("init", "boot ramdisk")):
        before = (blobs / name).read_bytes()
        (blobs / name).write_bytes(before.replace(before[:1], b"?"))
        code, document = check(capsys, image, "--eif", eif_of(image, application), "--blobs", blobs)
        assert (code, places(document)) == (1, [("section-content", place)])
        code, document = check(capsys, image, "--expect", expected_of(image, application), "--blobs", blobs)
        assert (code, places(document)) == (1, [("measurement", "PCR0"), ("measurement", "PCR1")])
        (blobs / name).write_bytes(before)


CHANGES: dict[str, tuple[tuple[Entry, ...], list[tuple[str, str]]]] = {
    "content": ((folder("d"), entry("d/x", b"2")), [("entry-content", "d/x")]),
    "mode": ((folder("d"), entry("d/x", b"1", mode=0o755)), [("entry-mode", "d/x")]),
    "owner": ((folder("d", uid=1), entry("d/x", b"1")), [("entry-owner", "d/")]),
    "time": ((folder("d"), entry("d/x", b"1", mtime=5)), [("entry-mtime", "d/x")]),
    "one more": ((folder("d"), entry("d/x", b"1"), entry("d/y")), [("entry-added", "d/y")]),
    "one less": ((folder("d"),), [("entry-removed", "d/x")]),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_another_image_differs_with_path_and_kind(
    name: str, image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1, by the file and by PCR2."""
    entries, expected = CHANGES[name]
    other = image.with_name("other.tar")
    other.write_bytes(saved([tar(*entries)]))
    image.write_bytes(DECIDED)
    application = ramdisk_of(other)
    code, document = check(capsys, image, "--eif", eif_of(image, application), "--blobs", blobs)
    named = [(kind, f"application ramdisk: rootfs/{path.rstrip('/')}") for kind, path in expected]
    assert (code, places(document)) == (1, named)
    code, document = check(capsys, image, "--expect", expected_of(image, application, "PCR2"))
    assert (code, places(document)) == (1, [("measurement", "PCR2")])


def test_another_command_or_environment_differs(
    image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are files of the ramdisk."""
    image.write_bytes(saved([tar(folder("d"))], {"Cmd": ["/b"], "Env": ["A=1"]}))
    application = ramdisk_of(image)
    image.write_bytes(saved([tar(folder("d"))], {"Cmd": ["/a"], "Env": ["A=1"]}))
    code, document = check(capsys, image, "--eif", eif_of(image, application), "--blobs", blobs)
    assert (code, places(document)) == (1, [("entry-content", "application ramdisk: cmd")])


@pytest.mark.parametrize("end", [b"", b"more" * 128, bytes(512)])
def test_bytes_that_change_no_file_differ_too(
    end: bytes, image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are measured: an archive cut in its padding, and one with something after its end."""
    image.write_bytes(DECIDED)
    application = ramdisk_of(image)
    changed = application + end if end else application[:-4]
    code, _ = check(capsys, image, "--eif", eif_of(image, changed), "--blobs", blobs)
    assert code == 1


@pytest.mark.parametrize("store", ["overlay2", "containerd", "vfs"])
def test_open_times_are_taken_from_the_file_and_said(
    store: str, image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One for the layer, one for the container; modes and owners are those of one store."""
    image.write_bytes(OPEN)
    application = ramdisk_of(image, times=TIMES, store=store)
    code, document = check(capsys, image, "--eif", eif_of(image, application), "--blobs", blobs)
    assert (code, document["store"], document["times"]) == (0, store, {"0": 900, "2": 800})


def test_the_stores_differ_in_modes_and_owners(image: Path) -> None:
    """overlay2 forgets the lower folder's; the others keep it; a new folder is 755 or 600."""
    image.write_bytes(OPEN)
    found = {}
    for store in ("overlay2", "containerd", "vfs"):
        with tree_of(image) as tree:
            found[store] = {
                item.name: (item.mode, item.uid, item.gid)
                for item in tree.exported(store)
                if item.clock is not None
            }
    root = (0o755, 0, 0)
    assert found["overlay2"] == {b"a/": root, b"new/": root, b"new/i/": root, b"w/": root}
    assert found["containerd"] == {**found["overlay2"], b"a/": (0o750, 7, 8)}
    new = (0o600, 0, 0)
    assert found["vfs"] == {b"a/": (0o750, 7, 8), b"new/": new, b"new/i/": new, b"w/": root}


def test_registers_of_an_open_image_are_undecidable(
    image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 3 with the paths: a digest gives no times away."""
    image.write_bytes(OPEN)
    application = ramdisk_of(image, times=TIMES, store="overlay2")
    code, document = check(capsys, image, "--expect", expected_of(image, application), "--blobs", blobs)
    assert (code, document["code"]) == (3, "undecidable")
    assert [finding["where"] for finding in document["findings"]] == ["'/a'", "'/new'", "'/new/i'", "'/w'"]


def with_time(ramdisk: bytes, name: bytes, seconds: int) -> bytes:
    """The archive with another time in the header of one entry."""
    at = ramdisk.index(name + b"\0") - 110
    return ramdisk[: at + 46] + b"%08x" % seconds + ramdisk[at + 54 :]


def with_mode(ramdisk: bytes, name: bytes, mode: int) -> bytes:
    """The archive with another mode in the header of one entry."""
    at = ramdisk.index(name + b"\0") - 110
    return ramdisk[: at + 14] + b"%08x" % mode + ramdisk[at + 22 :]


def test_two_times_of_one_layer_stay_open(
    image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An extraction that took longer, or somebody's hand: the image does not say."""
    image.write_bytes(OPEN)
    application = with_time(ramdisk_of(image, times=TIMES, store="overlay2"), b"rootfs/new/", 801)
    code, document = check(capsys, image, "--eif", eif_of(image, application), "--blobs", blobs)
    assert (code, document["code"]) == (3, "undecidable")
    assert [finding["where"] for finding in document["findings"]] == ["application ramdisk: rootfs/new"]


@pytest.mark.parametrize("name", [b"rootfs/new/", b"rootfs/w/", b"rootfs/a/f"])
def test_nothing_but_those_times_is_taken(
    name: bytes, image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mode that no store makes, of a folder without an entry or of any file, is a difference."""
    image.write_bytes(OPEN)
    kind = 0o040000 if name.endswith(b"/") else 0o100000
    application = with_mode(ramdisk_of(image, times=TIMES, store="overlay2"), name, kind | 0o777)
    code, document = check(capsys, image, "--eif", eif_of(image, application), "--blobs", blobs)
    assert code == 1
    assert places(document) == [("entry-mode", f"application ramdisk: {name.decode().rstrip('/')}")]


def test_a_time_of_an_entry_is_not_taken(
    image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image decides it, also where other times are open."""
    image.write_bytes(OPEN)
    application = with_time(ramdisk_of(image, times=TIMES, store="overlay2"), b"rootfs/a/g", 801)
    code, document = check(capsys, image, "--eif", eif_of(image, application), "--blobs", blobs)
    assert (code, places(document)) == (1, [("entry-mtime", "application ramdisk: rootfs/a/g")])


def test_an_empty_command_is_either(image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both that nitro-cli may make are accepted, and no third."""
    image.write_bytes(saved([tar(folder("d"))], {"Cmd": [], "Entrypoint": ["/e"]}))
    for docker in (20, 29):
        application = ramdisk_of(image, docker=docker)
        assert check(capsys, image, "--eif", eif_of(image, application), "--blobs", blobs)[0] == 0
        assert check(capsys, image, "--expect", expected_of(image, application), "--blobs", blobs)[0] == 0
    other = image.with_name("other.tar")
    other.write_bytes(saved([tar(folder("d"))], {"Cmd": ["/e", ""]}))
    assert check(capsys, image, "--eif", eif_of(image, ramdisk_of(other)), "--blobs", blobs)[0] == 1


def test_an_image_file_of_another_shape_differs(
    image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One ramdisk more, which could replace any file; another machine."""
    image.write_bytes(DECIDED)
    application = ramdisk_of(image)
    deployed = eif_of(image, application)
    more = plain(kernel=KERNEL, cmdline=CMDLINE, ramdisks=(nitro_boot(), application, application))
    deployed.write_bytes(more.build())
    code, document = check(capsys, image, "--eif", deployed, "--blobs", blobs)
    assert (code, document["code"]) == (1, "section-missing")
    code, document = check(capsys, image, "--eif", eif_of(image, application, flags=1), "--blobs", blobs)
    assert (code, places(document)) == (1, [("header", "image")])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{}", "bad-file"),
        ("[]", "bad-file"),
        ("{", "bad-file"),
        ('{"Measurements": {"PCR2": "00"}}', "bad-pcr"),
        ('{"PCR2": 5}', "bad-pcr"),
        (json.dumps({"PCR2": "0" * 96}), "zero-pcr"),
        (json.dumps({"PCR2": pcr()}), "empty-pcr2"),
        (json.dumps({"PCR2": "a" * 96, "PCR0": "0" * 96}), "zero-pcr"),
    ],
)
def test_an_expectation_that_pins_nothing_is_refused(
    text: str, code: str, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, before the image is opened."""
    image.write_bytes(DECIDED)
    path = image.with_name("measurements.json")
    path.write_text(text)
    found, document = check(capsys, image, "--expect", path)
    assert (found, document["code"]) == (2, code)


def test_one_enclave_is_named(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its file or by its registers, not both and not neither."""
    image.write_bytes(DECIDED)
    application = ramdisk_of(image)
    both = ("--eif", eif_of(image, application), "--expect", expected_of(image, application))
    assert check(capsys, image)[0] == 2
    assert check(capsys, image, *both)[0] == 2
    image.with_name("deployed.eif").write_bytes(b"no image" * 100)
    assert check(capsys, image, "--eif", image.with_name("deployed.eif"))[0] == 2


@pytest.mark.parametrize("name", ["t2", "t6"])
def test_a_deployed_ramdisk_of_docker_is_found_equal(
    name: str, image: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What one Docker really made, but for the times of the named folders."""
    vectors = shared_folder("vectors/container")
    deployed = eif_of(image, (vectors / f"{name}.deployed.cpio").read_bytes())
    code, document = check(capsys, vectors / f"{name}.tar", "--eif", deployed, "--blobs", blobs)
    assert (code, document["verdict"], document["store"]) == (0, "same", "overlay2")
    assert set(document["times"]) == ({"0", "3"} if name == "t2" else {"2"})
