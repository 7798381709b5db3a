"""Frames between parent and enclave: u32 big-endian length, then canonical CBOR [version, request, type,
body].

A length is checked before the frame is read. Time-outs are the caller's, who sets them on the socket.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from coattest_enclave.protocol import canonical
from coattest_enclave.protocol.errors import MessageError

VERSION = 1
"""Version of the frame format; a frame of any other version is refused."""

CHUNK_MAX = 512 * 1024
"""Bytes of a file in one data frame, at most."""

FRAME_MAX = 1024 * 1024 + 64 * 1024
"""Bytes of a frame without its length: 1 MiB of content and what is around it."""

WRITE_MAX = 16 * 1024
"""Bytes of one write to a socket: half of what Linux still sends over vsock in one descriptor."""

REQUEST_MAX = 2**32 - 1
"""Largest request number."""

TYPES = frozenset({"alive", "open", "data", "document", "progress", "result", "error"})
"""Every frame type of version 1. What reads requests may know more of them."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: the request it belongs to, its type, and its body, a map with text keys."""

    request: int
    type: str
    body: dict[str, Any]


def encode_frame(frame: Frame) -> bytes:
    """The frame with its length in front; raises MessageError."""
    data = canonical.dumps([VERSION, frame.request, frame.type, frame.body])
    if len(data) > FRAME_MAX:
        raise MessageError(f"frame over {FRAME_MAX} bytes", "too-large")
    return struct.pack(">I", len(data)) + data


def decode_frame(data: bytes, types: Collection[str] = TYPES) -> Frame:
    """The frame in ``data``, which does not include the length; raises MessageError."""
    match canonical.loads(data, FRAME_MAX):
        case [int(version), int(request), str(kind), dict(body)] if (
            type(version) is int and type(request) is int
        ):
            pass
        case _:
            raise MessageError("a frame is not [version, request, type, body]")
    if version != VERSION:
        raise MessageError(f"frame version is not {VERSION}")
    if not 0 <= request <= REQUEST_MAX:
        raise MessageError("request number out of range")
    if kind not in types:
        raise MessageError("unknown frame type")
    if not all(isinstance(key, str) for key in body):
        raise MessageError("a key of the body is not text")
    return Frame(request, kind, body)


def chunks(request: int, part: str, content: bytes) -> Iterator[Frame]:
    """The data frames that carry ``content``; an empty file is one frame with an empty chunk."""
    for start in range(0, len(content) or 1, CHUNK_MAX):
        last = start + CHUNK_MAX >= len(content)
        yield Frame(
            request, "data", {"part": part, "chunk": content[start : start + CHUNK_MAX], "last": last}
        )


def read_exactly(stream: socket.socket, size: int) -> bytes:
    """Read ``size`` bytes; raises MessageError when the stream ends first, TimeoutError from the socket."""
    buffer = bytearray(size)
    view, got = memoryview(buffer), 0
    while got < size:
        count = stream.recv_into(view[got:])
        if not count:
            raise MessageError("the stream ended inside a message")
        got += count
    return bytes(buffer)


def read_frame(stream: socket.socket, types: Collection[str] = TYPES) -> Frame | None:
    """The next frame, or None when the stream ended between frames; raises MessageError, OSError."""
    first = stream.recv(1)
    if not first:
        return None
    (size,) = struct.unpack(">I", first + read_exactly(stream, 3))
    if size > FRAME_MAX:
        raise MessageError(f"frame over {FRAME_MAX} bytes", "too-large")
    return decode_frame(read_exactly(stream, size), types)


def write_frame(stream: socket.socket, frame: Frame) -> None:
    """Send one frame; raises MessageError, OSError, TimeoutError.

    A guest's kernel sends a longer write over vsock as one packet in several descriptors, and some hosts drop
    such packets silently (docs/kernel.md).
    """
    data = memoryview(encode_frame(frame))
    for start in range(0, len(data), WRITE_MAX):
        stream.sendall(data[start : start + WRITE_MAX])
