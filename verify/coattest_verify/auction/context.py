"""The encryption context of an auction's bids, for making and auditing key policies."""

from __future__ import annotations

from coattest_enclave.protocol.binding import AUCTION, BUYER, IMAGE, SEAL_KEY, seal_key_digest

__all__ = ["AUCTION", "BUYER", "CONTEXT_KEYS", "IMAGE", "SEAL_KEY", "seal_key_digest"]

CONTEXT_KEYS = (AUCTION, BUYER, IMAGE, SEAL_KEY)
"""Manifest, buyer, image and seal key, each by digest or name (docs/protocol.md, "Bid")."""
