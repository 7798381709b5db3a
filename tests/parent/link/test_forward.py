"""A TCP port of the parent that leads to an enclave, and the proxy's list by name."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from coattest.errors import UsageError
from coattest.network import parse_network
from coattest_parent.link import forward
from coattest_parent.link.channels import Hybrid, Unix, Vsock, connect_to
from coattest_parent.link.forward import PortForwarder, parse_forward
from support.build.containers.own_enclaves import fill, own_enclave
from support.loopback import free_port
from support.parent.network import echo, serving

PROXY = [sys.executable, "-c", "from coattest_parent.cli.auction import main; main()", "proxy"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0.0.0.0:443=vsock:16:5005", (("0.0.0.0", 443), Vsock(16, 5005))),
        ("[::1]:8443=unix:/x", (("::1", 8443), Unix(Path("/x")))),
        ("127.0.0.1:0=hybrid:/x:5", (("127.0.0.1", 0), Hybrid(Path("/x"), 5))),
    ],
)
def test_where_from_and_where_to(text: str, found: object) -> None:
    """An address and a port of this machine, and an enclave."""
    assert parse_forward(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "443",
        "443=unix:/x",
        "a:443=unix:/x",
        "1.2.3.4:65536=unix:/x",
        "1.2.3.4:1",
        "1.2.3.4:1=x",
        "::=unix:/x",
    ],
)
def test_anything_else_is_no_forward(text: str) -> None:
    """A name would be resolved."""
    with pytest.raises(UsageError) as caught:
        parse_forward(text)
    assert caught.value.code == "bad-address"


@contextlib.contextmanager
def enclave(path: Path):  # type: ignore[no-untyped-def]
    """What returns everything, at a Unix socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    with serving(listener, echo):
        yield


def answer(port: int, data: bytes) -> bytes:
    """What comes back of it."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), 60) as client, contextlib.suppress(ConnectionError):
        client.sendall(data)
        try:
            client.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # reset already, which is no ConnectionError here
                raise
        while got := client.recv(65536):
            found += got
    return found


def test_bytes_go_both_ways_to_their_end(tmp_path: Path) -> None:
    """And an enclave that is not there closes one connection, not the port."""
    data = bytes(range(256)) * 1000
    with PortForwarder(("127.0.0.1", 0), Unix(tmp_path / "in")) as running:
        assert answer(running.port, b"x") == b""
        with enclave(tmp_path / "in"):
            assert answer(running.port, data) == data
        assert running.serving()


def test_connections_beyond_the_limit_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody outside takes the parent's descriptors."""
    monkeypatch.setattr(forward, "TUNNELS_OF_ONE", 1)
    with (
        enclave(tmp_path / "in"),
        PortForwarder(("127.0.0.1", 0), Unix(tmp_path / "in")) as running,
        socket.create_connection(("127.0.0.1", running.port), 60) as first,
    ):
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        assert answer(running.port, b"y") == b""


def test_the_command_carries_both_ways(tmp_path: Path) -> None:
    """A name of --connect, which is not resolved before it is asked for; a port of --forward."""
    out, status = Unix(tmp_path / "out"), Unix(tmp_path / "status")
    words = ["--listen", str(out), "--connect", "nobody.invalid:443", "--status", str(status)]
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    notify.settimeout(60)
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    with (
        notify,
        enclave(tmp_path / "in"),
        free_port() as free,
        subprocess.Popen(
            [*PROXY, *words, "--forward", f"127.0.0.1:{free}=unix:{tmp_path / 'in'}"],
            env=environment,
            stderr=subprocess.DEVNULL,
        ) as service,
    ):
        try:
            assert notify.recv(100) == b"READY=1"
            assert answer(free, b"hello") == b"hello"
            with connect_to(out, 60) as client:
                client.sendall(b"CONNECT other.invalid:443 HTTP/1.1\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 403")
        finally:
            service.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0


def test_the_list_is_taken_from_the_enclaves_image(tmp_path: Path) -> None:
    """What was measured may be reached, nothing else, and no port of it that leads nowhere is forwarded."""
    network = parse_network(["5005:8080"], ["127.0.0.1:1"])
    image = own_enclave(tmp_path / "x.eif", fill(tmp_path / "cache"), network=network)
    out = Unix(tmp_path / "out")
    line = [*PROXY, "--listen", str(out), "--eif", str(image), "--forward"]
    done = subprocess.run([*line, "127.0.0.1:0=vsock:16:5006"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "measured are 5005" in done.stderr
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    notify.settimeout(60)
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    with (
        notify,
        subprocess.Popen(
            [*line, "127.0.0.1:0=vsock:16:5005"], env=environment, stderr=subprocess.DEVNULL
        ) as service,
    ):
        try:
            assert notify.recv(100) == b"READY=1"
            for port, status in ((1, b"502"), (2, b"403")):  # nothing listens at either
                with connect_to(out, 60) as client:
                    client.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n" % port)
                    assert client.recv(100).startswith(b"HTTP/1.1 " + status)
        finally:
            service.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0


def test_an_image_without_a_network_is_refused(tmp_path: Path) -> None:
    """Exit 2 for one of the same kernel profile; 1 for no image at all, as for all who run one."""
    image = own_enclave(tmp_path / "x.eif", fill(tmp_path / "cache"))
    (tmp_path / "y.eif").write_bytes(b"no image" * 100)
    for path, code, says in ((image, 2, "has no network"), (tmp_path / "y.eif", 1, "not an EIF")):
        done = subprocess.run([*PROXY, "--eif", str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, says in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize("words", [[], ["--connect", "A.test:443"], ["--connect", "a"], ["--forward", "443"]])
def test_a_wrong_list_is_exit_2(words: list[str]) -> None:
    """Before anything listens."""
    done = subprocess.run([*PROXY, *words], capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
