"""What measuring, assembling and building an image costs, as ratios against openssl and tar in the same run.

python bench/bench_image.py [--json] [--rounds N] [--source DIR] [--cold]

Measuring: `eif measure` as a whole process against two processes `openssl dgst -sha384` over the same file.
Assembly: root file system to EIF (both ramdisks and the image file, synced), in this process, against
`tar -c` of the same tree; with the measuring that `eif build` does afterwards it has no goal. Candidates
alternate, and the median of the rounds' own ratios counts, so that a busy machine weighs on both sides.
Ratios of processor time are told beside those of wall time, for the same reason.
Rebuilding: `verify rebuild` of a clone of this checkout's commit, all profiles, everything in the cache;
the first run fills the cache and is not counted. With --cold (minutes) also with the kernel compiled anew,
against the bare compile: `make bzImage` of the same source, configured and unpacked before, with the locked
toolchain, in the sandbox.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from coattest.progress import Quiet
from coattest_build import builder, kernel, rootfs, sandbox
from coattest_build.formats import cpio, eif, measure
from coattest_build.inputs.cache import Cache, cache_folder
from coattest_build.sandbox.isolate import Bind

ROOT = Path(__file__).resolve().parent.parent
MIB = 1024 * 1024
MB = 1000 * 1000
GOALS = {
    "measure / two openssl passes": 1.3,
    "peak memory, shipped image (MB)": 64,
    "peak memory, padded image (MB)": 64,
    "assembly / tar -c": 3.0,
    "warm verify rebuild (s)": 25.0,
    "image.eif (MB)": 48.0,
}
PADDING = 512 * MIB
"""Size of the ramdisk that the padded image has more, to show that memory does not follow size."""

# A child's peak memory starts at that of its parent, so the parent is a small interpreter of its own.
RUN = """
import json, os, sys, time
begun = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ,
                     file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, usage = os.wait4(pid, 0)
print(json.dumps({"wall": time.perf_counter() - begun, "cpu": usage.ru_utime + usage.ru_stime,
                  "peak": usage.ru_maxrss * 1024, "code": os.waitstatus_to_exitcode(status)}))
"""


class Cost(NamedTuple):
    """Seconds of wall and of processor time, and peak memory in bytes."""

    wall: float
    cpu: float
    peak: int = 0


def run(*command: str | Path) -> Cost:
    """What one process costs."""
    wrapped = [sys.executable, "-I", "-S", "-c", RUN, *map(str, command)]
    done = subprocess.run(wrapped, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    if told["code"]:
        raise SystemExit(f"{command[0]} failed with exit code {told['code']}\n{done.stderr[-2000:]}")
    return Cost(told["wall"], told["cpu"], told["peak"])


def here(task: Callable[[], object]) -> Cost:
    """What a call in this process costs, all its threads together."""
    wall, cpu = time.perf_counter(), time.process_time()
    task()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def program(name: str) -> str:
    """A program's path: the one beside this Python first."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if found is None:
        raise SystemExit(f"{name} is not installed")
    return found


def paired(rounds: list[tuple[Cost, Cost]]) -> dict[str, float]:
    """Medians of both sides and of the rounds' ratios."""
    return {
        "seconds": round(statistics.median(mine.wall for mine, _ in rounds), 3),
        "reference_seconds": round(statistics.median(theirs.wall for _, theirs in rounds), 3),
        "ratio": round(statistics.median(mine.wall / theirs.wall for mine, theirs in rounds), 3),
        "cpu_ratio": round(statistics.median(mine.cpu / theirs.cpu for mine, theirs in rounds), 3),
    }


def measuring(image: Path, rounds: int) -> dict[str, Any]:
    """`eif measure` against two openssl passes."""
    tool, openssl = program("eif"), program("openssl")
    pairs = []
    for _ in range(rounds):
        mine = run(tool, "measure", image)
        passes = [run(openssl, "dgst", "-sha384", image) for _ in range(2)]
        pairs.append((mine, Cost(sum(cost.wall for cost in passes), sum(cost.cpu for cost in passes))))
    return {**paired(pairs), "peak_bytes": max(mine.peak for mine, _ in pairs)}


def rebuild(source: Path, out: Path, *more: str) -> Cost:
    """What one `verify rebuild` of every claimed profile costs; a missed claim ends the program."""
    folders = ("--source", source, "--out", out, "--attestations", source / "attestations")
    # The tool is that of the checkout, as `make bench` has it: what is measured is one's own.
    return run(program("verify"), "rebuild", *folders, "--this-checkout-is-mine", "--json", *more)


def rebuilding(source: Path, out: Path, rounds: int) -> dict[str, Any]:
    """The best warm `verify rebuild`; the first fills the cache when it has to."""
    rebuild(source, out)
    times = [rebuild(source, out).wall for _ in range(max(1, rounds // 3))]
    return {"seconds": round(min(times), 2), "all_seconds": [round(value, 2) for value in times]}


def compiling(source: Path, scratch: Path, out: Path) -> dict[str, Any]:
    """`verify rebuild --fresh-kernel` against the bare compile: seconds of both, and of both's processors."""
    store = Cache(cache_folder(None))
    inputs = builder.gather(source, scratch, store, profiles=None, mirror=None, reporter=Quiet())
    spec = inputs.spec
    kernel.unpack_toolchain(spec, inputs.lock, inputs.debs, scratch / "root")
    tarball = kernel.unpack_source(spec, inputs.lock, inputs.debs, scratch / "kernel")
    binds = [
        Bind(tarball, "/input/linux.tar.xz"),
        Bind(source / spec.kernel.config, "/input/fragment"),
        Bind(source / spec.kernel.init, "/input/init.c"),
    ]
    for name, target in (("work", "/work"), ("kept", "/work/out")):
        (scratch / name).mkdir()
        binds.append(Bind(scratch / name, target, writable=True))

    def shell(script: str) -> None:
        environment = {**kernel.ENVIRONMENT, "JOBS": str(len(os.sched_getaffinity(0)))}
        command = ["/bin/sh", "-c", script]
        quiet = subprocess.DEVNULL
        code = sandbox.run_isolated(
            scratch / "root", command, env=environment, binds=binds, proc=False, stdout=quiet, stderr=quiet
        )
        if code:
            raise SystemExit(f"the bare compile failed with exit code {code}")

    shell(kernel.CONFIGURE)
    before, begun = os.times(), time.perf_counter()
    shell(kernel.COMPILE)
    bare = time.perf_counter() - begun
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    cold = rebuild(source, out, "--fresh-kernel")
    return {
        "seconds": round(cold.wall, 1),
        "bare_seconds": round(bare, 1),
        "at_most": round(1.25 * bare + 30, 1),
        "cpu_seconds": round(cold.cpu, 1),
        "bare_cpu_seconds": round(processor, 1),
    }


def assembling(source: Path, scratch: Path, rounds: int) -> dict[str, Any]:
    """Root file system to EIF of the default profile, against tar of the same tree; also a padded image."""
    store = Cache(cache_folder(None))
    inputs = builder.gather(source, scratch, store, profiles=None, mirror=None, reporter=Quiet())
    spec, mtime = inputs.spec, inputs.lock.source_date_epoch
    profile = inputs.texts[spec.default_profile]
    compiled = kernel.obtain(
        kernel.KernelInputs.of_tree(inputs.spec, inputs.lock, inputs.snapshot.folder),
        store,
        inputs.debs,
        jobs=len(os.sched_getaffinity(0)),
        fresh=False,
        reporter=Quiet(),
    )
    root = scratch / "root"
    builder.compose_inputs(inputs, root, Quiet())
    rootfs.compile_modules(inputs.spec.bytecode, root, scratch)
    boot, application, whole = scratch / "boot.cpio", scratch / "application.cpio", scratch / "whole.eif"
    parts = {
        "kernel": compiled.bzimage,
        "cmdline": spec.cmdline.encode(),
        "metadata": builder.image_metadata(spec, inputs.lock),
    }

    def assemble() -> None:
        cpio.write_ramdisk(boot, rootfs.boot_entries(compiled.init), mtime=mtime)
        cpio.write_ramdisk(application, rootfs.application_entries(spec, root, profile), mtime=mtime)
        eif.write_image(whole, **parts, ramdisks=[boot, application])

    tar = program("tar")
    pairs, measured = [], []
    for _ in range(rounds):
        mine, theirs = here(assemble), run(tar, "-cf", scratch / "tree.tar", "-C", root, ".")
        more = here(lambda: measure.measure(whole))
        pairs.append((mine, theirs))
        measured.append((Cost(mine.wall + more.wall, mine.cpu + more.cpu), theirs))
    padding = scratch / "padding"
    with padding.open("wb") as file:
        file.truncate(PADDING)
    padded = scratch / "padded.eif"
    eif.write_image(padded, **parts, ramdisks=[boot, padding])
    padding.unlink()
    peak = run(program("eif"), "measure", padded).peak
    size = padded.stat().st_size
    padded.unlink()
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        **paired(pairs),
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "with_measuring": paired(measured),
        "padded": {"size": size, "peak_bytes": peak},
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was when they began."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if "model name" in line
    ]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "openssl": subprocess.run(
            ["openssl", "version"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "load": round(os.getloadavg()[0], 1),
    }


def figures(checkout: Path, rounds: int, *, cold: bool) -> dict[str, Any]:
    """Everything, with the goals."""
    host = machine()
    with tempfile.TemporaryDirectory(prefix="coattest-bench-") as name:
        scratch = Path(name)
        source, out = scratch / "source", scratch / "out"
        # verify rebuild takes a commit, not what lies uncommitted in a folder.
        subprocess.run(["git", "clone", "--quiet", str(checkout), str(source)], check=True)
        warm = rebuilding(source, out, rounds)
        image = out / "image.eif"
        measured = measuring(image, rounds)
        (scratch / "parts").mkdir()
        assembled = assembling(source, scratch / "parts", rounds)
        size = image.stat().st_size
        (scratch / "bare").mkdir()
        compiled = compiling(source, scratch / "bare", out) if cold else None
    values = {
        "measure / two openssl passes": measured["ratio"],
        "peak memory, shipped image (MB)": round(measured["peak_bytes"] / MB, 1),
        "peak memory, padded image (MB)": round(assembled["padded"]["peak_bytes"] / MB, 1),
        "assembly / tar -c": assembled["ratio"],
        "warm verify rebuild (s)": warm["seconds"],
        "image.eif (MB)": round(size / MB, 1),
    }
    return {
        "benchmark": "image",
        "machine": host,
        "load_after": round(os.getloadavg()[0], 1),
        "rounds": rounds,
        "figures": values,
        "goals": GOALS,
        "measure": measured,
        "assembly": assembled,
        "rebuild": warm,
        "cold": compiled,
        "image_size": size,
    }


def show(result: dict[str, Any]) -> None:
    """The table."""
    host = result["machine"]
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{host['cpu']}, {host['cores']} cores, Python {host['python']}, {host['openssl']}; "
        f"load {host['load']} before, {result['load_after']} after; {result['rounds']} rounds"
    )
    table = Table("figure", "found", "at most", "here against reference")
    details = {
        "measure / two openssl passes": result["measure"],
        "assembly / tar -c": result["assembly"],
    }
    for label, value in result["figures"].items():
        detail = details.get(label)
        sides = (
            f"{detail['seconds']} s, {detail['reference_seconds']} s; processor {detail['cpu_ratio']}"
            if detail
            else ""
        )
        style = "" if value <= GOALS[label] else "red"
        table.add_row(label, str(value), str(GOALS[label]), sides, style=style)
    console.print(table)
    more = result["assembly"]["with_measuring"]
    if cold := result["cold"]:
        console.print(
            f"cold verify rebuild: {cold['seconds']} s, at most {cold['at_most']} s (bare compile "
            f"{cold['bare_seconds']} s); processor {cold['cpu_seconds']} s, {cold['bare_cpu_seconds']} s"
        )
    console.print(f"assembly and measuring / tar -c: {more['ratio']} (processor {more['cpu_ratio']})")


def main() -> None:
    """Print the table, or with --json one document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--source", type=Path, default=ROOT)
    parser.add_argument("--cold", action="store_true", help="Also with the kernel compiled anew: minutes.")
    options = parser.parse_args()
    result = figures(options.source, options.rounds, cold=options.cold)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
