"""A buyer's durable record of what it sealed, which prevents a search for its amounts.

A parent that could open the same bids against many different bid sets would find a buyer's amount by search.
It cannot, because each buyer seals only one bid set per manifest: the record is on the disk, synced, *before*
the signature exists, and from then on a different seal for the same manifest is refused.

Layout of the directory (HEX is a manifest's SHA-384):

``HEX.manifest``   the manifest's bytes; written first. Writing it again changes nothing
``HEX.seal``       the payload that was, or was about to be, signed. From here on it is the only one
``BID.bid``        for each bid file that was made here (BID is its SHA-384): the manifest that it is for

Without the directory the protection is gone, so docs/auction.md says to back it up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from coattest.errors import FoundFalse
from coattest.files import state_folder
from coattest_enclave.protocol.errors import MessageError
from coattest_verify.auction import messages
from coattest_verify.signatures.durable import DurableFolder, damaged_record


class AlreadySealed(FoundFalse):
    """This manifest was sealed before, with a different bid set or release."""

    default_code = "already-sealed"


@dataclass(frozen=True, slots=True)
class Overlap:
    """A manifest that was sealed before and names some of the same lots."""

    auction: str
    manifest: bytes
    lots: tuple[str, ...]


def default_journal() -> Path:
    """``seals`` in this user's state (``coattest.files.state_folder``)."""
    return state_folder("seals")


class SealJournal:
    """The record in one directory; safe against crashes and against two processes at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._records = DurableFolder(directory)

    def sealed(self, manifest: bytes) -> bytes | None:
        """The payload recorded for a manifest digest (48 bytes), or None."""
        return self._records.read(f"{manifest.hex()}.seal")

    def check(self, manifest: bytes, payload: bytes) -> None:
        """Raise AlreadySealed when a different seal of the manifest with that digest was recorded."""
        earlier = self.sealed(manifest)
        if earlier is not None:
            self._same_or_refused(manifest, earlier, payload)

    def record(self, manifest: bytes, payload: bytes) -> bool:
        """Make ``payload`` the only seal of the manifest whose bytes are given; durable when this returns.

        Returns whether the record is new. False means that the same seal was recorded before and may be
        signed again. Raises AlreadySealed for a different one, EnvironmentFailure for a record that cannot be
        read.
        """
        digest = hashlib.sha384(manifest).digest()
        names = (f"{digest.hex()}.manifest", f"{digest.hex()}.seal")
        with self._records.locked():
            earlier = self.sealed(digest)
            if earlier is not None:
                self._same_or_refused(digest, earlier, payload)
                # Its writer may have been killed before it was durable.
                self._records.sync(*names)
                return False
            for name, content in zip(names, (manifest, payload), strict=True):
                self._records.write(name, content)
        return True

    def record_bid(self, bid: bytes, manifest: bytes) -> None:
        """Remember, durably, for which manifest a bid file was made; both are SHA-384 digests (48 bytes)."""
        with self._records.locked():
            self._records.write(f"{bid.hex()}.bid", manifest)

    def manifest_of(self, bid: bytes) -> bytes | None:
        """The digest of the manifest for which the bid file of that digest was made here, or None."""
        return self._records.read(f"{bid.hex()}.bid")

    def overlaps(self, manifest: messages.Manifest) -> tuple[Overlap, ...]:
        """Manifests that were sealed before and share lot ids with ``manifest``, sorted by digest.

        Raises EnvironmentFailure for a record that cannot be read: it could be one of them.
        """
        # One text per lot, however many manifests name it.
        lots = {identifier: identifier for identifier in manifest.lots.ids.split("\n")}
        found: list[Overlap] = []
        for path in sorted(self.directory.glob("*.seal")):
            if path.stem == manifest.digest.hex():
                continue
            overlap = self._overlap(path, lots)
            if found and overlap.lots == found[-1].lots:
                overlap = replace(overlap, lots=found[-1].lots)
            if overlap.lots:
                found.append(overlap)
        return tuple(found)

    def _overlap(self, seal: Path, lots: Mapping[str, str]) -> Overlap:
        """The lots that an earlier seal's manifest shares with ``lots``; only one manifest is in memory at a
        time.
        """
        try:
            digest = bytes.fromhex(seal.stem)
            content = self._path(digest, "manifest").read_bytes()
            if hashlib.sha384(content).digest() != digest:
                raise ValueError
            earlier = messages.Manifest.decode(content)
        except (OSError, ValueError, MessageError):
            raise damaged_record("the manifest of an earlier seal is missing or damaged", seal) from None
        common = tuple(lots[each] for each in earlier.lots.ids.split("\n") if each in lots)
        return Overlap(earlier.auction, digest, common)

    def _same_or_refused(self, manifest: bytes, earlier: bytes, payload: bytes) -> None:
        if earlier == payload:
            return
        try:
            messages.Seal.decode(earlier)
        except MessageError:
            raise damaged_record(
                "the record of an earlier seal of this manifest cannot be read",
                self._path(manifest, "seal"),
                "restore the file; a new seal needs a new manifest",
            ) from None
        raise AlreadySealed(
            "this manifest was sealed before, with a different bid set or release",
            where=str(self._path(manifest, "seal")),
            hint="a changed or late bid needs a new manifest",
        )

    def _path(self, manifest: bytes, kind: str) -> Path:
        return self.directory / f"{manifest.hex()}.{kind}"
