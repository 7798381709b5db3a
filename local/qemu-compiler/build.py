"""Builds a QEMU with the nitro-enclave machine from Debian's source package into the cache.

    python local/qemu-compiler/build.py [--current] [--mirror URL] [--jobs N] [--fresh] [--cache DIR] [--json]

A script of the checkout and no part of the installed coattest, which only looks for a QEMU (docs/boot.md).
Debian and its derivatives build QEMU without libcbor, so without the machine; nobody ships a binary that has
it. The build takes some minutes and is niced. vhost-device-vsock and the firmware are unpacked from packages.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import patch
import pins

from coattest.errors import EnvironmentFailure
from coattest.jsontext import emit_json
from coattest.progress import Reporter, Terminal
from coattest.shell import json_option, out, run
from coattest_build.cli.options import cache_option, jobs_option, mirror_option
from coattest_build.inputs import apt, fetch, wheels
from coattest_build.inputs.cache import Cache, cache_folder, exclusive
from coattest_build.inputs.unpack import Tree
from coattest_local.qemu.tools import FIRMWARE_FILES, QEMU, VSOCK, has_machine

NICE = 10
WORK_PREFIX = "building-qemu-"
# TCG and KVM, the machine's libcbor and gnutls, vhost-user for vsock, nothing else; of the devices what the
# machine needs (patch.py names it). With -O1 a boot takes as long as with -O2, the compile a quarter less.
CONFIGURE = (
    "--target-list=x86_64-softmmu",
    "--without-default-features",
    "--without-default-devices",
    "-Doptimization=1",
    "--enable-tcg",
    "--enable-kvm",
    "--enable-fdt=system",
    "--enable-pixman",
    "--enable-gnutls",
    "--enable-libcbor",
    "--enable-vhost-user",
    "--enable-vhost-kernel",
    "--enable-attr",
    "--disable-debug-info",
    "--disable-docs",
    "--disable-tools",
    "--disable-werror",
    "--disable-download",
    "--disable-install-blobs",
)
PROGRAMS = {"cc": "gcc", "ninja": "ninja-build", "pkg-config": "pkg-config", "nice": "coreutils"}
LIBRARIES = {
    "glib-2.0": "libglib2.0-dev",
    "gnutls": "libgnutls28-dev",
    "libcbor": "libcbor-dev",
    "pixman-1": "libpixman-1-dev",
    "zlib": "zlib1g-dev",
}
HEADERS = {"libfdt.h": "libfdt-dev", "attr/attributes.h": "libattr1-dev", "stdio.h": "libc6-dev"}
LOG_TAIL_LINES = 5


@dataclass(frozen=True, slots=True)
class QemuBuild:
    """Where the programs are; ``compiled`` is False when the cache had them already."""

    folder: Path
    qemu: Path
    vsock: Path
    source: str
    compiled: bool


def build_qemu(
    cache: Cache,
    reporter: Reporter,
    *,
    mirror: str | None = None,
    use_current: bool = False,
    jobs: int | None = None,
    fresh: bool = False,
) -> QemuBuild:
    """Fill ``cache``'s qemu folder; a finished build of the same inputs is used again unless ``fresh``.

    ``use_current`` takes what the mirror has now instead of the pinned versions. Raises InputGone,
    EnvironmentFailure (no-build-dependencies, qemu-build-failed and others) or WrongContent.
    """
    folder = cache.folder / "qemu"
    with exclusive(cache.folder / "qemu.lock"):
        bases = apt.mirrors([pins.SOURCE_SUITE], pins.COMPONENT, mirror=mirror)
        inputs = _current(bases) if use_current else pins.PINNED
        identity = _identity(inputs)
        if not fresh and _finished(folder, identity):
            return _built(folder, inputs, compiled=False)
        ensure_dependencies(reporter)
        try:
            files = fetch.fetch_packages(inputs.packages, cache, lambda: bases, reporter)
        except fetch.InputGone as error:
            raise fetch.InputGone(
                error.what,
                where=error.where,
                hint="the mirror has another version now: --current takes it, by its index's hash",
            ) from error
        modules = wheels.fetch_wheels(inputs.wheels, cache, reporter)
        for stale in cache.folder.glob(f"{WORK_PREFIX}*"):  # of a build that was killed; we hold the lock
            shutil.rmtree(stale, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=cache.folder) as work:
            program = _compile(
                Path(work),
                files["qemu"],
                modules,
                inputs,
                jobs=jobs or len(os.sched_getaffinity(0)),
                reporter=reporter,
                cache=cache,
            )
            _install(Path(work), program, files, inputs, folder=folder, identity=identity)
        return _built(folder, inputs, compiled=True)


def missing_dependencies() -> list[str]:
    """Debian's names of the packages that QEMU's build needs and this machine lacks."""
    absent = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if "pkg-config" in absent:
        absent += LIBRARIES.values()
    else:
        absent += [
            package
            for library, package in LIBRARIES.items()
            if subprocess.run(["pkg-config", "--exists", library], check=False).returncode
        ]
    if "gcc" in absent:
        return [*absent, *HEADERS.values()]
    return absent + [package for header, package in HEADERS.items() if not _compiles(header)]


def ensure_dependencies(reporter: Reporter) -> None:
    """Install missing packages with apt-get as root; otherwise raise with the command for root."""
    absent = missing_dependencies()
    if not absent:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *absent]
    if os.geteuid() or shutil.which("apt-get") is None:
        raise EnvironmentFailure(
            f"QEMU's build needs {', '.join(absent)}",
            hint=f"as root: {' '.join(command)}",
            code="no-build-dependencies",
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with reporter.step(f"Installing {len(absent)} packages that QEMU's build needs"):
        for each in (["apt-get", "update"], command):
            done = subprocess.run(each, capture_output=True, text=True, env=environment, check=False)
    if still := missing_dependencies():
        said = " ".join(done.stderr.split())[-300:]
        raise EnvironmentFailure(
            f"apt-get did not install {', '.join(still)}: {said}", code="no-build-dependencies"
        )


def _compiles(header: str) -> bool:
    done = subprocess.run(
        ["cc", "-E", "-x", "c", "-"],
        input=f"#include <{header}>\n".encode(),
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def _current(bases: Sequence[str]) -> pins.QemuInputs:
    failures: list[EnvironmentFailure] = []
    for base in bases:
        try:
            return pins.current(base)
        except EnvironmentFailure as error:
            failures.append(error)
    raise failures[-1]


def _compile(
    work: Path,
    archive: Path,
    modules: dict[str, Path],
    inputs: pins.QemuInputs,
    *,
    jobs: int,
    reporter: Reporter,
    cache: Cache,
) -> Path:
    source, objects = work / "source", work / "objects"
    with reporter.step("Unpacking QEMU's source"):
        source.mkdir()
        objects.mkdir()
        _unpack_source(archive, source)
        for wheel in inputs.wheels:
            target = source / "python" / "wheels" / wheel.file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(modules[wheel.name], target)
    log = cache.folder / "logs" / "qemu-build.log"
    log.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    # Inherited flags and module paths of a surrounding environment must not reach another project's build.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    with reporter.step(f"Compiling QEMU {inputs.source.version} with {jobs} jobs (some minutes)"):
        _logged(
            [str(source / "configure"), f"--python={sys.executable}", *CONFIGURE], objects, log, environment
        )
        _logged(["ninja", f"-j{jobs}", QEMU], objects, log, environment)
    return objects / QEMU


def _unpack_source(archive: Path, destination: Path) -> None:
    """Unpack the pinned tarball without its top folder."""
    with tarfile.open(archive, "r:xz") as tar:
        # tarfile.data_filter came with Python 3.12 and in security releases of the others.
        options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(destination, **options)  # type: ignore[arg-type]  # noqa: S202 - hash checked
    (top,) = destination.iterdir()
    for entry in top.iterdir():
        entry.rename(destination / entry.name)
    top.rmdir()
    patch.apply_edits(destination)


def _logged(command: Sequence[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
    with log.open("ab") as file:
        done = subprocess.run(
            ["nice", "-n", str(NICE), *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
        )
    if done.returncode:
        tail = " ".join(log.read_text("utf-8", "replace").split("\n")[-LOG_TAIL_LINES:])
        raise EnvironmentFailure(
            f"{Path(command[0]).name} failed: {tail[-400:]}", where=str(log), code="qemu-build-failed"
        )


def _install(
    work: Path,
    program: Path,
    files: dict[str, Path],
    inputs: pins.QemuInputs,
    *,
    folder: Path,
    identity: str,
) -> None:
    """Put everything into a folder beside the final one, then rename it."""
    tree = Tree(work / "packages")
    for package in (inputs.firmware, inputs.vsock):
        tree.unpack_deb(files[package.name], package.label, _wanted)
    fresh = work / "qemu"
    (fresh / "bin").mkdir(parents=True)
    (fresh / "firmware").mkdir()
    shutil.copyfile(program, fresh / "bin" / QEMU)
    shutil.copyfile(tree.root / "usr" / "bin" / VSOCK, fresh / "bin" / VSOCK)
    for path in (fresh / "bin").iterdir():
        path.chmod(0o755)
    for name in FIRMWARE_FILES:
        (found,) = tree.root.glob(f"usr/share/*/{name}")
        shutil.copyfile(found, fresh / "firmware" / name)
    if not has_machine(fresh / "bin" / QEMU):
        raise EnvironmentFailure(
            "the QEMU that was built lacks the nitro-enclave machine", code="qemu-build-failed"
        )
    (fresh / "inputs").write_text(identity)
    if folder.exists():
        folder.rename(work / "old")
    fresh.rename(folder)


def _wanted(name: str) -> bool:
    return name == f"usr/bin/{VSOCK}" or Path(name).name in FIRMWARE_FILES


def _identity(inputs: pins.QemuInputs) -> str:
    """What a build depends on, a line each: inputs, configuration, our edits, what is installed."""
    edits = (hashlib.sha256(repr(edit).encode()).hexdigest() for edit in patch.EDITS)
    packages = (package.sha256 for package in inputs.packages)
    return "\n".join((*packages, *CONFIGURE, *edits, *FIRMWARE_FILES)) + "\n"


def _finished(folder: Path, identity: str) -> bool:
    marker = folder / "inputs"
    return marker.is_file() and marker.read_text() == identity and has_machine(folder / "bin" / QEMU)


def _built(folder: Path, inputs: pins.QemuInputs, *, compiled: bool) -> QemuBuild:
    return QemuBuild(folder, folder / "bin" / QEMU, folder / "bin" / VSOCK, inputs.source.label, compiled)


@click.command()
@cache_option
@mirror_option
@click.option(
    "--current", "use_current", is_flag=True, help="The mirror's versions of today, not the pinned."
)
@jobs_option
@click.option("--fresh", is_flag=True, help="Compile even when it was done before.")
@json_option
def main(
    *, cache: Path | None, mirror: str | None, use_current: bool, jobs: int | None, fresh: bool, as_json: bool
) -> None:
    """Build QEMU with the nitro-enclave machine from Debian's source, into the cache."""
    built = build_qemu(
        Cache(cache_folder(cache)),
        Terminal(),
        mirror=mirror,
        use_current=use_current,
        jobs=jobs,
        fresh=fresh,
    )
    if as_json:
        emit_json(
            {
                "qemu": str(built.qemu),
                "vhost_device_vsock": str(built.vsock),
                "source": built.source,
                "compiled": built.compiled,
            }
        )
    else:
        again = "" if built.compiled else " (built before)"
        out().print(f"{built.source}: {built.qemu}{again}")


if __name__ == "__main__":
    run(main, "qemu-compiler")
