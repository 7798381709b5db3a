"""Builds a QEMU with the nitro-enclave machine from Debian's source package into the cache.

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

from coattest.errors import EnvironmentFailure
from coattest.progress import Reporter
from coattest_build.inputs import apt, fetch, wheels
from coattest_build.inputs.cache import Cache, exclusive
from coattest_build.inputs.unpack import Tree
from coattest_local.qemu import patch, pins
from coattest_local.qemu.tools import FIRMWARE_FILES, QEMU, VSOCK, has_machine

NICE = 10
WORK_PREFIX = "building-qemu-"
# TCG and KVM, the machine's libcbor and gnutls, vhost-user for vsock, nothing else.
CONFIGURE = (
    "--target-list=x86_64-softmmu",
    "--without-default-features",
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


class BuildDependenciesMissing(EnvironmentFailure):
    """QEMU cannot be compiled here."""

    default_code = "no-build-dependencies"


class QemuBuildFailed(EnvironmentFailure):
    """The compilation ended with an error."""

    default_code = "qemu-build-failed"


@dataclass(frozen=True, slots=True)
class Built:
    """What was put where; ``compiled`` is False when the cache had it already."""

    folder: Path
    qemu: Path
    vsock: Path
    source: str
    compiled: bool


def build(
    cache: Cache,
    reporter: Reporter,
    *,
    mirror: str | None = None,
    use_current: bool = False,
    jobs: int | None = None,
    fresh: bool = False,
) -> Built:
    """Fill ``cache``'s qemu folder; a finished build of the same inputs is kept unless ``fresh``.

    ``use_current`` takes what the mirror has now instead of the pinned versions. Raises InputGone,
    EnvironmentFailure or WrongContent for downloads, BuildDependenciesMissing, QemuBuildFailed.
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
                hint="the mirror has another version now: qemu-build --current takes it, by its index's hash",
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
                jobs=jobs or _jobs(),
                reporter=reporter,
                cache=cache,
            )
            _install(Path(work), program, files, inputs, folder=folder, identity=identity)
        return _built(folder, inputs, compiled=True)


def missing_dependencies() -> list[str]:
    """Debian's names of the packages without which QEMU does not compile here; a program or a probe each."""
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
    """Install what is missing with apt-get as root; otherwise say what root has to install."""
    absent = missing_dependencies()
    if not absent:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *absent]
    if os.geteuid() or shutil.which("apt-get") is None:
        raise BuildDependenciesMissing(
            f"QEMU's build needs {', '.join(absent)}", hint=f"as root: {' '.join(command)}"
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with reporter.step(f"Installing {len(absent)} packages that QEMU's build needs"):
        for each in (["apt-get", "update"], command):
            done = subprocess.run(each, capture_output=True, text=True, env=environment, check=False)
    if still := missing_dependencies():
        said = " ".join(done.stderr.split())[-300:]
        raise BuildDependenciesMissing(f"apt-get did not bring {', '.join(still)}: {said}")


def _compiles(header: str) -> bool:
    done = subprocess.run(
        ["cc", "-E", "-x", "c", "-"],
        input=f"#include <{header}>\n".encode(),
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def _jobs() -> int:
    return len(os.sched_getaffinity(0))


def _current(bases: Sequence[str]) -> pins.Inputs:
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
    inputs: pins.Inputs,
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
    patch.apply(destination)


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
        raise QemuBuildFailed(f"{Path(command[0]).name} failed: {tail[-400:]}", where=str(log))


def _install(
    work: Path,
    program: Path,
    files: dict[str, Path],
    inputs: pins.Inputs,
    *,
    folder: Path,
    identity: str,
) -> None:
    """Put everything into a folder beside the final one, then let it take that one's place."""
    tree = Tree(work / "packages")
    for package in (*inputs.firmware, inputs.vsock):
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
        raise QemuBuildFailed("the QEMU that was built lacks the nitro-enclave machine")
    (fresh / "inputs").write_text(identity)
    if folder.exists():
        folder.rename(work / "old")
    fresh.rename(folder)


def _wanted(name: str) -> bool:
    return name == f"usr/bin/{VSOCK}" or Path(name).name in FIRMWARE_FILES


def _identity(inputs: pins.Inputs) -> str:
    """What a build depends on, a line each: inputs, configuration, our edits, what is installed."""
    edits = (hashlib.sha256(repr(edit).encode()).hexdigest() for edit in patch.EDITS)
    packages = (package.sha256 for package in inputs.packages)
    return "\n".join((*packages, *CONFIGURE, *edits, *FIRMWARE_FILES)) + "\n"


def _finished(folder: Path, identity: str) -> bool:
    marker = folder / "inputs"
    return marker.is_file() and marker.read_text() == identity and has_machine(folder / "bin" / QEMU)


def _built(folder: Path, inputs: pins.Inputs, *, compiled: bool) -> Built:
    return Built(folder, folder / "bin" / QEMU, folder / "bin" / VSOCK, inputs.source.label, compiled)
