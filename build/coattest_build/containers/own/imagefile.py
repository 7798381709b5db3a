"""The image file of style ``coattest``: our kernel and init, and the ramdisk of a container image."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from coattest.files import open_plain
from coattest_build import rootfs
from coattest_build.containers.blobs import BootParts, write_enclave
from coattest_build.containers.own.plan import RunPlan, plan_of
from coattest_build.containers.own.tree import OwnTree
from coattest_build.formats import cpio
from coattest_build.formats.lenient.initramfs import unpack_ramdisks
from coattest_build.formats.lenient.layout import read_found_layout
from coattest_build.formats.metadata import metadata_section
from coattest_build.image import CONTAINER
from coattest_build.inputs.pinned_image import pin_of
from coattest_build.kernel import Compiled, KernelInputs, kernel_version


def own_report(compiled: Compiled, tree: OwnTree) -> dict[str, Any]:
    """What ``eif container build`` says of an image beside its measurements."""
    plan = tree.plan
    return {
        "kernel": {
            "profile": CONTAINER,
            "inputs": f"sha256:{compiled.digest}",
            "sha256": compiled.sha256,
            "compiled_here": compiled.fresh,
        },
        "container": pin_of(tree.image).identity(),
        "runs": plan.to_json(),
    }


def own_boot_parts(profile: KernelInputs, compiled: Compiled) -> BootParts:
    """Kernel, command line and boot ramdisk."""
    with tempfile.TemporaryDirectory(prefix="coattest-container-") as name:
        boot = Path(name) / "boot.cpio"
        cpio.write_ramdisk(boot, rootfs.boot_entries(compiled.init), mtime=profile.lock.source_date_epoch)
        return BootParts(compiled.bzimage.read_bytes(), profile.spec.cmdline.encode(), boot.read_bytes())


def write_own_image(target: Path, profile: KernelInputs, compiled: Compiled, tree: OwnTree) -> None:
    """Write the image file, in whose metadata nothing is a time. Raises ContainerError."""
    metadata = metadata_section(
        "container",
        tree.image.config_sha256,
        kernel=kernel_version(profile.spec, profile.lock),
        custom={
            "kernel": {"profile": CONTAINER, "inputs": f"sha256:{compiled.digest}"},
            "container": pin_of(tree.image).identity(),
        },
    )
    write_enclave(target, own_boot_parts(profile, compiled), metadata, tree.blocks())


def plan_of_image(image: Path) -> RunPlan | None:
    """What init starts in an image file with the kernel profile ``container``; None in another one.

    Raises ImageError for a file that is no image, FileNotFoundError.
    """
    with open_plain(image) as file:
        return plan_of(unpack_ramdisks(file, read_found_layout(file).layout))
