"""Whether an image file, or published registers, are what coattest makes of a container image.

Nothing is taken from the deployed file: the application ramdisk is a function of the container image, of
/dev/nsm and the network, and what stands before it one of this installation's pins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, BinaryIO

from coattest.findings import Finding
from coattest_build.containers.blobs import BootParts
from coattest_build.containers.checking import (
    APPLICATION,
    MAX_REPORTED,
    OTHER_BYTES,
    ContainerCheck,
    DeployedRamdisk,
    check_surroundings,
    ramdisk_differences,
)
from coattest_build.containers.own.plan import plan_of
from coattest_build.containers.own.tree import OwnTree
from coattest_build.formats.eif import Layout, SectionType
from coattest_build.formats.lenient.initramfs import Unpacking, unpack_ramdisks

KERNEL = "this installation's kernel in the cache: `eif container build --style coattest` compiles it, once"
MAX_SHOWN = 400
"""Characters of a field of what runs."""


def check_own_file(tree: OwnTree, file: BinaryIO, layout: Layout, parts: BootParts | None) -> ContainerCheck:
    """Compare the sections of an image file with what coattest makes. Raises ContainerError, ImageError."""
    around = check_surroundings(tree.config, file, layout, parts, KERNEL)
    if around.misshapen:
        return around
    application = layout.of_type(SectionType.RAMDISK)[1]
    if DeployedRamdisk(file, application).equals(tree.blocks()):
        return around.with_same(APPLICATION)
    theirs = unpack_ramdisks(file, replace(layout, sections=(application,)))
    found = tuple(islice(_differences(tree, layout, theirs), MAX_REPORTED))
    return around.with_more(found or (OTHER_BYTES,))


def _differences(tree: OwnTree, layout: Layout, theirs: Unpacking) -> Iterator[Finding]:
    """What differs path by path; of the file that says what runs, field by field."""
    for finding in ramdisk_differences(tree.blocks(), layout, theirs):
        found = None
        if finding.where == f"{APPLICATION}: run" and finding.code in ("entry-content", "entry-size"):
            found = plan_of(theirs)
        if found is None:
            yield finding
            continue
        ours, other = tree.plan.to_json(), found.to_json()
        for name in ours:
            if ours[name] != other[name]:
                where = f"{finding.where}: {name}"
                yield Finding(
                    "entry-content", where, "what runs differs", _text(ours[name]), _text(other[name])
                )


def _text(value: Any) -> str:
    return ascii(value)[:MAX_SHOWN]
