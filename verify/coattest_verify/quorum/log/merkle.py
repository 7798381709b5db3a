"""Merkle tree hashing of RFC 6962, section 2.1, and where C2SP tlog-tiles puts hashes and entries.

The whole log is at hand, so a tree is compared with an earlier one by computing both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

TILE_WIDTH = 256
"""Hashes of a full tile (c2sp.org/tlog-tiles)."""

MAX_ENTRY = 65535
"""Bytes of an entry: its length is a big-endian uint16."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256 of 0x00 and the entry."""
    return hashlib.sha256(b"\0" + entry).digest()


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """The Merkle Tree Hash (32 bytes) over leaf hashes."""
    return tree_roots(leaves, {len(leaves)})[len(leaves)]


def tree_roots(leaves: Sequence[bytes], sizes: Collection[int]) -> dict[int, bytes]:
    """The Merkle Tree Hash of the first ``size`` leaf hashes, for each of ``sizes`` that is not larger."""
    found = {0: hashlib.sha256().digest()} if 0 in sizes else {}
    # Full subtrees from the left, largest first, are exactly the recursion's splits at powers of two.
    stack: list[tuple[int, bytes]] = []
    for count, leaf in enumerate(leaves, 1):
        size, node = 1, leaf
        while stack and stack[-1][0] == size:
            node = _node(stack.pop()[1], node)
            size *= 2
        stack.append((size, node))
        if count in sizes:
            for _, left in stack[-2::-1]:
                node = _node(left, node)
            found[count] = node
    return found


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def tile_path(kind: str, index: int, width: int = TILE_WIDTH) -> str:
    """The path of a tile or entry bundle below the log: ``tile/<kind>/<N>[.p/<W>]``."""
    digits = f"{index:03d}"
    groups = [digits[max(0, end - 3) : end].zfill(3) for end in range(len(digits), 0, -3)][::-1]
    path = "/".join([f"x{group}" for group in groups[:-1]] + groups[-1:])
    return f"tile/{kind}/{path}" + (f".p/{width}" if width < TILE_WIDTH else "")


def bundle_paths(size: int) -> list[str]:
    """The entry bundles of a log of ``size`` entries, in order."""
    full, rest = divmod(size, TILE_WIDTH)
    paths = [tile_path("entries", index) for index in range(full)]
    return paths + ([tile_path("entries", full, rest)] if rest else [])


def tiles(leaves: Sequence[bytes]) -> dict[str, bytes]:
    """Every hash tile of a tree, partial ones included, by path."""
    found: dict[str, bytes] = {}
    level, hashes = 0, list(leaves)
    while hashes:
        for index in range(0, len(hashes), TILE_WIDTH):
            part = hashes[index : index + TILE_WIDTH]
            found[tile_path(str(level), index // TILE_WIDTH, len(part))] = b"".join(part)
        # Only full tiles are hashed into the level above.
        full = len(hashes) // TILE_WIDTH
        hashes = [tree_root(hashes[index * TILE_WIDTH : (index + 1) * TILE_WIDTH]) for index in range(full)]
        level += 1
    return found


def pack_entries(entries: Sequence[bytes]) -> dict[str, bytes]:
    """Entry bundles by path: big-endian uint16 length, then the entry."""
    found = {}
    for number, path in enumerate(bundle_paths(len(entries))):
        part = entries[number * TILE_WIDTH : (number + 1) * TILE_WIDTH]
        found[path] = b"".join(len(entry).to_bytes(2, "big") + entry for entry in part)
    return found


def unpack_entries(bundle: bytes) -> list[bytes]:
    """The entries of a bundle. Raises ValueError when it is not one."""
    entries: list[bytes] = []
    position = 0
    while position < len(bundle):
        end = position + 2 + int.from_bytes(bundle[position : position + 2], "big")
        if position + 2 > len(bundle) or end > len(bundle):
            raise ValueError("cut short")
        if len(entries) == TILE_WIDTH:  # an empty entry has two bytes, and may be there eight million times
            raise ValueError("more entries than a bundle has")
        entries.append(bundle[position + 2 : end])
        position = end
    return entries


def log_files(entries: Sequence[bytes]) -> dict[str, bytes]:
    """Every bundle and tile of a log, by its path below the log."""
    return {**pack_entries(entries), **tiles([leaf_hash(entry) for entry in entries])}
