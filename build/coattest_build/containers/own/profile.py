"""The profile ``container``: the kernel and init for container images, compiled from the tool's own pins.

The pins are those of the auction's image: same kernel source, same toolchain. The fragment is the auction's
with what ordinary programs need on top (``x86_64.config`` beside this file), and init is ``init.c``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import coattest_build
from coattest.progress import Reporter
from coattest_build import kernel
from coattest_build.image import ImageSpec, parse_spec
from coattest_build.inputs import apt, fetch
from coattest_build.inputs.cache import Cache
from coattest_build.inputs.lock import Lock, parse_lock
from coattest_build.kernel import Compiled

NAME = "container"
"""The profile's name; the auction's is ``minimal``."""
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class ContainerProfile:
    """What the kernel and init are compiled from."""

    spec: ImageSpec
    lock: Lock
    fragment: bytes
    init: bytes


def _definition(name: str) -> bytes:
    """A file of the image's definition: in the wheel beside the package's modules, else in the checkout."""
    package = Path(coattest_build.__path__[0])
    packed = package / "definition" / name
    return (packed if packed.is_file() else package.parent / name).read_bytes()


def read_profile() -> ContainerProfile:
    """The profile of this installation."""
    spec = parse_spec(_definition("image.toml").decode())
    return ContainerProfile(
        spec=replace(spec, kernel=replace(spec.kernel, config="fragment", init="init.c")),
        lock=parse_lock(_definition("image.lock").decode()),
        fragment=_definition("kernel/x86_64.config") + b"\n" + (_HERE / "x86_64.config").read_bytes(),
        init=(_HERE / "init.c").read_bytes(),
    )


@contextmanager
def _as_source(profile: ContainerProfile) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="coattest-container-") as name:
        folder = Path(name)
        (folder / profile.spec.kernel.config).write_bytes(profile.fragment)
        (folder / profile.spec.kernel.init).write_bytes(profile.init)
        yield folder


def obtain_kernel(
    profile: ContainerProfile, store: Cache, *, mirror: str | None, jobs: int, reporter: Reporter
) -> Compiled:
    """Kernel and init, from the cache or compiled now. Raises CoattestError as ``kernel.obtain``."""
    spec, lock = profile.spec, profile.lock
    packages = [package for package in lock.packages if {"kernel", "toolchain"} & set(package.use)]
    files = fetch.fetch_packages(
        packages, store, lambda: apt.mirrors(spec.suites, spec.component, mirror=mirror), reporter
    )
    with _as_source(profile) as source:
        return kernel.obtain(spec, lock, source, store, files, jobs=jobs, fresh=False, reporter=reporter)
