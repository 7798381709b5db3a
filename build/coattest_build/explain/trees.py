"""Two trees that Linux unpacks from the ramdisks of two images, compared path by path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from coattest_build.containers.sources import FilePart, HeldBytes, Positioned, plain_blocks
from coattest_build.explain.details import Found, Place, differs
from coattest_build.explain.excerpt import excerpt, first_difference
from coattest_build.formats.lenient.initramfs import Unpacking
from coattest_build.formats.lenient.tree import Node

MAX_EXCERPTS = 5
"""Files of compressed ramdisks that are unpacked again to show where they differ: each takes a pass."""
MAX_EXCERPT = 8 << 20
"""Bytes of such a file that are looked at."""


@dataclass(slots=True)
class _Pair:
    a: Unpacking
    b: Unpacking
    excerpts: int = 0
    compared: dict[tuple[Node, Node], tuple[bool, Place | None]] = field(default_factory=dict)
    """Whether two files are equal, and where not: a file with many names is looked at once."""

    @property
    def packed(self) -> bool:
        """Whether a side has compressed archives, whose files are compared by digests."""
        return bool(self.a.streams.packed or self.b.streams.packed)


def compare_trees(a: Unpacking, b: Unpacking) -> Iterator[Found]:
    """Every path that differs, each with type, mode, content, owner and time apart; then order, compression.

    Where ramdisks are compressed, both must have been unpacked with digests.
    """
    pair = _Pair(a, b)
    ours = {path: node for path, node in a.tree.walk() if node.entry >= 0}
    theirs = {path: node for path, node in b.tree.walk() if node.entry >= 0}
    for path in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(path), theirs.get(path)
        disks = [str(a.ramdisk_of[one.entry])] if one is not None else []
        if other is not None and str(b.ramdisk_of[other.entry]) not in disks:
            disks.append(str(b.ramdisk_of[other.entry]))
        where = f"ramdisk {' -> '.join(disks)}: {path.decode(errors='backslashreplace') or '/'}"
        if one is None or other is None:
            yield _alone(one, other, where)
        else:
            yield from _nodes(pair, one, other, where)
    common = ours.keys() & theirs.keys()
    orders = [
        [path for path, node in sorted(side.items(), key=lambda item: item[1].entry) if path in common]
        for side in (ours, theirs)
    ]
    if orders[0] != orders[1]:
        first = next(both for both in zip(*orders, strict=True) if both[0] != both[1])
        yield differs("entry-order", "ramdisks", *(path.decode(errors="backslashreplace") for path in first))
    methods = [", ".join(method for method, _ in side.streams.packed) or "none" for side in (a, b)]
    if methods[0] != methods[1]:
        yield differs("ramdisk-compression", "ramdisks", *methods)


def _alone(one: Node | None, other: Node | None, where: str) -> Found:
    known = one or other
    assert known is not None
    shown = f"{known.kind}, mode {known.mode & 0o7777:04o}, {len(known.target) or known.body.length} bytes"
    if one is None:
        return differs("entry-added", where, None, shown)
    return differs("entry-removed", where, shown, None)


def _nodes(pair: _Pair, one: Node, other: Node, where: str) -> Iterator[Found]:
    kinds = [f"{each.kind} {each.device[0]}:{each.device[1]}".removesuffix(" 0:0") for each in (one, other)]
    if kinds[0] != kinds[1]:
        yield differs("entry-type", where, *kinds)
        return
    if one.mode != other.mode:
        yield differs("entry-mode", where, f"{one.mode & 0o7777:04o}", f"{other.mode & 0o7777:04o}")
    if one.target != other.target:
        targets = (each.target.decode(errors="backslashreplace") for each in (one, other))
        yield differs("entry-target", where, *targets)
    if one.kind == "file":
        yield from _content(pair, one, other, where)
    if (one.uid, one.gid) != (other.uid, other.gid):
        yield differs("entry-owner", where, f"{one.uid}:{one.gid}", f"{other.uid}:{other.gid}")
    if one.mtime != other.mtime:
        yield differs("entry-mtime", where, str(one.mtime), str(other.mtime))


def _content(pair: _Pair, one: Node, other: Node, where: str) -> Iterator[Found]:
    a, b = one.body, other.body
    if (one, other) not in pair.compared:
        pair.compared[one, other] = _compared(pair, one, other)
    equal, place = pair.compared[one, other]
    if equal:
        return
    if a.length == b.length:
        yield differs("entry-content", where, place=place)
    else:
        yield differs("entry-size", where, f"{a.length} bytes", f"{b.length} bytes", place=place)


def _compared(pair: _Pair, one: Node, other: Node) -> tuple[bool, Place | None]:
    a, b = one.body, other.body
    if not pair.packed:
        offset = first_difference(pair.a.streams.blocks(a), pair.b.streams.blocks(b))
        if offset is None:
            return True, None
        return False, Place(offset, excerpt(_span(pair.a, one), _span(pair.b, other), offset))
    if a.length == b.length and pair.a.streams.sha256(a) == pair.b.streams.sha256(b):
        return True, None
    if pair.excerpts == MAX_EXCERPTS:
        return False, None
    pair.excerpts += 1
    return False, _place(_span(pair.a, one), _span(pair.b, other))


def _place(a: Positioned, b: Positioned) -> Place | None:
    offset = first_difference(plain_blocks(a), plain_blocks(b))
    return None if offset is None else Place(offset, excerpt(a, b, offset))


def _span(side: Unpacking, node: Node) -> Positioned:
    """The content to excerpt from: in the image where it lies in one piece there, else in memory."""
    raw, body = side.streams.raw, node.body
    last = max(body.offset + body.size - 1, body.offset)
    if not body.stream and not body.zeros and raw.ramdisk_at(body.offset) == raw.ramdisk_at(last):
        return FilePart(raw.file, raw.file_offset(body.offset), body.size)
    pieces, left = [], MAX_EXCERPT
    for block in side.streams.blocks(body):
        pieces.append(block[:left])
        left -= len(pieces[-1])
        if not left:
            break
    return HeldBytes(b"".join(pieces))
