"""Whether the program that a container image names is there, as Linux looks for it at the start."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.build.container_images import Entry, entry, folder, saved, symlink, tar
from support.build.containers.command import run
from support.build.containers.own_enclaves import fill


def linked(loader: str) -> bytes:
    """As much of a program as names its loader (System V ABI: header, one segment)."""
    text = loader.encode() + b"\0"
    header = b"\x7fELF\x02\x01".ljust(32, b"\0") + struct.pack("<Q14xHH6x", 64, 56, 1)
    return header + struct.pack("<I4xQQ8xQ16x", 3, 120, 0, len(text)) + text


def hole(name: str, data: bytes) -> Entry:
    """A sparse file (GNU format 1.0): its data, then nothing."""
    pax = {"major": "1", "minor": "0", "name": name, "realsize": str(1 << 20)}
    headers = {f"GNU.sparse.{key}": value for key, value in pax.items()}
    content = f"1\n0\n{len(data)}\n".encode().ljust(512, b"\0") + data
    return entry(name, content, mode=0o755, pax_headers=headers)


FILES = tar(
    *(folder(name) for name in ("app", "bin", "sbin", "tmp", "usr", "usr/bin", "work")),
    entry("app/run", b"x", mode=0o755),
    entry("app/data", b"x", mode=0o644),
    entry("app/private", b"x", mode=0o700, uid=7),
    entry("app/group", b"x", mode=0o750, uid=7, gid=8),
    entry("tmp/late", b"x", mode=0o755),
    entry("usr/bin/sh", b"x", mode=0o755),
    entry("bin/data", b"x", mode=0o644),
    entry("usr/bin/data", b"x", mode=0o755),
    symlink("bin/app", "/work/../app/run"),
    symlink("bin/loop", "loop"),
    symlink("bin/gone", "../nowhere"),
    symlink("inside", "app"),
    entry("app/script", b"#! /usr/bin/sh -e\nx\n", mode=0o755),
    entry("app/bash", b"#!/bin/bash\n", mode=0o755),
    entry("app/second", b"#!/app/bash\n", mode=0o755),
    entry("app/circle", b"#!/app/circle\n", mode=0o755),
    entry("app/true", linked("/lib64/ld-linux-x86-64.so.2"), mode=0o755),
    entry("sbin/twice", b"#!/bin/bash\n", mode=0o755),
    entry("usr/bin/twice", b"x", mode=0o755),
    hole("app/hole", b"#!/bin/bash\n"),
)

Said = Callable[[Mapping[str, Any]], tuple[str | None, str | None]]


@pytest.fixture
def said(image: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    """Why a program of FILES would not start with style coattest, and with nitro-cli; None where it would."""

    def inspect(config: Mapping[str, Any]) -> tuple[str | None, str | None]:
        image.write_bytes(saved([FILES], config))
        code, shown, _ = run(capsys, "inspect", image, "--json")
        document = json.loads(shown)
        assert code == 0
        _, found, why = document["nitro_cli"]["why"].partition("nothing would start: ")
        return document["coattest"]["why_not"], why if found else None

    return inspect


@pytest.mark.parametrize(
    "config",
    [
        {"Cmd": ["/app/run"]},
        {"Cmd": ["sh"]},
        {"Cmd": ["app"]},
        {"Cmd": ["data"]},
        {"Cmd": ["/inside/../app/./run"]},
        {"Cmd": ["/proc/self/exe"]},
        {"Cmd": ["/app/script"]},
        {"Entrypoint": ["inside/run"]},
    ],
)
def test_a_program_is_found_as_linux_finds_it(said: Said, config: Mapping[str, Any]) -> None:
    """By its path, in PATH behind a file that may not be executed, through links of the image."""
    assert said(config) == (None, None)


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("/app/server", "'/app/server' is not in the image"),
        ("/app/run/x", "is not in the image"),
        ("/bin/loop", "is not in the image"),
        ("/bin/gone", "or a link that leads nowhere"),
        ("/app", "'/app' is not a file"),
        ("/app/data", "'/app/data' may not be executed"),
        ("server", "no program 'server' in /"),
        ("gone", "no program 'gone' in /"),
        ("/dev/tool", "is not in the image"),
        ("/app/bash", "'/app/bash' needs another file, and '/bin/bash' is not in the image"),
        ("/app/second", "'/app/bash' needs another file, and '/bin/bash' is not in the image"),
        ("/app/circle", "more than 6 interpreters"),
        ("/app/hole", "and '/bin/bash' is not in the image"),
        ("/app/true", "'/app/true' needs another file, and '/lib64/ld-linux-x86-64.so.2' is not in"),
    ],
)
def test_a_program_that_does_not_start_is_said_for_both_styles(said: Said, word: str, what: str) -> None:
    """In the enclave it would be an early end, and nothing else."""
    for why in said({"Cmd": [word]}):
        assert why is not None
        assert what in why


@pytest.mark.parametrize(
    ("config", "starts"),
    [
        ({"Cmd": ["run"], "Env": ["PATH=app:/app"]}, (True, False)),
        ({"Cmd": ["./run"], "WorkingDir": "/app"}, (True, False)),
        ({"Cmd": ["sh"], "Env": ["PATH=/app"]}, (False, True)),
        ({"Cmd": ["/tmp/late"]}, (True, False)),
        ({"Cmd": ["/app/private"], "User": "9"}, (False, True)),
        ({"Cmd": ["/app/group"], "User": "9:8"}, (True, True)),
        ({"Cmd": ["/app/group"], "User": "9:9"}, (False, True)),
        ({"Cmd": ["/app/private"], "User": "7"}, (True, True)),
        ({"Cmd": ["/app/run"], "Entrypoint": ["/lost"]}, (False, True)),
        ({"Cmd": ["/app/run\nx"]}, (False, True)),
        ({"Cmd": ["twice"], "Env": ["PATH=/sbin:/usr/bin"]}, (False, True)),
    ],
)
def test_each_init_looks_in_its_own_way(
    said: Said, config: Mapping[str, Any], starts: tuple[bool, bool]
) -> None:
    """AWS's knows one PATH, starts in / as root, mounts over /tmp, and drops an Entrypoint beside a Cmd."""
    assert tuple(why is None for why in said(config)) == starts


def test_every_command_tells_it(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """inspect in a line; style coattest refuses before it compiles; of nitro-cli's style it is a note."""
    image.write_bytes(saved([FILES], {"Entrypoint": ["/app/server"]}))
    expected = tmp_path / "m.json"
    expected.write_text(json.dumps({"PCR2": "ab" * 48}))
    shown = " ".join(run(capsys, "inspect", image)[1].split())
    assert "nothing runs: '/app/server' is not in the image" in shown
    assert "nothing would start: '/app/server' is not in the image" in shown
    new, cache = tmp_path / "new", fill(tmp_path / "cache")
    for words in (
        ("check", image, "--style", "coattest", "--expect", expected, "--cache", cache),
        ("build", image, "--style", "coattest", "--out", new, "--cache", cache),
        ("ramdisk", image, "--style", "coattest", "--out", new),
    ):
        code, shown, said = run(capsys, *words)
        assert (code, shown) == (2, "")
        assert "config: Entrypoint: '/app/server' is not in the image" in " ".join(said.split())
    assert not new.exists()
    for code, *words in (
        (1, "check", image, "--style", "nitro-cli", "--expect", expected),
        (0, "ramdisk", image, "--style", "nitro-cli", "--out", new),
    ):
        found, _, said = run(capsys, *words)
        assert found == code
        assert "note: in an enclave of nitro-cli nothing would start" in " ".join(said.split())
