"""HTTPS on loopback: a thread for each connection, which also does the TLS handshake, with a time-out.

werkzeug wraps the listening socket, so that its accept loop does the handshakes one after the other: a
client that connects and says nothing blocks all others. Here the accept loop only accepts.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import ThreadedWSGIServer

from coattest_local.aws.http import SERVICES
from coattest_local.host.ca import issue_server_certificate

HANDSHAKE_TIMEOUT = 10.0
IDLE_TIMEOUT = 60.0
"""Seconds that a TLS handshake may take, and that a connection may be silent."""

REGIONS = (
    "eu-central-1",
    "eu-north-1",
    "eu-west-1",
    "us-east-1",
    "us-east-2",
    "us-west-2",
)


def certificate_names(regions: Iterable[str] = REGIONS) -> tuple[str, ...]:
    """The names the endpoint answers to: each service in each region, S3 also with a bucket, and loopback."""
    names = ["localhost", "127.0.0.1"]
    for region in regions:
        names += [f"{service}.{region}.coattest.test" for service in SERVICES]
        names.append(f"*.s3.{region}.coattest.test")
    return tuple(names)


def tls_context(directory: Path, names: Iterable[str]) -> ssl.SSLContext:
    """A server context with a fresh certificate of the published local authority."""
    certificate, key = issue_server_certificate(list(names))
    path = directory / "server.pem"
    path.touch(mode=0o600)
    path.write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(path)
    return context


class _Handler(MotoRequestHandler):  # type: ignore[misc]
    """Logs nothing; a time-out for idle connections."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
        """Requests are in the trail, not on stderr."""


class TlsServer(ThreadedWSGIServer):  # type: ignore[misc]
    """The listening server. ``port`` 0 lets the system choose; ``port`` tells which it was."""

    def __init__(self, application: Callable[..., Any], context: ssl.SSLContext, port: int = 0) -> None:
        self._tls = context
        super().__init__("127.0.0.1", port, application, handler=_Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: handshake, then requests."""
        try:
            # Small answers one after the other: each would wait for a delayed acknowledgement (40 ms).
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request.settimeout(HANDSHAKE_TIMEOUT)
            secured = self._tls.wrap_socket(request, server_side=True)
        except OSError:  # ssl.SSLError too
            self.shutdown_request(request)
            return
        secured.settimeout(IDLE_TIMEOUT)
        super().process_request_thread(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a broken connection; the next one is served."""

    def serve_in_background(self) -> None:
        """Start serving in a daemon thread."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
