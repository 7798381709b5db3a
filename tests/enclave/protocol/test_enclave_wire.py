"""Frames: round trips, limits, and hostile bytes on a real socket."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest_enclave.protocol import canonical, wire
from coattest_enclave.protocol.errors import MessageError
from coattest_enclave.protocol.wire import Frame

bodies = st.dictionaries(
    st.text(max_size=10),
    st.integers(0, 2**64 - 1) | st.binary(max_size=50) | st.text(max_size=20) | st.booleans(),
)
frames = st.builds(Frame, st.integers(0, wire.REQUEST_MAX), st.sampled_from(sorted(wire.TYPES)), bodies)


@given(frames)
def test_a_frame_survives_the_round_trip(frame: Frame) -> None:
    """What is written is read, on a real socket, and then the stream ends cleanly."""
    one, two = socket.socketpair()
    with one, two:
        wire.write_frame(one, frame)
        one.close()
        assert wire.read_frame(two) == frame
        assert wire.read_frame(two) is None


@given(st.binary(max_size=3 * wire.CHUNK_MAX // 1000).map(lambda b: b * 997), st.text(max_size=5))
def test_chunks_add_up(content: bytes, part: str) -> None:
    """Data frames carry the content in order, none over its limit, and only the last one says so."""
    pieces = list(wire.chunks(3, part, content))
    assert b"".join(piece.body["chunk"] for piece in pieces) == content
    assert [piece.body["last"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(len(piece.body["chunk"]) <= wire.CHUNK_MAX for piece in pieces)


def test_an_empty_file_is_one_empty_chunk() -> None:
    """Nothing to send is still said."""
    assert [piece.body for piece in wire.chunks(1, "x", b"")] == [{"part": "x", "chunk": b"", "last": True}]


@given(st.binary(max_size=200))
def test_junk_raises_nothing_but_message_error(junk: bytes) -> None:
    """Nothing else escapes the frame's parser."""
    with pytest.raises(MessageError):
        wire.decode_frame(junk)


HOSTILE: dict[str, Any] = {
    "another version": [2, 1, "alive", {}],
    "version that is true": [True, 1, "alive", {}],
    "request that is true": [1, True, "alive", {}],
    "negative request": [1, -1, "alive", {}],
    "request over 32 bits": [1, 2**32, "alive", {}],
    "unknown type": [1, 1, "exec", {}],
    "type as bytes": [1, 1, b"alive", {}],
    "body that is a list": [1, 1, "alive", []],
    "integer key in the body": [1, 1, "alive", {1: 1}],
    "three parts": [1, 1, "alive"],
    "five parts": [1, 1, "alive", {}, 0],
    "not a list": {"alive": 1},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_frames_are_refused(name: str) -> None:
    """A frame is a version, a request number, a known type and a map."""
    with pytest.raises(MessageError):
        wire.decode_frame(canonical.dumps(HOSTILE[name]))


def test_a_length_over_the_limit_is_refused_before_anything_is_read() -> None:
    """Four bytes that announce 4 GiB cost four bytes."""
    one, two = socket.socketpair()
    with one, two:
        two.settimeout(60)
        one.sendall(struct.pack(">I", wire.FRAME_MAX + 1))
        with pytest.raises(MessageError) as caught:
            wire.read_frame(two)
    assert caught.value.code == "too-large"


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 10])
def test_a_stream_that_ends_inside_a_frame_is_an_error(cut: int) -> None:
    """Half a frame is never taken for the end."""
    one, two = socket.socketpair()
    with one, two:
        one.sendall(wire.encode_frame(Frame(1, "alive", {"nonce": bytes(16)}))[:cut])
        one.close()
        with pytest.raises(MessageError):
            wire.read_frame(two)


def test_a_frame_over_the_limit_is_not_written() -> None:
    """The sender notices first."""
    with pytest.raises(MessageError) as caught:
        wire.encode_frame(Frame(1, "data", {"chunk": bytes(wire.FRAME_MAX)}))
    assert caught.value.code == "too-large"
    wire.encode_frame(
        Frame(1, "data", {"part": "bid:" + "n" * 64, "chunk": bytes(wire.CHUNK_MAX), "last": True})
    )


def test_no_write_is_longer_than_a_vsock_packet_may_be() -> None:
    """A large frame leaves in writes of at most WRITE_MAX bytes, in order and complete."""
    frame = wire.Frame(1, "data", {"part": "manifest", "chunk": bytes(wire.CHUNK_MAX), "last": True})
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    packets: list[bytes] = []
    with ours, theirs:
        reader = threading.Thread(target=lambda: packets.extend(iter(lambda: theirs.recv(1 << 20), b"")))
        reader.start()
        wire.write_frame(ours, frame)
        ours.shutdown(socket.SHUT_WR)
        reader.join(60)
    assert b"".join(packets) == wire.encode_frame(frame)
    assert max(map(len, packets)) == wire.WRITE_MAX
