"""The enclave program as a process: real sockets, real TLS; only the NSM's signature is missing.

What it refuses, that it then gives no result, and that no amount leaves it.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from coattest_enclave import canonical, columns, cose, messages, opening, wire
from coattest_enclave.errors import BadBid
from coattest_enclave.messages import Tie, Unsold, Won
from support.fake_kms import HOST, FakeKms, FakeProxy, make_ca, make_envelope, make_leaf
from support.fake_nsm import FakeNsm, fields_of
from support.running_enclave import CREDENTIALS, START, Auction, Enclave, running, trust_for

DEMO = {"buyer-1": [100000, 200000, 150000], "buyer-2": [120000, 180000, 150000]}


@pytest.fixture(scope="module")
def shared(authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]) -> Iterator[Enclave]:
    """One program for all tests here: whatever a test does to it must leave it working for the next."""
    directory = Path(tempfile.mkdtemp(prefix="enc-"))
    with FakeKms(make_leaf(*authority, HOST, directory)) as kms, running(authority, directory, kms) as it:
        yield it
    shutil.rmtree(directory)


@pytest.fixture
def program(shared: Enclave) -> Iterator[Enclave]:
    """The program, and afterwards everything around it as it was."""
    shared.kms.requests.clear()
    shared.nsm.asked.clear()
    shared.received.clear()
    yield shared
    shared.kms.tamper = None
    shared.nsm.timestamp = shared.nsm.broken = shared.proxy.cut_after = None
    shared.proxy.refuse = False
    assert shared.process.poll() is None, "the program ended"
    assert shared.converse([wire.Frame(1, "alive", {"nonce": bytes(16)})])[-1].type == "document"


@pytest.fixture
def demo(program: Enclave) -> Auction:
    """The demo's auction."""
    return Auction.make(DEMO).encrypt(program.kms)


def outcomes(answer: wire.Frame) -> list[messages.Outcome]:
    """The outcomes in a result frame."""
    assert answer.type == "result", answer
    return [outcome for _, outcome in messages.Result.decode(answer.body["result"]).lots]


def refusal(answer: wire.Frame) -> str:
    """The code of an error frame, which has nothing else in it than a code and a text."""
    assert answer.type == "error", answer
    assert set(answer.body) == {"code", "detail"}
    return str(answer.body["code"])


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
        assert body["EncryptionContext"] == messages.encryption_context(demo.manifest.digest, buyer.name)
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


def spki_in(body: dict[str, Any]) -> bytes:
    """The public key in the document of a Decrypt request."""
    key: bytes = fields_of(base64.b64decode(body["Recipient"]["AttestationDocument"]))["public_key"]
    return key


def resealed(auction: Auction, **fields: Any) -> list[bytes]:
    """Every buyer's signature over a seal with other fields."""
    return auction.seals(replace(auction.seal, **fields))


def altered(auction: Auction) -> dict[str, bytes]:
    """The bid files with one bit of buyer-2's changed."""
    return {
        **auction.files,
        "buyer-2": auction.files["buyer-2"][:-1] + bytes([auction.files["buyer-2"][-1] ^ 1]),
    }


def flipped(seals: list[bytes]) -> list[bytes]:
    """The seals with one bit of the first signature changed."""
    return [seals[0][:-1] + bytes([seals[0][-1] ^ 1]), *seals[1:]]


REFUSED_BEFORE_DECRYPTING: dict[str, tuple[str, Callable[[Auction], dict[str, Any]]]] = {
    "no seals": ("bad-seal", lambda a: {"seals": []}),
    "one buyer did not seal": ("bad-seal", lambda a: {"seals": a.seals()[:1]}),
    "a buyer sealed twice": ("bad-seal", lambda a: {"seals": a.seals()[:1] * 2}),
    "seals over another manifest": ("bad-seal", lambda a: {"seals": resealed(a, manifest=bytes(48))}),
    "seals over different decisions": (
        "bad-seal",
        lambda a: {"seals": [a.seals()[0], resealed(a, decision=b"x" * 32)[1]]},
    ),
    "seal with a changed byte": ("bad-seal", lambda a: {"seals": flipped(a.seals())}),
    "seal that is junk": ("bad-seal", lambda a: {"seals": [b"", b"\xff"]}),
    "an altered bid": ("bad-bid-digest", lambda a: {"files": altered(a)}),
    "bids swapped": (
        "bad-bid-digest",
        lambda a: {"files": {"buyer-1": a.files["buyer-2"], "buyer-2": a.files["buyer-1"]}},
    ),
    "an empty bid file": ("bad-bid-digest", lambda a: {"files": {**a.files, "buyer-1": b""}}),
    "a bid left out of the seal": ("bad-seal", lambda a: {"seals": resealed(a, bids=a.seal.bids[:1])}),
}


@pytest.mark.parametrize("name", REFUSED_BEFORE_DECRYPTING)
def test_what_was_not_sealed_is_not_decrypted(program: Enclave, demo: Auction, name: str) -> None:
    """Without every buyer's seal over exactly these files KMS is not even asked, and no key is made."""
    code, change = REFUSED_BEFORE_DECRYPTING[name]
    assert refusal(program.open(demo, **change(demo))) == code
    assert program.kms.requests == []
    assert [asked for asked in program.nsm.asked if asked["public_key"]] == []


@pytest.mark.parametrize("manifest", [b"", b"\xa0", b"\xff" * 10, canonical.encode({"purpose": "x"})])
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


def error(kind: str, status: int = 400) -> Callable[[int, dict[str, Any]], tuple[int, Any]]:
    """A KMS that answers with this error."""
    return lambda *_: (status, {"__type": kind, "message": "100000 is what buyer-1 bids"})


def fields(**changes: Any) -> Callable[[int, dict[str, Any]], tuple[int, Any]]:
    """A KMS whose answer has these fields changed; None takes one out."""
    return lambda status, body: (status, {k: v for k, v in {**body, **changes}.items() if v is not None})


def envelope_of(plaintext: bytes) -> Callable[[Enclave], Callable[[int, dict[str, Any]], tuple[int, Any]]]:
    """A KMS that encrypts something else to the enclave's key."""

    def prepare(program: Enclave) -> Callable[[int, dict[str, Any]], tuple[int, Any]]:
        def tamper(status: int, body: dict[str, Any]) -> tuple[int, Any]:
            spki = spki_in(program.kms.requests[-1][1])
            key = load_der_public_key(spki)
            assert isinstance(key, rsa.RSAPublicKey)
            sealed = base64.b64encode(make_envelope(plaintext, key, spki)).decode()
            return status, {**body, "CiphertextForRecipient": sealed}

        return tamper

    return prepare


STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
HOSTILE_KMS: dict[str, tuple[str, Any]] = {
    "access denied": ("kms-denied", error("AccessDeniedException")),
    "access denied, type with a prefix": ("kms-denied", error("com.amazonaws.kms#AccessDeniedException")),
    "another key made this": ("kms-denied", error("IncorrectKeyException")),
    "disabled key": ("kms-denied", error("DisabledException")),
    "expired credentials": ("kms-denied", error("ExpiredTokenException")),
    "throttled": ("kms-failed", error("ThrottlingException")),
    "unknown error": ("kms-failed", error("100000")),
    "internal error": ("kms-failed", error("KMSInternalException", 500)),
    "denied with status 200": ("kms-failed", error("AccessDeniedException", 200)),
    "redirect": ("kms-failed", error("x", 302)),
    "not JSON": ("kms-failed", lambda *_: (200, b"<html>")),
    "not an object": ("kms-failed", lambda *_: (200, b"[]")),
    "deeply nested JSON": ("kms-failed", lambda *_: (200, b"[" * 60000)),
    "empty": ("kms-failed", lambda *_: (200, b"")),
    "too large": ("kms-failed", lambda *_: (200, b" " * 70000 + b"{}")),
    "for another key": ("kms-failed", fields(KeyId="arn:aws:kms:eu-central-1:111122223333:key/other")),
    "no key id": ("kms-failed", fields(KeyId=None)),
    "with a plaintext": ("kms-failed", fields(Plaintext=base64.b64encode(bytes(32)).decode())),
    "only a plaintext": (
        "kms-failed",
        fields(Plaintext=base64.b64encode(bytes(32)).decode(), CiphertextForRecipient=None),
    ),
    "no envelope": ("kms-failed", fields(CiphertextForRecipient=None)),
    "envelope that is no text": ("kms-failed", fields(CiphertextForRecipient=5)),
    "envelope that is not base64": ("kms-failed", fields(CiphertextForRecipient="?")),
    "envelope that is junk": ("kms-failed", fields(CiphertextForRecipient="AAAA")),
    "envelope for another recipient": (
        "kms-failed",
        fields(CiphertextForRecipient=base64.b64encode(make_envelope(bytes(32), STRANGER, b"x")).decode()),
    ),
}


@pytest.mark.parametrize("name", HOSTILE_KMS)
def test_whatever_kms_answers_instead_of_a_key_there_is_no_result(
    program: Enclave, demo: Auction, name: str
) -> None:
    """Refusals and odd answers end the request with a typed error that repeats nothing from outside."""
    code, program.kms.tamper = HOSTILE_KMS[name]
    answer = program.open(demo)
    assert refusal(answer) == code
    assert answer.body["detail"].startswith("buyer-1: ")
    assert b"100000" not in wire.encode_frame(answer)


@pytest.mark.parametrize(
    ("size", "code"), [(0, "kms-failed"), (31, "kms-failed"), (33, "kms-failed"), (32, "bad-bid")]
)
def test_another_data_key_is_no_key(program: Enclave, demo: Auction, size: int, code: str) -> None:
    """Anyone can encrypt to the enclave's key: another length is refused, a wrong key fails the AEAD."""
    program.kms.tamper = envelope_of(bytes(size))(program)
    assert refusal(program.open(demo)) == code


def test_one_denied_buyer_means_no_result_and_not_no_bid(program: Enclave, demo: Auction) -> None:
    """A parent that cannot use the second buyer's key gets an error, not an auction without that buyer."""
    answers = iter([None, error("AccessDeniedException")])

    def second_denied(status: int, body: dict[str, Any]) -> tuple[int, Any]:
        tamper = next(answers)
        return tamper(status, body) if tamper else (status, body)

    program.kms.tamper = second_denied
    answer = program.open(demo)
    assert (refusal(answer), answer.body["detail"]) == ("kms-denied", "buyer-2: AccessDeniedException")


def test_a_proxy_that_refuses_or_hangs_up_means_no_result(program: Enclave, demo: Auction) -> None:
    """Transport failures are kms-failed."""
    program.proxy.refuse = True
    assert refusal(program.open(demo)) == "kms-failed"
    program.proxy.refuse = False
    for cut_after in (0, 300, 2000):
        program.proxy.cut_after = cut_after
        assert refusal(program.open(demo)) == "kms-failed"


@pytest.mark.parametrize("impostor", ["another host name", "another authority"])
def test_only_kms_itself_is_spoken_to(
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    sockets: Path,
    tmp_path: Path,
    impostor: str,
) -> None:
    """A proxy that leads elsewhere meets the certificate check: no document and no credential is sent."""
    certificate = (
        make_leaf(*authority, "kms.us-east-1.coattest.test", tmp_path)
        if impostor == "another host name"
        else make_leaf(*make_ca(), HOST, tmp_path)
    )
    with FakeKms(certificate) as kms, running(authority, sockets, kms) as program:
        answer = program.open(Auction.make(DEMO).encrypt(kms))
        assert refusal(answer) == "kms-failed"
        assert "certificate refused" in answer.body["detail"]
        assert kms.requests == []
        assert CREDENTIALS["session_token"].encode() not in program.proxy.seen


def test_content_that_is_no_bid_counts_as_no_bid(program: Enclave) -> None:
    """Another length or an amount out of range is like bidding on nothing; outside nothing tells."""
    seen = set()
    for content in (bytes(24), bytes(23), b"", bytes(32), b"\xff" * 24, (2**53).to_bytes(8, "big") * 3):
        book = Auction.make(DEMO)
        book.plaintexts["buyer-1"] = content
        answers = program.converse(book.encrypt(program.kms).open_frames())
        assert outcomes(answers[-1]) == [Won("buyer-2")] * 3
        seen.add(tuple((a.type, a.body.get("stage")) for a in answers))
    assert len(seen) == 1


def failures_of(program: Enclave, demo: Auction) -> Iterator[tuple[str, wire.Frame]]:
    """Everything that parent, proxy and KMS can do to one sealed auction, with the last answer to each."""
    for name, (_, tamper) in HOSTILE_KMS.items():
        program.kms.tamper = tamper
        yield f"KMS: {name}", program.open(demo)
    program.kms.tamper = None
    for cut in (0, 1, 5, 100, 517, 600, 1500, 3000, 6000):
        program.proxy.cut_after = cut
        yield f"proxy: cut after {cut} bytes", program.open(demo)
    program.proxy.cut_after, program.proxy.refuse = None, True
    yield "proxy: refuses", program.open(demo)
    program.proxy.refuse = False
    for field in CREDENTIALS:
        for value in ("", "x" * 8192, "AKIA SOMEBODY ELSE'S"):
            frames = first(demo, credentials={**CREDENTIALS, field: value})
            yield f"parent: other {field}", program.converse(frames)[-1]
    for clock in (0, 1, 2**63 - 1, -1, None, "now"):
        program.nsm.timestamp = clock
        yield f"clock: {clock}", program.open(demo)
    program.nsm.timestamp = None
    for answer in (b"", b"\xff", b"\xa1eError\x00", b"\xa0"):
        program.nsm.broken = answer
        yield f"NSM: {answer!r}", program.open(demo)
    program.nsm.broken = None
    for name, (_, change) in REFUSED_BEFORE_DECRYPTING.items():
        yield f"parent: {name}", program.open(demo, **change(demo))
    for name, (_, make) in MALFORMED.items():
        yield f"frames: {name}", program.converse(make(demo))[-1]


def test_whatever_fails_there_is_the_same_result_or_none(program: Enclave, demo: Auction) -> None:
    """Credentials, time and failures are the parent's to choose: they decide whether, never what."""
    right = program.open(demo).body["result"]
    ends: dict[str, int] = {"error": 0, "result": 0}
    for what, answer in failures_of(program, demo):
        ends[answer.type] += 1
        if answer.type == "result":
            assert answer.body["result"] == right, what
            # This KMS does not look at credentials; a cut behind everything changes nothing.
            assert what.startswith(("parent: other", "proxy: cut", "clock: None")), what
        else:
            assert set(answer.body) == {"code", "detail"}, what
    assert ends["result"] >= 3 * len(CREDENTIALS)
    assert ends["error"] > 60
    assert program.open(demo).body["result"] == right


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
        "CBOR": canonical.encode(number)[1:].lstrip(b"\0"),
        "float": struct.pack(">d", number),
        "float, little-endian": struct.pack("<d", number),
        "decimal": str(number).encode(),
        "decimal, negative as CBOR": canonical.encode(-number)[2:],
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
        canonical.encode({"a": number}),
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
                sizes = tuple((a.type, len(wire.encode_frame(a))) for a in answers)
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
            targets = {(Path(f"/proc/{process.pid}/fd") / str(fd)).readlink() for fd in (1, 2)}
        finally:
            output = program.output()
    assert output.count(b"\n") == int(said)
    assert targets == {Path(os.devnull)}


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


def test_buffers_with_keys_and_amounts_are_overwritten(demo: Auction) -> None:
    """Data keys, plaintexts and columns of amounts are zeros when their use is over, also after a failure."""
    buyer = demo.manifest.buyers[0]
    given: list[bytearray] = []

    def data_key(right: bool) -> Callable[..., bytearray]:
        def ask(wrapped: bytes, _arn: str, _context: Mapping[str, str]) -> bytearray:
            key = demo_keys[wrapped] if right else os.urandom(32)
            given.append(bytearray(key))
            return given[-1]

        return ask

    wrapped = cose.parse_encrypt0(demo.files[buyer.name]).wrapped_key
    aad = messages.bid_aad(demo.manifest.digest, buyer.name, buyer.kms)
    key = os.urandom(32)
    demo_keys = {wrapped: key}
    file = cose.encrypt0(demo.plaintexts[buyer.name], key, wrapped_key=wrapped, external_aad=aad)
    amounts = opening.decrypt_bid(data_key(True), demo.manifest, buyer, file)
    assert list(amounts or ()) == DEMO[buyer.name]
    with pytest.raises(BadBid):
        opening.decrypt_bid(data_key(False), demo.manifest, buyer, file)
    assert given == [bytearray(32)] * 2
    assert amounts is not None
    columns.wipe(amounts)
    assert list(amounts) == [0, 0, 0]


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


def first(auction: Auction, **changes: Any) -> list[wire.Frame]:
    """The frames of an open request with some fields of the first changed."""
    head, *rest = auction.open_frames()
    return [wire.Frame(7, "open", {**head.body, **changes}), *rest]


def with_frame(auction: Auction, index: int, frame: wire.Frame) -> list[wire.Frame]:
    """The frames of an open request with one replaced."""
    frames = list(auction.open_frames())
    return [*frames[:index], frame, *frames[index + 1 :]]


def data(**body: Any) -> wire.Frame:
    """A data frame of request 7."""
    return wire.Frame(7, "data", body)


def renamed(auction: Auction, name: str) -> list[wire.Frame]:
    """The second bid under another name."""
    head, *rest = auction.open_frames()
    head.body["bids"][1][0] = name
    rest[-1].body["part"] = f"bid:{name}"
    return [head, *rest]


def reordered(auction: Auction) -> list[wire.Frame]:
    """The bids the other way round."""
    head, manifest, one, two = auction.open_frames()
    head.body["bids"].reverse()
    return [head, manifest, two, one]


MALFORMED: dict[str, tuple[str, Callable[[Auction], list[wire.Frame]]]] = {
    "unknown request": ("bad-frame", lambda a: [wire.Frame(7, "result", {})]),
    "data without open": ("bad-frame", lambda a: list(a.open_frames())[1:]),
    "one more field": ("bad-frame", lambda a: first(a, endpoint="https://evil.example")),
    "size that is true": ("bad-frame", lambda a: first(a, manifest_size=True)),
    "negative size": ("bad-frame", lambda a: first(a, manifest_size=-1)),
    "manifest over its limit": ("too-large", lambda a: first(a, manifest_size=canonical.SIZE_MAX + 1)),
    "bids over the limit": ("too-large", lambda a: first(a, bids=[["buyer-1", 2**30]])),
    "too many bids": ("bad-frame", lambda a: first(a, bids=[[f"b{i}", 0] for i in range(65)])),
    "bid without size": ("bad-frame", lambda a: first(a, bids=[["buyer-1"]])),
    "bid with a negative size": ("bad-frame", lambda a: first(a, bids=[["buyer-1", -5]])),
    "seals that are text": ("bad-frame", lambda a: first(a, seals=["x"])),
    "no credentials": ("bad-frame", lambda a: first(a, credentials={})),
    "one more credential": ("bad-frame", lambda a: first(a, credentials={**CREDENTIALS, "region": "x"})),
    "credential with a line break": (
        "bad-frame",
        lambda a: first(a, credentials={**CREDENTIALS, "session_token": "a\r\nX-Amz-Target: b"}),
    ),
    "credential not in ASCII": (
        "bad-frame",
        lambda a: first(a, credentials={**CREDENTIALS, "access_key": "\xe9"}),
    ),
    "huge credential": (
        "bad-frame",
        lambda a: first(a, credentials={**CREDENTIALS, "access_key": "a" * 9000}),
    ),
    "another part first": (
        "bad-frame",
        lambda a: with_frame(a, 1, data(part="bid:buyer-1", chunk=a.manifest.encode(), last=True)),
    ),
    "another request's data": (
        "bad-frame",
        lambda a: with_frame(
            a, 1, wire.Frame(8, "data", {"part": "manifest", "chunk": a.manifest.encode(), "last": True})
        ),
    ),
    "data with one more field": (
        "bad-frame",
        lambda a: with_frame(a, 1, data(part="manifest", chunk=a.manifest.encode(), last=True, offset=0)),
    ),
    "data that is text": (
        "bad-frame",
        lambda a: with_frame(a, 1, data(part="manifest", chunk="x", last=True)),
    ),
    "data that ends early": (
        "bad-frame",
        lambda a: with_frame(a, 1, data(part="manifest", chunk=b"x", last=True)),
    ),
    "data that does not end": (
        "bad-frame",
        lambda a: with_frame(a, 1, data(part="manifest", chunk=a.manifest.encode(), last=False)),
    ),
    "more data than announced": (
        "too-large",
        lambda a: with_frame(a, 1, data(part="manifest", chunk=a.manifest.encode() + b"x", last=True)),
    ),
    "chunk over its limit": (
        "too-large",
        lambda a: [
            *first(a, manifest_size=2**20)[:1],
            data(part="manifest", chunk=bytes(2**19 + 1), last=False),
        ],
    ),
    "empty chunk that is not the last": (
        "bad-frame",
        lambda a: with_frame(a, 1, data(part="manifest", chunk=b"", last=False)),
    ),
    "open inside open": ("bad-frame", lambda a: with_frame(a, 1, next(iter(a.open_frames())))),
    "bids of other buyers": ("bad-bid-digest", lambda a: renamed(a, "buyer-3")),
    "bids in another order": ("bad-bid-digest", reordered),
}


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


def test_idle_connections_do_not_keep_others_out(program: Enclave) -> None:
    """Liveness is answered beside connections that say nothing."""
    idle = [program.connect() for _ in range(5)]
    try:
        assert program.converse([wire.Frame(1, "alive", {"nonce": bytes(16)})])[-1].type == "document"
    finally:
        for stream in idle:
            stream.close()


def test_a_parent_that_hangs_up_anywhere_harms_nobody(program: Enclave, demo: Auction) -> None:
    """A connection cut at any frame of a request leaves the program serving."""
    frames = list(demo.open_frames())
    for count in range(1, len(frames) + 1):
        with program.connect() as stream:
            for frame in frames[:count]:
                wire.write_frame(stream, frame)
    assert program.open(demo).type == "result"


def test_an_absurd_clock_means_no_result(program: Enclave, demo: Auction) -> None:
    """Without the NSM's time nothing is decrypted: certificates could not be judged."""
    program.nsm.timestamp = 0
    assert refusal(program.open(demo)) == "clock"
    assert program.kms.requests == []


def test_a_broken_nsm_means_no_result(program: Enclave, demo: Auction) -> None:
    """No document, no receipt, no result; the error says so and no more."""
    program.nsm.broken = b"\xa1eError\x00"
    answer = program.open(demo)
    assert refusal(answer) == "internal"
    assert answer.body["detail"] == "the NSM gave no document"


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
