"""The encryption context of an auction's bids, for making and auditing key policies."""

from __future__ import annotations

from coattest_enclave.protocol.messages import encryption_context

AUCTION, BUYER = encryption_context(b"", "")
"""Its keys: the digest of the manifest in hex, and the buyer's name (docs/protocol.md, "Bid")."""
