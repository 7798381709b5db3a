"""What `eif describe` and `eif diff` cost for a large image of another builder, against SHA-384.

python bench/bench_found_image.py [--json] [--rounds N] [--megabytes 500] [--entries 60000]

The image is nitro-cli's in shape: names with slashes, owners, times, two ramdisks. Each candidate is a whole
process; the median of the rounds' own ratios counts. The second image differs in one file and all times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

GOALS = {"describe / SHA-384": 3.0, "diff / describe": 2.5, "peak memory of describe (MB)": 256.0}
EIF = "from coattest_build.cli import main; main()"
MB = 1000 * 1000


def entries(count: int, size: int, mtime: int, last: bytes) -> Iterator[bytes]:
    """newc records as linuxkit writes them; every hundredth is a folder."""
    block = bytes(range(256)) * (size // 256 + 1)
    folder = "rootfs"
    for number in range(count):
        if number % 100 == 0:
            folder = f"rootfs/folder-{number}"
            yield record(721 + number, f"{folder}/", 0o40755, b"", mtime)
        else:
            data = last if number == count - 1 else struct.pack(">Q", number) + block[:size]
            yield record(721 + number, f"{folder}/file-{number}.so", 0o100644, data, mtime)


def record(inode: int, name: str, mode: int, data: bytes, mtime: int) -> bytes:
    """One newc record."""
    encoded = name.encode() + b"\0"
    values = (inode, mode, 1000, 1000, 1, mtime, len(data), 3, 1, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08x" % value for value in values) + encoded
    head += bytes(-len(head) % 4)
    return head + data + bytes(-len(data) % 4)


def write(path: Path, count: int, size: int, mtime: int, last: bytes) -> None:
    """An image of kernel, cmdline, metadata and two ramdisks, in blocks."""
    boot = record(721, "init", 0o100755, b"init", 0) + record(722, "TRAILER!!!", 0, b"", 0)
    with tempfile.TemporaryFile(dir=path.parent) as ramdisk:
        ramdisk.write(record(720, "rootfs", 0o40755, b"", mtime))
        for piece in entries(count, size, mtime, last):
            ramdisk.write(piece)
        ramdisk.write(record(1, "TRAILER!!!", 0, b"", 0))
        ramdisk.write(bytes(-ramdisk.tell() % 512))
        length = ramdisk.tell()
        sections = [
            (1, b"kernel" * 300_000),
            (2, b"reboot=k"),
            (5, b"{}"),
            (3, boot + bytes(-len(boot) % 512)),
        ]
        sizes = [len(data) for _, data in sections] + [length]
        offsets = [548 + sum(sizes[:index]) + 12 * index for index in range(5)]
        head = struct.pack(">4sHHQQHH", b".eif", 4, 0, 1 << 30, 2, 0, 5)
        head += struct.pack(">32Q", *offsets, *[0] * 27) + struct.pack(">32Q", *sizes, *[0] * 27) + bytes(4)
        crc = zlib.crc32(head)
        with path.open("wb") as image:
            image.write(head + bytes(4))
            for kind, data in sections:
                piece = struct.pack(">HHQ", kind, 0, len(data)) + data
                crc = zlib.crc32(piece, crc)
                image.write(piece)
            piece = struct.pack(">HHQ", 3, 0, length)
            crc = zlib.crc32(piece, crc)
            image.write(piece)
            ramdisk.seek(0)
            while block := ramdisk.read(1 << 20):
                crc = zlib.crc32(block, crc)
                image.write(block)
            image.seek(544)
            image.write(struct.pack(">I", crc))


def run(*arguments: object) -> tuple[float, float]:
    """Wall seconds of an `eif` process, and the peak memory in MB of all children so far."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", EIF, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode not in (0, 1):
        sys.exit(done.stderr)
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / MB


def sha384(path: Path) -> float:
    """Wall seconds of hashing a file."""
    begun = time.perf_counter()
    digest = hashlib.sha384()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return time.perf_counter() - begun


def main() -> None:
    """Make the images, take the times, print them with the load before."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--entries", type=int, default=60_000)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        a, b = Path(folder) / "a.eif", Path(folder) / "b.eif"
        size = options.megabytes * MB // options.entries
        write(a, options.entries, size, 1_500_000_000, b"one\ntwo\n")
        write(b, options.entries, size, 1_500_000_900, b"one\n2\n")
        rounds = []
        for _ in range(options.rounds):
            base = sha384(a)
            described, memory = run("describe", a)
            listed, listed_memory = run("describe", a, "--json")
            compared, _ = run("diff", a, b)
            rounds.append((base, described, listed, compared, memory, listed_memory))
    found = {
        "describe / SHA-384": statistics.median(each[1] / each[0] for each in rounds),
        "describe --json / SHA-384": statistics.median(each[2] / each[0] for each in rounds),
        "diff / describe": statistics.median(each[3] / each[1] for each in rounds),
        "diff / describe --json": statistics.median(each[3] / each[2] for each in rounds),
        "peak memory of describe (MB)": rounds[0][4],
        "peak memory of describe --json (MB)": rounds[0][5],
        "SHA-384 (s)": statistics.median(each[0] for each in rounds),
    }
    if options.json:
        print(json.dumps({"load": load, "goals": GOALS, "found": found}, indent=2))
        return
    print(
        f"load before: {load:.1f}; {options.entries} entries, {options.megabytes} MB, {options.rounds} rounds"
    )
    for name, value in found.items():
        goal = f" (goal: at most {GOALS[name]})" if name in GOALS else ""
        print(f"{name}: {value:.2f}{goal}")


if __name__ == "__main__":
    main()
