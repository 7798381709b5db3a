"""The enclave's decision over lists of amounts, and its result as a value."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from coattest_enclave.decision import auction
from coattest_verify.auction import messages

Rows = Mapping[str, Sequence[int] | None]
"""A row of amounts for each buyer; None is a plaintext that is no bid."""


def plaintexts(bids: Rows) -> dict[str, bytes]:
    """What the enclave gets for these amounts, also for some that no tool would pack."""
    return {name: b"" if row is None else struct.pack(f">{len(row)}Q", *row) for name, row in bids.items()}


def result(manifest: messages.Manifest, seal: bytes, bids: Rows) -> messages.Result:
    """The enclave's result."""
    return messages.Result.decode(auction.result(manifest, seal, plaintexts(bids)))


def outcomes(manifest: messages.Manifest, bids: Rows) -> messages.Outcomes:
    """The outcomes of the lots."""
    return result(manifest, bytes(messages.DIGEST), bids).lots
