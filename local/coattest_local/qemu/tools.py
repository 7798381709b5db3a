"""Finds what a boot needs: a QEMU with the nitro-enclave machine, vhost-device-vsock and firmware."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from coattest.errors import EnvironmentFailure
from coattest.programs.environment import find_program
from coattest.programs.start import ProgramLimits, run_program
from coattest_build.inputs import cache

MACHINE = "nitro-enclave"
QEMU = "qemu-system-x86_64"
VSOCK = "vhost-device-vsock"
# What the machine loads: qboot, for a machine without ACPI, and the option ROM of a direct kernel boot.
FIRMWARE_FILES = ("qboot.rom", "linuxboot_dma.bin")
SYSTEM_FIRMWARE = (Path("/usr/share/qemu"), Path("/usr/share/qboot"))

HOW_TO_GET_ONE = (
    "in a checkout of coattest, `python local/qemu-compiler/build.py` builds them; QEMU 9.2 or later with "
    "libcbor and gnutls works too"
)


@dataclass(frozen=True, slots=True)
class QemuTools:
    """Where the programs and the firmware folders are; the folders are searched in this order."""

    qemu: Path
    vsock: Path
    firmware: tuple[Path, ...]


def qemu_folder() -> Path:
    """The folder below the cache that ``local/qemu-compiler/build.py`` fills."""
    return cache.cache_folder() / "qemu"


def find_tools(folder: Path | None = None) -> QemuTools:
    """The programs in the cache, else those of the system. Raises EnvironmentFailure (``no-qemu``)."""
    cached = folder or qemu_folder()
    qemu = next((path for path in _candidates(QEMU, cached) if has_machine(path)), None)
    vsock = next(iter(_candidates(VSOCK, cached)), None)
    firmware = tuple(path for path in (cached / "firmware", *SYSTEM_FIRMWARE) if path.is_dir())
    missing = [
        what
        for what, found in (
            (f"a QEMU with the {MACHINE} machine", qemu),
            (VSOCK, vsock),
            ("QEMU's firmware", all(any((f / name).exists() for f in firmware) for name in FIRMWARE_FILES)),
        )
        if not found
    ]
    if qemu is None or vsock is None or missing:
        raise EnvironmentFailure(f"missing: {', '.join(missing)}", hint=HOW_TO_GET_ONE, code="no-qemu")
    return QemuTools(qemu, vsock, firmware)


def _candidates(name: str, cached: Path) -> list[Path]:
    """Ours first: unlike a system's QEMU it can have its documents signed."""
    built = cached.absolute() / "bin" / name
    found = [built] if os.access(built, os.X_OK) else []
    with contextlib.suppress(EnvironmentFailure):
        found.append(Path(find_program(name)))
    return found


def has_machine(qemu: Path) -> bool:
    """Whether this QEMU runs here and knows the machine (Debian builds it without libcbor, so without it)."""
    try:
        done = run_program([str(qemu), "-M", "help"], limits=ProgramLimits(seconds=30))
    except EnvironmentFailure:
        return False
    listing = b"" if done.code else done.stdout
    return any(line.split()[:1] == [MACHINE.encode()] for line in listing.splitlines())
