"""A Debian archive with a key of its own, served over HTTP on loopback, and as hostile as a test wants."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pysequoia import Cert, SignatureMode, Tsk, sign

from coattest_build.inputs.lock import LockedPackage
from support.loopback import Handler, Loopback

NOW = datetime(2026, 9, 1, 12, tzinfo=timezone.utc)
INDEX = "main/binary-amd64/Packages.xz"


def pin(name: str, version: str = "1.0-1", **other: Any) -> LockedPackage:
    """A locked package whose content is its own name and version."""
    content = f"{name} {version}".encode()
    fields = {
        "architecture": "amd64",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "path": f"pool/main/{name}_{version.rpartition(':')[2]}_amd64.deb",
        "use": ("runtime",),
        **other,
    }
    return LockedPackage(name=name, version=version, **fields)


def stanza(package: LockedPackage) -> str:
    return (
        f"Package: {package.name}\nVersion: {package.version}\nArchitecture: {package.architecture}\n"
        f"Size: {package.size}\nSHA256: {package.sha256}\nFilename: {package.path}\n"
    )


@dataclass
class SignedArchive:
    """A folder laid out as an archive. ``publish`` writes a suite; whatever a test then does to it stays."""

    folder: Path
    key: Tsk = field(default_factory=lambda: Tsk.generate("Archive <archive@example.test>"))

    @property
    def certificate(self) -> Cert:
        """The public half."""
        return self.key.extract_certificate()

    def path(self, suite: str, name: str = "InRelease") -> Path:
        return self.folder / "dists" / suite / name

    def publish(
        self,
        suite: str,
        *packages: LockedPackage,
        date: datetime = NOW - timedelta(days=1),
        valid_until: datetime | None = NOW + timedelta(days=6),
        key: Tsk | None = None,
        index: bytes | None = None,
        fields: Mapping[str, str] | None = None,
        by_hash: bool = False,
    ) -> None:
        """Write Packages.xz and a signed InRelease. ``index`` replaces the packed index."""
        if index is None:
            index = lzma.compress("\n".join(stanza(package) for package in packages).encode())
        path = self.path(suite, INDEX)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(index)
        digest = hashlib.sha256(index).hexdigest()
        if by_hash:
            hashed = path.parent / "by-hash/SHA256" / digest
            hashed.parent.mkdir(parents=True, exist_ok=True)
            path.rename(hashed)
        release = {
            "Origin": "Test",
            "Suite": f"old{suite}",
            "Codename": suite,
            "Date": format_datetime(date, usegmt=True).replace("GMT", "UTC"),
            **({"Valid-Until": format_datetime(valid_until, usegmt=True)} if valid_until else {}),
            **({"Acquire-By-Hash": "yes"} if by_hash else {}),
            **(fields or {}),
        }
        text = "".join(f"{name}: {value}\n" for name, value in release.items())
        text += f"SHA256:\n {digest} {len(index)} {INDEX}\n"
        self.sign(suite, text.encode(), key)

    def sign(self, suite: str, text: bytes, key: Tsk | None = None) -> None:
        """Write ``text`` as the suite's InRelease, signed."""
        signed = sign((key or self.key).signer(), text, mode=SignatureMode.CLEAR)
        self.path(suite).write_bytes(signed)


class _Files(Handler, SimpleHTTPRequestHandler):
    """Files of a folder, and nothing in the log."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder over HTTP on a free port of loopback; yields the base address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(folder)))
    with Loopback(server) as running:
        yield running.url
