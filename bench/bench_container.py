"""What the ramdisk of a container image and the check of an enclave against it cost, against `tar`.

python bench/bench_container.py [--json] [--rounds N] [--megabytes 150] [--entries 6500]

The image is an OCI layout of four layers, gzip, with files of the sizes that a root file system has, half of
them hard to compress. `tar` unpacks the same layers. Each candidate is a whole process; the median of the
rounds' own ratios counts. The enclave's image file has blobs of this script's own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.build.container_images import Entry, Layout, entry, folder, tar

GOALS = {"ramdisk / tar": 4.0, "check / ramdisk": 2.0, "peak memory (MB)": 200.0}
EIF = "from coattest_build.cli import main; main()"
LAYERS = 4
MB = 1000 * 1000


def files(count: int, size: int) -> list[list[Entry]]:
    """The layers' entries: every twentieth is a folder, sizes are log-normal around what makes ``size``."""
    seeded = random.Random(1)  # noqa: S311 (always the same image)
    weights = [seeded.lognormvariate(0, 2) for _ in range(count)]
    each = size / sum(weights)
    text = b" ".join(b"%x" % seeded.getrandbits(24) for _ in range(200_000))
    layers: list[list[Entry]] = [[folder("usr")] for _ in range(LAYERS)]
    for number, weight in enumerate(weights):
        layer = layers[number % LAYERS]
        place = f"usr/folder-{number // 80}-{number % LAYERS}"
        if number % 80 < LAYERS:
            layer.append(folder(place))
        length = int(weight * each)
        data = seeded.randbytes(length) if number % 2 else (text * (length // len(text) + 1))[:length]
        layer.append(entry(f"{place}/file-{number}", data, mode=0o755))
    return layers


def run(*command: str | Path) -> tuple[float, float]:
    """Wall seconds of a process and the MB of memory that it had at most."""
    begun = time.perf_counter()
    process = os.posix_spawnp(command[0], list(map(str, command)), os.environ)
    _, status, used = os.wait4(process, 0)
    if status:
        sys.exit(f"{command} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - begun, used.ru_maxrss * 1024 / MB


def eif(*arguments: str | Path) -> tuple[float, float]:
    """Wall seconds and memory of an `eif` process, which prints to standard error here."""
    return run(sys.executable, "-c", "import os, sys; os.dup2(2, 1); " + EIF, "container", *arguments)


def unpacked(layers: list[Path]) -> float:
    """Wall seconds of `tar` unpacking the layers into a fresh folder."""
    with tempfile.TemporaryDirectory() as place:
        return sum(run("tar", "-xzf", layer, "-C", place)[0] for layer in layers)


def blobs(place: Path) -> Path:
    """A folder as nitro-cli's, with four small files."""
    place.mkdir()
    for name in ("bzImage", "cmdline", "init", "nsm.ko"):
        (place / name).write_bytes(name.encode() * 1000 if name != "cmdline" else b"console=ttyS0")
    return place


def make(image: Path, entries: int, megabytes: int) -> None:
    """Write the image. In a process of its own: its memory would be counted as that of those it starts."""
    layout = Layout()
    layers = [tar(*each, format=tarfile.GNU_FORMAT) for each in files(entries, megabytes * MB)]
    layout.index(layout.manifest(layers))
    for name, data in layout.files.items():
        (image / name).parent.mkdir(parents=True, exist_ok=True)
        (image / name).write_bytes(data)


def packed_layers(image: Path) -> list[Path]:
    """The layers' files, the lowest first."""

    def blob(digest: str) -> Path:
        return image / "blobs/sha256" / digest.partition(":")[2]

    manifest = blob(json.loads((image / "index.json").read_bytes())["manifests"][0]["digest"])
    return [blob(each["digest"]) for each in json.loads(manifest.read_bytes())["layers"]]


def measure(place: Path, image: Path, rounds: int) -> dict[str, float]:
    """The ratios, the memory of the largest process, and the seconds of `tar`."""
    layers, own, made, enclave = packed_layers(image), blobs(place / "blobs"), place / "made", place / "x.eif"
    nitro = (image, "--style", "nitro-cli")
    found, most = [], [eif("build", *nitro, "--blobs", own, "--out", enclave)[1]]
    for _ in range(rounds):
        base = unpacked(layers)
        processes = (
            eif("ramdisk", *nitro, "--out", made),
            eif("ramdisk", image, "--style", "coattest", "--out", made),
            eif("check", image, "--eif", enclave, "--blobs", own),
        )
        found.append((base, *(seconds for seconds, _ in processes)))
        most += [memory for _, memory in processes]
    return {
        "ramdisk / tar": statistics.median(each[1] / each[0] for each in found),
        "ramdisk of coattest's style / tar": statistics.median(each[2] / each[0] for each in found),
        "check / ramdisk": statistics.median(each[3] / each[1] for each in found),
        "peak memory (MB)": max(most),
        "tar (s)": statistics.median(each[0] for each in found),
    }


def main() -> None:
    """Make the image, take the times, print them with the load before."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=150)
    parser.add_argument("--entries", type=int, default=6_500)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        image = Path(place) / "image"
        maker = multiprocessing.get_context("spawn").Process(
            target=make, args=(image, options.entries, options.megabytes)
        )
        maker.start()
        maker.join()
        found = measure(Path(place), image, options.rounds)
    if options.json:
        print(json.dumps({"load": load, "goals": GOALS, "found": found}, indent=2))
        return
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load before: {load:.1f}; "
        f"{options.entries} entries, {options.megabytes} MB, {options.rounds} rounds"
    )
    for name, value in found.items():
        goal = f" (goal: at most {GOALS[name]})" if name in GOALS else ""
        print(f"{name}: {value:.2f}{goal}")


if __name__ == "__main__":
    main()
