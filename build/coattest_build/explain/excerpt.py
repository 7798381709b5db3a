"""A readable excerpt of two contents around the first byte in which they differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coattest.text import printable
from coattest_build.containers.sources import Positioned
from coattest_build.formats import elf

WINDOW = 16
"""Bytes shown before and after a difference in a binary file, aligned to this."""
MAX_LINE = 200
"""Characters shown of a line."""
TEXT_PROBE = 8192
"""Bytes at a file's start that must be text for the file to be shown as text."""
MAX_TEXT = 4 << 20
"""Beyond this offset lines are not counted, and bytes are shown."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """``kind`` is ``text``, ``elf`` or ``bytes``; ``place`` a line, a section's name or an offset."""

    kind: str
    place: str
    a: str
    b: str


def first_difference(a: Iterable[bytes], b: Iterable[bytes]) -> int | None:
    """The offset of the first differing byte of two streams; None when they are equal.

    A stream that ends early differs where it ends. Blocks may be cut differently.
    """
    left, right = filter(None, a), filter(None, b)
    offset, one, other = 0, b"", b""
    while True:
        one, other = one or next(left, b""), other or next(right, b"")
        length = min(len(one), len(other))
        # Bytes, and not memoryviews: comparing these is a loop, and comparing those a memcmp.
        if one[:length] != other[:length]:
            return offset + _first_byte(one[:length], other[:length])
        if not length:
            return None if len(one) == len(other) else offset
        one, other, offset = one[length:], other[length:], offset + length


def _first_byte(a: bytes, b: bytes) -> int:
    """Where two different blocks of the same length first differ; halving beats a loop over bytes."""
    low, high = 0, len(a)
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] != b[low:middle]:
            high = middle
        else:
            low = middle
    return low


def excerpt(a: Positioned, b: Positioned, offset: int) -> Excerpt:
    """An excerpt around ``offset``, the first difference of two contents: as text where both are text."""
    if offset <= MAX_TEXT and _is_text(a, offset) and _is_text(b, offset):
        line = 1 + a.read(0, offset).count(b"\n")
        return Excerpt("text", f"line {line}", _line(a, offset), _line(b, offset))
    section = elf.section_at(a.read, offset) or elf.section_at(b.read, offset)
    shown = _window(a, offset), _window(b, offset)
    if section is not None:
        return Excerpt("elf", f"section {section}", *shown)
    return Excerpt("bytes", f"offset {offset:#x}", *shown)


def _is_text(span: Positioned, offset: int) -> bool:
    for probe in (span.read(0, TEXT_PROBE), span.read(max(0, offset - 256), 512)):
        if b"\0" in probe:
            return False
        try:
            probe.decode()
        except UnicodeDecodeError as error:
            # A window may cut a character at either end; the longest has four bytes.
            if 4 <= error.start < len(probe) - 4:
                return False
    return True


def _line(span: Positioned, offset: int) -> str:
    """The line that holds ``offset``, cut to what fits on a screen."""
    start = max(0, offset - MAX_LINE // 2)
    before = span.read(start, offset - start).rpartition(b"\n")[2]
    after = span.read(offset, MAX_LINE // 2).partition(b"\n")[0]
    if not before and not after and offset >= span.size:
        return "(ends here)"
    return printable((before + after).decode(errors="replace"))


def _window(span: Positioned, offset: int) -> str:
    start = max(0, offset - offset % WINDOW - WINDOW)
    rows = []
    for position in range(start, start + 3 * WINDOW, WINDOW):
        row = span.read(position, WINDOW)
        if row:
            characters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            rows.append(f"{position:08x}  {row.hex(' '):<{3 * WINDOW - 1}}  {characters}")
    return "\n".join(rows) or "(ends before)"
