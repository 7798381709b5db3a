"""No amount, no key and no plaintext leaves the program: frames, tunnels, console and memory."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from coattest_enclave import open_request, session
from coattest_enclave.payload.trust import parse_trust
from coattest_enclave.payload.turns import Turns
from coattest_enclave.protocol import canonical, wire
from coattest_enclave.protocol.errors import EnclaveError
from coattest_verify.auction import messages
from support.enclave.enclave_attacks import envelope_of, error
from support.enclave.fake_kms import FakeKms, FakeProxy
from support.enclave.fake_nsm import FakeNsm
from support.enclave.running_enclave import (
    CREDENTIALS,
    DEMO,
    START,
    Auction,
    Enclave,
    running,
    trust_for,
    untimed,
)

AMOUNTS = {"a": [0x1A2B3C4D5E6F7, 987654321987654], "b": [0x1BADC0FFEE123, 123456789123456]}


def everything_outside(program: Enclave) -> bytes:
    """Every byte that has left the program: frames, tunnels, what KMS and the NSM were asked, console.

    It ends the program.
    """
    asked = [json.dumps([headers, body]).encode() for headers, body in program.kms.requests]
    documents = [
        base64.b64decode(body["Recipient"]["AttestationDocument"]) for _, body in program.kms.requests
    ]
    nsm = [value for request in program.nsm.asked for value in request.values() if value]
    frames, tunnels = bytes(program.received), bytes(program.proxy.seen)
    return b"|".join([frames, tunnels, *asked, *documents, *nsm, program.output()])


@pytest.mark.parametrize("rule", [messages.FIRST_PRICE, messages.SECOND_PRICE])
def test_no_amount_and_no_secret_leaves_the_program(
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    sockets: Path,
    kms: FakeKms,
    rule: str,
) -> None:
    """What parent, proxy, KMS, NSM and console see, in success and failure, is free of amounts and keys."""
    with running(authority, sockets, kms) as program:
        # The first lot goes to b, at a's amount under second price; the second is below its reserve.
        book = Auction.make(AMOUNTS, rule=rule, reserves=[0, 999_999_999_999_999])
        assert program.open(book.encrypt(kms)).type == "result"
        book.plaintexts["b"] = (0x1BADC0FFEE123).to_bytes(8, "big") + b"\xff" * 8
        assert program.open(book.encrypt(kms)).type == "result"
        kms.tamper = error("AccessDeniedException")
        assert program.open(book).type == "error"
        kms.tamper = envelope_of(bytes(32))(program)
        assert program.open(book).type == "error"
        files = b"|".join(book.files.values())
        outside = everything_outside(program)
    published = {AMOUNTS["a"][0]} if rule == messages.SECOND_PRICE else set()
    for number in {amount for row in AMOUNTS.values() for amount in row} - published:
        assert leaks_of(number, outside + files) == []
    for number in published:
        assert leaks_of(number, outside) != []
    secrets = [wrapped.data_key for wrapped in kms.keys.values()]
    # The session token is a header for KMS: it is there inside TLS, and nowhere else.
    secrets += [CREDENTIALS["secret_key"].encode()]
    for secret in secrets:
        assert [way for way in (secret, secret.hex().encode(), *base64s(secret)) if way in outside] == []
    assert CREDENTIALS["session_token"].encode() not in program.received + program.proxy.seen


def base64s(content: bytes) -> list[bytes]:
    """The part of base64 that is the content's own, at each of its three offsets, in both alphabets."""
    found = []
    for offset in range(3):
        written = base64.b64encode(bytes(offset) + content)
        own = written[-(-offset * 8 // 6) : (offset + len(content)) * 8 // 6]
        found += [own, own.translate(bytes.maketrans(b"+/", b"-_"))]
    return found


def encodings(number: int) -> dict[str, bytes]:
    """How a number could be written: in binary, in text, and shifted in a stream of bits."""
    big = number.to_bytes(8, "big")
    minimal = big.lstrip(b"\0")
    ways = {
        "big-endian": minimal,
        "little-endian": minimal[::-1],
        "CBOR": canonical.dumps(number)[1:].lstrip(b"\0"),
        "float": struct.pack(">d", number),
        "float, little-endian": struct.pack("<d", number),
        "decimal": str(number).encode(),
        "decimal, negative as CBOR": canonical.dumps(-number)[2:],
        "with underscores": f"{number:_}".encode(),
        "with commas": f"{number:,}".encode(),
        "with points": f"{number:,}".replace(",", ".").encode(),
        "major units": f"{number // 100}.{number % 100:02}".encode(),
        "hex": f"{number:x}".encode(),
        "HEX": f"{number:X}".encode(),
        "hex, little-endian": minimal[::-1].hex().encode(),
        "octal": f"{number:o}".encode(),
        "UTF-16": str(number).encode("utf-16-le"),
        "swapped halves": big[4:] + big[:4],
    }
    for shift in range(1, 8):
        ways[f"shifted by {shift}"] = (number << shift).to_bytes(9, "big").lstrip(b"\0")[1:-1]
    for content in (minimal, minimal[::-1], str(number).encode()):
        for way in base64s(content):
            ways[f"base64 {way!r}"] = way
    return ways


def leaks_of(number: int, outside: bytes) -> list[str]:
    """Every way in which the number is written there."""
    return [name for name, way in encodings(number).items() if len(way) >= 5 and way in outside]


def test_the_secrecy_check_notices_an_amount() -> None:
    """An amount in a plaintext, a result, a log line, JSON in base64 or a float would be found."""
    number = 987654321987654
    for leak in (
        messages.pack_bids([number]),
        canonical.dumps({"a": number}),
        f"bid {number}".encode(),
        *(base64.b64encode(b"x" * pad + messages.pack_bids([number])) for pad in range(3)),
        *(base64.b64encode(b"x" * pad + f"{number}".encode()) for pad in range(3)),
        struct.pack("<dQ", number, 0),
        (number << 3).to_bytes(9, "big"),
        f"{number:x}".encode(),
    ):
        assert leaks_of(number, b"....." + leak + b".....") != [], leak
    assert leaks_of(number, os.urandom(1 << 20)) == []


def test_frame_sizes_do_not_depend_on_amounts(program: Enclave) -> None:
    """Won, tied, unsold, no bid at all or content that is none: the same frames, each of the same size."""
    shapes = {}
    for rule in (messages.FIRST_PRICE, messages.SECOND_PRICE):
        for row in ([1, 2, 3], [0, 0, 0], [2**53 - 1] * 3, [7, 7, 7]):
            book = Auction.make({"buyer-1": row, "buyer-2": [7, 7, 7]}, rule=rule)
            for content in (None, b"\xff" * 24):
                book.plaintexts["buyer-1"] = content or book.plaintexts["buyer-1"]
                answers = program.converse(book.encrypt(program.kms).open_frames())
                assert answers[-1].type == "result"
                sizes = tuple((a.type, len(wire.encode_frame(a))) for a in untimed(answers))
                shapes.setdefault(rule, set()).add(sizes)
    assert [len(shape) for shape in shapes.values()] == [1, 1]


def listens(program: Enclave) -> bool:
    """Whether the program takes connections."""
    try:
        program.connect().close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("said", [True, False])
def test_the_console_is_silent_unless_the_profile_says_otherwise(
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey], sockets: Path, kms: FakeKms, said: bool
) -> None:
    """One line at the start where the profile wants it, else none; nothing afterwards, whatever happens."""
    trust_file = sockets / "trust.json"
    trust_file.write_text(json.dumps({**trust_for(authority, sockets), "console": said}))
    with FakeNsm(sockets / "nsm.sock") as nsm, FakeProxy(sockets / "out_8000.sock", kms.address) as proxy:
        command = [sys.executable, "-c", START, str(trust_file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        program = Enclave(sockets, process, nsm, kms, proxy)
        try:
            while not listens(program):
                assert process.poll() is None
                time.sleep(0.02)
            book = Auction.make(DEMO).encrypt(kms)
            assert program.open(book).type == "result"
            assert program.open(book, seals=[]).type == "error"
            nsm.broken = b"\xff"
            assert program.open(book).type == "error"
            # Its files are root's to see: the program is closed against its own user.
            rooted = os.geteuid() == 0
            targets = {(Path(f"/proc/{process.pid}/fd") / str(fd)).readlink() for fd in (1, 2) if rooted}
        finally:
            output = program.output()
    assert output.count(b"\n") == int(said)
    assert targets == ({Path(os.devnull)} if rooted else set())


SILENCED = """
import os, sys
for stream in sys.argv[1].split(","):
    os.close(int(stream))
from coattest_enclave.__main__ import _silence
_silence()
os.write(1, b"amount")
os.write(2, b"amount")
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "1,2", "0,1,2"])
def test_silence_holds_whatever_was_closed_before(closed: str) -> None:
    """Both streams can be written to and nothing arrives, also when one had been closed."""
    done = subprocess.run([sys.executable, "-c", SILENCED, closed], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_buffers_with_keys_and_amounts_are_overwritten(
    program: Enclave, demo: Auction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data keys and plaintexts are zeros when an opening is over, also when it failed."""
    buffers: list[bytearray] = []

    def kept(make: Callable[..., bytearray]) -> Callable[..., bytearray]:
        def call(*given: object) -> bytearray:
            buffers.append(make(*given))
            return buffers[-1]

        return call

    monkeypatch.setattr(open_request, "data_key", kept(open_request.data_key))
    monkeypatch.setattr(open_request, "unpack", kept(open_request.unpack))
    trust_file = (program.directory / "trust.json").read_bytes()
    trust = parse_trust(trust_file).on_hardware(present=False)
    for failing in (False, True):
        program.kms.tamper = envelope_of(bytes(32))(program) if failing else None
        ours, theirs = socket.socketpair()
        with ours, theirs:
            head, *rest = demo.open_frames()
            for frame in rest:
                wire.write_frame(theirs, frame)
            with pytest.raises(EnclaveError) if failing else contextlib.nullcontext():
                session.open_auction(ours, head, trust, list(trust.proxy), Turns())
        assert [bytes(each).strip(b"\0") for each in buffers] == [b""] * (2 if failing else 4)
        # Plaintexts are overwritten and then emptied.
        assert {len(each) for each in buffers} == ({32} if failing else {32, 0})
        buffers.clear()


def test_documents_with_a_public_key_never_reach_the_parent(program: Enclave, demo: Auction) -> None:
    """A document that KMS would answer to leaves only inside TLS; the parent gets none, whatever it asks."""
    program.open(demo)
    program.converse([wire.Frame(1, "alive", {"nonce": b"n" * 64})])
    keys = {asked["public_key"] for asked in program.nsm.asked} - {None}
    assert len(keys) == 1
    for key in keys:
        assert key not in program.received
        assert key not in program.proxy.seen
    assert b"public_key\xf6" in program.received
