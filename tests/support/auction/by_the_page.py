"""A second implementation of the auction, written from docs/protocol.md alone; nothing of coattest in it.

It is slow and plain on purpose, and knows only what the page says.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
LOT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}\Z")
CURRENCY = re.compile(r"[A-Z]{3}\Z")
ARN = re.compile(r"arn:(aws[a-z-]*):kms:([a-z0-9-]+):[0-9]{12}:key/[0-9a-f]{8}-([0-9a-f-]{27})\Z")
PLACE = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/([A-Za-z0-9][A-Za-z0-9._-]{0,99}/){0,7}\Z")
AMOUNT_MAX = 2**53 - 1
Kms = Callable[[str, bytes, dict[str, str]], bytes | None]


class Refused(Exception):
    """The request ends with this code."""


class Bad(Exception):
    """Not the message that it should be."""


# Conventions: deterministic CBOR


def head(major: int, number: int) -> bytes:
    """The shortest head."""
    if number < 24:
        return bytes([major << 5 | number])
    width = next(w for w in (1, 2, 4, 8) if number < 256**w)
    return bytes([major << 5 | 23 + width.bit_length()]) + number.to_bytes(width, "big")


def write(value: Any) -> bytes:
    """The one encoding of a value."""
    match value:
        case bool() | None:
            return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value]
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list():
            return head(4, len(value)) + b"".join(map(write, value))
        case dict():
            pairs = sorted((write(key), write(item)) for key, item in value.items())
            return head(5, len(pairs)) + b"".join(key + item for key, item in pairs)
    raise Bad("no encoding")


def read(data: bytes) -> Any:
    """The value of an encoding; whatever is not the one encoding of it is refused."""
    try:
        value, end = item_at(data, 0, 0)
    except (IndexError, UnicodeDecodeError, TypeError) as error:
        raise Bad("not CBOR") from error
    if end != len(data) or write(value) != data:
        raise Bad("not deterministic")
    if items_in(value) > 4096:
        raise Bad("too many items")
    return value


def items_in(value: Any) -> int:
    """How many items a value has, containers and keys among them."""
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(items_in, value.values()))
    return 1 + (sum(map(items_in, value)) if isinstance(value, list) else 0)


def item_at(data: bytes, position: int, depth: int) -> tuple[Any, int]:
    """The item at a position, and where it ends."""
    major, number = data[position] >> 5, data[position] & 31
    position += 1
    if 24 <= number <= 27:
        width = 1 << number - 24
        number, position = int.from_bytes(data[position : position + width], "big"), position + width
    elif number > 27:
        raise Bad("indefinite")
    if major in (0, 1):
        return (number if major == 0 else -1 - number), position
    if major in (2, 3):
        content = data[position : position + number]
        if len(content) != number:
            raise Bad("truncated")
        return (content if major == 2 else content.decode()), position + number
    if major == 7 and number in (20, 21, 22):
        return {20: False, 21: True, 22: None}[number], position
    if major not in (4, 5) or depth == 8:
        raise Bad("a tag, a float, or too deep")
    items = []
    for _ in range(number * (major - 3)):
        value, position = item_at(data, position, depth + 1)
        items.append(value)
    return (items if major == 4 else dict(zip(items[::2], items[1::2], strict=True))), position


# Conventions: fields


def need(condition: object, what: str) -> None:
    """Raise Bad unless the condition holds."""
    if not condition:
        raise Bad(what)


def fields_of(value: Any, *names: str) -> list[Any]:
    """The fields of a map that has exactly these."""
    need(isinstance(value, dict) and set(value) == set(names), "fields")
    return [value[name] for name in names]


def amount(value: Any) -> bool:
    """Whether a value is an amount or a time."""
    return type(value) is int and 0 <= value <= AMOUNT_MAX


def column(data: Any, lots: int) -> list[int]:
    """A column's numbers."""
    need(isinstance(data, bytes) and len(data) == 8 * lots, "column")
    return [int.from_bytes(data[i : i + 8], "big") for i in range(0, len(data), 8)]


def text(value: Any, pattern: re.Pattern[str]) -> str:
    """A text of that form."""
    need(isinstance(value, str) and pattern.match(value), "text")
    return str(value)


def sha384(data: bytes) -> bytes:
    """SHA-384."""
    return hashlib.sha384(data).digest()


# Manifest


def read_manifest(data: bytes, partition: str) -> dict[str, Any]:
    """The manifest in these bytes, as a map with two fields more: ``ids`` and ``limits`` (the reserves)."""
    manifest = read(data)
    names = ("purpose", "auction", "currency", "rule", "lots", "reserves", "buyers", "closes", "publish_by")
    purpose, auction, currency, rule, lots, reserves, buyers, closes, publish_by = fields_of(manifest, *names)
    need(purpose == "coattest/manifest/v1" and rule in ("first-price", "second-price"), "purpose or rule")
    text(auction, NAME)
    text(currency, CURRENCY)
    need(isinstance(lots, str), "lots")
    ids = lots.split("\n")
    need(len(set(ids)) == len(ids) <= 2**20 and all(LOT_ID.match(i) for i in ids), "lots")
    limits = column(reserves, len(ids))
    need(all(map(amount, limits)), "reserves")
    need(isinstance(buyers, list) and 1 <= len(buyers) <= 64, "buyers")
    for buyer in buyers:
        name, key, certificate, kms, bids = fields_of(buyer, "name", "key", "certificate", "kms", "bids")
        text(name, NAME)
        need(isinstance(key, bytes) and len(key) == 120, "key")
        need(isinstance(certificate, bytes) and 1 <= len(certificate) <= 16384, "certificate")
        need(isinstance(kms, str) and ARN.match(kms) and kms.split(":")[1] == partition, "KMS key")
        text(bids, PLACE)
        public_key(key)
    for field in ("name", "key", "kms"):
        need(len({buyer[field] for buyer in buyers}) == len(buyers), "twice")
    need([b["name"] for b in buyers] == sorted(b["name"] for b in buyers), "order of buyers")
    need(amount(closes) and amount(publish_by) and closes <= publish_by, "times")
    return {**manifest, "ids": ids, "limits": limits}


def public_key(spki: bytes) -> ec.EllipticCurvePublicKey:
    """A P-384 key."""
    try:
        key = load_der_public_key(spki)
    except ValueError as error:
        raise Bad("key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise Bad("key")
    return key


# Seal


def read_seal(
    manifest: dict[str, Any], digest: bytes, seals: Sequence[bytes]
) -> tuple[bytes, bytes, list[Any]]:
    """Seal digest, image and sealed bids, when every buyer signed one payload about this manifest."""
    signed = {}
    for data in seals:
        need(data[:1] == b"\xd2", "tag")
        parts = read(data[1:])
        need(isinstance(parts, list) and len(parts) == 4, "COSE_Sign1")
        protected, unprotected, payload, signature = parts
        need(protected == bytes.fromhex("a1013822") and isinstance(unprotected, dict), "headers")
        need(list(unprotected) == [4] and isinstance(signature, bytes) and len(signature) == 96, "headers")
        signed[unprotected[4]] = (payload, signature)
    buyers = manifest["buyers"]
    need(len(seals) == len(buyers), "one per buyer")
    payloads = set()
    for buyer in buyers:
        need(buyer["name"].encode() in signed, "missing")
        payload, signature = signed[buyer["name"].encode()]
        r, s = (int.from_bytes(signature[i : i + 48], "big") for i in (0, 48))
        covered = write(["Signature1", bytes.fromhex("a1013822"), b"", payload])
        try:
            public_key(buyer["key"]).verify(encode_dss_signature(r, s), covered, ec.ECDSA(SHA384()))
        except InvalidSignature as error:
            raise Bad("signature") from error
        payloads.add(payload)
    need(len(payloads) == 1, "different payloads")
    payload = payloads.pop()
    names = ("purpose", "manifest", "release", "image", "bids")
    purpose, of, release, image, bids = fields_of(read(payload), *names)
    need(purpose == "coattest/seal/v1" and of == digest, "purpose or manifest")
    need(isinstance(release, bytes) and len(release) == 32, "release")
    need(isinstance(image, bytes) and len(image) == 48 and any(image), "image")
    need([name for name, _ in bids] == [buyer["name"] for buyer in buyers], "bids")
    need(all(isinstance(d, bytes) and len(d) == 48 for _, d in bids), "bid digest")
    return sha384(payload), image, bids


# Bid


def read_bid(
    manifest: dict[str, Any], digest: bytes, buyer: dict[str, Any], file: bytes, kms: Kms, *, image: bytes
) -> list[int]:
    """A buyer's amounts; all 0 when the content is no bid. The image is the enclave's own."""
    try:
        need(file[:1] == b"\xd0", "tag")
        parts = read(file[1:])
        need(isinstance(parts, list) and len(parts) == 3, "COSE_Encrypt0")
        protected, unprotected, ciphertext = parts
        need(protected == bytes.fromhex("a10103"), "algorithm")
        need(isinstance(unprotected, dict) and set(unprotected) == {5, -65537, -65538}, "headers")
        iv, wrapped = unprotected[5], unprotected[-65537]
        need(isinstance(iv, bytes) and len(iv) == 12, "iv")
        need(isinstance(wrapped, bytes) and 1 <= len(wrapped) <= 6144, "wrapped key")
        commitment = unprotected[-65538]
        need(isinstance(commitment, bytes) and len(commitment) == 48, "commitment")
    except Bad as error:
        raise Refused("bad-bid") from error
    name, arn = buyer["name"], buyer["kms"]
    seal_key = hashlib.sha256(buyer["key"]).digest()
    context = {
        "coattest:auction": digest.hex(),
        "coattest:buyer": name,
        "coattest:image": image.hex(),
        "coattest:seal-key": seal_key.hex(),
    }
    key = kms(arn, wrapped, context)
    if key is None:
        raise Refused("kms-denied")
    if hashlib.sha384(write(["coattest/data-key/v1", key])).digest() != commitment:
        raise Refused("bad-bid")
    external = write(["coattest/bid/v1", digest, name, seal_key, image, arn])
    aad = write(["Encrypt0", bytes.fromhex("a10103"), external])
    try:
        content = AESGCM(key).decrypt(iv, ciphertext, aad)
    except InvalidTag as error:
        raise Refused("bad-bid") from error
    lots = len(manifest["ids"])
    try:
        amounts = column(content, lots)
        need(all(map(amount, amounts)), "amounts")
    except Bad:
        return [0] * lots
    return amounts


# Result


def decide(manifest: dict[str, Any], bids: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Winners and prices per lot."""
    winners, prices = [], []
    for lot, reserve in enumerate(manifest["limits"]):
        valid = [(row[lot], i) for i, row in enumerate(bids) if row[lot] and row[lot] >= reserve]
        highest = max((bid for bid, _ in valid), default=0)
        best = [i for bid, i in valid if bid == highest]
        winners.append(sum(2**i for i in best))
        second = max((row[lot] for i, row in enumerate(bids) if i not in best), default=0)
        prices.append(max(second, reserve) if len(best) == 1 else 0)
    return winners, prices


def open_auction(
    data: bytes,
    seals: Sequence[bytes],
    bids: Sequence[tuple[str, bytes]],
    kms: Kms,
    *,
    own_image: bytes,
    partition: str = "aws",
) -> bytes:
    """The result's bytes; raises Refused with the code of the error frame."""
    try:
        manifest = read_manifest(data, partition)
    except Bad as error:
        raise Refused("bad-manifest") from error
    digest = sha384(data)
    try:
        seal, image, sealed = read_seal(manifest, digest, seals)
    except Bad as error:
        raise Refused("bad-seal") from error
    if image != own_image:
        raise Refused("wrong-image")
    if [[name, sha384(file)] for name, file in bids] != sealed:
        raise Refused("bad-bid-digest")
    buyers = manifest["buyers"]
    rows = [
        read_bid(manifest, digest, b, f, kms, image=own_image) for b, (_, f) in zip(buyers, bids, strict=True)
    ]
    winners, prices = decide(manifest, rows)
    return write(
        {
            "purpose": "coattest/result/v1",
            "auction": manifest["auction"],
            "manifest": digest,
            "seal": seal,
            "currency": manifest["currency"],
            "rule": manifest["rule"],
            "lots": manifest["lots"],
            "buyers": [buyer["name"] for buyer in buyers],
            "winners": b"".join(number.to_bytes(8, "big") for number in winners),
            "prices": b"".join(number.to_bytes(8, "big") for number in prices)
            if manifest["rule"] == "second-price"
            else b"",
        }
    )


def receipt_user_data(result: bytes) -> bytes:
    """user_data of the receipt."""
    return write(["coattest/result/v1", sha384(result)])


def frame(request: int, kind: str, body: dict[str, Any]) -> bytes:
    """A frame with its length."""
    content = write([1, request, kind, body])
    return len(content).to_bytes(4, "big") + content
