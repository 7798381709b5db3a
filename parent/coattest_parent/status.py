"""A service's state over HTTP on this machine: ``/healthz``, ``/readyz`` and ``/metrics``.

Loopback or a Unix socket only: there is no authentication, and nothing in it is secret from who is on the
machine. A connection gets one answer and is closed; there are few of them at a time, and none waits long.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import socketserver
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from coattest_parent.channels import Unix, is_loopback, listen, parse_address
from coattest_parent.telemetry import CONTENT_TYPE, Metrics
from coattest_verify.shell import UsageError, from_os_error

CONNECTIONS_MAX = 16
"""Answers given at a time; more connections are closed at once."""

TIMEOUT = 5.0
"""Seconds for a request to arrive and for its answer to be taken."""


@dataclass(frozen=True, slots=True)
class State:
    """What the endpoints ask: whether the service works, whether it could open an auction now, and its
    numbers.
    """

    healthy: Callable[[], bool]
    ready: Callable[[], bool]
    metrics: Metrics


def parse_status_address(text: str) -> Unix | tuple[str, int]:
    """``unix:PATH``, or a loopback host and a port as in ``127.0.0.1:9464``; raises UsageError."""
    if text.startswith("unix:"):
        address = parse_address(text)
        assert isinstance(address, Unix)
        return address
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not is_loopback(host) or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(
            "not a status address",
            where=text[:200],
            hint="use 127.0.0.1:PORT or unix:PATH",
            reason="bad-address",
        )
    return host, int(port)


class StatusServer:
    """Answers as long as the block runs; ``port`` says which one the system gave for port 0."""

    def __init__(self, address: Unix | tuple[str, int], state: State) -> None:
        self._address = address
        self._server = _Server(address, state)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    @property
    def port(self) -> int:
        """The TCP port; 0 on a Unix socket."""
        return 0 if isinstance(self._address, Unix) else int(self._server.socket.getsockname()[1])

    def __enter__(self) -> StatusServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(TIMEOUT)
        if isinstance(self._address, Unix):
            self._address.path.unlink(missing_ok=True)


class _Server(socketserver.ThreadingMixIn, socketserver.BaseServer):
    daemon_threads = True

    def __init__(self, address: Unix | tuple[str, int], state: State) -> None:
        super().__init__(str(address), _Handler)
        self.state = state
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        if isinstance(address, Unix):
            self.socket = listen(address)
            return
        try:
            self.socket = socket.create_server(
                address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            )
        except OSError as error:
            raise from_os_error(error) from error

    def fileno(self) -> int:
        """For the selector of serve_forever."""
        return self.socket.fileno()

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection, with its time-out."""
        connection, peer = self.socket.accept()
        connection.settimeout(TIMEOUT)
        return connection, peer

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for another answer."""
        return self._slots.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_WR)
        request.close()

    def server_close(self) -> None:
        """Stop listening."""
        super().server_close()
        self.socket.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that went away is nobody's business."""


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = TIMEOUT

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        state = self.server.state
        match self.path:
            case "/healthz":
                self._answer(*_yes_or_no(state.healthy()))
            case "/readyz":
                self._answer(*_yes_or_no(state.ready()))
            case "/metrics":
                self._answer(200, state.metrics.render(), CONTENT_TYPE)
            case _:
                self._answer(404, "not found\n")

    def address_string(self) -> str:
        return "local"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (its name in the standard library)
        pass

    def _answer(self, code: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        content = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _yes_or_no(value: bool) -> tuple[int, str]:
    return (200, "yes\n") if value else (503, "no\n")
