"""The encryption context of what an auction's enclave decrypts, for whoever makes or audits a key policy."""

from __future__ import annotations

from coattest_enclave.protocol.messages import encryption_context

AUCTION, BUYER = encryption_context(b"", "")
"""Its keys: the digest of the manifest in hex, and the buyer's name (docs/protocol.md, "Bid")."""
