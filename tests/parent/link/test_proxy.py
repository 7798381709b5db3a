"""The byte proxy: what it lets through and what it does not."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coattest_parent.link import loop, proxy
from coattest_parent.link.channels import Unix, connect_to
from coattest_parent.link.proxy import ConnectProxy, kms_allow_list
from support.loopback import free_port

NAME = "kms.eu-central-1.coattest.test:443"


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    """A TCP server on loopback that returns what it gets, until the client has finished writing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    threading.Thread(target=echo, args=(peer,), daemon=True).start()

        def echo(peer: socket.socket) -> None:
            with peer, contextlib.suppress(ConnectionError):
                while data := peer.recv(65536):
                    peer.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def ask(address: Unix, head: bytes) -> tuple[socket.socket, bytes]:
    """A connection to the proxy and its answer to ``head``."""
    client = connect_to(address, 60)
    client.sendall(head)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        data = client.recv(1)
        if not data:
            break
        answer += data
    return client, answer


def connect_head(name: str) -> bytes:
    return f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()


def test_an_allowed_name_reaches_its_target(tmp_path: Path) -> None:
    """Bytes go both ways, in full and in order, and the end of one direction is passed on."""
    address = Unix(tmp_path / "out_8000.sock")
    payload = bytes(range(256)) * 4096
    with echo_server() as port, ConnectProxy(address, {NAME: ("127.0.0.1", port)}):
        client, answer = ask(address, connect_head(NAME))
        with client:
            assert answer.startswith(b"HTTP/1.1 200 ")
            sender = threading.Thread(
                target=lambda: (client.sendall(payload), client.shutdown(socket.SHUT_WR))
            )
            sender.start()
            received = b""
            while data := client.recv(65536):
                received += data
            sender.join()
    assert received == payload


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (connect_head("kms.eu-west-1.coattest.test:443"), b"403"),
        (connect_head("KMS.eu-central-1.coattest.test:443"), b"403"),
        (connect_head("kms.eu-central-1.coattest.test:80"), b"403"),
        (connect_head("169.254.169.254:80"), b"403"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT a b:443 HTTP/1.1\r\n\r\n", b"400"),
        (b"CONNECT kms:443\r\n\r\n", b"400"),
    ],
)
def test_everything_else_is_refused(tmp_path: Path, head: bytes, status: bytes) -> None:
    """A name that is not on the list, byte for byte, goes nowhere; neither does another method."""
    address = Unix(tmp_path / "out_8000.sock")
    with echo_server() as port, ConnectProxy(address, {NAME: ("127.0.0.1", port)}) as running:
        client, answer = ask(address, head)
        client.close()
        assert answer.split()[1] == status
        assert running.tunnels_opened == 0


def test_a_target_that_is_down_is_a_bad_gateway(tmp_path: Path) -> None:
    """An allowed name whose target does not answer gives 502, and the proxy goes on."""
    address = Unix(tmp_path / "out_8000.sock")
    with free_port() as dead, ConnectProxy(address, {NAME: ("127.0.0.1", dead)}):
        for _ in range(2):
            client, answer = ask(address, connect_head(NAME))
            client.close()
            assert answer.split()[1] == b"502"


def test_an_endless_head_is_cut_off(tmp_path: Path) -> None:
    """A request head beyond the limit ends the connection without an answer."""
    address = Unix(tmp_path / "out_8000.sock")
    with ConnectProxy(address, {}):
        client = connect_to(address, 60)
        with client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(b"CONNECT " + b"a" * (proxy.HEAD_MAX * 4))
            assert client.recv(100) == b""


def test_more_tunnels_than_the_limit_are_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections beyond the limit are answered 503, and one that ends makes room."""
    monkeypatch.setattr(proxy, "TUNNELS_MAX", 1)
    address = Unix(tmp_path / "out_8000.sock")
    with echo_server() as port, ConnectProxy(address, {NAME: ("127.0.0.1", port)}):
        first, answer = ask(address, connect_head(NAME))
        assert answer.split()[1] == b"200"
        second = connect_to(address, 60)
        assert second.recv(100).split()[1] == b"503"
        second.close()
        first.shutdown(socket.SHUT_WR)
        assert first.recv(1) == b""
        first.close()


def test_a_peer_that_takes_nothing_does_not_hold_its_tunnel_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an idle tunnel still has to give is dropped after a while, and its socket with it."""
    monkeypatch.setattr(proxy, "IDLE_TIMEOUT", 0.2)
    monkeypatch.setattr(loop, "CLOSE_TIMEOUT", 0.2)
    address = Unix(tmp_path / "out_8000.sock")
    with echo_server() as port, ConnectProxy(address, {NAME: ("127.0.0.1", port)}):
        client, _ = ask(address, connect_head(NAME))
        with client:
            client.settimeout(0.5)
            with contextlib.suppress(OSError):  # full, or ended already
                while True:
                    client.send(bytes(65536))
            gone = select.poll()
            gone.register(client, 0)
            assert gone.poll(60_000)


def test_stopping_ends_open_tunnels_and_removes_the_socket(tmp_path: Path) -> None:
    """After the proxy has stopped nothing listens and no tunnel is left open."""
    address = Unix(tmp_path / "out_8000.sock")
    with echo_server() as port:
        with ConnectProxy(address, {NAME: ("127.0.0.1", port)}):
            client, _ = ask(address, connect_head(NAME))
        with client:
            assert client.recv(1) == b""
    assert not address.path.exists()


def test_the_allow_list_is_the_manifests_regions_only() -> None:
    """Each key's region is one host; with a local endpoint all of them lead there."""
    regions = frozenset({"eu-central-1", "us-east-1"})
    assert kms_allow_list(regions, "kms.{region}.amazonaws.com", None) == {
        "kms.eu-central-1.amazonaws.com:443": ("kms.eu-central-1.amazonaws.com", 443),
        "kms.us-east-1.amazonaws.com:443": ("kms.us-east-1.amazonaws.com", 443),
    }
    assert set(kms_allow_list(regions, "kms.{region}.coattest.test", ("localhost", 7)).values()) == {
        ("localhost", 7)
    }


TAKE_ALL = """
import socket, sys
held = []
for _ in range(30):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect(sys.argv[1])
print(sum(each.recv(100).startswith(b"HTTP/1.1 503") for each in held[3:]), flush=True)
sys.stdin.read()
"""


def test_a_process_that_takes_all_tunnels_leaves_the_enclaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One peer has its share of the tunnels and no more, also when it says nothing on them."""
    monkeypatch.setattr(proxy, "TUNNELS_MAX", 5)
    monkeypatch.setattr(proxy, "TUNNELS_OF_ONE", 3)
    address = Unix(tmp_path / "out_8000.sock")
    with echo_server() as port, ConnectProxy(address, {NAME: ("127.0.0.1", port)}):
        command = [sys.executable, "-c", TAKE_ALL, str(address.path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"27\n"
            for _ in range(2):
                client, answer = ask(address, connect_head(NAME))
                with client:
                    assert answer.split()[1] == b"200"
            other.communicate(b"")
