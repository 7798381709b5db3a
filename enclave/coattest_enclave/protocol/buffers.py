"""Buffers of secrets, which are overwritten after use."""

from __future__ import annotations

from array import array


def wipe(buffer: bytearray | array[int]) -> None:
    """Overwrite ``buffer`` with zeros in place; docs/protocol.md says what this cannot reach."""
    with memoryview(buffer) as view, view.cast("B") as octets:
        octets[:] = bytes(len(octets))
