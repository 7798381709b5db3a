"""The profile ``container``: the kernel and init for container images, compiled from the tool's own pins.

The pins are those of the auction's image: same kernel source, same toolchain. The fragment is the auction's
with what ordinary programs need on top (``x86_64.config`` beside this file), and init is ``init.c``.
"""

from __future__ import annotations

from dataclasses import replace

from coattest.progress import Reporter
from coattest_build import kernel
from coattest_build.image import CONTAINER, parse_spec
from coattest_build.inputs import apt, fetch
from coattest_build.inputs.cache import Cache
from coattest_build.inputs.lock import parse_lock
from coattest_build.kernel import Compiled, KernelInputs
from coattest_build.starts import FRAGMENT, INIT, kernel_parts, own_part


def read_profile() -> KernelInputs:
    """The profile of this installation."""
    spec, parts = parse_spec(own_part("image.toml").read_text()), kernel_parts(CONTAINER)
    return KernelInputs(
        spec=replace(spec, kernel=replace(spec.kernel, profile=CONTAINER)),
        lock=parse_lock(own_part("image.lock").read_text()),
        fragment=parts[FRAGMENT].encode(),
        init=parts[INIT].encode(),
    )


def obtain_kernel(
    profile: KernelInputs, store: Cache, *, mirror: str | None, jobs: int, reporter: Reporter
) -> Compiled:
    """Kernel and init, from the cache or compiled now. Raises CoattestError as ``kernel.obtain``."""
    spec, lock = profile.spec, profile.lock
    packages = [package for package in lock.packages if {"kernel", "toolchain"} & set(package.use)]
    files = fetch.fetch_packages(
        packages, store, lambda: apt.mirrors(spec.suites, spec.component, mirror=mirror), reporter
    )
    return kernel.obtain(profile, store, files, jobs=jobs, fresh=False, reporter=reporter)
