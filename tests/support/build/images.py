"""Images and ramdisks made from the specification with struct and hashlib: the oracle of the format's tests.

Nothing of coattest_build is used here, so that a test never compares the code with itself.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass, field

KERNEL, CMDLINE, RAMDISK, SIGNATURE, METADATA = 1, 2, 3, 4, 5
HEADER = 548


@dataclass
class SpecImage:
    """A header and sections that can be bent: a set override replaces what the specification says."""

    sections: list[tuple[int, bytes]]
    magic: bytes = b".eif"
    version: int = 4
    flags: int = 0
    memory: int = 1 << 30
    cpus: int = 2
    reserved: int = 0
    unused: int = 0
    count: int | None = None
    crc: int | None = None
    offsets: dict[int, int] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    header_sizes: dict[int, int] = field(default_factory=dict)
    section_flags: dict[int, int] = field(default_factory=dict)
    gaps: dict[int, bytes] = field(default_factory=dict)
    trailing: bytes = b""

    def build(self) -> bytes:
        """The image's bytes, with a CRC-32 that is right unless ``crc`` is set."""
        offsets, sizes, body = [0] * 32, [0] * 32, b""
        for index, (kind, data) in enumerate(self.sections):
            body += self.gaps.get(index, b"")
            if index < 32:
                offsets[index], sizes[index] = HEADER + len(body), len(data)
            size = self.header_sizes.get(index, len(data))
            body += struct.pack(">HHQ", kind, self.section_flags.get(index, 0), size) + data
        body += self.trailing
        for index, value in self.offsets.items():
            offsets[index] = value
        for index, value in self.sizes.items():
            sizes[index] = value
        count = len(self.sections) if self.count is None else self.count
        head = struct.pack(
            ">4sHHQQHH", self.magic, self.version, self.flags, self.memory, self.cpus, self.reserved, count
        )
        head += struct.pack(">32Q", *offsets) + struct.pack(">32Q", *sizes) + struct.pack(">I", self.unused)
        crc = zlib.crc32(head + body) if self.crc is None else self.crc
        return head + struct.pack(">I", crc) + body


def plain(
    kernel: bytes = b"kernel" * 100,
    cmdline: bytes = b"reboot=k panic=30",
    metadata: bytes = b'{"ImageName": "test"}',
    ramdisks: tuple[bytes, ...] = (b"boot" * 300, b"application" * 500),
) -> SpecImage:
    """An image in the order of AWS's writer."""
    sections = [(KERNEL, kernel), (CMDLINE, cmdline), (METADATA, metadata)]
    return SpecImage(sections + [(RAMDISK, ramdisk) for ramdisk in ramdisks])


def with_right_crc(image: bytes) -> bytes:
    """``image`` with the CRC-32 field set to what its bytes say."""
    if len(image) < HEADER:
        return image
    return image[:544] + struct.pack(">I", zlib.crc32(image[:544] + image[548:])) + image[548:]


def pcr(*contents: bytes) -> str:
    """A register that measures these contents, concatenated."""
    return hashlib.sha384(bytes(48) + hashlib.sha384(b"".join(contents)).digest()).hexdigest()


def newc(
    name: bytes,
    mode: int = 0o100644,
    data: bytes = b"",
    *,
    magic: bytes = b"070701",
    inode: int = 1,
    uid: int = 0,
    gid: int = 0,
    links: int = 1,
    mtime: int = 0,
    device: tuple[int, int, int, int] = (0, 0, 0, 0),
    check: int = 0,
    size: int | None = None,
    name_size: int | None = None,
    name_padding: bytes | None = None,
    data_padding: bytes | None = None,
) -> bytes:
    """One newc record, every field of which can be bent."""
    name_size = len(name) + 1 if name_size is None else name_size
    size = len(data) if size is None else size
    values = (inode, mode, uid, gid, links, mtime, size, *device, name_size, check)
    head = magic + b"".join(b"%08X" % value for value in values) + name + b"\0"
    head += bytes(-len(head) % 4) if name_padding is None else name_padding
    return head + data + (bytes(-len(data) % 4) if data_padding is None else data_padding)


def archive(*records: bytes, trailer: bool = True) -> bytes:
    """Records, a trailer, and padding to 512."""
    raw = b"".join(records) + (newc(b"TRAILER!!!", 0, inode=0) if trailer else b"")
    return raw + bytes(-len(raw) % 512)


DIRECTORY = 0o40755
SYMLINK = 0o120777
