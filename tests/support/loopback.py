"""HTTP servers on loopback, in a thread of the test."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TypeVar

Self = TypeVar("Self", bound="Loopback")


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """A port of 127.0.0.1 at which nobody listens, and which the system gives nobody else within the block.

    A server that is given it by number can take it, if it sets SO_REUSEADDR as servers do.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


class Handler(http.server.BaseHTTPRequestHandler):
    """A handler that logs nothing, and answers with one call."""

    def answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        """Send a status, headers with the length, and the body unless HEAD asked."""
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


class Loopback:
    """A context manager in which a server answers, over TLS where there is a context for it; its port is
    known before, its handlers are over after.
    """

    def __init__(self, server: http.server.ThreadingHTTPServer, tls: ssl.SSLContext | None = None) -> None:
        self.server = server
        server.daemon_threads = False  # server_close() waits for each handler only then
        self._connections: list[socket.socket] = []
        self._accept, self._tls = server.get_request, tls
        server.get_request = self._get_request  # type: ignore[method-assign]
        self.port = int(server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)

    @classmethod
    def of(cls, handler: type[http.server.BaseHTTPRequestHandler]) -> Loopback:
        """A server of that handler on a free port."""
        return cls(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))

    def _get_request(self) -> tuple[socket.socket, object]:
        connection, peer = self._accept()
        # Headers and body are two writes: the second would wait for a delayed acknowledgement (40 ms).
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:  # hands are shaken at the first read, in the handler's thread
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._connections.append(connection)
        return connection, peer

    def __enter__(self: Self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self._thread.join()
        for connection in self._connections:
            with contextlib.suppress(OSError):  # ends the wait for another request, and no answer;
                socket.socket.shutdown(connection, socket.SHUT_RD)  # TLS's own would end both
        self.server.server_close()
