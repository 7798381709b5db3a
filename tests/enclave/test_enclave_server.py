"""The enclave program as a process: real sockets, real TLS; only the NSM's signature is missing.

What it opens, what it refuses before it decrypts, and how it answers requests that are none.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from coattest_enclave.__main__ import auction_server
from coattest_enclave.payload import transport
from coattest_enclave.payload.server import CONNECTIONS_MAX
from coattest_enclave.payload.trust import parse_trust
from coattest_enclave.protocol import canonical, cose, wire
from coattest_verify.auction import messages
from coattest_verify.auction.messages import Tie, Unsold, Won
from support.enclave.enclave_attacks import MALFORMED, REFUSED_BEFORE_DECRYPTING, spki_in
from support.enclave.fake_kms import HOST
from support.enclave.fake_nsm import PCR0, fields_of
from support.enclave.running_enclave import (
    CREDENTIALS,
    DEMO,
    START,
    Auction,
    Enclave,
    outcomes,
    refusal,
    trust_for,
    untimed,
)


def test_the_demo_auction_ends_with_its_winners_and_a_receipt(program: Enclave, demo: Auction) -> None:
    """Three lots go to buyer-2, buyer-1 and a tie, and the receipt binds the result to the seal."""
    answer = program.open(demo)
    assert outcomes(answer) == [Won("buyer-2"), Won("buyer-1"), Tie(("buyer-1", "buyer-2"))]
    result = messages.Result.decode(answer.body["result"])
    assert (result.manifest, result.seal) == (demo.manifest.digest, demo.seal.digest)
    receipt = fields_of(answer.body["receipt"])
    assert receipt["user_data"] == messages.receipt_user_data(answer.body["result"])
    assert receipt["nonce"] == demo.seal.digest
    assert receipt["public_key"] is None


def test_opening_again_gives_the_same_bytes(program: Enclave, demo: Auction) -> None:
    """The result depends on what was sealed and on nothing else."""
    assert program.open(demo).body["result"] == program.open(demo).body["result"]


def test_second_price_and_reserves(program: Enclave) -> None:
    """Under second price each winner's price is the second highest bid or the reserve."""
    amounts = {"a": [9, 9, 3, 0], "b": [7, 1, 2, 0], "c": [5, 0, 1, 0]}
    book = Auction.make(amounts, rule=messages.SECOND_PRICE, reserves=[0, 4, 5, 0]).encrypt(program.kms)
    assert outcomes(program.open(book)) == [Won("a", 7), Won("a", 4), Unsold(), Unsold()]


def test_what_kms_is_asked(program: Enclave, demo: Auction) -> None:
    """One signed Decrypt per buyer: KeyId, context, a document with an RSA key fresh per request."""
    program.open(demo)
    asked = program.kms.requests
    assert [body["KeyId"] for _, body in asked] == [buyer.kms for buyer in demo.manifest.buyers]
    for (headers, body), buyer in zip(asked, demo.manifest.buyers, strict=True):
        assert body["EncryptionContext"] == messages.Binding.of(demo.manifest, buyer, PCR0).context
        assert body["Recipient"]["KeyEncryptionAlgorithm"] == "RSAES_OAEP_SHA_256"
        assert headers["X-Amz-Target"] == "TrentService.Decrypt"
        assert headers["X-Amz-Security-Token"] == CREDENTIALS["session_token"]
        assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=ASIATESTTESTTESTTEST/")
    assert set(program.proxy.asked[-2:]) == {f"CONNECT {HOST}:443 HTTP/1.1"}
    keys = [spki_in(body) for _, body in asked]
    assert keys[0] == keys[1]
    key = load_der_public_key(keys[0])
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 2048
    program.open(demo)
    assert spki_in(program.kms.requests[-1][1]) != keys[0]


@pytest.mark.parametrize("name", REFUSED_BEFORE_DECRYPTING)
def test_what_was_not_sealed_is_not_decrypted(program: Enclave, demo: Auction, name: str) -> None:
    """Without every buyer's seal over exactly these files KMS is not even asked, and no key is made."""
    code, change = REFUSED_BEFORE_DECRYPTING[name]
    assert refusal(program.open(demo, **change(demo))) == code
    assert program.kms.requests == []
    assert [asked for asked in program.nsm.asked if asked["public_key"]] == []


@pytest.mark.parametrize("manifest", [b"", b"\xa0", b"\xff" * 10, canonical.dumps({"purpose": "x"})])
def test_a_bad_manifest_is_refused(program: Enclave, demo: Auction, manifest: bytes) -> None:
    """A manifest that does not decode ends the request as bad-manifest."""
    frames = list(demo.open_frames())
    frames[0].body["manifest_size"] = len(manifest)
    frames[1:2] = list(wire.chunks(7, "manifest", manifest))
    assert refusal(program.converse(frames)[-1]) == "bad-manifest"
    assert program.kms.requests == []


def test_a_key_in_another_partition_is_refused(program: Enclave) -> None:
    """The measured trust file names the partition; a manifest cannot lead the program elsewhere."""
    book = Auction.make(DEMO)
    buyers = tuple(replace(b, kms=b.kms.replace("arn:aws:", "arn:aws-cn:")) for b in book.manifest.buyers)
    foreign = replace(book, manifest=replace(book.manifest, buyers=buyers)).encrypt(program.kms)
    assert refusal(program.open(foreign)) == "bad-manifest"
    assert program.kms.requests == []


def test_a_bid_from_another_auction_is_refused(program: Enclave, demo: Auction) -> None:
    """A bid file made for one manifest opens under no other, even when every buyer seals it there."""
    replayed = replace(demo, manifest=replace(demo.manifest, auction="auction-2"), files=dict(demo.files))
    assert refusal(program.open(replayed)) == "kms-denied"


def test_a_bid_rewrapped_for_another_auction_is_refused(program: Enclave, demo: Auction) -> None:
    """Even with KMS's consent the AAD binds a bid to its manifest."""
    replayed = replace(demo, manifest=replace(demo.manifest, auction="auction-2"), files=dict(demo.files))
    for wrapped in program.kms.keys.values():
        wrapped.context["coattest:auction"] = replayed.manifest.digest.hex()
    assert refusal(program.open(replayed)) == "bad-bid"


def test_content_that_is_no_bid_counts_as_no_bid(program: Enclave) -> None:
    """Another length or an amount out of range is like bidding on nothing; outside nothing tells."""
    seen = set()
    for content in (bytes(24), bytes(23), b"", bytes(32), b"\xff" * 24, (2**53).to_bytes(8, "big") * 3):
        book = Auction.make(DEMO)
        book.plaintexts["buyer-1"] = content
        answers = program.converse(book.encrypt(program.kms).open_frames())
        assert outcomes(answers[-1]) == [Won("buyer-2")] * 3
        seen.add(tuple((a.type, a.body.get("stage")) for a in untimed(answers)))
    assert len(seen) == 1


def test_liveness(program: Enclave) -> None:
    """A liveness document carries the asker's nonce under its own purpose and no public key."""
    for nonce in (b"n" * 16, b"n" * 64):
        (answer,) = program.converse([wire.Frame(1, "alive", {"nonce": nonce})])
        fields = fields_of(answer.body["document"])
        assert (fields["nonce"], fields["public_key"]) == (nonce, None)
        assert fields["user_data"] == messages.alive_user_data()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"nonce": b"n" * 15},
        {"nonce": b"n" * 65},
        {"nonce": "n" * 16},
        {"nonce": None},
        {"nonce": b"n" * 16, "user_data": b"coattest/result/v1"},
        {"nonce": b"n" * 16, "public_key": b"k"},
    ],
)
def test_the_parent_chooses_a_nonce_and_nothing_else(program: Enclave, body: dict[str, Any]) -> None:
    """No field of a document but the liveness nonce is the parent's to set, within its bounds."""
    assert refusal(program.converse([wire.Frame(1, "alive", body)])[-1]) == "bad-frame"
    assert program.nsm.asked == []


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_are_typed_errors(program: Enclave, demo: Auction, name: str) -> None:
    """What breaks the frames' rules is answered with its code, and the program serves the next."""
    code, frames = MALFORMED[name]
    assert refusal(program.converse(frames(demo))[-1]) == code
    assert program.kms.requests == []


@pytest.mark.parametrize("junk", [b"\xff" * 4, b"\0\0\0\x05abcde", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\0"])
def test_junk_instead_of_frames_is_answered_and_dropped(program: Enclave, junk: bytes) -> None:
    """Bytes that are no frame get an error frame and the end of the connection."""
    with program.connect() as stream:
        stream.sendall(junk)
        answer = wire.read_frame(stream)
        assert answer is not None
        assert refusal(answer) in ("bad-frame", "too-large")
        assert wire.read_frame(stream) is None


def test_one_connection_serves_requests_in_sequence(program: Enclave, demo: Auction) -> None:
    """Liveness, opening and liveness again on one connection."""
    with program.connect() as stream:
        for number in (1, 2):
            wire.write_frame(stream, wire.Frame(number, "alive", {"nonce": bytes(16)}))
            answer = wire.read_frame(stream)
            assert answer is not None
            assert (answer.type, answer.request) == ("document", number)
        for frame in demo.open_frames():
            wire.write_frame(stream, frame)
        while (answer := wire.read_frame(stream)) and answer.type == "progress":
            assert set(answer.body) == {"stage"}
        assert answer is not None
        assert answer.type == "result"


def test_silent_connections_do_not_keep_others_out(program: Enclave) -> None:
    """However many say nothing, or half a frame, the next one is served; the longest silent are closed."""
    idle = [program.connect() for _ in range(4 * CONNECTIONS_MAX)]
    try:
        for stream in idle[-3:]:
            stream.sendall(b"\0\0\0")
        for _ in range(3):
            assert program.converse([wire.Frame(1, "alive", {"nonce": bytes(16)})])[-1].type == "document"
        assert idle[0].recv(1) == b""
    finally:
        for stream in idle:
            stream.close()


def test_an_opening_is_not_closed_for_newer_connections(program: Enclave, demo: Auction) -> None:
    """Silent connections come and go while an opening waits for its upload's last byte."""
    *before, last = demo.open_frames()
    with program.connect() as stream:
        for frame in before:
            wire.write_frame(stream, frame)
        assert program.converse([wire.Frame(1, "alive", {"nonce": bytes(16)})])[-1].type == "document"
        idle = [program.connect() for _ in range(3 * CONNECTIONS_MAX)]
        assert program.converse([wire.Frame(1, "alive", {"nonce": bytes(16)})])[-1].type == "document"
        wire.write_frame(stream, last)
        while (answer := wire.read_frame(stream)) and answer.type == "progress":
            pass
        for other in idle:
            other.close()
    assert answer is not None
    assert answer.type == "result"


def test_an_upload_that_drips_loses_its_place(
    program: Enclave, demo: Auction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One opening at a time: who sends a byte now and then is cut when its time is over; the next runs."""
    in_time, begun = transport.in_time, threading.Event()
    limits = iter([0.5])

    def first_is_short(stream: socket.socket, size: int) -> contextlib.AbstractContextManager[None]:
        monkeypatch.setattr(transport, "STREAM_TIMEOUT", next(limits, 60.0))
        begun.set()
        return in_time(stream, size)

    monkeypatch.setattr(transport, "in_time", first_is_short)
    trust = parse_trust((program.directory / "trust.json").read_bytes()).on_hardware(present=False)
    address = f"unix:{program.directory}/own.sock"
    listener = transport.listen(address, 8)
    threading.Thread(target=auction_server(trust).serve, args=(listener,), daemon=True).start()
    slow, quick = (transport.connect(address, 60) for _ in range(2))
    with slow, quick:
        frames = list(demo.open_frames())
        wire.write_frame(slow, frames[0])
        whole = wire.encode_frame(frames[1])
        slow.sendall(whole[:5])
        assert begun.wait(60)
        for frame in frames:
            wire.write_frame(quick, frame)
        with contextlib.suppress(OSError):
            for byte in whole[5:]:
                slow.sendall(bytes([byte]))
                time.sleep(0.02)
        while (answer := wire.read_frame(quick)) and answer.type == "progress":
            pass
    assert answer is not None
    assert answer.type == "result"


def test_a_parent_that_hangs_up_anywhere_harms_nobody(program: Enclave, demo: Auction) -> None:
    """A connection cut at any frame of a request leaves the program serving."""
    frames = list(demo.open_frames())
    for count in range(1, len(frames) + 1):
        with program.connect() as stream:
            for frame in frames[:count]:
                wire.write_frame(stream, frame)
    assert program.open(demo).type == "result"


def test_a_long_result_comes_in_data_frames(program: Enclave) -> None:
    """A result over one chunk goes ahead in data frames; the receipt is about the whole of it."""
    count = 30_000
    book = Auction.make({"buyer-1": [1] * count, "buyer-2": [2] * count}).encrypt(program.kms)
    answers = program.converse(book.open_frames())
    result = b"".join(answer.body["chunk"] for answer in answers if answer.type == "data")
    assert len(result) > wire.CHUNK_MAX
    assert answers[-1].body["result"] == b""
    assert fields_of(answers[-1].body["receipt"])["user_data"] == messages.receipt_user_data(result)
    assert {outcome for _, outcome in messages.Result.decode(result).lots} == {Won("buyer-2")}


@pytest.mark.parametrize("fault", ["junk", "absent", "no NSM"])
def test_a_program_that_cannot_start_says_so_in_one_line(
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey], sockets: Path, fault: str
) -> None:
    """A bad or absent trust file, or no NSM, ends with exit code 1 and one line."""
    trust_file = sockets / "trust.json"
    if fault != "absent":
        trust_file.write_text("{" if fault == "junk" else json.dumps(trust_for(authority, sockets)))
    done = subprocess.run(
        [sys.executable, "-c", START, str(trust_file)],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 1
    assert done.stderr == b""
    assert done.stdout.startswith(b"coattest-enclave: cannot start: ")
    assert done.stdout.count(b"\n") == 1


def test_the_bid_file_is_what_cose_says(demo: Auction) -> None:
    """A bid's size tells the number of lots, which everyone knows, and nothing of the amounts."""
    sizes = {len(cose.parse_encrypt0(file).ciphertext) for file in demo.files.values()}
    assert sizes == {8 * 3 + 16}


def test_what_only_an_opening_needs_is_not_loaded_for_liveness() -> None:
    """The program is ready to answer "alive" before HTTP, TLS and RSA are there."""
    code = (
        "import sys, coattest_enclave.__main__; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    loaded = done.stdout.split()
    assert "coattest_enclave" in loaded
    assert "cbor2" in loaded
    assert not {"cryptography", "http", "ssl", "hashlib"} & set(loaded)
