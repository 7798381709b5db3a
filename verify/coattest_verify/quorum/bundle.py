"""A proof bundle: one file with everything that a third party needs to decide again, offline, years later.

It is JSON with the names and sizes of files of ``attestations/``, and their bytes, one after the other in the
order of their names, as base64 of one .xz: members' statements are much alike. It proves nothing by itself:
the reader must bring the root.
"""

from __future__ import annotations

import base64
import lzma
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from coattest.errors import Rejected
from coattest.files import Evidence, Held, given_file, read_bounded, read_or_none
from coattest.strictjson import MAX_SIZE, Fields, canonical, parse
from coattest_verify.quorum.change.names import ATTRIBUTES, PROPOSAL, TILE, place_of
from coattest_verify.quorum.log.checkpoint import MAX_CHECKPOINT
from coattest_verify.quorum.log.examine import CHECKPOINT_FILE, COSIGNATURE_NAME, LOG, MAX_PART
from coattest_verify.quorum.log.merkle import bundle_paths
from coattest_verify.quorum.members.file import MAX_LOG, NAME, parse_utc, utc
from coattest_verify.quorum.releases import ReleaseFiles, releases_in

FORMAT = "coattest-bundle/v1"
LOCK_FILE = "image.lock"
MAX_BUNDLE = 64 * 1024 * 1024
"""Bytes of a bundle."""

MAX_UNPACKED = 128 * 1024 * 1024
"""Bytes of the files in it together; 1,000 statements have about 50 MB."""

MAX_XZ_MEMORY = 64 * 1024 * 1024
"""Bytes that unpacking may take; what is written here needs 9 MB (xz -6)."""

MAX_BUNDLED = 16384
"""Files of a bundle."""

MAX_LISTING = 256 * MAX_BUNDLED
"""Bytes of a bundle without its content: names, of at most 250 bytes, and sizes."""

_CONTENT = b'{"content":"'
"""How a bundle begins: its names are sorted. What follows is most of it, and no JSON to look through."""

_WITHDRAWAL_NAME = re.compile(rf"withdraw-buyer-key\.({NAME.pattern})\.[0-9a-f]{{16}}\.dsse\.json")
"""Withdrawals of buyers' certificates, which whoever bids or seals from a bundle must see too."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """The files, and when the bundle says that it was made (unsigned)."""

    files: Held
    made: datetime


def _belongs(name: str) -> bool:
    """Whether a file of that name is evidence. The log's hash tiles follow from its entries."""
    place = place_of(name, {_WITHDRAWAL_NAME: ""})
    if place is None or place.kind in {PROPOSAL, ATTRIBUTES}:
        return name == LOCK_FILE
    return place.kind != TILE or name.startswith(f"{LOG}tile/entries/")


def make_bundle(
    evidence: Evidence, *, now: datetime, lock: bytes | None = None, releases: Sequence[str] | None = None
) -> bytes:
    """The bundle of these releases (by default all), as bytes: their files, the members files and the log.

    Revocations of other releases are in it too. Files that cannot be read are left out: they did not count
    either.
    """
    views = [ReleaseFiles(evidence, release) for release in releases or releases_in(evidence)]
    names = {view.place(name) for view in views for name in view.names()} | set(evidence.names())
    limits = {name: MAX_SIZE for name in sorted(names) if _belongs(name)}
    limits.update(dict.fromkeys(_log_files(evidence), MAX_PART))
    read = ((name, read_or_none(evidence, name, limit)) for name, limit in limits.items())
    files = {name: data for name, data in read if data is not None}
    if lock is not None:
        files[LOCK_FILE] = lock
    return pack_bundle(files, now)


def pack_bundle(files: Mapping[str, bytes], made: datetime) -> bytes:
    """A bundle of these files, by name, as bytes."""
    content = lzma.compress(b"".join(files[name] for name in sorted(files)), lzma.FORMAT_XZ)
    sizes = {name: len(data) for name, data in files.items()}
    packed = base64.b64encode(content).decode()
    return canonical({"format": FORMAT, "made": utc(made), "files": sizes, "content": packed}) + b"\n"


def _log_files(evidence: Evidence) -> list[str]:
    try:
        lines = evidence.read(CHECKPOINT_FILE, MAX_CHECKPOINT).split(b"\n", 2)
        size = int(lines[1]) if len(lines) == 3 and len(lines[1]) < 10 else 0
    except (Rejected, ValueError):
        return []
    if not 0 < size <= MAX_LOG:
        return []
    notes = [
        name for name in (LOG + name for name in evidence.names("log")) if COSIGNATURE_NAME.fullmatch(name)
    ]
    return [CHECKPOINT_FILE, *notes, *(LOG + path for path in bundle_paths(size))]


def read_bundle(data: bytes) -> Bundle:
    """Unpack a bundle; its files are not checked here. Raises Rejected."""
    end = data.find(b'"', len(_CONTENT))
    if len(data) > MAX_BUNDLE or not data.startswith(_CONTENT) or end < 0:
        raise Rejected("not a proof bundle")
    fields = Fields(parse(_CONTENT + data[end : end + MAX_LISTING + 1], max_size=MAX_LISTING), "")
    fields.exactly("format", FORMAT)
    fields.exactly("content", "")
    made = parse_utc(fields.text("made"))
    sizes = Fields(fields.mapping("files", high=MAX_BUNDLED), "files")
    fields.done()
    for name in sizes.values:
        if not _belongs(name):
            raise Rejected(f"files: {ascii(name)[:80]} does not belong in a bundle", code="bad-name")
    lengths = {name: sizes.integer(name, 0, MAX_PART) for name in sorted(sizes.values)}
    packed = data[len(_CONTENT) : end]
    content, files = memoryview(_unpacked(packed, sum(lengths.values()))), {}
    for name, length in lengths.items():
        files[name], content = bytes(content[:length]), content[length:]
    return Bundle(Held(files), made)


def _unpacked(packed: bytes, size: int) -> bytes:
    """Exactly ``size`` bytes from base64 of an .xz. Raises Rejected."""
    if size > MAX_UNPACKED:
        raise Rejected(f"files: larger than {MAX_UNPACKED} bytes together", code="too-large")
    try:
        unpacking = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY)
        content = unpacking.decompress(base64.b64decode(packed, validate=True), size + 1)
    except (ValueError, lzma.LZMAError, EOFError):
        raise Rejected("content: not base64 of an .xz") from None
    if len(content) != size or not unpacking.eof or unpacking.unused_data:
        raise Rejected("content: not as long as its files")
    return content


def load_bundle(path: Path) -> Bundle:
    """The bundle in a file. Raises UsageError when the file is absent or is not a bundle."""
    with given_file(path, hint="verify release bundle --out writes one", code="bad-bundle"):
        return read_bundle(read_bounded(path, MAX_BUNDLE))
