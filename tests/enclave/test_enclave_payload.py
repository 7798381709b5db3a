"""The server of any payload: what is light, what is heavy, and what is alone, over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from hashlib import sha384
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from coattest_enclave.payload import transport
from coattest_enclave.payload.nsm import Nsm
from coattest_enclave.payload.server import BACKLOG, Server
from coattest_enclave.payload.turns import Turns
from coattest_enclave.protocol import wire
from coattest_enclave.protocol.alive import alive_user_data
from coattest_enclave.protocol.errors import EnclaveError, MessageError
from support.build.own_enclave import EXAMPLE
from support.enclave.fake_nsm import FakeNsm, fields_of

WAIT = 60.0
NONCE = bytes(range(32))


class Payload:
    """A payload with a light request, and a heavy one that ends when the test says so."""

    def __init__(self, folder: Path) -> None:
        self.address = f"unix:{folder}/in.sock"
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        server = Server(
            Nsm(f"unix:{folder}/nsm.sock"),
            light={"echo": self.echo},
            heavy={"sum": self.sum},
        )
        listener = transport.listen(self.address, BACKLOG)
        threading.Thread(target=server.serve, args=(listener,), daemon=True).start()

    def echo(self, frame: wire.Frame) -> wire.Frame:
        """The light request."""
        match frame.body:
            case {"fail": "told"}:
                raise EnclaveError("this is told", "too-large")
            case {"fail": _}:
                raise RuntimeError("this is not")
        return wire.Frame(frame.request, "result", frame.body)

    def sum(self, stream: socket.socket, frame: wire.Frame, turns: Turns) -> None:
        """The heavy one: adds the numbers of the data frames that follow."""
        total = 0
        for _ in range(frame.body["frames"]):
            more = wire.read_frame(stream)
            if more is None or more.type != "data":
                raise MessageError("expected data")
            total += more.body["number"]
        if frame.body.get("alone"):
            with turns.alone(0.001):
                self.hold()
        else:
            self.hold()
        wire.write_frame(stream, wire.Frame(frame.request, "result", {"sum": total}))

    def hold(self) -> None:
        """Say that it runs, and wait for the test."""
        self.begun.release()
        assert self.go_on.acquire(timeout=WAIT)

    def connect(self) -> socket.socket:
        """A connection of the parent."""
        return transport.connect(self.address, WAIT)


@pytest.fixture
def payload(sockets: Path) -> Iterator[Payload]:
    """A server beside an NSM."""
    with FakeNsm(sockets / "nsm.sock"):
        yield Payload(sockets)


def ask(stream: socket.socket, kind: str, body: dict[str, Any], *more: dict[str, Any]) -> None:
    """Send a request of that type, and its data frames."""
    wire.write_frame(stream, wire.Frame(3, kind, body))
    for each in more:
        wire.write_frame(stream, wire.Frame(3, "data", each))


def answer(stream: socket.socket) -> wire.Frame:
    """The next frame."""
    frame = wire.read_frame(stream)
    assert frame is not None
    assert frame.request == 3
    return frame


def test_every_payload_answers_alive(payload: Payload) -> None:
    """The document has the asker's nonce, the purpose of liveness and no key."""
    with payload.connect() as stream:
        ask(stream, "alive", {"nonce": NONCE})
        fields = fields_of(answer(stream).body["document"])
    assert (fields["nonce"], fields["user_data"]) == (NONCE, alive_user_data())
    assert fields["public_key"] is None


def test_light_requests_are_answered_while_a_heavy_one_runs(payload: Payload) -> None:
    """Of the payload and ``alive``, on other connections; the heavy one ends undisturbed."""
    with payload.connect() as heavy, payload.connect() as light:
        ask(heavy, "sum", {"frames": 2}, {"number": 3}, {"number": 4})
        assert payload.begun.acquire(timeout=WAIT)
        ask(light, "echo", {"word": "x"})
        assert answer(light).body == {"word": "x"}
        ask(light, "alive", {"nonce": NONCE})
        assert answer(light).type == "document"
        payload.go_on.release()
        assert answer(heavy).body == {"sum": 7}


def test_one_heavy_request_runs_at_a_time(payload: Payload) -> None:
    """The second begins when the first has ended."""
    with payload.connect() as first, payload.connect() as second:
        ask(first, "sum", {"frames": 0})
        assert payload.begun.acquire(timeout=WAIT)
        ask(second, "sum", {"frames": 0})
        assert not payload.begun.acquire(timeout=0.2)
        payload.go_on.release()
        assert answer(first).body == {"sum": 0}
        assert payload.begun.acquire(timeout=WAIT)
        payload.go_on.release()
        assert answer(second).body == {"sum": 0}


def test_nothing_is_served_while_one_is_alone(payload: Payload) -> None:
    """Not even ``alive`` is read until it ends."""
    with payload.connect() as heavy, payload.connect() as light:
        ask(heavy, "sum", {"frames": 1, "alone": True}, {"number": 5})
        assert payload.begun.acquire(timeout=WAIT)
        ask(light, "alive", {"nonce": NONCE})
        light.settimeout(0.2)
        with pytest.raises(TimeoutError):
            light.recv(1)
        light.settimeout(WAIT)
        payload.go_on.release()
        assert answer(light).type == "document"
        assert answer(heavy).body == {"sum": 5}


@pytest.mark.parametrize(
    ("kind", "body", "more", "told"),
    [
        ("echo", {"fail": "told"}, (), {"code": "too-large", "detail": "this is told"}),
        ("echo", {"fail": "other"}, (), {"code": "internal", "detail": "internal error"}),
        ("sum", {"frames": 1}, ({},), {"code": "internal", "detail": "internal error"}),
        ("data", {}, (), {"code": "bad-frame", "detail": "this frame does not start a request"}),
        ("open", {}, (), {"code": "bad-frame", "detail": "this frame does not start a request"}),
        ("draw", {}, (), {"code": "bad-frame", "detail": "unknown frame type"}),
    ],
)
def test_a_request_that_fails_gets_one_error_frame(
    payload: Payload, kind: str, body: dict[str, Any], more: tuple[dict[str, Any], ...], told: dict[str, str]
) -> None:
    """With the code and text that the payload chose, or with nothing of an unforeseen error."""
    with payload.connect() as stream:
        ask(stream, kind, body, *more)
        frame = wire.read_frame(stream)
        assert frame is not None
        assert (frame.type, frame.body) == ("error", told)
        assert wire.read_frame(stream) is None
    with payload.connect() as stream:
        ask(stream, "echo", {})
        assert answer(stream).body == {}


@pytest.fixture
def draw() -> ModuleType:
    """The program of docs/own-enclave."""
    module = ModuleType("draw")
    exec(compile((EXAMPLE / "enclave/draw.py").read_text(), "draw.py", "exec"), module.__dict__)
    return module


def test_the_example_draws_over_any_socket(
    draw: ModuleType, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its main, with the local profile's line: one answer that its document covers, and a refusal."""
    line = (EXAMPLE / "enclave/local.conf").read_text().replace("/run/coattest", str(sockets))
    config = sockets / "draw.conf"
    config.write_text(line)
    listening = threading.Event()
    monkeypatch.setattr(draw, "CONFIG", config)
    monkeypatch.setattr(draw.hardening, "close_process", listening.set)
    with FakeNsm(sockets / "nsm.sock"):
        threading.Thread(target=draw.main, daemon=True).start()
        assert listening.wait(WAIT)
        with transport.connect(f"unix:{sockets}/in_7000.sock", WAIT) as stream:
            ask(stream, "draw", {"nonce": NONCE, "names": ["Ada", " "]})
            body = answer(stream).body
            assert body["line"].startswith(b"Ada, one of 1 names with SHA-384 ")
            fields = fields_of(body["document"])
            assert (fields["nonce"], fields["user_data"]) == (NONCE, sha384(body["line"]).digest())
            ask(stream, "draw", {"nonce": NONCE, "names": []})
            assert answer(stream).body == {"code": "bad-frame", "detail": "no names"}
