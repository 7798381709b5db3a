"""`eif init`: the trees that it writes, and where it writes none."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from coattest.errors import UsageError
from coattest_build import image, starts
from coattest_build.cli import cli
from coattest_build.containers.own.profile import read_profile
from coattest_build.inputs import lock
from support.loopback import free_port

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("kind", "kernel", "words"),
    [
        ("python", image.MINIMAL, []),
        ("static", image.MINIMAL, []),
        ("node", image.CONTAINER, []),
        ("static", image.MINIMAL, ["--kernel", "minimal"]),
        ("python", image.CONTAINER, ["--kernel", "container"]),
        ("static", image.CONTAINER, ["--kernel", "container"]),
        ("container", image.CONTAINER, []),
    ],
)
def test_a_tree_is_whole(kind: str, kernel: str, words: list[str], tmp_path: Path) -> None:
    """Its image.toml parses, what it names is there, and kernel and init are coattest's with their pins."""
    folder = tmp_path / "mine"
    done = CliRunner().invoke(cli, ["init", kind, str(folder), "--json", *words])
    assert done.exit_code == 0, done.output
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(json.loads(done.output)["files"]) == written
    spec, own = image.load_spec(folder), image.load_spec(ROOT)
    assert spec.name == "mine"
    own_kernel = dataclasses.replace(own.kernel, profile=kernel)
    assert (spec.kernel, spec.toolchain, spec.cmdline) == (own_kernel, own.toolchain, own.cmdline)
    assert (folder / spec.kernel.config).read_bytes().startswith((ROOT / spec.kernel.config).read_bytes())
    files = [(folder / path).read_bytes() for path in (spec.kernel.config, spec.kernel.init)]
    if kernel == image.CONTAINER:
        profile = read_profile()
        assert (files, spec.container) == (
            [profile.fragment, profile.init],
            image.ContainerRun("" if kind == "container" else "65534", nsm=True),
        )
    else:
        assert files == [(ROOT / path).read_bytes() for path in (spec.kernel.config, spec.kernel.init)]
        assert spec.container is None
    pins, (ours, _) = lock.load_lock(folder)[0], lock.load_lock(ROOT)
    assert pins.used_for("kernel") == ours.used_for("kernel")
    assert [pin.sha256 for pin in pins.used_for("toolchain")] == [
        pin.sha256 for pin in ours.used_for("toolchain")
    ]
    assert pins.used_for("runtime") == pins.wheels == ()
    sources = [source for _, source in (*spec.files, *spec.profiles)]
    assert [name for name in sources if not (folder / name).exists()] == (
        ["enclave/program"] if kind == "static" else []
    )


def test_a_service_that_needs_tcp_is_not_written_for_a_kernel_without(tmp_path: Path) -> None:
    """It would end at its start."""
    for kind in ("node", "container"):
        with pytest.raises(UsageError, match=f"{kind} needs the kernel profile container"):
            starts.write_start(kind, tmp_path / kind, image.MINIMAL)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    """Nothing is written."""
    (tmp_path / "mine").write_text("")
    done = CliRunner().invoke(cli, ["init", "python", str(tmp_path)])
    assert isinstance(done.exception, UsageError)
    assert done.exception.code == "not-empty"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_names_that_an_image_cannot_have_become_enclave(tmp_path: Path) -> None:
    """The folder's name is the image's where the grammar allows it."""
    done = CliRunner().invoke(cli, ["init", "static", str(tmp_path / "my enclave")])
    assert done.exit_code == 0
    assert image.load_spec(tmp_path / "my enclave").name == "enclave"
    assert "my enclave'" in next(line for line in done.output.splitlines() if line.startswith("  cd '"))


def test_no_request_ends_the_service_of_node(tmp_path: Path) -> None:
    """What is no address throws, and what nobody catches ends the program and with it the enclave."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    starts.write_start("node", tmp_path / "mine")
    app = tmp_path / "mine/enclave/app"
    with free_port() as port:
        host = (app / "host.js").read_text().replace("PORT = 8080", f"PORT = {port}")
        (app / "host.js").write_text(host)
        with subprocess.Popen([node, str(app / "server.js")], stderr=subprocess.DEVNULL) as service:
            try:
                answers = [status_of(port, path) for path in ("//", "/hello/%zz?nonce=" + "00" * 32, "/")]
            finally:
                service.kill()
    assert answers == [b"500", b"500", b"404"]


def connected(port: int) -> socket.socket:
    """A connection, as soon as somebody listens."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 60)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def status_of(port: int, path: str) -> bytes:
    """The status of an answer; empty where there is none."""
    with connected(port) as stream:
        stream.sendall(f"GET {path} HTTP/1.1\r\nHost: enclave\r\nConnection: close\r\n\r\n".encode())
        return stream.recv(4096)[9:12]


def test_the_program_says_what_to_type_next(tmp_path: Path) -> None:
    """One command a line."""
    shown = CliRunner().invoke(cli, ["init", "python", str(tmp_path / "mine")]).output.splitlines()
    assert f"  cd {tmp_path / 'mine'}" in shown
    assert "  eif build --out out" in shown
