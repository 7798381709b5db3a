"""`eif container check --style coattest`: kernel, init, files and what runs, all from pins and the image."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coattest.network import NO_NETWORK, parse_network
from coattest_build.formats.measure import measure
from support.build.container_images import Entry, entry, folder, saved, symlink, tar
from support.build.containers.command import run
from support.build.containers.own_enclaves import fill, own_enclave

CONFIG: Mapping[str, Any] = {"Cmd": ["/bin/a", "x"], "Env": ["A=1"], "User": "7:8", "WorkingDir": "/d"}
FILES: Sequence[Entry] = (
    folder("bin"),
    entry("bin/a", b"program", mode=0o755),
    folder("d"),
    entry("d/x", b"1"),
)

Deployed = Callable[..., Path]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with a kernel of this installation that nobody compiled."""
    return fill(tmp_path / "cache")


@pytest.fixture
def deployed(tmp_path: Path, cache: Path) -> Deployed:
    """Makes the image file of other entries, another configuration or another kernel."""

    def make(
        entries: Sequence[Entry] = FILES, config: Mapping[str, Any] = CONFIG, own: Path = cache, **run: Any
    ) -> Path:
        return own_enclave(tmp_path / "deployed.eif", own, entries, config, **run)

    return make


@pytest.fixture
def asked(image: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any]]:
    """Runs the command on the image of FILES and CONFIG: exit code and JSON."""
    image.write_bytes(saved([tar(*FILES)], CONFIG))

    def check(*words: object, kept: Path = cache) -> tuple[int, Any]:
        line = ("check", image, "--style", "coattest", "--cache", kept, *words, "--json")
        code, shown, _ = run(capsys, *line)
        return code, json.loads(shown)

    return check


Asked = Callable[..., tuple[int, Any]]


def places(document: Any) -> list[tuple[str, str]]:
    """Code and place of each finding."""
    return [(finding["code"], finding["where"]) for finding in document["findings"]]


def measurements(target: Path) -> Path:
    """What nitro-cli prints of an image file."""
    path = target.with_suffix(".json")
    path.write_text(json.dumps(measure(target).nitro_json()))
    return path


def test_the_same_image_is_the_same(deployed: Deployed, asked: Asked) -> None:
    """Exit 0 for the file and for the registers; the metadata, which nobody measures, is not looked at."""
    target = deployed()
    code, document = asked("--eif", target)
    assert (code, document["verdict"], document["times"]) == (0, "same", {})
    assert document["same"] == ["kernel", "command line", "boot ramdisk", "application ramdisk"]
    code, document = asked("--expect", measurements(target))
    assert (code, document["same"]) == (0, ["PCR0", "PCR1", "PCR2"])


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ((*FILES[:3], entry("d/x", b"2")), [("entry-content", "d/x")]),
        ((*FILES[:3], entry("d/x", b"1", mode=0o600)), [("entry-mode", "d/x")]),
        ((*FILES[:3], entry("d/x", b"1", uid=5)), [("entry-owner", "d/x")]),
        ((*FILES, entry("d/y")), [("entry-added", "d/y")]),
        (FILES[:3], [("entry-removed", "d/x")]),
        ((*FILES[:3], symlink("d/x", "1")), [("entry-type", "d/x")]),
    ],
)
def test_another_file_differs_with_path_and_kind(
    entries: Sequence[Entry], found: list[tuple[str, str]], deployed: Deployed, asked: Asked
) -> None:
    """Exit 1, by the file and by the registers; the kernel is still the same."""
    target = deployed(entries)
    code, document = asked("--eif", target)
    where = [(kind, f"application ramdisk: rootfs/{path}") for kind, path in found]
    assert (code, places(document)) == (1, where)
    code, document = asked("--expect", measurements(target))
    assert (code, places(document)) == (1, [("measurement", "PCR0"), ("measurement", "PCR2")])


@pytest.mark.parametrize(
    ("field", "change", "both"),
    [
        ("command", {"Cmd": ["/bin/a", "y"]}, ("['/bin/a', 'x']", "['/bin/a', 'y']")),
        ("uid", {"User": "0:8"}, ("7", "0")),
        ("working_dir", {"WorkingDir": "/bin"}, ("'/d'", "'/bin'")),
    ],
)
def test_what_runs_differs_field_by_field(
    field: str, change: Mapping[str, Any], both: tuple[str, str], deployed: Deployed, asked: Asked
) -> None:
    """With both values, of which the first is the container image's."""
    code, document = asked("--eif", deployed(config={**CONFIG, **change}))
    assert code == 1
    (finding,) = document["findings"]
    assert finding["where"] == f"application ramdisk: run: {field}"
    assert (finding["expected"], finding["found"]) == both
    code, document = asked("--eif", deployed(config={**CONFIG, "Env": ["A=2"]}))
    (finding,) = document["findings"]
    assert ("'A=1'" in finding["expected"], "'A=2'" in finding["found"]) == (True, True)


def test_nsm_and_network_are_said_and_never_taken_from_the_file(deployed: Deployed, asked: Asked) -> None:
    """An enclave with more than was said differs; with what was said it is the same."""
    network = parse_network(["5005:8080"], ["api.example.org:443"])
    target = deployed(nsm=True, network=network)
    said = ("--nsm", "--listen", "5005:8080", "--connect", "api.example.org:443")
    assert asked("--eif", target, *said)[0] == 0
    code, document = asked("--eif", target)
    run_fields = [where.rpartition(" ")[2] for _, where in places(document)]
    assert (code, run_fields) == (1, ["environment", "nsm", "network"])
    code, document = asked("--eif", target, *said[:3], *said[3:], "--connect", "more.example.org:443")
    assert (code, places(document)) == (1, [("entry-content", "application ramdisk: run: network")])
    assert asked("--eif", deployed(nsm=True, network=NO_NETWORK), "--nsm")[0] == 0


def test_another_kernel_differs(deployed: Deployed, asked: Asked, tmp_path: Path) -> None:
    """By name in the file, by PCR0 and PCR1 in the registers."""
    fill(tmp_path / "other", b"other" * 100)
    target = deployed(own=tmp_path / "other")
    code, document = asked("--eif", target)
    assert (code, places(document)) == (1, [("section-content", "kernel")])
    code, document = asked("--expect", measurements(target))
    assert (code, places(document)) == (1, [("measurement", "PCR0"), ("measurement", "PCR1")])


def test_without_a_compiled_kernel_the_rest_stays_open(
    deployed: Deployed, asked: Asked, tmp_path: Path
) -> None:
    """Exit 3, and what to run; a damaged kernel is none; a file that differs is 1 all the same."""
    target = deployed()
    for words in (("--eif", target), ("--expect", measurements(target))):
        code, document = asked(*words, kept=tmp_path / "empty")
        assert (code, document["code"]) == (3, "blobs-missing")
        assert "eif container build --style coattest" in document["error"]
    fill(tmp_path / "damaged")
    (kept,) = (tmp_path / "damaged/kernel").iterdir()
    (kept / "bzImage").write_bytes(b"changed")
    assert asked("--eif", target, kept=tmp_path / "damaged")[0] == 3
    assert asked("--eif", deployed(FILES[:3]), kept=tmp_path / "empty")[0] == 1


def test_an_enclave_of_another_style_differs(deployed: Deployed, asked: Asked, image: Path) -> None:
    """A file without what coattest's init reads differs there; options of the other style are refused."""
    target = deployed()
    raw = target.read_bytes()
    at = raw.index(b"coattest-run/v1")
    target.write_bytes(raw[:at] + b"coattest-run/v2" + raw[at + 15 :])
    code, document = asked("--eif", target)
    assert code == 1
    assert ("entry-content", "application ramdisk: run") in places(document)
    assert asked("--eif", target, "--blobs", image.parent)[0] == 2


def test_the_style_is_said(
    image: Path, deployed: Deployed, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what is the same, in the JSON, and where something differs with what to type for the other one."""
    image.write_bytes(saved([tar(*FILES)], CONFIG))
    file = deployed()
    words = ("check", image, "--eif", file)
    code, shown, _ = run(capsys, *words, "--style", "coattest", "--cache", cache)
    assert (code, shown.splitlines()[0]) == (0, "style: coattest")
    code, shown, _ = run(capsys, *words, "--style", "coattest", "--cache", cache, "--json")
    assert json.loads(shown)["style"] == "coattest"
    code, shown, said = run(capsys, *words)
    assert (code, shown.splitlines()[0]) == (1, "style: nitro-cli")
    assert "was it built by coattest? Then --style coattest" in " ".join(said.split())
