"""From an opened image to its application ramdisk: layers applied, a container made, entries written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from coattest.errors import EnvironmentFailure
from coattest.findings import Finding
from coattest_build.containers.daemon import (
    STORES,
    Undecided,
    create_container,
    export,
    read_export,
    undecided,
)
from coattest_build.containers.errors import ContainerError, naming, not_read, path_text
from coattest_build.containers.image import OpenedImage
from coattest_build.containers.layers import (
    CREATED,
    HIDDEN_LINK,
    IMPLIED,
    MAX_ENTRIES,
    PARENT,
    Counted,
    Inode,
    apply_layer,
)
from coattest_build.containers.layertar import DIRECTORY, LayerEntry, read_layer
from coattest_build.containers.nitrocli import clock_of, command_of, lines, ramdisk_blocks, ramdisk_parts

ARCHITECTURES = ("amd64", "arm64")
"""What nitro-cli makes images for; any other is an error there."""


@dataclass(frozen=True, slots=True)
class ContainerTree:
    """What Docker makes of an image, and what the image alone does not decide of it.

    ``attributes`` are the names of extended attributes in the layers, which no ramdisk has.
    """

    image: OpenedImage
    root: Inode | None
    undecided: tuple[Undecided, ...]
    attributes: tuple[str, ...]

    def exported(self, store: str = STORES[0]) -> Iterator[LayerEntry]:
        """The entries of the container's export, in order, as a store makes them. Raises ContainerError."""
        if self.root is not None:
            return export(self.root, store)
        (layer,) = self.image.layers
        entries = read_layer(layer.content, most=4 * MAX_ENTRIES)
        return read_export(entries, Counted(self.image.max_size))


def container_tree(image: OpenedImage) -> ContainerTree:
    """Apply the layers and make the container. Raises ContainerError where Docker would refuse."""
    if image.config is None:
        return ContainerTree(image, None, (), ())
    root, counted = apply_layers(image)
    create_container(root, image.config.working_dir, counted)
    return ContainerTree(image, root, undecided(root), tuple(sorted(counted.attributes)))


def apply_layers(image: OpenedImage) -> tuple[Inode, Counted]:
    """The tree of all layers, and what they took. Raises ContainerError where Docker would refuse."""
    root, counted = Inode(DIRECTORY), Counted(image.max_size)
    for number, layer in enumerate(image.layers):
        with naming(f"layer {number + 1}", ContainerError):
            apply_layer(root, layer.content, number, counted)
    return root, counted


_CAUSES = {
    IMPLIED: (
        "a folder without an entry in its layer",
        "time, mode and owner",
        "give the layer an entry for the folder: COPY the folder as a whole, or write layers with a "
        "tool that adds parents",
    ),
    HIDDEN_LINK: (
        "a folder without an entry in its layer, in place of a link of a layer below",
        "whether it is a folder at all",
        "put the file where the link leads, not through the link",
    ),
    CREATED: (CREATED, "time", "make the folder in the image: RUN mkdir -p, or COPY, before WORKDIR"),
    PARENT: (PARENT, "time", "make the working folder in the image, so that nothing is made in its parent"),
}
"""What is undecided for each cause, what of it can differ, and the remedy."""


def undecided_finding(item: Undecided) -> Finding:
    """One path that the image alone does not decide."""
    by = f"layer {item.layer}" if item.layer else "the creation of the container"
    what, free, remedy = _CAUSES[item.cause]
    detail = f"{what}: {by} decides {free} when it is extracted or made; {remedy}"
    return Finding("undecidable", path_text(item.path), detail)


def command_and_environment(
    image: OpenedImage, *, docker: int | None, command: tuple[str, ...], environment: tuple[str, ...]
) -> tuple[bytes, bytes]:
    """The ``cmd`` and ``env`` files. Of an export they are given, of an image they are its configuration's.

    Raises EnvironmentFailure (``undecidable``) for an empty Cmd without ``docker``; ContainerError.
    """
    if image.config is None:
        return lines(command), lines(environment)
    if image.config.platform.os != "linux" or image.config.platform.architecture not in ARCHITECTURES:
        raise not_read(f"is for {image.config.platform}; nitro-cli takes linux/amd64 and linux/arm64")
    found = command_of(image.config, docker)
    if found is None:
        raise EnvironmentFailure(
            "its Cmd is empty: Docker 20 shows it as empty, so that nitro-cli runs a shell, and Docker 29 "
            "leaves it out, so that nitro-cli runs the Entrypoint",
            hint="--docker 20 or --docker 29; set CMD in the image to avoid it",
            code="undecidable",
        )
    return lines(found), lines(image.config.env)


def application_ramdisk(
    tree: ContainerTree,
    command: bytes,
    environment: bytes,
    *,
    times: Mapping[int, int],
    store: str = STORES[0],
) -> Iterator[bytes]:
    """The ramdisk in blocks of at most 1 MiB.

    ``times`` has the seconds of each clock that decides something: a layer's number from 1 on, 0 for the
    creation of the container; modes and owners are then those of the ``store``. Raises EnvironmentFailure
    (``undecidable``) when one is missing, with a finding for each path; ContainerError.
    """
    missing = {item.layer for item in tree.undecided} - set(times)
    if missing:
        findings = [undecided_finding(item) for item in tree.undecided]
        paths = ", ".join(finding.where for finding in findings[:8]) + (", .." if len(findings) > 8 else "")
        raise EnvironmentFailure(
            f"the image does not decide {len(findings)} of its folders: {paths}",
            hint="--json has each with the way to avoid it; "
            + " ".join(f"--time {clock}=SECONDS" for clock in sorted(missing))
            + " writes what was made at these times",
            code="undecidable",
            findings=findings,
        )
    return ramdisk_at(tree, (command, environment), lambda entry: times[clock_of(entry)], store)


def ramdisk_at(
    tree: ContainerTree, files: tuple[bytes, bytes], times: Callable[[LayerEntry], int], store: str
) -> Iterator[bytes]:
    """The ramdisk in blocks, each entry made when it is asked for; ``times`` gives the time of one."""
    parts = ramdisk_parts(tree.exported(store), *files, times=times)
    layers = tree.image.layers
    return ramdisk_blocks(parts, lambda layer, place, size: layers[layer].content.read(place, size))
