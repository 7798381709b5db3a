"""Sockets: listening for the parent, and a tunnel through the parent's proxy. Nothing here is trusted."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator

CONNECT_TIMEOUT = 2.0
"""Seconds to reach one address of the proxy: under QEMU, CID 3 always times out."""

HEAD_MAX = 4096
"""Bytes of the proxy's reply to CONNECT."""

STREAM_TIMEOUT = 60.0
"""Seconds that an upload or a result may take, and one more for each STREAM_RATE bytes of it."""

STREAM_RATE = 1024 * 1024

_ESTABLISHED = re.compile(rb"HTTP/1\.[01] 200(?: [ -~]*)?\r\n")


def listen(address: str, backlog: int) -> socket.socket:
    """A listening stream socket at ``vsock:any:PORT`` or ``unix:PATH``; raises OSError."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(rest)  # noqa: PTH108
        server.bind(rest)
    else:
        server = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        server.bind((socket.VMADDR_CID_ANY, int(rest.rpartition(":")[2])))
    server.listen(backlog)
    return server


def cut(stream: socket.socket) -> None:
    """End a connection, also while another thread waits for it."""
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def in_time(stream: socket.socket, size: int) -> Iterator[None]:
    """Within it ``size`` bytes pass, or the connection ends, however steadily they drip."""
    timer = threading.Timer(STREAM_TIMEOUT + size / STREAM_RATE, cut, (stream,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def connect(address: str, timeout: float) -> socket.socket:
    """A stream socket connected to ``vsock:CID:PORT`` or ``unix:PATH``, with a time-out; raises OSError."""
    kind, _, rest = address.partition(":")
    stream = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        stream.settimeout(timeout)
        if kind == "unix":
            stream.connect(rest)
        else:
            cid, _, port = rest.partition(":")
            stream.connect((int(cid), int(port)))
    except BaseException:
        stream.close()
        raise
    return stream


def left(deadline: float) -> float:
    """Seconds until ``deadline`` (of the monotonic clock); raises TimeoutError when there are none."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def tunnel(proxies: list[str], host: str, deadline: float) -> socket.socket:
    """A tunnel to ``host``:443 through the first proxy that answers (RFC 9110, 9.3.6); raises OSError,
    TimeoutError after ``deadline``.

    That proxy moves to the front of ``proxies``, so that the next call does not wait again.
    """
    failure: OSError = ConnectionError("no proxy")
    for address in list(proxies):
        try:
            stream = connect(address, min(CONNECT_TIMEOUT, left(deadline)))
            proxies.remove(address)
            proxies.insert(0, address)
            break
        except OSError as error:
            failure = error
    else:
        raise failure
    try:
        stream.settimeout(left(deadline))
        stream.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode("ascii"))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            stream.settimeout(left(deadline))
            # One byte at a time: what follows the head already belongs to TLS.
            byte = stream.recv(1)
            if not byte or len(head) >= HEAD_MAX:
                raise ConnectionError("the proxy did not reply")
            head += byte
        if not _ESTABLISHED.match(head):
            raise ConnectionError("the proxy refused")
    except BaseException:
        stream.close()
        raise
    return stream
