"""`eif container`: what it prints, writes and refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from support.build.container_images import entry, folder, listed, ramdisk_of, saved, sha256, tar
from support.build.containers.command import run
from support.build.images import plain

DECIDED = saved([tar(folder("d"), entry("d/x", b"1"))])
OPEN = saved(
    [tar(entry("p/x"))],
    {
        "Cmd": ["/a"],
        "Entrypoint": ["/e"],
        "User": "web",
        "WorkingDir": "/w",
        "Volumes": {"/v": {}},
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD", "x"]},
    },
)
EXPORT = tar(folder("d"), entry("d/x"))


def test_the_ramdisk_is_written_whole_and_its_digest_is_printed(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As text and as JSON."""
    image.write_bytes(DECIDED)
    target = image.with_name("out.cpio")
    code, shown, _ = run(capsys, "ramdisk", image, "--style", "nitro-cli", "--out", target)
    assert code == 0
    assert target.read_bytes() == ramdisk_of(image)
    assert sha256(target.read_bytes()) in shown
    code, shown, _ = run(capsys, "ramdisk", image, "--style", "nitro-cli", "--out", target, "--json")
    written = target.read_bytes()
    pcr2 = hashlib.sha384(bytes(48) + hashlib.sha384(written).digest()).hexdigest()
    document = {"ramdisk": str(target), "sha256": sha256(written), "size": len(written), "PCR2": pcr2}
    assert (code, json.loads(shown)) == (0, document)


def test_undecided_bytes_are_not_written(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 3 with each path; --time for each clock writes them, and says so."""
    image.write_bytes(OPEN)
    target = image.with_name("out.cpio")
    words = ("ramdisk", image, "--style", "nitro-cli", "--out", target)
    code, shown, _ = run(capsys, *words, "--json")
    document = json.loads(shown)
    assert (code, document["code"]) == (3, "undecidable")
    assert [finding["where"] for finding in document["findings"]] == ["'/p'", "'/w'"]
    assert run(capsys, *words, "--time", "1=5")[0] == 3
    assert [path.name for path in image.parent.iterdir()] == ["image.tar"]
    code, _, said = run(capsys, *words, "--time", "1=5", "--time", "0=6")
    assert code == 0
    assert "overlay2" in said
    assert listed(target.read_bytes())["rootfs/p/"]["mtime"] == 5
    assert run(capsys, *words, "--time", "1=5", "--time", "0=6", "--store", "vfs")[0] == 0
    assert listed(target.read_bytes())["rootfs/p/"]["mode"] == 0o40600


@pytest.mark.parametrize(
    ("data", "words", "names"),
    [
        (DECIDED, ("--time", "1=5"), "--time 1 would do nothing"),
        (DECIDED, ("--docker", "20"), "--docker would do nothing"),
        (DECIDED, ("--store", "vfs"), "--store would do nothing"),
        (DECIDED, ("--cmd", "x"), "--cmd would do nothing"),
        (EXPORT, ("--cmd", "x", "--docker", "20"), "--docker would do nothing"),
        (EXPORT, (), "does not say what runs"),
        (EXPORT, ("--cmd", "x", "--ref", "y"), "--ref and --platform would do nothing"),
        (DECIDED, ("--time", "1=x"), "--time"),
        (DECIDED, ("--time", "1=5", "--time", "1=6"), "--time"),
        (DECIDED, ("--time", "0=4294967296"), "--time"),
        (DECIDED, ("--platform", "linux"), "--platform"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(
    data: bytes, words: tuple[str, ...], names: str, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, and nothing is written."""
    image.write_bytes(data)
    target = image.with_name("out.cpio")
    code, _, said = run(capsys, "ramdisk", image, "--style", "nitro-cli", "--out", target, *words)
    assert code == 2
    assert names in said
    assert not target.exists()


def test_an_export_is_given_its_command(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Word by word, and the environment."""
    image.write_bytes(EXPORT)
    target = image.with_name("out.cpio")
    words = ("--cmd", "/d/x", "--cmd", "y z", "--env", "A=1")
    assert run(capsys, "ramdisk", image, "--style", "nitro-cli", "--out", target, *words)[0] == 0
    found = listed(target.read_bytes())
    assert (found["cmd"]["content"], found["env"]["content"]) == (b"/d/x\ny z\n", b"A=1\n")


def test_inspect_says_what_becomes_of_the_image(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What runs, what Docker decides with the way out, and what an enclave does not give."""
    image.write_bytes(OPEN)
    code, shown, _ = run(capsys, "inspect", image)
    assert code == 0
    for text in ("linux/amd64", "drops the Entrypoint", "'/p'", "'/w'", "RUN mkdir -p"):
        assert text in shown
    given = ("USER web", "WORKDIR /w", "VOLUME /v", "EXPOSE 80/tcp", "STOPSIGNAL SIGINT", "HEALTHCHECK")
    for text in (*given, "DNS"):
        assert text in shown
    code, shown, _ = run(capsys, "inspect", image, "--json")
    document = json.loads(shown)
    assert code == 0
    assert document["nitro_cli"]["command"] == ["/a"]
    assert [finding["where"] for finding in document["undecided"]] == ["'/p'", "'/w'"]
    assert document["layers"][0]["diff_id"] == f"sha256:{sha256(tar(entry('p/x')))}"
    assert document["config"]["entrypoint"] == ["/e"]
    assert "USER names the user 'web'" in document["coattest"]["why_not"]
    wanted = ("VOLUME /v", "EXPOSE 80/tcp", "STOPSIGNAL", "HEALTHCHECK", "times of files", "DNS", "a way out")
    lines = document["coattest"]["not_given"]
    assert [line.startswith(text) for line, text in zip(lines, wanted, strict=True)] == [True] * 7


def test_inspect_says_what_runs_in_an_enclave_of_coattest(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both words, as a user of the image, in its folder; file capabilities are not there."""
    capable = {"pax_headers": {"SCHILY.xattr.security.capability": "x"}}
    layer = tar(folder("etc"), entry("etc/passwd", b"web:x:7:8::/h:/x\n"), entry("e", mode=0o755, **capable))
    config = {"Cmd": ["b c"], "Entrypoint": ["/e"], "User": "web", "WorkingDir": "/w"}
    image.write_bytes(saved([layer], config))
    document = json.loads(run(capsys, "inspect", image, "--json")[1])["coattest"]
    assert document["runs"]["command"] == ["/e", "b c"]
    assert document["not_given"][0] == "file capabilities: a ramdisk has none"
    shown = " ".join(run(capsys, "inspect", image)[1].split())
    assert "runs '/e' 'b c' in '/w' as uid 7, gid 8, groups 8" in shown


@pytest.mark.parametrize(
    ("run_config", "where"),
    [({"Cmd": [], "Entrypoint": ["/e"]}, "config: Cmd"), ({"Cmd": ["/a"]}, None)],
)
def test_inspect_names_an_empty_command(
    run_config: dict[str, list[str]], where: str | None, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is Docker's choice what it means."""
    image.write_bytes(saved([tar(folder("d"))], run_config))
    document = json.loads(run(capsys, "inspect", image, "--json")[1])
    assert [finding["where"] for finding in document["undecided"]] == ([where] if where else [])


def test_inspect_reads_an_export_and_an_image_without_a_command(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither runs anything, and both can be looked at."""
    for data in (EXPORT, saved([tar(folder("d"))], {})):
        image.write_bytes(data)
        code, shown, _ = run(capsys, "inspect", image, "--json")
        assert (code, json.loads(shown)["nitro_cli"]["command"]) == (0, None)


def test_names_in_an_image_do_not_move_the_cursor(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters of paths, words and texts are escaped."""
    evil = "\x1b[2J\u202e"
    run_config = {"Cmd": [evil], "User": evil, "WorkingDir": f"/{evil}", "Env": [evil], "StopSignal": evil}
    image.write_bytes(saved([tar(entry(f"{evil}/x"))], run_config, tags=[evil]))
    code, shown, said = run(capsys, "inspect", image)
    assert code == 0
    assert not {"\x1b", "\u202e"} & set(shown + said)
    code, _, said = run(capsys, "ramdisk", image, "--style", "nitro-cli", "--out", image.with_name("out"))
    assert code == 3
    assert not {"\x1b", "\u202e"} & set(said)


@pytest.mark.parametrize("verb", ["inspect", "ramdisk"])
def test_a_digest_that_does_not_hold_is_exit_1_and_no_image_exit_2(
    verb: str, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one line of what and where."""
    words = ("--style", "nitro-cli", "--out", image.with_name("out")) if verb == "ramdisk" else ()
    image.write_bytes(DECIDED.replace(b"d/x", b"d/y"))
    assert run(capsys, verb, image, *words)[0] == 1
    image.write_bytes(b"no archive" * 100)
    code, _, said = run(capsys, verb, image, *words)
    assert code == 2
    assert str(image) in said
    assert not image.with_name("out").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            plain().build(),
            "is the image file of an enclave (EIF), not a container image (`eif describe`",
        ),
        (b"", "is empty (give an OCI layout, an archive of docker save"),
        (b"text", "is too short for an archive (give an OCI layout, an archive of docker save"),
        (b"text" * 500, "a number in a tar header is not octal (give an OCI layout"),
        (None, "not an OCI layout: it has no index.json (give an OCI layout"),
    ],
)
def test_what_is_given_in_place_of_a_container_image_is_named(
    image: Path, content: bytes | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An enclave's image, nothing, no archive, any folder."""
    if content is None:
        image.mkdir()
    else:
        image.write_bytes(content)
    code, _, told = run(capsys, "inspect", image)
    assert (code, said in told) == (2, True)


def test_an_image_file_is_no_measurements(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The option for it is named."""
    image.write_bytes(EXPORT)
    enclave = image.with_name("x.eif")
    enclave.write_bytes(plain().build())
    code, _, told = run(capsys, "check", image, "--expect", enclave)
    assert (code, "(EIF), not measurements (give it with --eif)" in told) == (2, True)
