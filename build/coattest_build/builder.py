"""From a source tree to image files. An image file gets its name only when it is whole."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import coattest
import coattest_build
from coattest.errors import UsageError
from coattest.progress import Quiet, Reporter
from coattest_build import image, kernel, rootfs, sandbox
from coattest_build import source as sources
from coattest_build.formats import cpio, eif, measure
from coattest_build.image import ImageSpec
from coattest_build.inputs import apt, fetch, wheels
from coattest_build.inputs import lock as locks
from coattest_build.inputs.cache import Cache, cache_folder
from coattest_build.inputs.cache import scratch as scratch_directory
from coattest_build.inputs.lock import Lock
from coattest_build.kernel import Compiled
from coattest_build.report import BuildInput, BuildReport, ImageResult, SourceIdentity
from coattest_build.source import Snapshot

TOOL = "coattest"


def image_name(spec: ImageSpec, profile: str) -> str:
    """The file name of a profile's image: image.eif for the default one, image.PROFILE.eif for others."""
    return "image.eif" if profile == spec.default_profile else f"image.{profile}.eif"


def build(
    source: Path,
    out: Path,
    *,
    profiles: Sequence[str] | None = None,
    cache: Path | None = None,
    mirror: str | None = None,
    jobs: int | None = None,
    fresh_kernel: bool = False,
    progress: Reporter | None = None,
) -> BuildReport:
    """Build the images of ``source`` into ``out`` and return what was built from what.

    ``profiles`` None means every profile of image.toml. ``jobs`` None means one per usable processor. The
    source is copied first, and only the copy is used. Raises CoattestError.
    """
    reporter = progress or Quiet()
    store = Cache(cache_folder(cache))
    with scratch_directory(store.folder / "work", "build-") as scratch:
        inputs = gather(source, scratch, store, profiles=profiles, mirror=mirror, reporter=reporter)
        compiled = kernel.obtain(
            inputs.spec,
            inputs.lock,
            inputs.snapshot.folder,
            store,
            inputs.debs,
            jobs=jobs or len(os.sched_getaffinity(0)),
            fresh=fresh_kernel,
            reporter=reporter,
        )
        root = scratch / "root"
        compose_inputs(inputs, root, reporter)
        if inputs.spec.bytecode:
            with reporter.step("Compiling the image's Python modules with the image's Python"):
                rootfs.compile_modules(inputs.spec.bytecode, root, scratch)
        isolation = sandbox.Isolation().to_json()
        return assemble_images(inputs, compiled, root, out, scratch, "native", isolation, reporter)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A snapshot of the source, and every input that its lock pins, checked; by name.

    ``texts`` has each profile's file.
    """

    snapshot: Snapshot
    spec: ImageSpec
    lock: Lock
    texts: Mapping[str, bytes]
    debs: Mapping[str, Path]
    wheel_files: Mapping[str, Path]


def gather(
    source: Path,
    scratch: Path,
    store: Cache,
    *,
    profiles: Sequence[str] | None,
    mirror: str | None,
    reporter: Reporter,
) -> Inputs:
    """Copy the source below ``scratch``, read it, and download the pinned inputs that ``store`` lacks.

    Raises CoattestError.
    """
    snapshot = sources.take(source, scratch / "source")
    spec = image.load_spec(snapshot.folder)
    lock, _ = locks.load_lock(snapshot.folder)
    lock.check_against(spec)
    wheels.check_pins(lock, snapshot.folder, spec.wheels)
    _check_kernel_files(snapshot.folder, spec)
    chosen = tuple(profiles) if profiles is not None else tuple(name for name, _ in spec.profiles)
    texts = {profile: _profile_bytes(snapshot.folder, spec, profile) for profile in chosen}
    debs = fetch.fetch_packages(
        lock.packages, store, lambda: apt.mirrors(spec.suites, spec.component, mirror=mirror), reporter
    )
    return Inputs(snapshot, spec, lock, texts, debs, wheels.fetch_wheels(lock.wheels, store, reporter))


def compose_inputs(inputs: Inputs, root: Path, reporter: Reporter) -> None:
    """Fill the new directory ``root`` with everything that the profiles share, but for compiled modules."""
    rootfs.compose(
        inputs.spec,
        inputs.lock,
        source=inputs.snapshot.folder,
        packages=inputs.debs,
        wheel_files=inputs.wheel_files,
        root=root,
        reporter=reporter,
    )


def assemble_images(  # noqa: PLR0917 - every part of an image, in the order of the steps
    inputs: Inputs,
    compiled: Compiled,
    root: Path,
    out: Path,
    scratch: Path,
    route: str,
    isolation: Mapping[str, Any],
    reporter: Reporter,
) -> BuildReport:
    """Write every profile's image from its parts and return the report.

    ``route`` is ``native`` or ``container``; ``isolation`` says how the compilation was isolated.
    """
    spec, lock, snapshot = inputs.spec, inputs.lock, inputs.snapshot
    boot = scratch / "boot.cpio"
    cpio.write_ramdisk(boot, rootfs.boot_entries(compiled.init), mtime=lock.source_date_epoch)
    results = []
    for profile, text in inputs.texts.items():
        path = out / image_name(spec, profile)
        with reporter.step(f"Assembling {path.name}"):
            application = scratch / "application.cpio"
            entries = rootfs.application_entries(spec, root, text)
            cpio.write_ramdisk(application, entries, mtime=lock.source_date_epoch)
            eif.write_image(
                path,
                kernel=compiled.bzimage,
                cmdline=spec.cmdline.encode(),
                metadata=image_metadata(spec, lock),
                ramdisks=[boot, application],
            )
            results.append((profile, ImageResult.from_measurements(path.name, measure.measure(path))))
    return BuildReport(
        release=spec.release,
        architecture=spec.architecture,
        route=route,
        source=SourceIdentity(snapshot.commit, snapshot.dirty, snapshot.tree_sha256, snapshot.lock_sha256),
        profiles=tuple(sorted(results)),
        kernel_compiled_here=compiled.fresh,
        kernel_sha256=compiled.sha256,
        isolation=isolation,
        tool_version=tool_version(),
        tool_sha256=tool_digest(),
        inputs=inputs_of(lock),
        kernel_profile=spec.kernel.profile,
    )


def _profile_bytes(source: Path, spec: ImageSpec, profile: str) -> bytes:
    path = spec.profile_source(profile)
    try:
        return (source / path).read_bytes()
    except FileNotFoundError:
        raise UsageError(f"the file of the profile {profile} is missing", where=path) from None


def _check_kernel_files(source: Path, spec: ImageSpec) -> None:
    for path in (spec.kernel.config, spec.kernel.init):
        if not (source / path).is_file():
            raise UsageError(
                f"there is no {path} in the source tree",
                where=f"{image.IMAGE_FILE} [kernel]",
                hint="coattest's own checkout has one to start from",
            )


def image_metadata(spec: ImageSpec, lock: Lock) -> bytes:
    """The metadata section (JSON), in the key order of AWS's writer.

    It is not measured, but reproducible: the time is the lock's SOURCE_DATE_EPOCH.
    """
    built = datetime.datetime.fromtimestamp(lock.source_date_epoch, datetime.timezone.utc)
    document = {
        "ImageName": spec.name,
        "ImageVersion": spec.release,
        "BuildMetadata": {
            "BuildTime": built.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "BuildTool": TOOL,
            "BuildToolVersion": coattest.__version__,
            "OperatingSystem": f"Debian {spec.suites[0]}",
            "KernelVersion": kernel.kernel_version(spec, lock),
        },
        "DockerInfo": {},
        "CustomMetadata": {"kernel": {"profile": spec.kernel.profile}} if spec.container else {},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def inputs_of(lock: Lock) -> tuple[BuildInput, ...]:
    """Every locked input, for the report."""
    packages = (BuildInput(p.name, p.version, p.sha256, p.path, "deb") for p in lock.packages)
    return (*packages, *(BuildInput(w.name, w.version, w.sha256, w.file, "wheel") for w in lock.wheels))


def tool_version() -> str:
    """The version of the installed distribution."""
    try:
        return metadata.version("coattest")
    except metadata.PackageNotFoundError:
        return "unknown"


def _modules(package: Path) -> Iterator[Path]:
    def stop(error: OSError) -> NoReturn:
        raise error

    for folder, folders, names in os.walk(package, onerror=stop):
        folders[:] = [name for name in folders if name != "__pycache__"]  # others make and move them
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def tool_digest() -> str:
    """SHA-256 (hex) over path and content of every module of ``coattest`` and ``coattest_build``.

    It identifies the builder in a report.
    """
    digest = hashlib.sha256()
    for module in (coattest, coattest_build):
        package = Path(module.__path__[0])
        for path in sorted(_modules(package)):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(package.parent).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()
