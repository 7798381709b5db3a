"""Addresses, and sockets behind them."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest

from coattest.errors import UsageError
from coattest_parent.link.channels import (
    ChannelFailure,
    Hybrid,
    Unix,
    Vsock,
    connect_to,
    endpoint_host_port,
    is_local,
    is_loopback,
    listen_on,
    parse_address,
    proxy_address_for,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("vsock:16:5005", Vsock(16, 5005)),
        ("vsock:any:8000", Vsock(None, 8000)),
        ("unix:/run/in_5005.sock", Unix(Path("/run/in_5005.sock"))),
        ("unix:/a:b/c", Unix(Path("/a:b/c"))),
        ("hybrid:/run/vm.sock:5005", Hybrid(Path("/run/vm.sock"), 5005)),
    ],
)
def test_an_address_survives_a_round_trip(text: str, address: object) -> None:
    """An address parses to its kind and prints as it was written."""
    assert parse_address(text) == address
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "vsock:16",
        "vsock::5005",
        "vsock:x:1",
        "vsock:1:-1",
        "vsock:1:4294967295",
        "tcp:h:1",
        "vsock:²:1",
    ],
)
def test_what_is_not_an_address_is_refused(text: str) -> None:
    """Anything but the three kinds is a usage error."""
    with pytest.raises(UsageError):
        parse_address(text)


def test_the_proxy_listens_where_the_enclave_looks_for_it() -> None:
    """Each kind of enclave address has one place for the parent's proxy."""
    assert proxy_address_for(parse_address("vsock:16:5005")) == Vsock(None, 8000)
    assert proxy_address_for(parse_address("unix:/d/in_5005.sock")) == Unix(Path("/d/out_8000.sock"))
    assert proxy_address_for(parse_address("hybrid:/d/vm.sock:5005")) == Unix(Path("/d/vm.sock_8000"))


def test_only_this_machine_is_loopback() -> None:
    """Loopback is decided from the text: a name that would need a resolver is not loopback."""
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.9.9.9", "::1", "kms.localhost"]))
    assert not any(
        map(is_loopback, ["10.0.0.1", "localhost.example.com", "kms.eu-central-1.amazonaws.com", ""])
    )
    assert is_local(Unix(Path("/x")))
    assert not is_local(Vsock(16, 5005))


@pytest.mark.parametrize(
    "url", ["http://localhost:1", "localhost:1", "https://", "https://localhost:99999", "https://["]
)
def test_an_endpoint_is_https(url: str) -> None:
    """An endpoint without TLS or without a host is refused."""
    with pytest.raises(UsageError):
        endpoint_host_port(url)


def test_a_path_longer_than_sockaddr_un_works(tmp_path: Path) -> None:
    """A Unix socket deep in a tree is reached, though its path does not fit sockaddr_un."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    address = Unix(deep / "in_5005.sock")
    with listen_on(address) as server, connect_to(address, 60) as client:
        peer, _ = server.accept()
        with peer:
            client.sendall(b"x")
            assert peer.recv(1) == b"x"


def test_nobody_listening_is_one_error(tmp_path: Path) -> None:
    """A dead address is an environment failure that names it."""
    with pytest.raises(ChannelFailure, match=r"unix:.*cannot connect"):
        connect_to(Unix(tmp_path / "none.sock"), 1)


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    """A socket file left by a dead process does not stop the next; a live listener does."""
    address = Unix(tmp_path / "s.sock")
    listen_on(address).close()
    with listen_on(address), pytest.raises(ChannelFailure, match="another process"):
        listen_on(address)


def test_a_live_socket_with_a_full_backlog_is_not_replaced(tmp_path: Path) -> None:
    """Who is too busy to accept still listens: its socket file stays."""
    address = Unix(tmp_path / "s.sock")
    with contextlib.ExitStack() as held:
        held.enter_context(listen_on(address, backlog=0))
        while True:
            waiting = held.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            try:
                waiting.connect(str(address.path))
            except BlockingIOError:
                break
        before = address.path.stat().st_ino
        with pytest.raises(ChannelFailure, match="another process"):
            listen_on(address)
        assert address.path.stat().st_ino == before


def _hybrid_peer(server: socket.socket, reply: bytes, seen: list[bytes]) -> None:
    peer, _ = server.accept()
    with peer:
        seen.append(peer.recv(100))
        peer.sendall(reply)


@pytest.mark.parametrize(
    ("reply", "good"), [(b"OK 1073\nhello", True), (b"NO\n", False), (b"", False), (b"O" * 99, False)]
)
def test_the_hybrid_handshake(tmp_path: Path, reply: bytes, good: bool) -> None:
    """The handshake asks for the port, takes only OK, and leaves the guest's first bytes unread."""
    path = tmp_path / "vm.sock"
    seen: list[bytes] = []
    with listen_on(Unix(path)) as server:
        thread = threading.Thread(target=_hybrid_peer, args=(server, reply, seen))
        thread.start()
        if good:
            with connect_to(Hybrid(path, 5005), 60) as client:
                assert client.recv(100) == b"hello"
        else:
            with pytest.raises(ChannelFailure):
                connect_to(Hybrid(path, 5005), 60)
        thread.join()
    assert seen == [b"CONNECT 5005\n"]
