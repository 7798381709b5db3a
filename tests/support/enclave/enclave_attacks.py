"""What a hostile parent, buyer or KMS can send to the enclave, and the code of the error that it gets."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from coattest_enclave.protocol import canonical, wire
from support.enclave.fake_kms import make_envelope
from support.enclave.fake_nsm import fields_of
from support.enclave.running_enclave import CREDENTIALS, Auction, Enclave


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
    "seals over different releases": (
        "bad-seal",
        lambda a: {"seals": [a.seals()[0], resealed(a, release=b"x" * 32)[1]]},
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
