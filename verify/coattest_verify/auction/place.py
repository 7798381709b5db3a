"""Where bid files and results are in S3. Each object's name has its content's digest."""

from __future__ import annotations

from coattest_verify.auction import messages


def bids_prefix(buyer: messages.Buyer, manifest: bytes) -> str:
    """``s3://bucket/prefix/MANIFEST/``, with every bid file of the buyer for that manifest (its digest)."""
    return f"{buyer.bids}{manifest.hex()}/"


def bid_uri(buyer: messages.Buyer, manifest: bytes, bid: bytes) -> str:
    """The object of the bid file with that digest (SHA-384), for the manifest with that digest."""
    return f"{bids_prefix(buyer, manifest)}{bid.hex()}.cose"


def result_uri(prefix: str, manifest: bytes, result_file: bytes) -> str:
    """The object of a result file under ``s3://bucket/prefix/``: its own digest is in its name, so that
    nothing else can be in its place unnoticed.
    """
    return f"{prefix}{manifest.hex()}/{messages.sha384(result_file).hex()}.cbor"
