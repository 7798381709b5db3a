"""A Packages.xz whose digest a signed Release file gives: its stanzas for the pinned names. Pure."""

from __future__ import annotations

import hashlib
import lzma
import re
from collections.abc import Collection, Mapping

from coattest.findings import Finding
from coattest_build.inputs.debian import IndexMalformed, Package, parse_packages
from coattest_verify.rebuild.inputs.release import Listed

MAX_INDEX = 256 * 1024 * 1024
"""Bytes of an unpacked Packages file; bookworm's main for amd64 has 50 MB."""

MAX_XZ_MEMORY = 128 * 1024 * 1024
"""Bytes that unpacking may take; xz -9 needs 65 MB."""

NAMED = re.compile(rb"^Package: *(\S+) *$", re.MULTILINE)


def read_packages(
    packed: bytes, listed: Listed, names: Collection[str], where: str, *, limit: int = MAX_INDEX
) -> Mapping[str, tuple[Package, ...]] | Finding:
    """The packages with one of ``names``, from an index that has the signed size and SHA-256.

    The digest is checked before anything is unpacked; unpacking stops at ``limit`` bytes.
    """
    digest = hashlib.sha256(packed).hexdigest()
    if (len(packed), digest) != (listed.size, listed.sha256):
        text = f"signed {listed.sha256} ({listed.size} bytes), served {digest} ({len(packed)} bytes)"
        return Finding("wrong-index", where, text, expected=listed.sha256, found=digest)
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY)
    try:
        data = decompressor.decompress(packed, limit + 1)
        if len(data) > limit:
            return Finding("too-large", where, f"unpacks to more than {limit} bytes")
        if not decompressor.eof:
            raise lzma.LZMAError("the .xz ends early")
        if decompressor.unused_data:
            raise lzma.LZMAError("something follows the .xz")
        return _select(data, {name.encode() for name in names})
    except (lzma.LZMAError, IndexMalformed, UnicodeDecodeError) as error:
        return Finding("bad-index", where, f"{error}"[:200])


def _select(data: bytes, wanted: Collection[bytes]) -> dict[str, tuple[Package, ...]]:
    # The other 60,000 stanzas are not parsed: that would take ten times as long.
    found: dict[str, list[Package]] = {}
    for stanza in data.split(b"\n\n"):
        name = NAMED.search(stanza)
        if name is None and stanza.strip():
            raise IndexMalformed(f"a stanza without a name: {stanza[:80]!r}")
        if name and name[1] in wanted:
            for package in parse_packages(stanza.decode()):
                found.setdefault(package.name, []).append(package)
    return {name: tuple(packages) for name, packages in found.items()}
