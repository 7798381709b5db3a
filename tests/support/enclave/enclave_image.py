"""Small real images for tests of the software host: an EIF whose application is one static C program."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pytest

from coattest_build.formats import eif
from coattest_build.formats.cpio import NewEntry, write_ramdisk
from coattest_build.formats.eif import EifSection, SectionType, section_blocks, write_image
from coattest_build.formats.measure import measure_found

DIRECTORY = stat.S_IFDIR | 0o755
PROGRAM = stat.S_IFREG | 0o755
FILE = stat.S_IFREG | 0o644


def compile_program(name: str, folder: Path, sources: Path = Path(__file__).parent) -> Path:
    """A C program of ``sources``, without its suffix, statically linked; skips without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    program = folder / name
    command = [compiler, "-O1", "-static", "-o", program, sources / f"{name}.c"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no static C library here: {done.stderr.decode(errors='replace')[-200:]}")
    return program


def rootfs(program: Path) -> list[NewEntry]:
    """A root file system with the program and the empty folders that nitro-cli makes."""
    folders = [
        "rootfs",
        *(f"rootfs/{name}" for name in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "var")),
    ]
    return [
        *(NewEntry(name, DIRECTORY, None) for name in folders),
        NewEntry(f"rootfs/bin/{program.name}", PROGRAM, program),
        NewEntry("rootfs/etc/marker", FILE, b"from the image"),
    ]


def read_layout(file: BinaryIO) -> eif.Layout:
    """Header and sections, as the strict reader takes them, CRC-32 included. Raises ImageError."""
    layout = eif.read_structure(file)
    eif.check_crc(layout, measure_found(file, layout, whole=False).crc32)
    return layout


def whole(file: BinaryIO, section: EifSection) -> bytes:
    """A section's data."""
    return b"".join(section_blocks(file, section))


def make_image(
    destination: Path,
    entries: Sequence[NewEntry],
    *,
    cmd: Sequence[str] | None = ("/bin/relay",),
    env: Sequence[str] = ("PATH=/bin", "MARK=a=b"),
    base: Path | None = None,
    metadata: bytes = b"{}",
    cmdline_more: bytes = b"",
) -> Path:
    """An EIF with two ramdisks as nitro-cli lays them out.

    Kernel, command line and boot ramdisk are those of ``base``, a real image, or else placeholders.
    """
    parts = destination.parent / f"{destination.name}.parts"
    parts.mkdir()
    cmdline = b"console=ttyS0"
    if base is None:
        (parts / "kernel").write_bytes(b"not a kernel")
        boot = [NewEntry("dev", DIRECTORY, None), NewEntry("init", PROGRAM, b"#!/never/run")]
        write_ramdisk(parts / "boot", boot, mtime=0)
    else:
        with base.open("rb") as file:
            layout = read_layout(file)
            (parts / "kernel").write_bytes(whole(file, layout.of_type(SectionType.KERNEL)[0]))
            (parts / "boot").write_bytes(whole(file, layout.of_type(SectionType.RAMDISK)[0]))
            cmdline = whole(file, layout.of_type(SectionType.CMDLINE)[0])
    command = [] if cmd is None else [NewEntry("cmd", FILE, "".join(f"{word}\n" for word in cmd).encode())]
    environment = NewEntry("env", FILE, "".join(f"{line}\n" for line in env).encode())
    write_ramdisk(parts / "application", [*entries, *command, environment], mtime=0)
    write_image(
        destination,
        kernel=parts / "kernel",
        cmdline=cmdline + cmdline_more,
        metadata=metadata,
        ramdisks=[parts / "boot", parts / "application"],
    )
    return destination
