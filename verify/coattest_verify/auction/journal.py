"""A buyer's durable record of what it sealed, which prevents a search for its amounts.

A parent that could open the same bids against many different bid sets would find a buyer's amount by search.
It cannot, because each buyer seals only one bid set per manifest: the record is on the disk, synced, *before*
the signature exists, and from then on a different seal for the same manifest is refused.

Layout of the directory, one pair of files per manifest (HEX is the manifest's SHA-384):

``HEX.manifest``   the manifest's bytes; written first. Writing it again changes nothing
``HEX.seal``       the payload that was, or was about to be, signed. From here on it is the only one

Without the directory the protection is gone, so docs/auction.md says to back it up.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from coattest.errors import EnvironmentFailure, FoundFalse
from coattest_enclave.protocol import messages
from coattest_enclave.protocol.errors import MessageError

STATE_VARIABLE = "COATTEST_STATE"
"""Environment variable with the directory of everything that coattest remembers."""


class AlreadySealed(FoundFalse):
    """This manifest was sealed before, with a different bid set or decision."""

    default_code = "already-sealed"


@dataclass(frozen=True, slots=True)
class Overlap:
    """A manifest that was sealed before and names some of the same lots."""

    auction: str
    manifest: bytes
    lots: tuple[str, ...]


def default_journal() -> Path:
    """``$COATTEST_STATE/seals``, else ``$XDG_DATA_HOME/coattest/seals``, else
    ``~/.local/share/coattest/seals``.
    """
    if state := os.environ.get(STATE_VARIABLE):
        return Path(state) / "seals"
    data = os.environ.get("XDG_DATA_HOME")
    base = Path(data) if data and Path(data).is_absolute() else Path.home() / ".local" / "share"
    return base / "coattest" / "seals"


class SealJournal:
    """The record in one directory; safe against crashes and against two processes at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def sealed(self, manifest: bytes) -> bytes | None:
        """The payload recorded for a manifest digest (48 bytes), or None."""
        path = self._path(manifest, "seal")
        try:
            return path.read_bytes()
        except FileNotFoundError:
            if path.is_symlink():
                raise _damaged(
                    "the record of an earlier seal of this manifest is a dangling link",
                    path,
                    "restore the file that the link names",
                ) from None
            return None

    def record(self, manifest: bytes, payload: bytes) -> bool:
        """Make ``payload`` the only seal of the manifest whose bytes are given; durable when this returns.

        Returns whether the record is new. False means that the same seal was recorded before and may be
        signed again. Raises AlreadySealed for a different one, EnvironmentFailure for a record that cannot be
        read.
        """
        digest = hashlib.sha384(manifest).digest()
        _make_directories(self.directory)
        with self._locked():
            earlier = self.sealed(digest)
            if earlier is not None:
                self._same_or_refused(digest, earlier, payload)
                # Its writer may have been killed before it was durable.
                for kind in ("manifest", "seal"):
                    _sync(self._path(digest, kind), os.O_RDONLY)
                _sync(self.directory, os.O_RDONLY | os.O_DIRECTORY)
                return False
            self._write(self._path(digest, "manifest"), manifest)
            self._write(self._path(digest, "seal"), payload)
        return True

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
            raise _damaged("the manifest of an earlier seal is missing or damaged", seal) from None
        common = tuple(lots[each] for each in earlier.lots.ids.split("\n") if each in lots)
        return Overlap(earlier.auction, digest, common)

    def _same_or_refused(self, manifest: bytes, earlier: bytes, payload: bytes) -> None:
        if earlier == payload:
            return
        try:
            messages.Seal.decode(earlier)
        except MessageError:
            raise _damaged(
                "the record of an earlier seal of this manifest cannot be read",
                self._path(manifest, "seal"),
                "restore the file; a new seal needs a new manifest",
            ) from None
        raise AlreadySealed(
            "this manifest was sealed before, with a different bid set or decision",
            where=str(self._path(manifest, "seal")),
            hint="a changed or late bid needs a new manifest",
        )

    def _path(self, manifest: bytes, kind: str) -> Path:
        return self.directory / f"{manifest.hex()}.{kind}"

    def _write(self, path: Path, content: bytes) -> None:
        """Temporary file, fsync, rename, fsync of the directory: the file is whole or absent after a power
        cut.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                rest = memoryview(content)
                while rest:
                    rest = rest[os.write(handle, rest) :]
                os.fsync(handle)
            finally:
                os.close(handle)
            os.rename(temporary, path)  # noqa: PTH104 - bare calls, so that a test can stop at each
        finally:
            temporary.unlink(missing_ok=True)
        _sync(self.directory, os.O_RDONLY | os.O_DIRECTORY)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.directory / ".lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                raise _unsafe(error, "locked", self.directory) from error
            yield


def _make_directories(directory: Path) -> None:
    missing = []
    path = directory
    while not path.exists():
        missing.append(path)
        path = path.parent
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    # All of them, because an earlier process may have been killed before it synced what it made.
    device = directory.stat().st_dev
    for path in directory.absolute().parents:
        if path.stat().st_dev != device:
            break
        # We did not make a directory that we may not read.
        with contextlib.suppress(PermissionError):
            _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        raise _unsafe(error, "synced", path) from error
    finally:
        os.close(handle)


def _unsafe(error: OSError, what: str, path: Path) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"cannot be {what}: {error.strerror}",
        where=str(path),
        hint="nothing was signed; keep the record on a local disk: --journal, or COATTEST_STATE",
        code="journal-unsafe",
    )


def _damaged(what: str, path: Path, hint: str | None = None) -> EnvironmentFailure:
    return EnvironmentFailure(what, where=str(path), hint=hint, code="journal-damaged")
