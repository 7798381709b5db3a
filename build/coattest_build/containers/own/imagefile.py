"""The image file of style ``coattest``: our kernel and init, and the ramdisk of a container image."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from coattest import __version__
from coattest.files import open_plain
from coattest_build import rootfs
from coattest_build.containers.blobs import BootParts
from coattest_build.containers.nitrocli import MAX_RAMDISK
from coattest_build.containers.own.plan import RunPlan, plan_of
from coattest_build.containers.own.profile import ContainerProfile
from coattest_build.containers.own.tree import OwnTree
from coattest_build.containers.sources import Spool, plain_blocks
from coattest_build.formats import cpio
from coattest_build.formats.eif import Part, SectionType, write_parts
from coattest_build.formats.lenient.initramfs import unpack_ramdisks
from coattest_build.formats.lenient.layout import read_found_layout
from coattest_build.image import CONTAINER
from coattest_build.inputs.pinned_image import pin_of
from coattest_build.kernel import Compiled, kernel_version


def own_metadata(profile: ContainerProfile, compiled: Compiled, tree: OwnTree) -> bytes:
    """The metadata section (JSON, not measured) in the key order of AWS's writer; nothing of it is a time."""
    document = {
        "ImageName": "container",
        "ImageVersion": tree.image.config_sha256,
        "BuildMetadata": {
            "BuildTime": "1970-01-01T00:00:00Z",
            "BuildTool": "coattest",
            "BuildToolVersion": __version__,
            "OperatingSystem": "Linux",
            "KernelVersion": kernel_version(profile.spec, profile.lock),
        },
        "DockerInfo": {},
        "CustomMetadata": {
            "kernel": {"profile": CONTAINER, "inputs": f"sha256:{compiled.digest}"},
            "container": pin_of(tree.image).identity(),
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


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


def own_boot_parts(profile: ContainerProfile, compiled: Compiled) -> BootParts:
    """Kernel, command line and boot ramdisk."""
    with tempfile.TemporaryDirectory(prefix="coattest-container-") as name:
        boot = Path(name) / "boot.cpio"
        cpio.write_ramdisk(boot, rootfs.boot_entries(compiled.init), mtime=profile.lock.source_date_epoch)
        return BootParts(compiled.bzimage.read_bytes(), profile.spec.cmdline.encode(), boot.read_bytes())


def write_own_image(target: Path, profile: ContainerProfile, compiled: Compiled, tree: OwnTree) -> None:
    """Write the image file. Raises ContainerError."""
    with Spool(MAX_RAMDISK) as spool:
        application, _ = spool.add(tree.blocks(), "application ramdisk")
        before = own_boot_parts(profile, compiled)
        parts = [
            Part.of_bytes(SectionType.KERNEL, before.kernel),
            Part.of_bytes(SectionType.CMDLINE, before.cmdline),
            Part.of_bytes(SectionType.METADATA, own_metadata(profile, compiled, tree)),
            Part.of_bytes(SectionType.RAMDISK, before.boot),
            Part(SectionType.RAMDISK, application.size, lambda: plain_blocks(application)),
        ]
        write_parts(target, parts, flags=0)


def plan_of_image(image: Path) -> RunPlan | None:
    """What init starts in an image file with the kernel profile ``container``; None in another one.

    Raises ImageError for a file that is no image, FileNotFoundError.
    """
    with open_plain(image) as file:
        return plan_of(unpack_ramdisks(file, read_found_layout(file).layout))
