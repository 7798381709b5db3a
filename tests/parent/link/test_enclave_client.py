"""The parent's end of the conversation, against enclaves that misbehave."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coattest.codes import CODES
from coattest.errors import CoattestError, EnvironmentFailure
from coattest_enclave.protocol import wire
from coattest_enclave.protocol.errors import MessageError
from coattest_parent.link.aws import SessionCredentials
from coattest_parent.link.channels import ChannelFailure, Unix, listen_on
from coattest_parent.link.enclave import BidUpload, EnclaveClient, EnclaveFailed, EnclaveRefused

CREDENTIALS = SessionCredentials("AKIDEXAMPLE", "very-secret-key", "very-secret-token")


@contextlib.contextmanager
def peer(path: Path, behave: Callable[[socket.socket], None]) -> Iterator[Unix]:
    """One connection's worth of an enclave that does what ``behave`` says."""
    address = Unix(path / "in_5005.sock")
    with listen_on(address) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError, MessageError):
                connection.settimeout(60)
                behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield address
        thread.join(60)
        assert not thread.is_alive()


def answer(*frames: wire.Frame) -> Callable[[socket.socket], None]:
    """Read one frame, send these, and wait for the other side to close."""

    def behave(connection: socket.socket) -> None:
        wire.read_frame(connection)
        for frame in frames:
            wire.write_frame(connection, frame)
        while connection.recv(65536):
            pass

    return behave


def raw(data: bytes) -> Callable[[socket.socket], None]:
    """Read one frame and answer with these bytes."""

    def behave(connection: socket.socket) -> None:
        wire.read_frame(connection)
        connection.sendall(data)

    return behave


def error(code: str, detail: str = "why") -> wire.Frame:
    return wire.Frame(1, "error", {"code": code, "detail": detail})


def open_one(client: EnclaveClient, part: BidUpload | None = None) -> tuple[bytes, bytes]:
    return client.open(b"manifest", [part or BidUpload("buyer-1", 3, [b"bid"])], [b"seal"], CREDENTIALS)


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (answer(wire.Frame(2, "document", {"document": b"d"})), "another request"),
        (answer(wire.Frame(1, "result", {})), "unexpected 'result'"),
        (answer(wire.Frame(1, "document", {})), "no document"),
        (answer(wire.Frame(1, "document", {"document": "text"})), "no document"),
        (answer(error("internal")), "internal: why"),
        (raw(b""), "unanswered"),
        (raw(b"\x00\x00"), "not a frame"),
        (raw(b"\xff\xff\xff\xff"), "not a frame"),
        (raw(b"\x00\x00\x00\x04junk"), "not a frame"),
        (raw(b"HTTP/1.1 200 OK\r\n\r\n"), "not a frame"),
    ],
)
def test_a_wrong_answer_is_one_error(
    tmp_path: Path, behave: Callable[[socket.socket], None], reason: str
) -> None:
    """Garbage, cut frames and answers to something else end in one environment failure each."""
    with (
        peer(tmp_path, behave) as address,
        EnclaveClient(address) as client,
        pytest.raises(EnclaveFailed, match=reason) as caught,
    ):
        client.alive(b"n" * 32)
    assert caught.value.exit_code == 3


def test_an_enclave_that_says_nothing_times_out(tmp_path: Path) -> None:
    """Silence ends at the time-out, as an environment failure."""
    with (
        peer(tmp_path, answer()) as address,
        EnclaveClient(address, timeout=0.2) as client,
        pytest.raises(ChannelFailure, match="no answer in time"),
    ):
        client.alive(b"n" * 32)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("bad-seal", EnclaveRefused),
        ("kms-denied", EnclaveRefused),
        ("bad-bid", EnclaveRefused),
        ("kms-failed", EnclaveFailed),
        ("clock", EnclaveFailed),
        ("something-new", EnclaveFailed),
    ],
)
def test_the_enclaves_code_decides_whether_a_retry_can_help(
    tmp_path: Path, code: str, kind: type[Exception]
) -> None:
    """Refusals are exit 1, failures exit 3, both with the enclave's own code."""
    with (
        peer(tmp_path, answer(error(code))) as address,
        EnclaveClient(address) as client,
        pytest.raises(kind, match=code) as caught,
    ):
        open_one(client)
    assert isinstance(caught.value, CoattestError)
    assert (caught.value.code if code in CODES else caught.value.service_code) == code


def test_an_early_refusal_is_heard_before_everything_is_sent(tmp_path: Path) -> None:
    """An enclave that hangs up in the middle of an upload still gets its reason across."""
    sent = []

    def endless() -> Iterator[bytes]:
        for _ in range(400):
            sent.append(1)
            yield bytes(wire.CHUNK_MAX)

    def refuse(connection: socket.socket) -> None:
        wire.read_frame(connection)
        wire.write_frame(connection, error("too-large"))
        connection.shutdown(socket.SHUT_WR)
        for _ in range(3):
            wire.read_frame(connection)

    with (
        peer(tmp_path, refuse) as address,
        EnclaveClient(address) as client,
        pytest.raises(EnclaveRefused, match="too-large"),
    ):
        open_one(client, BidUpload("buyer-1", 400 * wire.CHUNK_MAX, endless()))
    assert len(sent) < 400


@pytest.mark.parametrize("content", [[b"shor"], [b"too long"], []])
def test_a_bid_file_that_changes_its_size_on_the_way_is_an_error(
    tmp_path: Path, content: list[bytes]
) -> None:
    """What was announced is what is sent, or nothing is opened."""
    with (
        peer(tmp_path, answer()) as address,
        EnclaveClient(address) as client,
        pytest.raises(EnvironmentFailure, match="instead of 5") as caught,
    ):
        open_one(client, BidUpload("buyer-1", 5, content))
    assert caught.value.code == "size-changed"


def test_an_empty_bid_file_is_one_empty_frame(tmp_path: Path) -> None:
    """The enclave, not the courier, says what an empty file is worth."""
    seen: list[dict[str, object]] = []

    def collect(connection: socket.socket) -> None:
        wire.read_frame(connection)
        while (frame := wire.read_frame(connection)) and len(seen) < 2:
            seen.append(frame.body)
            if len(seen) == 2:
                wire.write_frame(connection, wire.Frame(1, "result", {"result": b"r", "receipt": b"d"}))

    with peer(tmp_path, collect) as address, EnclaveClient(address) as client:
        assert open_one(client, BidUpload("buyer-1", 0, [])) == (b"r", b"d")
    assert seen[1] == {"part": "bid:buyer-1", "chunk": b"", "last": True}


def test_credentials_are_in_no_representation_and_no_error(tmp_path: Path) -> None:
    """Only the one frame has them."""
    assert "secret" not in repr(CREDENTIALS)
    assert "AKID" not in repr(CREDENTIALS)
    with (
        peer(tmp_path, answer(error("kms-denied"))) as address,
        EnclaveClient(address) as client,
        pytest.raises(EnclaveRefused) as caught,
    ):
        open_one(client)
    assert "secret" not in str(caught.value)


def test_a_long_result_arrives_in_data_frames(tmp_path: Path) -> None:
    """A result larger than a frame is put together from its pieces, in order."""
    result = bytes(range(256)) * 6000

    def behave(connection: socket.socket) -> None:
        while (frame := wire.read_frame(connection)) and frame.body.get("part") != "bid:buyer-1":
            pass
        for piece in wire.chunks(1, "result", result):
            wire.write_frame(connection, piece)
        wire.write_frame(connection, wire.Frame(1, "result", {"result": b"", "receipt": b"r"}))

    with peer(tmp_path, behave) as address, EnclaveClient(address) as client:
        assert open_one(client) == (result, b"r")
