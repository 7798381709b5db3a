"""KMS's reply is read strictly, in bounded time, and asked for again when KMS was too busy or hung up."""

from __future__ import annotations

import base64
import contextlib
import gzip
import itertools
import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest_enclave import session
from coattest_enclave.payload import http_reply, kms, transport
from coattest_enclave.payload.trust import parse_trust
from coattest_enclave.payload.turns import Turns
from coattest_enclave.protocol import wire
from coattest_enclave.protocol.errors import EnclaveError
from support.enclave.enclave_attacks import error
from support.enclave.running_enclave import Auction, Enclave, refusal


def head(size: object, *headers: str, status: str = "200 OK") -> bytes:
    """The head of a reply."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def with_json(change: Callable[[str], str | bytes]) -> Callable[[bytes], Iterable[bytes]]:
    """A reply with another body."""

    def reply(body: bytes) -> list[bytes]:
        changed = change(body.decode())
        encoded = changed.encode() if isinstance(changed, str) else changed
        return [head(len(encoded)) + encoded]

    return reply


def with_field(name: str, value: object) -> Callable[[bytes], Iterable[bytes]]:
    """A reply with another field."""
    return with_json(lambda text: json.dumps({**json.loads(text), name: value}))


def line_feed(text: str) -> str:
    """The body with a line feed behind the envelope."""
    fields = json.loads(text)
    return json.dumps({**fields, "CiphertextForRecipient": fields["CiphertextForRecipient"] + "\n"})


def chunked(body: bytes) -> bytes:
    """The body in one chunk."""
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def unframed(*headers: str) -> bytes:
    """A head without a length."""
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode()


HOSTILE: dict[str, Callable[[bytes], Iterable[bytes]]] = {
    "endless interim replies": lambda _: itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 50, 2000),
    "one interim reply": lambda b: [b"HTTP/1.1 100 Continue\r\n\r\n", head(len(b)) + b],
    "chunks": lambda b: [unframed("Transfer-Encoding: chunked") + chunked(b)],
    "chunks and a length": lambda b: [head(5, "Transfer-Encoding: chunked") + chunked(b)],
    "two replies": lambda b: [head(len(b)) + b + head(2) + b"{}"],
    "two lengths": lambda b: [head(len(b), f"Content-Length: {len(b)}") + b],
    "a length too short": lambda b: [head(len(b) - 5) + b],
    "no length": lambda b: [unframed() + b],
    "a negative length": lambda b: [head(-1) + b],
    "a length in other digits": lambda b: [head(f"+{len(b)}") + b],
    "a huge length": lambda _: [head(10**9), *[b" " * 65536] * 40],
    "a redirect": lambda _: [head(0, "Location: http://127.0.0.1:1/", status="307 T")],
    "many headers": lambda b: [head(len(b), *(f"X{index}: y" for index in range(5000))) + b],
    "a folded header": lambda b: [head(len(b), "X: a", " b") + b],
    "a long status": lambda b: [head(len(b), status="200 " + "A" * 200_000) + b],
    "another version": lambda b: [head(len(b)).replace(b"1.1", b"1.0", 1) + b],
    "no status line": lambda _: [b"garbage without a status line\r\n\r\n"],
    "another status": lambda b: [head(len(b), status="206 Partial") + b],
    "an encoding": lambda b: [head(len(gzip.compress(b)), "Content-Encoding: gzip") + gzip.compress(b)],
    "a name twice": with_json(lambda text: text[:-1] + ', "Plaintext": "", "KeyId": "x"}'),
    "a key id twice": with_json(lambda text: '{"KeyId": "evil", ' + text[1:]),
    "a plaintext": with_field("Plaintext", base64.b64encode(bytes(32)).decode()),
    "a plaintext that is 0": with_field("Plaintext", 0),
    "a plaintext that is false": with_field("Plaintext", False),
    "a plaintext that is a list": with_field("Plaintext", []),
    "UTF-16": with_json(lambda text: text.encode("utf-16")),
    "a byte order mark": with_json(lambda text: text.encode("utf-8-sig")),
    "an envelope with a line feed": with_json(line_feed),
}


CUT: dict[str, Callable[[bytes], Iterable[bytes]]] = {
    "nothing": lambda _: [],
    "half a head": lambda b: [head(len(b))[:20]],
    "a head alone": lambda b: [head(len(b))],
    "half a reply": lambda b: [head(len(b)) + b[:20]],
    "a length too long": lambda b: [head(len(b) + 100) + b],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_reply_that_kms_does_not_send_is_refused(program: Enclave, demo: Auction, name: str) -> None:
    """Inside the right TLS too: one error frame, and the program serves the next."""
    program.kms.raw = HOSTILE[name]
    assert refusal(program.open(demo)) == "kms-failed"
    assert len(program.kms.requests) == 1


def test_a_reply_in_pieces_is_kms(program: Enclave, demo: Auction) -> None:
    """The same double with the right bytes is believed, also with a null plaintext."""
    program.kms.raw = lambda body: [head(len(body))[:9], head(len(body))[9:], body[:1], body[1:]]
    assert program.open(demo).type == "result"
    program.kms.raw = with_field("Plaintext", None)
    assert program.open(demo).type == "result"


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_a_reply_is_read_alike_however_it_comes(body: bytes, sizes: list[int]) -> None:
    """Cut anywhere, the same reply has the same status and body."""
    data = head(len(body), "X-Other: y", status="400 Bad Request") + body
    cuts = [0, *itertools.accumulate(sizes), len(data)]
    pieces = [data[start:stop] for start, stop in itertools.pairwise(sorted(min(c, len(data)) for c in cuts))]
    given_ = iter([piece for piece in pieces if piece])
    assert http_reply.read(lambda _: next(given_, b""), 300) == (400, body)


@given(st.binary(max_size=400))
def test_bytes_that_are_no_reply_are_refused(data: bytes) -> None:
    """Whatever comes, it is refused, cut or a reply; nothing else is raised."""
    pieces = iter([data])
    with contextlib.suppress(ValueError, ConnectionError):
        status, body = http_reply.read(lambda _: next(pieces, b""), 100)
        assert (200 <= status < 600, len(body) <= 100) == (True, True)


def opened_here(program: Enclave, auction: Auction) -> list[wire.Frame]:
    """The answers to an opening in this process, whose limits a test can set."""
    trust = parse_trust((program.directory / "trust.json").read_bytes()).on_hardware(present=False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        first, *rest = auction.open_frames()
        for frame in rest:
            wire.write_frame(theirs, frame)
        session.open_auction(ours, first, trust, list(trust.proxy), Turns())
        ours.close()
        answers = []
        while frame := wire.read_frame(theirs):
            answers.append(frame)
    return answers


def test_a_reply_that_drips_meets_a_deadline(
    program: Enclave, demo: Auction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is for the whole call, not for a silence."""
    ahead = 0.0

    def dripping(body: bytes) -> Iterator[bytes]:
        nonlocal ahead
        first, *others = head(len(body)) + body
        yield bytes([first])
        ahead += kms.TIMEOUT
        yield from (bytes([byte]) for byte in others)

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead)
    for module in (kms, transport):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(kms, "PAUSES", (0.0,))
    program.kms.raw = dripping
    with pytest.raises(EnclaveError, match="timed out") as caught:
        opened_here(program, demo)
    assert caught.value.code == "kms-failed"
    assert len(program.kms.requests) == 2


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("ThrottlingException", 400),
        ("LimitExceededException", 400),
        ("KMSInternalException", 500),
        ("DependencyTimeoutException", 503),
        ("anything", 503),
        ("anything", 429),
    ],
)
def test_a_busy_kms_is_asked_again(
    program: Enclave, demo: Auction, monkeypatch: pytest.MonkeyPatch, kind: str, status: int
) -> None:
    """A few times, with a pause; then the opening goes on as if nothing had been."""
    monkeypatch.setattr(kms, "PAUSES", (0.0, 0.0, 0.0))
    busy = iter([True, True, True, False, False])
    tamper = error(kind, status)
    program.kms.tamper = lambda given, body: tamper(given, body) if next(busy) else (given, body)
    assert opened_here(program, demo)[-1].type == "result"
    assert len(program.kms.requests) == 5


def test_a_kms_that_stays_busy_is_named_and_not_asked_for_ever(
    program: Enclave, demo: Auction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as there are pauses and once more; the error says what KMS said."""
    assert kms.PAUSES == (0.5, 1.0, 2.0)
    monkeypatch.setattr(kms, "PAUSES", (0.0, 0.0, 0.0))
    program.kms.tamper = error("ThrottlingException")
    with pytest.raises(EnclaveError, match=r"^buyer-1: ThrottlingException$"):
        opened_here(program, demo)
    assert len(program.kms.requests) == 4


def test_a_refusal_is_not_asked_again(program: Enclave, demo: Auction) -> None:
    """KMS said no: once is enough."""
    program.kms.tamper = error("AccessDeniedException")
    assert refusal(program.open(demo)) == "kms-denied"
    assert len(program.kms.requests) == 1


@pytest.mark.parametrize("name", CUT)
def test_a_reply_that_is_cut_is_asked_for_again(program: Enclave, demo: Auction, name: str) -> None:
    """Three times for one key; then the opening goes on as if nothing had been."""
    cuts = iter([CUT[name]] * 3)

    def reply(body: bytes) -> Iterable[bytes]:
        cut = next(cuts, None)
        return cut(body) if cut else [head(len(body)) + body]

    program.kms.raw = reply
    assert program.open(demo).type == "result"
    assert len(program.kms.requests) == 5


@pytest.mark.parametrize("size", [0, 300, 2000])
def test_a_dropped_connection_is_made_again(program: Enclave, demo: Auction, size: int) -> None:
    """Before TLS, in its handshake and in the request: a new tunnel, three times for one key."""
    program.proxy.next_cuts = [size, size, size]
    assert program.open(demo).type == "result"
    assert (len(program.proxy.asked), len(program.kms.requests)) == (5, 2)


@pytest.mark.parametrize("size", [0, 300, 2000])
def test_a_connection_that_is_always_dropped_ends_the_opening(
    program: Enclave, demo: Auction, size: int
) -> None:
    """After as many calls as there are pauses and one more, with an error that names what happened."""
    program.proxy.cut_after = size
    answer = program.open(demo)
    assert refusal(answer) == "kms-failed"
    assert answer.body["detail"].startswith("buyer-1: no answer from KMS: ")
    assert (len(program.proxy.asked), program.kms.requests) == (4, [])


def test_a_kms_that_always_hangs_up_ends_the_opening(program: Enclave, demo: Auction) -> None:
    """It gave no reply four times for the first key, and is asked for no other."""
    program.kms.raw = CUT["half a reply"]
    answer = program.open(demo)
    assert refusal(answer) == "kms-failed"
    assert answer.body["detail"] == "buyer-1: no answer from KMS: ConnectionError"
    assert len(program.kms.requests) == 4
