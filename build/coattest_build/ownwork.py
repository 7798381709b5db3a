"""What this user's own commands made, by digest: nothing that a checkout brought passes for it.

A result lies where the user wanted it, often in a folder of the checkout. So whoever signs a result asks here
first. The record is one small file per result in ``own-work`` in the user's state, which no checkout reaches.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from coattest.errors import UsageError
from coattest.files import state_folder, write_atomic

BUILT = "built"
"""A build report (build.json, rebuild.json): SHA-256 of the file."""

COMPARED = "compared"
"""A build report that was compared with a claim: SHA-256 of the file, SHA-256 of the claim."""

INPUTS = "inputs"
"""What ``verify inputs`` wrote: SHA-256 of the file."""

CONFIRMED = "confirmed"
"""A lock whose every pin ``verify inputs`` confirmed: SHA-256 of the lock."""

REPORT_FILE = "rebuild.json"
BUILDER_FILE = "build.json"


class OwnWork:
    """The record in one folder, by default this user's."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or state_folder("own-work")

    def prepare(self) -> None:
        """Make the folder. Raises OSError: better before hours of work than after them."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def note(self, kind: str, *digests: str) -> None:
        """Record a result of that kind, named by its digests (SHA-256, hex)."""
        self.prepare()
        write_atomic(self._path(kind, digests), b"", 0o600)

    def made(self, kind: str, *digests: str) -> bool:
        """Whether it was recorded."""
        return self._path(kind, digests).is_file()

    def forget(self, kind: str, *digests: str) -> None:
        """Take a record back."""
        self._path(kind, digests).unlink(missing_ok=True)

    def require(self, kind: str, content: bytes, where: Path, hint: str) -> None:
        """Raise UsageError (``not-own-work``) unless a file with these bytes was recorded."""
        if not self.made(kind, sha256_hex(content)):
            raise UsageError(
                "this machine has no record of making it", where=str(where), hint=hint, code="not-own-work"
            )

    def _path(self, kind: str, digests: tuple[str, ...]) -> Path:
        return self.folder / ".".join((kind, *digests))


def sha256_hex(content: bytes) -> str:
    """SHA-256 of some bytes, lower-case hex."""
    return hashlib.sha256(content).hexdigest()


def remove_reports(out: Path) -> None:
    """Remove the reports of an earlier build from its folder: should the next one fail, none is left."""
    for name in (REPORT_FILE, BUILDER_FILE):
        (out / name).unlink(missing_ok=True)
