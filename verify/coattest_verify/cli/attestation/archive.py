"""``verify attestation DIR`` without an expectation: an archive, each document judged at its own time.

An archive is a directory with an INDEX.tsv. Its files may come from anybody: names are resolved in the
folder without following links, sizes and counts are bounded, and a file that cannot be read is refused while
the others are judged.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from coattest.errors import Rejected
from coattest.files import Folder
from coattest_verify.attestation import (
    ChainCache,
    Malformed,
    Root,
    Verdict,
    parse_unverified,
    verify_document,
)
from coattest_verify.attestation.files import (
    DOCUMENT_SUFFIXES,
    FILE_MAX,
    INDEX_NAME,
    INDEX_SIZE_MAX,
    IndexEntry,
    archive_expectations,
    bad_file,
    read_archive_index,
)
from coattest_verify.attestation.rules import NOT_IN_ARCHIVE
from coattest_verify.cli.attestation.report import Item, document_report

NO_EXPECTATIONS = ("root", "strict")
"""Options that are not expectations."""

ARCHIVE_FIELDS = {"judged_as": "archive", "measurements_judged": False}
GENUINE = "genuine at its time"

CAVEAT = (
    f"archive: every document was judged at its own time ({INDEX_NAME}, or what it claims); this says "
    "nothing about today or about any measurement: --expect, --nonce and --max-age do"
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


def is_archive(path: Path, options: Mapping[str, Any]) -> bool:
    """Whether a directory is to be judged as an archive: it has an index, and nothing else is asked for."""
    # By identity: 0 is equal to False, and --max-age 0 is an expectation.
    asked = [name for name, value in options.items() if value is not None and value is not False]
    return set(asked) <= set(NO_EXPECTATIONS) and path.is_dir() and os.path.lexists(path / INDEX_NAME)


def verify_archive(path: Path, root: Root, *, strict: bool) -> tuple[list[Item], list[Verdict], list[str]]:
    """A verdict for every document that the index names, and for every other file that looks like one.

    The third list has the names of the files that do not. Raises UsageError when the index cannot be used.
    """
    items, verdicts = [], []
    cache = ChainCache()
    with Folder(path) as folder:
        index = index_of(folder)
        for name, entry in sorted(index.items()):
            expectations = archive_expectations(entry)
            try:
                document = folder.read(name, FILE_MAX)
            except Rejected as refused:
                item = Item(path / name, b"", entry.at or _EPOCH)
                verdict = _refused(item, root, "the file that the index names", refused.what)
            else:
                item = Item(path / name, document, entry.at or _claimed_time(document))
                verdict = verify_document(
                    document, expectations, now=item.at, root=root, cache=cache, strict=strict
                )
            items.append(item)
            verdicts.append(verdict)
        others = [name for name in folder.names() if name not in index and name != INDEX_NAME]
    for name in others:
        if Path(name).suffix in DOCUMENT_SUFFIXES:
            items.append(Item(path / name, b"", _EPOCH))
            verdicts.append(
                _refused(items[-1], root, "a document that the index names", "a file that it does not name")
            )
    return items, verdicts, [name for name in others if Path(name).suffix not in DOCUMENT_SUFFIXES]


def index_of(folder: Folder) -> Mapping[str, IndexEntry]:
    """What the folder's INDEX.tsv says; raises UsageError when it is a link, too large, or does not parse."""
    try:
        lines = folder.read(INDEX_NAME, INDEX_SIZE_MAX).decode("utf-8").removesuffix("\n").split("\n")
    except Rejected as refused:
        raise bad_file(refused.what, where=INDEX_NAME) from None
    except UnicodeDecodeError:
        raise bad_file("not UTF-8", where=INDEX_NAME) from None
    index = read_archive_index(lines)
    if not index:
        raise bad_file("no documents", where=INDEX_NAME)
    return index


def archive_report(item: Item, verdict: Verdict) -> dict[str, Any]:
    """One document's JSON: what every report has, and how it was judged.

    ``debug`` is null where the document did not pass: nothing vouches for its mode then.
    """
    debug = verdict.document.debug if verdict.ok else None
    return {**document_report(item, verdict), **ARCHIVE_FIELDS, "debug": debug}


def _claimed_time(document: bytes) -> datetime:
    """The time that a document itself claims, for files without one in the index."""
    try:
        return parse_unverified(document).timestamp
    except Malformed:
        return _EPOCH  # refused at any time


def _refused(item: Item, root: Root, expected: str, found: str) -> Verdict:
    """The verdict on a missing file, or on one that should not be there."""
    finding = NOT_IN_ARCHIVE.finding("file", expected, found)
    return Verdict((finding,), (), root, item.at, None, None)
