"""Whether an image file, or published registers, are what nitro-cli or coattest makes of a container image.

Of a file in nitro-cli's style only the times of folders that the image does not decide are taken, one for
each layer and one for the container; their modes and owners must be those of one of Docker's stores.
Everything else is computed from the container image, and from nitro-cli's blobs where they are given.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from coattest.findings import Finding
from coattest_build.containers.application import (
    ContainerTree,
    application_ramdisk,
    command_and_environment,
    ramdisk_at,
    undecided_finding,
)
from coattest_build.containers.blobs import BootParts
from coattest_build.containers.daemon import STORES
from coattest_build.containers.errors import not_read
from coattest_build.containers.layers import HIDDEN_LINK
from coattest_build.containers.layertar import LayerEntry
from coattest_build.containers.manifests import ContainerConfig
from coattest_build.containers.nitrocli import MAX_RAMDISK, clock_of
from coattest_build.containers.sources import FilePart, Spool
from coattest_build.explain.trees import compare_trees
from coattest_build.formats.eif import EifSection, Layout, SectionType, section_blocks
from coattest_build.formats.lenient.initramfs import Unpacking, unpack_ramdisks
from coattest_build.formats.registers import extend

APPLICATION = "application ramdisk"
OTHER_BYTES = Finding("archive-bytes", APPLICATION, "the same files, but not the same bytes")
BLOBS = "nitro-cli's blobs; name them with --blobs"
MAX_REPORTED = 200
"""Differences that are listed."""
_HEX = re.compile(rb"[0-9a-f]{8}")
_MTIME = 46
"""Where the time is in a header of newc: after the magic number and five fields."""

Files = tuple[bytes, bytes]
"""The ``cmd`` and ``env`` files."""


@dataclass(frozen=True, slots=True)
class ContainerCheck:
    """What is different (``findings``), what stays open (``undecided``), and what was found the same.

    ``times`` are the seconds that were taken from the deployed file, by clock; ``store`` the store of Docker
    whose modes and owners it has, None where none was needed.
    """

    findings: tuple[Finding, ...]
    undecided: tuple[Finding, ...]
    same: tuple[str, ...]
    times: Mapping[int, int] = field(default_factory=dict)
    store: str | None = None

    def __bool__(self) -> bool:
        """True only if something was compared, and nothing is different or open."""
        return bool(self.same) and not self.findings and not self.undecided

    @property
    def misshapen(self) -> bool:
        """Whether the file has other sections, so that there is no more to compare."""
        return any(finding.code == "section-missing" for finding in self.findings)

    def with_same(self, name: str) -> ContainerCheck:
        """This, and one thing more that is the same."""
        return replace(self, same=(*self.same, name))

    def with_more(self, findings: Iterable[Finding], undecided: Iterable[Finding] = ()) -> ContainerCheck:
        """This and more that is different or open."""
        return replace(self, findings=(*self.findings, *findings), undecided=(*self.undecided, *undecided))

    def to_json(self) -> dict[str, Any]:
        """The document of ``eif container check --json``."""
        return {
            "verdict": "differs" if self.findings else "undecided" if self.undecided else "same",
            "findings": [finding.to_json() for finding in self.findings],
            "undecided": [finding.to_json() for finding in self.undecided],
            "same": list(self.same),
            "times": {str(clock): seconds for clock, seconds in self.times.items()},
            "store": self.store,
        }


def possible_files(tree: ContainerTree) -> tuple[Files, ...]:
    """The ``cmd`` and ``env`` files that nitro-cli may make: two where an empty Cmd leaves it to Docker.

    Raises ContainerError where it makes none, and for a file system, which has no command.
    """
    config = tree.image.config
    if config is None:
        raise not_read("a file system has no command: check an image")
    found: dict[Files, None] = {}
    for docker in (20, 29) if config.cmd == () else (None,):
        if docker == 29 and config.entrypoint is None:
            continue  # nitro-cli refuses it then
        found[command_and_environment(tree.image, docker=docker, command=(), environment=())] = None
    return tuple(found)


# -------------------------------------------------------------------------------- against an image file


class DeployedRamdisk:
    """The application ramdisk of a file, compared block by block; a time is read where ours has none."""

    def __init__(self, file: BinaryIO, section: EifSection) -> None:
        self._part = FilePart(file, section.offset, section.size)
        self.position = 0
        self.times: dict[int, int] = {}

    def time(self, entry: LayerEntry) -> int:
        """The time of the entry whose header comes next: the first of its clock that was read."""
        raw = self._part.read(self.position + _MTIME, 8)
        return self.times.setdefault(clock_of(entry), int(raw, 16) if _HEX.fullmatch(raw) else 0)

    def equals(self, blocks: Iterator[bytes]) -> bool:
        """Whether the blocks are the ramdisk."""
        for block in blocks:
            if self._part.read(self.position, len(block)) != block:
                return False
            self.position += len(block)
        return self.position == self._part.size


def check_surroundings(
    config: ContainerConfig | None, file: BinaryIO, layout: Layout, parts: BootParts | None, remedy: str
) -> ContainerCheck:
    """What of an image file is not its application ramdisk.

    Without ``parts`` that stays open (``blobs-missing``), and ``remedy`` says what to do. A file with other
    sections is only that (``section-missing``).
    """
    ramdisks = layout.of_type(SectionType.RAMDISK)
    kernels, cmdlines = layout.of_type(SectionType.KERNEL), layout.of_type(SectionType.CMDLINE)
    shape = (len(kernels), len(cmdlines), len(ramdisks))
    if shape != (1, 1, 2):
        detail = "not one kernel, one command line and two ramdisks, as nitro-cli and coattest write"
        finding = Finding("section-missing", "image", detail, "1, 1, 2", ", ".join(map(str, shape)))
        return ContainerCheck((finding,), (), ())
    findings = list(_architecture(config, layout))
    if parts is None:
        missing = blobs_missing("kernel, command line and boot ramdisk (PCR0 and PCR1)", remedy)
        return ContainerCheck(tuple(findings), (missing,), ())
    same: list[str] = []
    for name, section, expected in (
        ("kernel", kernels[0], parts.kernel),
        ("command line", cmdlines[0], parts.cmdline),
        ("boot ramdisk", ramdisks[0], parts.boot),
    ):
        if section.size == len(expected) and b"".join(section_blocks(file, section)) == expected:
            same.append(name)
        else:
            findings.append(Finding("section-content", name, "is not what it has to be"))
    return ContainerCheck(tuple(findings), (), tuple(same))


def check_enclave_file(
    tree: ContainerTree, file: BinaryIO, layout: Layout, blobs: BootParts | None
) -> ContainerCheck:
    """Compare the sections of an image file with what nitro-cli makes. Raises ContainerError, ImageError."""
    around = check_surroundings(tree.image.config, file, layout, blobs, BLOBS)
    if around.misshapen:
        return around
    application = layout.of_type(SectionType.RAMDISK)[1]
    for files in possible_files(tree):
        for store in _stores(tree):
            deployed = DeployedRamdisk(file, application)
            if deployed.equals(ramdisk_at(tree, files, deployed.time, store)):
                times = dict(sorted(deployed.times.items()))
                taken = store if tree.undecided else None
                return replace(around.with_same(APPLICATION), times=times, store=taken)
    different, still_open = _differences(tree, file, layout, application)
    return around.with_more(different, still_open)


def _stores(tree: ContainerTree) -> tuple[str, ...]:
    return STORES if tree.undecided else STORES[:1]


def _architecture(config: ContainerConfig | None, layout: Layout) -> Iterator[Finding]:
    if config is not None:
        wanted = {"amd64": "x86_64", "arm64": "aarch64"}.get(config.platform.architecture, "")
        if wanted != layout.architecture:
            yield Finding("header", "image", "flags: the architecture", wanted, layout.architecture)


def blobs_missing(what: str, remedy: str) -> Finding:
    """The finding that something could not be compared; ``remedy`` says without what, and what to do."""
    return Finding("blobs-missing", "image", f"{what}: not compared without {remedy}")


def ramdisk_differences(blocks: Iterator[bytes], layout: Layout, theirs: Unpacking) -> Iterator[Finding]:
    """What differs path by path between the ramdisk that the blocks are and a deployed one."""
    with Spool(MAX_RAMDISK) as spool:
        part, _ = spool.add(blocks, "ramdisk")
        section = EifSection(SectionType.RAMDISK, 0, part.size)
        made = replace(layout, sections=(section,), file_size=part.size)
        for finding, _ in compare_trees(unpack_ramdisks(spool.file, made), theirs):
            path = finding.where.partition(": ")[2]
            yield replace(finding, where=f"{APPLICATION}: {path}" if path else APPLICATION)


def _differences(
    tree: ContainerTree, file: BinaryIO, layout: Layout, application: EifSection
) -> tuple[list[Finding], list[Finding]]:
    """What differs path by path from the container image, and what of that the image does not decide."""
    theirs = unpack_ramdisks(file, replace(layout, sections=(application,)))
    times = {item.layer: 0 for item in tree.undecided}
    for item in reversed(tree.undecided):
        node = theirs.tree.stat(b"rootfs/" + item.path)
        times[item.layer] = times[item.layer] if node is None else node.mtime
    paths = {f"rootfs/{item.path.decode(errors='backslashreplace')}" for item in tree.undecided}
    outcomes = []
    for files in possible_files(tree):
        for store in _stores(tree):
            blocks = application_ramdisk(tree, *files, times=times, store=store)
            outcomes.append(_sorted(ramdisk_differences(blocks, layout, theirs), paths))
    different, still_open = min(outcomes, key=lambda each: (len(each[0]), len(each[1])))
    if different and any(item.cause == HIDDEN_LINK for item in tree.undecided):
        return [], [*still_open, *map(undecided_finding, tree.undecided)]
    if not different and not still_open:
        different = [OTHER_BYTES]
    return different, still_open


def _sorted(found: Iterator[Finding], paths: Set[str]) -> tuple[list[Finding], list[Finding]]:
    """Differences, and times that no one extraction gave; at most MAX_REPORTED of each."""
    different: list[Finding] = []
    still_open: list[Finding] = []
    for finding in found:
        listed, named = different, finding
        if finding.code == "entry-mtime" and finding.where.partition(": ")[2] in paths:
            detail = "its layer's folders have more than one time"
            named, listed = replace(finding, code="undecidable", detail=detail), still_open
        if len(listed) < MAX_REPORTED:
            listed.append(named)
    return different, still_open


# -------------------------------------------------------------------------------- against registers


def check_registers(
    tree: ContainerTree, expected: Mapping[str, str], blobs: BootParts | None
) -> ContainerCheck:
    """Compare PCR0, PCR1 and PCR2, as far as they are expected. Raises ContainerError."""
    if tree.undecided:
        return ContainerCheck((), tuple(map(undecided_finding, tree.undecided)), ())
    verdicts = [
        check_measured(application_ramdisk(tree, *files, times={}), expected, blobs, BLOBS)
        for files in possible_files(tree)
    ]
    return min(verdicts, key=lambda verdict: len(verdict.findings))


def check_measured(
    blocks: Iterator[bytes], expected: Mapping[str, str], parts: BootParts | None, remedy: str
) -> ContainerCheck:
    """Compare the registers of an application ramdisk, and of what stands before it, with expected ones.

    Without ``parts`` PCR0 and PCR1 stay open, and ``remedy`` says what to do.
    """
    before = (parts.kernel, parts.cmdline, parts.boot) if parts is not None else ()
    whole, application = hashlib.sha384(b"".join(before)), hashlib.sha384()
    first = whole.copy()
    for block in blocks:
        whole.update(block)
        application.update(block)
    found = {"PCR2": extend(application.digest())}
    if parts is not None:
        found |= {"PCR0": extend(whole.digest()), "PCR1": extend(first.digest())}
    wrong = [
        Finding("measurement", name, "the container image gives a different value", value, found[name])
        for name, value in sorted(expected.items())
        if name in found and found[name] != value
    ]
    missing: Sequence[str] = [name for name in sorted(expected) if name not in found]
    return ContainerCheck(
        tuple(wrong),
        (blobs_missing(" and ".join(missing), remedy),) if missing else (),
        tuple(name for name in sorted(expected) if found.get(name) == expected[name]),
    )
