"""Writes tests/enclave/protocol/vectors: messages with every input fixed, for other implementations.

Run it by hand.
Signatures are deterministic ECDSA (RFC 6979) here, so that a second run writes the same files; the program
signs with random nonces, and a reader must accept both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coattest_verify.auction import messages
from support.auction import auction_vectors, deciding
from support.auction.vector_keys import IMAGE, RELEASE, sign1, spki

DIRECTORY = Path(__file__).resolve().parents[2] / "enclave" / "protocol" / "vectors"
AMOUNTS = {"buyer-1": [100000, 200000, 150000, 0], "buyer-2": [120000, 180000, 150000, 49999]}


def manifest(rule: str) -> messages.Manifest:
    """The vectors' manifest."""
    lots = messages.make_lots([("lot-1", 0), ("lot-2", 150000), ("lot-3", 0), ("lot-4", 50000)])
    buyers = tuple(
        messages.Buyer(
            f"buyer-{i}",
            spki(i),
            b'{"payload":""}',
            f"arn:aws:kms:eu-central-1:11112222333{i}:key/1234abcd-12ab-34cd-56ef-12345678900{i}",
            f"s3://buyer-{i}-bids/auctions/",
        )
        for i in (1, 2)
    )
    return messages.Manifest("auction-2026-07", "EUR", rule, lots, buyers, 1_783_000_000, 1_783_086_400)


def bid(book: messages.Manifest, number: int) -> dict[str, Any]:
    """One buyer's bid file with fixed data key and IV."""
    buyer = book.buyers[number - 1]
    data_key, iv, wrapped = bytes([number]) * 32, bytes([number]) * 12, b"wrapped by KMS"
    plaintext = messages.pack_bids(AMOUNTS[buyer.name])
    bound = messages.Binding.of(book, buyer, IMAGE)
    file = messages.encrypt0(plaintext, data_key, wrapped_key=wrapped, external_aad=bound.aad, iv=iv)
    return {
        "buyer": buyer.name,
        "amounts": AMOUNTS[buyer.name],
        "plaintext": plaintext.hex(),
        "data_key": data_key.hex(),
        "iv": iv.hex(),
        "wrapped_key": wrapped.hex(),
        "external_aad": bound.aad.hex(),
        "encryption_context": bound.context,
        "file": file.hex(),
        "sha384": messages.bid_digest(file).hex(),
    }


def outcome_text(outcome: messages.Outcome) -> list[Any]:
    """An outcome as JSON: ["won", buyer], ["won", buyer, price], ["tie", [buyers]] or ["unsold"]."""
    match outcome:
        case messages.Won(buyer, price):
            return ["won", buyer] if price is None else ["won", buyer, price]
        case messages.Tie(buyers):
            return ["tie", list(buyers)]
        case messages.Unsold():
            return ["unsold"]


def vectors() -> dict[str, Any]:
    """Every vector file's content, by name."""
    files: dict[str, Any] = {
        "manifest": [],
        "bid": [],
        "seal": [],
        "result": [],
        "auction": auction_vectors.cases(),
    }
    for rule in (messages.FIRST_PRICE, messages.SECOND_PRICE):
        book = manifest(rule)
        fields = {
            "auction": book.auction,
            "currency": book.currency,
            "rule": book.rule,
            "lots": [list(lot) for lot in messages.LotList(book.lots)],
            "buyers": [
                {
                    "name": b.name,
                    "key": b.key.hex(),
                    "certificate": b.certificate.hex(),
                    "kms": b.kms,
                    "bids": b.bids,
                }
                for b in book.buyers
            ],
            "closes": book.closes,
            "publish_by": book.publish_by,
        }
        files["manifest"].append(
            {"fields": fields, "encoded": book.encode().hex(), "sha384": book.digest.hex()}
        )
        bids = [bid(book, number) for number in (1, 2)]
        files["bid"] += [
            {
                "manifest": book.digest.hex(),
                "kms": book.buyers[i].kms,
                "key": book.buyers[i].key.hex(),
                "image": IMAGE.hex(),
                **b,
            }
            for i, b in enumerate(bids)
        ]
        digests = tuple((b["buyer"], bytes.fromhex(b["sha384"])) for b in bids)
        seal = messages.Seal(book.digest, RELEASE, IMAGE, digests)
        files["seal"].append(
            {
                "manifest": book.encode().hex(),
                "release": RELEASE.hex(),
                "image": IMAGE.hex(),
                "bids": [[name, digest.hex()] for name, digest in digests],
                "payload": seal.encode().hex(),
                "sha384": seal.digest.hex(),
                "signed": [sign1(seal.encode(), i, f"buyer-{i}".encode()).hex() for i in (1, 2)],
            }
        )
        result = deciding.result(book, seal.digest, AMOUNTS)
        files["result"].append(
            {
                "manifest": book.encode().hex(),
                "seal": seal.digest.hex(),
                "amounts": AMOUNTS,
                "outcomes": [[lot, outcome_text(outcome)] for lot, outcome in result.lots],
                "encoded": result.encode().hex(),
                "sha384": result.digest.hex(),
                "receipt_user_data": messages.receipt_user_data(result.encode()).hex(),
            }
        )
    return files


if __name__ == "__main__":
    for name, content in vectors().items():
        (DIRECTORY / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
