"""The profile ``container``: the kernel and init for container images, compiled from the tool's own pins.

The pins are those of the auction's image: same kernel source, same toolchain. The fragment is the auction's
with what ordinary programs need on top (``x86_64.config`` beside this file), and init is ``init.c``.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from coattest.progress import Reporter
from coattest_build import kernel
from coattest_build.image import CONTAINER, ImageSpec, parse_spec
from coattest_build.inputs import apt, fetch
from coattest_build.inputs.cache import Cache
from coattest_build.inputs.lock import Lock, parse_lock
from coattest_build.kernel import Compiled
from coattest_build.starts import FRAGMENT, INIT, kernel_parts, own_part


@dataclass(frozen=True, slots=True)
class ContainerProfile:
    """What the kernel and init are compiled from."""

    spec: ImageSpec
    lock: Lock
    fragment: bytes
    init: bytes


def read_profile() -> ContainerProfile:
    """The profile of this installation."""
    spec, parts = parse_spec(own_part("image.toml").read_text()), kernel_parts(CONTAINER)
    kernel_of = replace(spec.kernel, config="fragment", init="init.c", profile=CONTAINER)
    return ContainerProfile(
        spec=replace(spec, kernel=kernel_of),
        lock=parse_lock(own_part("image.lock").read_text()),
        fragment=parts[FRAGMENT].encode(),
        init=parts[INIT].encode(),
    )


def obtain_kernel(
    profile: ContainerProfile, store: Cache, *, mirror: str | None, jobs: int, reporter: Reporter
) -> Compiled:
    """Kernel and init, from the cache or compiled now. Raises CoattestError as ``kernel.obtain``."""
    spec, lock = profile.spec, profile.lock
    packages = [package for package in lock.packages if {"kernel", "toolchain"} & set(package.use)]
    files = fetch.fetch_packages(
        packages, store, lambda: apt.mirrors(spec.suites, spec.component, mirror=mirror), reporter
    )
    with tempfile.TemporaryDirectory(prefix="coattest-container-") as name:
        source = Path(name)
        (source / spec.kernel.config).write_bytes(profile.fragment)
        (source / spec.kernel.init).write_bytes(profile.init)
        return kernel.obtain(spec, lock, source, store, files, jobs=jobs, fresh=False, reporter=reporter)


def cached_kernel(profile: ContainerProfile, store: Cache) -> Compiled | None:
    """Kernel and init, where the cache has them."""
    return kernel.cached(profile.spec, profile.lock, store, profile.fragment, profile.init)
