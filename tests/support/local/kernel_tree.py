"""The tree that a booted kernel unpacks from ramdisks, and the one that our model says it does."""

from __future__ import annotations

import io
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from coattest_build.formats.eif import EifSection, Layout, SectionType
from coattest_build.formats.lenient.initramfs import unpack_ramdisks
from support.build.images import archive, newc

INSPECTOR = Path(__file__).with_name("inspect_root.c")
NAME = b"inspect-root"
CONTENT = 2048
"""Bytes of a file that are compared."""

BOOTED = 1_750_000_000
"""From this time on (Unix seconds) it is the guest's own clock: nobody set the time."""

KernelNode = tuple[int, int, int, str, int, int, bytes]
"""Mode, uid, gid, device, size, mtime, and content or target."""


def compile_inspector(folder: Path) -> bytes:
    """The program that tells what it finds, in an archive to go before the ramdisks."""
    program = folder / "inspect-root"
    subprocess.run(["gcc", "-static", "-Os", "-Wall", "-o", program, INSPECTOR], check=True, timeout=120)
    return archive(newc(NAME, 0o100755, program.read_bytes()))


def kernel_tree(
    qemu: Sequence[str | Path], kernel: Path, ramdisks: bytes, folder: Path
) -> dict[bytes, KernelNode]:
    """What the kernel has in its root after it unpacked these bytes, the inspector's archive first.

    ``qemu`` is the program with its firmware options. The root itself and what nobody dated are not compared.
    """
    (folder / "ramdisks").write_bytes(ramdisks)
    done = subprocess.run(
        [
            *(
                *qemu,
                "-M",
                "microvm,acpi=off,pic=on,pit=on,rtc=on,isa-serial=on",
                "-accel",
                "tcg",
                "-cpu",
                "max",
                "-m",
                "256M",
            ),
            *("-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"),
            *("-kernel", kernel, "-initrd", folder / "ramdisks"),
            *("-append", "console=ttyS0 panic=-1 reboot=t no_timer_check rdinit=/inspect-root quiet"),
        ],
        capture_output=True,
        check=False,
        timeout=300,
    )
    told = done.stdout.replace(b"\r", b"")
    begin, end = told.find(b"BEGIN\n"), told.find(b"END\n")
    assert begin >= 0, told[-2000:] + done.stderr[-500:]
    assert end > begin
    return _parsed(told[begin + 6 : end])


def _parsed(told: bytes) -> dict[bytes, KernelNode]:
    found: dict[bytes, KernelNode] = {}
    at: list[bytes] = []
    for line in told.decode("ascii").split("\n"):
        if line == "U":
            at.pop()
        elif line.startswith("P "):
            name, mode, uid, gid, device, size, mtime, content = line[2:].split(" ")[:8]
            path = b"/".join([*at[1:], bytes.fromhex(name)])
            kind = int(mode, 8)
            length = 0 if stat.S_ISDIR(kind) else int(size)
            time = int(mtime) if int(mtime) < BOOTED else 0
            found[path] = (kind, int(uid), int(gid), device, length, time, bytes.fromhex(content))
            if stat.S_ISDIR(kind):
                at.append(bytes.fromhex(name))
    return {path: node for path, node in found.items() if path not in (b"/", b"")}


def model_tree(ramdisks: bytes) -> dict[bytes, KernelNode]:
    """The same from our model."""
    section = EifSection(SectionType.RAMDISK, 0, len(ramdisks))
    layout = Layout(0, 0, 0, 0, (section,), len(ramdisks))
    found = unpack_ramdisks(io.BytesIO(ramdisks), layout)
    nodes: dict[bytes, KernelNode] = {}
    for path, node in found.tree.walk():
        if path in (b"", NAME):
            continue
        content = node.target
        size = len(node.target)
        if node.kind == "file":
            size, content = node.body.length, b""
            for block in found.streams.blocks(node.body):
                content += block[: CONTENT - len(content)]
                if len(content) == CONTENT:
                    break
        device = f"{node.device[0]}:{node.device[1]}"
        nodes[path] = (node.mode, node.uid, node.gid, device, size, node.mtime, content)
    return nodes
