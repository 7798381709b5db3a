"""Small real images for tests of the software host: an EIF whose application is one static C program."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from coattest_build.cpio import Entry, write_ramdisk
from coattest_build.eif import write_image

SOURCE = Path(__file__).with_name("relay.c")
DIRECTORY = stat.S_IFDIR | 0o755
PROGRAM = stat.S_IFREG | 0o755
FILE = stat.S_IFREG | 0o644


def compile_relay(folder: Path) -> Path:
    """The test enclave's program, statically linked; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    program = folder / "relay"
    done = subprocess.run(
        [compiler, "-O1", "-static", "-o", program, SOURCE], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no static C library here: {done.stderr.decode(errors='replace')[-200:]}")
    return program


def rootfs(program: Path) -> list[Entry]:
    """A root file system with the program and the empty folders that nitro-cli makes."""
    folders = [
        "rootfs",
        *(f"rootfs/{name}" for name in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "var")),
    ]
    return [
        *(Entry(name, DIRECTORY, None) for name in folders),
        Entry("rootfs/bin/relay", PROGRAM, program),
        Entry("rootfs/etc/marker", FILE, b"from the image"),
    ]


def make_image(
    destination: Path,
    entries: Sequence[Entry],
    *,
    cmd: Sequence[str] | None = ("/bin/relay",),
    env: Sequence[str] = ("PATH=/bin", "MARK=a=b"),
    signature: bytes | None = None,
    kernel: bytes = b"not a kernel",
) -> Path:
    """An EIF with two ramdisks as nitro-cli lays them out."""
    parts = destination.parent / f"{destination.name}.parts"
    parts.mkdir()
    (parts / "kernel").write_bytes(kernel)
    boot = [Entry("dev", DIRECTORY, None), Entry("init", PROGRAM, b"#!/never/run")]
    write_ramdisk(parts / "boot", boot, mtime=0)
    command = [] if cmd is None else [Entry("cmd", FILE, "".join(f"{word}\n" for word in cmd).encode())]
    environment = Entry("env", FILE, "".join(f"{line}\n" for line in env).encode())
    write_ramdisk(parts / "application", [*entries, *command, environment], mtime=0)
    write_image(
        destination,
        kernel=parts / "kernel",
        cmdline=b"console=ttyS0",
        metadata=b"{}",
        ramdisks=[parts / "boot", parts / "application"],
        signature=signature,
    )
    return destination
