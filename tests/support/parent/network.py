"""Servers of this machine that an enclave's program reaches, and heads that it asks with."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from coattest_local.host.ca import issue_server_certificate, tls_ca_pem

NAME = "api.coattest.test"
TARGET = f"{NAME}:443"


def head(target: str = TARGET, *fields: str, method: str = "CONNECT", version: str = "HTTP/1.1") -> bytes:
    """A request as clients write it."""
    return "\r\n".join((f"{method} {target} {version}", *fields, "", "")).encode("latin-1")


@contextlib.contextmanager
def serving(listener: socket.socket, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Each connection in a thread of its own, until the block ends."""

    def one(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            serve(peer)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def echo(peer: socket.socket) -> None:
    """Returns what comes, until the other side has finished."""
    while data := peer.recv(65536):
        peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    """On a port of 127.0.0.1."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with serving(listener, echo):
        yield port


@contextlib.contextmanager
def tls_server(folder: Path) -> Iterator[int]:
    """HTTPS for NAME under the published test authority; answers ``hello`` to everything."""
    (folder / "chain.pem").write_bytes(b"".join(issue_server_certificate([NAME])))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "chain.pem")

    def answer(peer: socket.socket) -> None:
        with context.wrap_socket(peer, server_side=True) as stream:
            stream.recv(65536)
            stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with serving(listener, answer):
        yield port


def trust() -> ssl.SSLContext:
    """A client's, which takes the published authority alone."""
    return ssl.create_default_context(cadata=tls_ca_pem().decode())
