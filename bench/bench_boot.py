"""How long an enclave takes from QEMU's start to its first answered frame, against its bare kernel.

python bench/bench_boot.py [--json] [--rounds N] [--image IMAGE]

The reference is the same kernel, command line and init with an application of one static C program: the time
until init's heartbeat arrives, so nothing of the application counts. Of the image three moments are told:
the heartbeat (kernel, unpacking of the ramdisks, init), the first accepted connection (Python, imports), and
the answer to a liveness request (one NSM document). Both are booted in turn, under TCG, and the median of the
rounds' own ratios counts. Both contain the half second that init waits for CID 3, which QEMU does not have.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from coattest_build.formats import cpio, eif
from coattest_build.formats.eif import SectionType
from coattest_local.qemu.enclave import run_in_qemu
from coattest_local.qemu.tools import find_tools
from coattest_parent.link.channels import parse_address
from coattest_parent.link.enclave import EnclaveClient

ROOT = Path(__file__).resolve().parent.parent
GOAL = 2.5
DIRECTORY, PROGRAM, FILE = 0o040755, 0o100755, 0o100644
IDENTITY = {"role_arn": "arn:aws:iam::123456789012:role/parent", "instance_id": "i-1234567890abcdef0"}
FOLDERS = ("rootfs", *(f"rootfs/{name}" for name in ("dev", "proc", "run", "sys", "tmp")))


def bare_image(image: Path, folder: Path) -> Path:
    """An image with the kernel, command line and init of ``image`` and one C program."""
    program = folder / "listen"
    source = Path(__file__).with_name("listen.c")
    subprocess.run(["gcc", "-O1", "-static", "-s", "-o", program, source], check=True)
    with image.open("rb") as file:
        layout = eif.read_structure(file)
        parts = {
            kind: b"".join(eif.section_blocks(file, layout.of_type(kind)[0]))
            for kind in (SectionType.KERNEL, SectionType.CMDLINE, SectionType.RAMDISK)
        }
    (folder / "kernel").write_bytes(parts[SectionType.KERNEL])
    (folder / "boot").write_bytes(parts[SectionType.RAMDISK])
    entries = [
        *(cpio.NewEntry(name, DIRECTORY, None) for name in FOLDERS),
        cpio.NewEntry("rootfs/listen", PROGRAM, program),
        cpio.NewEntry("cmd", FILE, b"/listen\n"),
        cpio.NewEntry("env", FILE, b""),
    ]
    cpio.write_ramdisk(folder / "application", entries, mtime=0)
    bare = folder / "bare.eif"
    eif.write_image(
        bare,
        kernel=folder / "kernel",
        cmdline=parts[SectionType.CMDLINE],
        metadata=b"{}",
        ramdisks=[folder / "boot", folder / "application"],
    )
    return bare


def boot(image: Path, folder: Path, *, asked: bool) -> tuple[float, float, float]:
    """Seconds to heartbeat, first connection and, when ``asked``, the answered liveness request."""
    with run_in_qemu(image, folder, tools=find_tools(), **IDENTITY) as enclave:
        begun = time.monotonic()
        if asked:
            with EnclaveClient(parse_address(enclave.address)) as client:
                client.alive(secrets.token_bytes(32))
        answered = enclave.listening_seconds + time.monotonic() - begun
        return enclave.heartbeat_seconds, enclave.listening_seconds, answered


def build(folder: Path) -> Path:
    """The default profile's image of this checkout."""
    command = [sys.executable, "-c", "from coattest_build.cli import main; main()"]
    options = ["build", "--source", str(ROOT), "--this-checkout-is-mine"]
    options += ["--out", str(folder), "--profile", "aws"]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    return folder / "image.eif"


def figures(image: Path | None, rounds: int) -> dict[str, Any]:
    """The medians, the ratio and the shares."""
    with tempfile.TemporaryDirectory(prefix="coattest-bench-") as name:
        folder = Path(name)
        shipped = image or build(folder / "out")
        bare = bare_image(shipped, folder)
        load = os.getloadavg()[0]
        found = []
        for at in range(rounds):
            reference = boot(bare, folder / f"bare-{at}", asked=False)[0]
            found.append((reference, *boot(shipped, folder / f"image-{at}", asked=True)))
    middle = [statistics.median(values) for values in zip(*found, strict=True)]
    reference, heartbeat, listening, answered = (round(value, 2) for value in middle)
    return {
        "benchmark": "boot",
        "load": round(load, 1),
        "rounds": rounds,
        "bare_heartbeat_seconds": reference,
        "heartbeat_seconds": heartbeat,
        "listening_seconds": listening,
        "answered_seconds": answered,
        "ratio": round(statistics.median(item[3] / item[0] for item in found), 2),
        "goal": GOAL,
        "shares": {
            "bare kernel": round(reference / answered, 2),
            "unpacking the application": round((heartbeat - reference) / answered, 2),
            "Python, imports, first document": round((answered - heartbeat) / answered, 2),
        },
    }


def show(result: dict[str, Any]) -> None:
    """The table."""
    table = Table("moment", "seconds after QEMU's start")
    for key in ("bare_heartbeat", "heartbeat", "listening", "answered"):
        table.add_row(key.replace("_", " "), str(result[f"{key}_seconds"]))
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    console.print(f"answered / bare heartbeat: {result['ratio']} (at most {result['goal']})")
    shares = ", ".join(f"{name} {share:.0%}" for name, share in result["shares"].items())
    console.print(f"shares: {shares}; load {result['load']}, {result['rounds']} rounds")


def main() -> None:
    """Print the table, or with --json one document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image", type=Path, help="Boot this image instead of building this checkout's.")
    options = parser.parse_args()
    result = figures(options.image, options.rounds)
    print(json.dumps(result, indent=2)) if options.json else show(result)


if __name__ == "__main__":
    main()
