"""Makes .deb files byte by byte, so that tests can put into them what no honest builder would."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = b"x", mode: int = 0o644, **pax: str) -> Member:
    """A regular file."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.pax_headers = len(content), mode, dict(pax)
    return info, content


def entry(name: str, kind: bytes, target: str = "", mode: int = 0o755) -> Member:
    """Anything else: a directory, link, device, .."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info, b""


def directory(name: str) -> Member:
    return entry(name, tarfile.DIRTYPE)


def symlink(name: str, target: str) -> Member:
    return entry(name, tarfile.SYMTYPE, target)


def hard_link(name: str, target: str) -> Member:
    return entry(name, tarfile.LNKTYPE, target)


def tar(members: Iterable[Member], format: int = tarfile.GNU_FORMAT) -> bytes:  # noqa: A002
    """The bytes of a tar archive, names exactly as given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for info, content in members:
            # tarfile strips a leading slash in its own helpers; the header takes the name as it is.
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def ar(members: Iterable[tuple[str, bytes]]) -> bytes:
    """The bytes of an ar archive."""
    data = b"!<arch>\n"
    for name, content in members:
        data += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        data += b"\n" * (len(content) % 2)
    return data


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".gz": lambda data: gzip.compress(data, mtime=0),
    "": lambda data: data,
    ".zst": lambda data: b"\x28\xb5\x2f\xfd" + data,
}


def deb_bytes(data_tar: bytes, compression: str = ".xz") -> bytes:
    """A .deb around the bytes of a data.tar."""
    control = lzma.compress(tar([file("./postinst", b"#!/bin/sh\ntouch /pwned\n", 0o755)]), preset=0)
    return ar(
        [
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", control),
            (f"data.tar{compression}", COMPRESS[compression](data_tar)),
        ]
    )


def make_deb(
    path: Path,
    members: Iterable[Member],
    *,
    compression: str = ".xz",
    format: int = tarfile.GNU_FORMAT,  # noqa: A002
) -> Path:
    """Write a .deb with these members."""
    path.write_bytes(deb_bytes(tar(members, format), compression))
    return path
