"""nitro-cli's blobs: kernel, command line, init and driver, and the boot ramdisk that they make.

Sources: aws-nitro-enclaves-cli 1.5.0, enclave_build/src/lib.rs and yaml_generator.rs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coattest.errors import EnvironmentFailure, Rejected
from coattest.files import Folder
from coattest_build.containers.nitrocli import MAX_RAMDISK, TIME, RamdiskPart, ramdisk_blocks
from coattest_build.containers.sources import Spool, plain_blocks
from coattest_build.formats.eif import Part, SectionType, write_parts

MAX_KERNEL = 128 << 20
MAX_BLOB = 16 << 20
"""Bytes of init or the driver; AWS's have under 1 MiB."""
MAX_CMDLINE = 4096
KERNELS = {"amd64": "bzImage", "arm64": "Image"}


@dataclass(frozen=True, slots=True)
class BootParts:
    """What stands before the application ramdisk: PCR1 is a digest of the three."""

    kernel: bytes
    cmdline: bytes
    boot: bytes


def write_enclave(
    target: Path, before: BootParts, metadata: bytes, application: Iterator[bytes], *, flags: int = 0
) -> None:
    """Write the image file whose application ramdisk has these blocks. Raises ContainerError."""
    with Spool(MAX_RAMDISK) as spool:
        ramdisk, _ = spool.add(application, "application ramdisk")
        parts = [
            Part.of_bytes(SectionType.KERNEL, before.kernel),
            Part.of_bytes(SectionType.CMDLINE, before.cmdline),
            Part.of_bytes(SectionType.METADATA, metadata),
            Part.of_bytes(SectionType.RAMDISK, before.boot),
            Part(SectionType.RAMDISK, ramdisk.size, lambda: plain_blocks(ramdisk)),
        ]
        write_parts(target, parts, flags=flags)


def boot_ramdisk(init: bytes, driver: bytes) -> Iterator[bytes]:
    """The boot ramdisk in blocks: an empty folder, AWS's init and its driver."""
    files = ((b"init", init), (b"nsm.ko", driver))
    parts = [RamdiskPart(b"dev", 0o40755, 0, 0, TIME, 0, b"")]
    parts += [RamdiskPart(name, 0o100755, 0, 0, TIME, len(data), data) for name, data in files]
    return ramdisk_blocks(parts, lambda *_: b"")


def read_blobs(path: Path, architecture: str) -> BootParts:
    """The blobs of a folder such as /usr/share/nitro_enclaves/blobs, for ``amd64`` or ``arm64``.

    The command line is without white space at its ends, as nitro-cli takes it.

    Raises EnvironmentFailure (``blobs-missing``) for one that is absent or not a plain file; UsageError for
    the folder.
    """
    with Folder(path, total=MAX_KERNEL + 4 * MAX_BLOB) as folder:

        def read(name: str, limit: int) -> bytes:
            try:
                return folder.read(name, limit)
            except Rejected as error:
                raise EnvironmentFailure(
                    error.what,
                    where=str(path / name),
                    hint="--blobs is nitro-cli's folder: bzImage or Image, cmdline, init, nsm.ko",
                    code="blobs-missing",
                ) from None

        kernel = read(KERNELS[architecture], MAX_KERNEL)
        cmdline = read("cmdline", MAX_CMDLINE)
        boot = b"".join(boot_ramdisk(read("init", MAX_BLOB), read("nsm.ko", MAX_BLOB)))
    text = cmdline.decode("utf-8", "surrogateescape").strip()
    return BootParts(kernel, text.encode("utf-8", "surrogateescape"), boot)
