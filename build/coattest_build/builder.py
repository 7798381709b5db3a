"""From a source tree to image files. An image file gets its name only when it is whole."""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import coattest
import coattest_build
from coattest.errors import PATHS, UsageError, require_kind
from coattest.progress import Quiet, Reporter
from coattest_build import image, kernel, rootfs, sandbox
from coattest_build import source as sources
from coattest_build.containers.image import OpenedImage
from coattest_build.containers.own.starting import check_starts
from coattest_build.containers.own.tree import OwnTree, own_tree
from coattest_build.containers.registry.reference import ImagePlace
from coattest_build.formats import cpio, eif, measure
from coattest_build.formats.metadata import metadata_section
from coattest_build.image import ContainerRun, ImageSpec
from coattest_build.inputs import apt, fetch, pinned_image, wheels
from coattest_build.inputs import lock as locks
from coattest_build.inputs.cache import Cache, cache_folder
from coattest_build.inputs.cache import scratch as scratch_directory
from coattest_build.inputs.lock import Lock, LockedContainer
from coattest_build.kernel import Compiled, KernelInputs
from coattest_build.report import (
    CONTAINER_INPUT,
    BuildInput,
    BuildReport,
    ImageResult,
    SourceIdentity,
)
from coattest_build.source import Snapshot


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
    container: ImagePlace | None = None,
    progress: Reporter | None = None,
) -> BuildReport:
    """Build the images of ``source`` into ``out`` and return what was built from what.

    ``profiles`` None means every profile of image.toml. ``jobs`` None means one per usable processor. The
    source is copied first, and only the copy is used. ``container`` is a file of the container image that the
    lock pins, where the cache may not have it. Raises CoattestError.
    """
    require_kind(source, PATHS, "source")
    require_kind(out, PATHS, "out")
    source, out = Path(source), Path(out)
    reporter = progress or Quiet()
    store = Cache(cache_folder(cache))
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_directory(store.folder / "work", "build-"))
        inputs = gather(source, scratch, store, profiles=profiles, mirror=mirror, reporter=reporter)
        payload = stack.enter_context(open_payload(inputs, store, container, reporter))
        root = scratch / "root"
        if payload is None:  # what is wrong with it is found before minutes of compiling
            compose_inputs(inputs, root, reporter)
        compiled = kernel.obtain(
            KernelInputs.of_tree(inputs.spec, inputs.lock, inputs.snapshot.folder),
            store,
            inputs.debs,
            jobs=jobs or len(os.sched_getaffinity(0)),
            fresh=fresh_kernel,
            reporter=reporter,
        )
        if inputs.spec.bytecode:
            with reporter.step("Compiling the image's Python modules with the image's Python"):
                rootfs.compile_modules(inputs.spec.bytecode, root, scratch)
        return assemble_images(
            inputs, compiled, payload or root, out, scratch, "native", sandbox.ISOLATION, reporter
        )


@contextmanager
def open_payload(
    inputs: Inputs, store: Cache, given: ImagePlace | None, reporter: Reporter
) -> Iterator[OpenedImage | None]:
    """The container image of the lock, from ``given`` or the cache; None where it has none.

    Raises CoattestError as ``pinned_image.open_pinned``, and for an image of which no enclave is made.
    """
    pin = inputs.lock.container
    if pin is None:
        if given is not None:
            raise UsageError("the lock pins no container image: --from would do nothing", hint="leave it out")
        yield None
        return
    with ExitStack() as stack:
        with reporter.step("Reading the container image"):
            opened = stack.enter_context(pinned_image.open_pinned(pin, store, given))
            # What is refused is refused before minutes of compiling.
            _container_tree(inputs.spec, opened, next(iter(inputs.texts.values()), b""))
        yield opened


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
    root: Path | OpenedImage,
    out: Path,
    scratch: Path,
    route: str,
    isolation: Mapping[str, Any],
    reporter: Reporter,
) -> BuildReport:
    """Write every profile's image from its parts and return the report.

    ``root`` is the folder that was composed, or the container image. ``route`` is ``native`` or
    ``container``; ``isolation`` says how the compilation was isolated.
    """
    spec, lock, snapshot = inputs.spec, inputs.lock, inputs.snapshot
    boot = scratch / "boot.cpio"
    cpio.write_ramdisk(boot, rootfs.boot_entries(compiled.init), mtime=lock.source_date_epoch)
    results = []
    for profile, text in inputs.texts.items():
        path = out / image_name(spec, profile)
        with reporter.step(f"Assembling {path.name}"):
            application = scratch / "application.cpio"
            _write_application(application, inputs, root, text)
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
        tool_version=coattest.__version__,
        tool_sha256=tool_digest(),
        inputs=inputs_of(lock),
        kernel_profile=spec.kernel.profile,
        network=(spec.container or ContainerRun()).network,
    )


def _write_application(target: Path, inputs: Inputs, root: Path | OpenedImage, text: bytes) -> None:
    """The application ramdisk with a profile's file."""
    spec = inputs.spec
    if isinstance(root, Path):
        entries = rootfs.application_entries(spec, root, text)
        cpio.write_ramdisk(target, entries, mtime=inputs.lock.source_date_epoch)
        return
    with target.open("wb") as file:
        file.writelines(_container_tree(spec, root, text).blocks())


def _container_tree(spec: ImageSpec, opened: OpenedImage, text: bytes) -> OwnTree:
    """The root file system of a container image with a profile's file, and what runs in it."""
    run = spec.container or ContainerRun()
    tree = own_tree(opened, nsm=run.nsm, network=run.network, added=((spec.profile_target.encode(), text),))
    tree.plan.encode()  # within init's limits
    check_starts(tree)
    return tree


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
    """The metadata section; it is reproducible: the time is the lock's SOURCE_DATE_EPOCH."""
    built = datetime.datetime.fromtimestamp(lock.source_date_epoch, datetime.timezone.utc)
    custom: dict[str, Any] = {"kernel": {"profile": spec.kernel.profile}} if spec.container else {}
    if lock.container:
        custom["container"] = lock.container.identity()
    return metadata_section(
        spec.name,
        spec.release,
        built=built.strftime("%Y-%m-%dT%H:%M:%SZ"),
        system=f"Debian {spec.suites[0]}",
        kernel=kernel.kernel_version(spec, lock),
        custom=custom,
    )


def inputs_of(lock: Lock) -> tuple[BuildInput, ...]:
    """Every locked input, for the report. A container image is its configuration and its layers."""
    packages = (BuildInput(p.name, p.version, p.sha256, p.path, "deb") for p in lock.packages)
    wheel_pins = (BuildInput(w.name, w.version, w.sha256, w.file, "wheel") for w in lock.wheels)
    return (*packages, *wheel_pins, *_container_inputs(lock.container))


def _container_inputs(pin: LockedContainer | None) -> Iterator[BuildInput]:
    if pin is None:
        return
    platform = pin.platform.replace("/", "-")
    yield BuildInput("config", platform, pin.config, f"sha256/{pin.config}", CONTAINER_INPUT)
    for number, layer in enumerate(pin.layers, 1):
        name = f"layer-{number}"
        yield BuildInput(name, platform, layer.diff_id, f"sha256/{layer.diff_id}", CONTAINER_INPUT)


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
